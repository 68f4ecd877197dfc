"""Annotations of a dataset: what stood before, what the training shards say; refusals."""

import numpy as np
import pytest
from speedrun.data.shards import BOS, write_shard

from discreteness.dataset import reader
from discreteness.experiment.annotate import annotate
from discreteness.shards.report import data_identity
from tests.support.dataset_case import IDENTITY, Text, create

DOCUMENTS = (
    Text(doc_id=0, name="a", category="a", token_ids=(BOS, 5, 6, 5, 6, 7)),
    Text(doc_id=3, name="b", category="b", token_ids=(BOS, 5, 5, 5)),
)
TRAINED_ON = [BOS, 5, 6, 7, BOS, 5, 5]


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards" / "x_train_0.bin", np.array(TRAINED_ON))
    write_shard(tmp_path / "shards" / "x_val_0.bin", np.array([BOS, 9, 9]))
    return tmp_path / "shards"


def trained_on(shards):
    track = {"name": "own", "data": {"train_glob": "*_train_*.bin", "made_on_first_use": False}}
    return IDENTITY | {"track": track, "data": data_identity(sorted(shards.glob("*.bin")))}


def test_what_stood_before_and_what_the_training_shards_say(tmp_path, shards):
    create(tmp_path / "set", identity=trained_on(shards), documents=DOCUMENTS)
    corpus = annotate(tmp_path / "set", str(shards))
    assert corpus.shards == (("x_train_0.bin", 7),)  # not those of the validation
    found = reader.open(tmp_path / "set").annotations().to_pydict()
    assert found["doc_id"] == [0] * 5 + [3] * 3
    assert found["token_index"] == [1, 2, 3, 4, 5, 1, 2, 3]
    assert found["repeated"] == [False, False, True, True, False, False, True, True]
    assert found["induction"] == [False, False, False, True, False, False, False, True]
    assert found["count"] == [3, 1, 3, 1, 1, 3, 3, 3]
    assert found["pair_count"] == [2, 1, 0, 1, 1, 2, 1, 1]
    unigram = -np.log(np.array([4, 2, 4, 2, 2, 4, 4, 4]) / (7 + 50257))
    assert np.allclose(found["unigram_loss"], unigram, rtol=1e-6)
    firsts = np.array([2, 2, 1, 2, 1, 2, 2, 2])  # the last 5 has nothing behind it
    s = corpus.bigram_prior
    bigram = -np.log((np.array(found["pair_count"]) + s * np.exp(-unigram)) / (firsts + s))
    assert np.allclose(found["bigram_loss"], bigram, rtol=1e-6)


def test_a_dataset_without_shards_has_what_its_documents_say_alone(tmp_path):
    create(tmp_path / "set", documents=DOCUMENTS)
    assert annotate(tmp_path / "set").shards == ()
    found = reader.open(tmp_path / "set").annotations().to_pydict()
    assert found["induction"] == [False, False, False, True, False, False, False, True]
    assert found["count"] == found["unigram_loss"] == found["bigram_loss"] == [None] * 8
    with pytest.raises(ValueError, match=r"--data here: this dataset was not trained on shards"):
        annotate(tmp_path / "set", "here")


def test_other_shards_are_refused_by_name(tmp_path, shards):
    create(tmp_path / "set", identity=trained_on(shards), documents=DOCUMENTS)
    (shards / "x_train_0.bin").rename(shards / "y_train_0.bin")
    with pytest.raises(ValueError, match=r"shard x_train_0\.bin is not there; name the folder with the shards"):
        annotate(tmp_path / "set", str(shards))
    write_shard(shards / "x_train_0.bin", np.array([*TRAINED_ON, 1]))
    (shards / "y_train_0.bin").unlink()
    with pytest.raises(ValueError, match=r"shard x_train_0\.bin is not one that this dataset was trained on"):
        annotate(tmp_path / "set", str(shards))
    assert not (tmp_path / "set" / "annotations.parquet").exists()


def test_annotations_of_other_documents_are_refused(tmp_path):
    for name, documents in ("one", DOCUMENTS), ("other", DOCUMENTS[:1]):
        create(tmp_path / name, documents=documents)
        annotate(tmp_path / name)
    (tmp_path / "one" / "annotations.parquet").replace(tmp_path / "other" / "annotations.parquet")
    with pytest.raises(ValueError, match=r"annotations\.parquet is of other documents .*; run: discreteness annotate"):
        reader.open(tmp_path / "other").annotations()
    with pytest.raises(FileNotFoundError, match=r"does not exist; run: discreteness annotate"):
        reader.open(tmp_path / "one").annotations()
