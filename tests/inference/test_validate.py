"""Validation of a trained model: the trainer's own loss to the bit, percentiles by hand, shards that cannot be used."""

import dataclasses

import numpy as np
import pytest
import torch
from speedrun.data.sampler import ValidationChunks
from speedrun.data.shards import BOS, write_shard
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus
from speedrun.validation import Validator, pack_chunk

from discreteness.cli.model_commands import Validate, Weights
from discreteness.inference.load import load_trained
from discreteness.inference.validate import PERCENTS, shards_of, validate
from tests.shards.test_make_shards import own
from tests.support.quick_track import quick
from tests.support.trained_case import TRACK, state_dict


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    torch.save({"step": 20, "model": state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def trained(weights):
    return load_trained(weights, track_name=TRACK)


@pytest.fixture(scope="module")
def corpus():
    ensure_tiny_corpus(default_data_root())
    return default_data_root()


def documents(lengths, first=0):
    """Tokens of documents of these lengths, BOS included."""
    ids = np.random.default_rng(first).integers(200, 2000, sum(lengths))
    ids[np.cumsum([0, *lengths[:-1]])] = BOS
    return ids


def test_the_loss_is_the_trainers_to_the_bit(trained, corpus):
    told = []
    found = validate(trained, shards_of([], trained, corpus), 2048, progress=lambda *numbers: told.append(numbers))
    validator = Validator(trained.model, quick, corpus, 2048)
    means = [validator.chunk_loss(i, trained.validation_state) for i in range(len(validator.chunks))]
    assert found.loss == float(np.mean(means))
    assert found.num_tokens == 2048
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_percentiles_are_of_tokens_and_of_whole_documents(trained, tmp_path):
    """Two chunks of 512: documents of 100, 200 and the head of one of 300; its tail, one of 150 and the head of 400."""
    write_shard(tmp_path / "one.bin", documents([100, 200, 300, 150, 400]))
    found = validate(trained, [tmp_path / "one.bin"])
    assert (found.num_tokens, found.num_documents) == (1024, 3)
    chunks = ValidationChunks([tmp_path / "one.bin"], 1024, 512)
    losses = []
    for number in range(2):
        packed = pack_chunk(*chunks.chunk(number), trained.vocabulary, torch.device("cpu"))
        stage = trained.model.stage(trained.validation_state, 512)
        losses.append(trained.model.token_losses(packed, stage).numpy())
    every = np.concatenate(losses)
    # A document's last target is the BOS of the next, as in training.
    means = [part.mean(dtype=np.float64) for part in (every[:100], every[100:300], every[600:750])]
    np.testing.assert_allclose(found.token_percentiles, np.percentile(every, PERCENTS), rtol=1e-6)
    np.testing.assert_allclose(found.document_percentiles, np.percentile(means, PERCENTS), rtol=1e-6)
    assert found.document_mean == pytest.approx(np.mean(means), rel=1e-6)
    assert found.document_std == pytest.approx(np.std(means, ddof=1), rel=1e-6)
    assert found.loss == pytest.approx(np.mean([one.mean(dtype=np.float64) for one in losses]), rel=1e-9)


def test_several_shards_are_taken_in_order_and_whole_chunks_of_each(trained, tmp_path):
    for number, lengths in enumerate([[600], [1100], [700]]):
        write_shard(tmp_path / f"{number}.bin", documents(lengths, number))
    shards = shards_of([str(tmp_path)], trained, tmp_path)
    assert [path.name for path in shards] == ["0.bin", "1.bin", "2.bin"]
    assert validate(trained, shards).num_tokens == 512 + 1024 + 512
    alone = [validate(trained, [shard]).loss for shard in shards]
    weighted = (alone[0] + 2 * alone[1] + alone[2]) / 4
    assert validate(trained, shards).loss == pytest.approx(weighted, rel=1e-12)
    assert validate(trained, shards, 1536).loss == pytest.approx((alone[0] + 2 * alone[1]) / 3, rel=1e-12)


def test_smaller_chunks_take_shorter_shards_and_almost_the_same_loss(trained, tmp_path):
    write_shard(tmp_path / "one.bin", documents([90, 120, 60, 250]))
    whole, halves = (validate(trained, [tmp_path / "one.bin"], 512, size) for size in (512, 128))
    assert (whole.num_tokens, halves.num_tokens) == (512, 512)
    assert 0 < abs(whole.loss - halves.loss) < 0.1
    write_shard(tmp_path / "two.bin", documents([90, 120]))
    assert validate(trained, [tmp_path / "two.bin"], chunk_tokens=100).num_tokens == 200
    with pytest.raises(ValueError, match="--chunk-tokens 0"):
        validate(trained, [tmp_path / "one.bin"], chunk_tokens=0)


def test_what_cannot_be_validated_is_named(trained, tmp_path):
    write_shard(tmp_path / "short.bin", documents([512]))
    write_shard(tmp_path / "long.bin", documents([1200]))
    short, long = tmp_path / "short.bin", tmp_path / "long.bin"
    with pytest.raises(ValueError, match=r"short.bin has fewer than 513 tokens"):
        validate(trained, [short])
    with pytest.raises(ValueError, match="--val-tokens 100: use a multiple of 512"):
        validate(trained, [long], 100)
    with pytest.raises(ValueError, match="--val-tokens 2048: the shards have 1024 in whole chunks"):
        validate(trained, [long], 2048)
    with pytest.raises(ValueError, match="no shard matches"):
        shards_of([], dataclasses.replace(trained, track=own), tmp_path)
    with pytest.raises(ValueError, match=r"none.bin is not there: give shards"):
        shards_of([str(tmp_path / "none.bin")], trained, tmp_path)


def test_a_folder_is_searched_as_data_info_does_and_not_validated_on_what_is_trained_on(trained, tmp_path):
    names = ["own/deep/a_000000.bin", "data/tiny/tiny_train_000001.bin", "data/tiny/tiny_val_000000.bin"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_shard(tmp_path / name, documents([600]))

    def found(*paths):
        return [path.relative_to(tmp_path).as_posix() for path in shards_of(map(str, paths), trained, tmp_path)]

    assert found(tmp_path / "own") == names[:1]
    assert found(tmp_path) == found(tmp_path / "data") == names[2:]
    assert found(tmp_path / names[1], tmp_path / "own") == [names[1], names[0]], "what is named is taken"


def test_a_document_that_ends_with_the_chunk_is_whole(trained, tmp_path):
    write_shard(tmp_path / "one.bin", documents([300, 212, 512, 5]))
    assert validate(trained, [tmp_path / "one.bin"]).num_documents == 3


def test_the_command_prints_loss_and_percentiles(weights, trained, corpus, capsys):
    assert Validate((), Weights(checkpoint=str(weights), track=TRACK), data=str(corpus))() == 0
    output = capsys.readouterr().out
    found = validate(trained, shards_of([], trained, corpus), quick.data.val_tokens)
    assert f"step 20: loss {found.loss:.4f} on 2048 tokens of tiny_val_000000.bin\n" in output
    assert f"{found.num_documents} whole documents" in output
    assert f"{found.token_percentiles[2]:.4f}" in output
