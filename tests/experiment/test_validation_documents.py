"""val:COUNT: which documents, their names and tokens, their place in the identity; what is refused."""

import numpy as np
import pytest
from speedrun.data.document_order import shuffled
from speedrun.data.shards import BOS, find_shards, write_shard
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus
from speedrun.data.tokenizer import decode_bytes, encode
from speedrun.tracks import tiny

from discreteness.cli.main import Documents
from discreteness.experiment.documents import DocumentError, texts_hash
from discreteness.experiment.prepare import load_documents
from discreteness.experiment.validation_documents import asked_count, validation_documents
from tests.support.job_case import prepared

LENGTHS = [[5, 1, 2, 2047, 2048], [2049, 3000, 1, 7]]
"""Tokens of each document, BOS included: the seven of more than one have losses."""
USABLE = [0, 2, 3, 4, 5, 6, 8]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three ids stand before the first document of each; the ids of document i are all 300 + i."""
    folder, paths, number = tmp_path_factory.mktemp("val"), [], 0
    for k, lengths in enumerate(LENGTHS):
        parts = [[7, 7, 7]]
        for length in lengths:
            parts.append([BOS] + [300 + number] * (length - 1))
            number += 1
        paths.append(folder / f"val_{k}.bin")
        write_shard(paths[-1], np.concatenate(parts))
    return paths


def test_all_of_them_are_those_with_losses_in_the_order_of_the_files_and_cut(shards):
    documents = validation_documents(shards, 7)
    assert [document.name for document in documents] == [f"val_{place:06d}" for place in USABLE]
    assert [document.doc_id for document in documents] == list(range(7))
    assert [len(document.token_ids) for document in documents] == [5, 2, 2047, 2048, 2048, 2048, 7]
    for document, place in zip(documents, USABLE, strict=True):
        assert document.token_ids[0] == BOS and set(document.token_ids[1:]) == {300 + place}
        assert document.text == decode_bytes(300 + place).decode() * (len(document.token_ids) - 1)
        assert (document.category, document.answers) == ("val", frozenset())


def test_fewer_are_the_first_of_one_shuffle_so_that_a_smaller_choice_is_part_of_a_larger_one(shards):
    order = [USABLE[i] for i in shuffled(7, 0)]
    for count in range(1, 8):
        names = [document.name for document in validation_documents(shards, count)]
        assert names == [f"val_{place:06d}" for place in sorted(order[:count])]


def test_too_few_documents_name_both_numbers(shards):
    with pytest.raises(DocumentError, match=r"--documents val:8: .*val_0\.bin to .*val_1\.bin hold 7 documents"):
        validation_documents(shards, 8)


@pytest.mark.parametrize(("source", "count"), [("val:1", 1), ("val:200", 200), ("texts", None), ("./val:2", None)])
def test_a_folder_is_not_taken_for_a_count(source, count):
    assert asked_count(source) == count
    assert asked_count(None) is None


@pytest.mark.parametrize("source", ["val:", "val:0", "val:-1", "val:2.5", "val:ten", "val:0x10", "val:\u0663"])
def test_a_count_that_is_none_is_refused(source):
    with pytest.raises(DocumentError, match=r"write val: and how many .*such as val:200; a folder of this name is \./"):
        asked_count(source)


@pytest.fixture(scope="module")
def root(private_home):
    ensure_tiny_corpus(default_data_root())
    return default_data_root()


def test_those_of_tiny_are_whole_documents_of_its_validation_shard(root):
    (path,) = find_shards(root, tiny.data.val_glob)
    ids = np.append(np.fromfile(path, "<u2")[512:], BOS)
    stream = "".join(map(chr, ids))
    documents = load_documents("val:50", None, tiny)
    assert len(documents) == 50 == len({document.name for document in documents})
    starts = np.flatnonzero(ids == BOS)
    for document in documents:
        start = starts[int(document.name.removeprefix("val_"))]
        assert stream[start:].startswith("".join(map(chr, document.token_ids)))
        assert ids[start + len(document.token_ids)] == BOS
        assert tuple(encode(document.text)) == document.token_ids[1:]


def test_the_identity_has_them_by_their_hash(root):
    experiment = prepared(track="tiny", documents="val:20")
    assert experiment.documents == tuple(load_documents("val:20", None, tiny))
    assert experiment.identity["documents"] == texts_hash(experiment.documents)
    assert experiment.identity["documents"] != texts_hash(load_documents("val:21", None, tiny))


def test_the_command_shows_them(root, capsys):
    assert Documents("val:20", track="tiny")() == 0
    *lines, note = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [d.name for d in load_documents("val:20", None, tiny)]
    assert note == "0 of 20 have 2047 tokens, where longer ones are cut"
    assert Documents("val:20", show=lines[3].split()[0], track="tiny", data=str(root))() == 0
    assert len(capsys.readouterr().out.splitlines()) == int(lines[3].split()[1]) + 1
    with pytest.raises(DocumentError, match=r"hold \d+ documents with text; ask for fewer"):
        Documents("val:999999999", track="tiny")()
