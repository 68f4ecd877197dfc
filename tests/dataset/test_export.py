"""One loss a row in Parquet and CSV, and the two legacy formats, field for field."""

import csv
import fcntl
import math
import os
import sys
import uuid
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.export import files as export_module
from discreteness.dataset.export.files import export
from tests.support.dataset_case import IDENTITY, STEPS, Text, commit, create, losses, records

NAMES = ["a.txt", "b.txt", "c.txt"]
LENGTHS = [3, 1, 2]


@pytest.fixture
def run(tmp_path):
    dataset = create(tmp_path / "run", identity={**IDENTITY, "packing": "reference"})
    for seed in 2, 0:
        commit(dataset, seed)
    return tmp_path / "run"


AWKWARD = np.array([0.1, 1e-40, 3.4028235e38, 1 / 3, 16777217, 1e-3], np.float32)
"""Losses whose shortest decimals differ: subnormal, largest, rounded."""


@pytest.mark.parametrize("block_bytes", [2**28, 40])
@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_a_table_has_every_loss_once_in_order_bit_for_bit(tmp_path, monkeypatch, format, compacted, block_bytes):
    monkeypatch.setattr(export_module, "BLOCK_BYTES", block_bytes)
    dataset = create(tmp_path / "run")
    given = np.stack([AWKWARD * scale for scale in (1, 0.5, 0.25, 0.75)])
    dataset.commit(2, "one", np.array(STEPS), given, records())
    commit(dataset, 0)
    if compacted:
        compact(dataset.storage)
    path = export(tmp_path / "run", format, tmp_path / "x")
    if format == "csv":
        options = pa.csv.ConvertOptions(column_types={"loss": pa.float32()})
        table = pa.csv.read_csv(path, convert_options=options)
    else:
        table = pq.read_table(path, page_checksum_verification=True)
    assert table.column_names == ["doc_id", "document", "token_index", "token", "step", "seed", "loss"]
    places = [(0, 1), (0, 2), (0, 3), (1, 1), (4, 1), (4, 2)]
    keys = [(*place, step, seed) for place in places for step in STEPS for seed in (0, 2)]
    numbers = ("doc_id", "token_index", "step", "seed")
    assert list(zip(*(table[name].to_pylist() for name in numbers), strict=True)) == keys
    words = [("a.txt", "\x05"), ("a.txt", "\x06"), ("a.txt", "\x07"), ("b.txt", "\ufffd"), ("c", "\x01"), ("c", "\x02")]
    named = [pair for pair in words for _ in range(2 * len(STEPS))]
    assert list(zip(table["document"].to_pylist(), table["token"].to_pylist(), strict=True)) == named
    expected = np.stack([losses(0), given]).transpose(2, 1, 0).reshape(-1)
    assert table["loss"].type == pa.float32()
    assert np.array_equal(table["loss"].to_numpy().view(np.uint32), expected.view(np.uint32))


AWKWARD_TEXTS = [b"the", b" a", b"the", b'",\n\r', b"", b"\xc3", b"the", b"NULL", b" a"]


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_equal_texts_are_those_of_their_tokens(tmp_path, format):
    """Also where they repeat, are empty, are cut in the middle of a character, or mean something in CSV."""
    document = Text(doc_id=7, name='the, "first".txt', category="", token_ids=(0, *range(1, len(AWKWARD_TEXTS) + 1)))
    words = [b"<|endoftext|>", *AWKWARD_TEXTS]
    writer = create(tmp_path / "run", documents=[document], token_bytes=words.__getitem__)
    writer.commit(0, "one", np.array(STEPS), losses(0, STEPS, len(AWKWARD_TEXTS)), records())
    path = export(tmp_path / "run", format, tmp_path / "x")
    if format == "csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = pq.read_table(path).to_pylist()
    assert {row["document"] for row in rows} == {document.name}
    expected = [text.decode(errors="replace") for text in AWKWARD_TEXTS for _ in STEPS]
    assert [row["token"] for row in rows] == expected


def test_float16_tables_hold_what_the_hdf5_export_holds(run, tmp_path):
    table = pq.read_table(export(run, "parquet", tmp_path / "x.parquet", "float16"))
    assert table["loss"].type == pa.float16()
    with h5py.File(export(run, "hdf5", tmp_path / "x.h5")) as file:
        names = [f"losses/{name}/token_{i}" for name, n in zip(NAMES, LENGTHS, strict=True) for i in range(n)]
        halves = np.concatenate([file[name][:].T.reshape(-1) for name in names])
    assert np.array_equal(table["loss"].to_numpy().view(np.uint16), halves.view(np.uint16))
    rounded = pa.csv.read_csv(export(run, "csv", tmp_path / "x.csv", "float16"))["loss"].to_numpy()
    assert np.array_equal(rounded, halves.astype(np.float64))


def half_rows(seed, step):
    """The float16 losses of one step by document, made by hand."""
    row = [np.float16(1000 * seed + step + token / 8) for token in range(6)]
    return [row[0:3], row[3:4], row[4:6]]


def test_pt_is_the_aggregated_dict_field_for_field(run, tmp_path):
    path = export(run, "pt", tmp_path / "out" / "aggregated_results.pt")
    found = torch.load(path, weights_only=True)
    assert list(found) == ["seeds", "doc_names", "doc_lengths", "eval_steps", "results", "summary"]
    assert found["seeds"] == [0, 2]
    common = {"doc_names": NAMES, "doc_lengths": LENGTHS, "eval_steps": list(STEPS)}
    assert {key: found[key] for key in common} == common
    assert list(found["results"]) == [0, 2] and list(found["summary"]) == list(STEPS)
    for seed in 0, 2:
        tracker = found["results"][seed]
        assert tracker.keys() == {"results", *common}
        assert {key: tracker[key] for key in common} == common
        assert list(tracker["results"]) == list(STEPS)
        for step in STEPS:
            vectors = tracker["results"][step]
            assert [type(vectors), len(vectors)] == [list, 3]
            for vector, expected in zip(vectors, half_rows(seed, step), strict=True):
                assert vector.dtype == torch.float16 and vector.shape == (len(expected),)
                assert vector.tolist() == [float(value) for value in expected]
    for step in STEPS:
        means = [[float(np.mean(np.float64(d))) for d in half_rows(seed, step)] for seed in (0, 2)]
        summary = found["summary"][step]
        assert summary.keys() == {"mean", "std", "per_seed"}
        assert summary["per_seed"] == means
        assert summary["mean"] == [(a + b) / 2 for a, b in zip(*means, strict=True)]
        # unbiased over two seeds: |a - b| / sqrt(2)
        expected = [abs(a - b) / math.sqrt(2) for a, b in zip(*means, strict=True)]
        assert summary["std"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("there", [True, False])
def test_pt_into_a_folder_writes_what_the_shell_loop_leaves(run, tmp_path, there):
    """A file per seed, called after it and its attempt, which holds what the aggregated file has of that seed."""
    folder = tmp_path / "logs=[1]"
    if there:
        folder.mkdir()
        (folder / "train.txt").write_text("mine")
    assert export(run, "pt", folder if there else f"{folder}/") == folder
    names = ["aggregated_results.pt", "seed0_one_eval_losses.pt", "seed2_one_eval_losses.pt"]
    assert sorted(path.name for path in folder.iterdir()) == names + ["train.txt"] * there
    whole = torch.load(folder / names[0], weights_only=True)
    assert whole["seeds"] == [0, 2]
    for seed, name in (0, names[1]), (2, names[2]):
        one = torch.load(folder / name, weights_only=True)
        assert one.keys() == {"results", "doc_names", "doc_lengths", "eval_steps"}
        assert (one["doc_names"], one["doc_lengths"], one["eval_steps"]) == (NAMES, LENGTHS, list(STEPS))
        assert list(one["results"]) == list(STEPS)
        for step in STEPS:
            for ours, theirs in zip(one["results"][step], half_rows(seed, step), strict=True):
                assert ours.dtype == torch.float16 and ours.tolist() == [float(value) for value in theirs]
            assert all(map(torch.equal, one["results"][step], whole["results"][seed]["results"][step]))
    (folder / names[0]).unlink()
    with pytest.raises(FileExistsError, match=r"seed0_one_eval_losses.pt exists; give another folder"):
        export(run, "pt", folder)


def test_a_folder_of_results_that_cannot_be_whole_stays_empty(run, tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(run, "pt", f"{tmp_path}/logs/")
    assert list((tmp_path / "logs").iterdir()) == []


def test_hdf5_is_written_where_files_cannot_be_locked(run, tmp_path, monkeypatch):
    """As on NFS without its lock daemon; here another process's lock is in the way."""
    monkeypatch.setattr(export_module.uuid, "uuid4", lambda: uuid.UUID(int=7))
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)
    with (tmp_path / f".x.h5.{uuid.UUID(int=7).hex}").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            h5py.File(held.name, "w", locking=True)
        export(run, "hdf5", tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["metadata/seeds"][:].tolist() == [0, 2]


def test_the_deviation_of_one_seed_is_nan(tmp_path):
    commit(create(tmp_path / "run"), 1)
    found = torch.load(export(tmp_path / "run", "pt", tmp_path / "x.pt"), weights_only=True)
    assert all(math.isnan(value) for value in found["summary"][5]["std"])
    assert found["summary"][5]["mean"] == found["summary"][5]["per_seed"][0]


@pytest.mark.parametrize("block_bytes", [2**30, 40])
def test_hdf5_is_the_table_exactly(run, tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(export_module, "BLOCK_BYTES", block_bytes)
    path = export(run, "hdf5", tmp_path / "aggregated.h5")
    with h5py.File(path) as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        metadata = ["metadata/seeds", "metadata/eval_steps", "metadata/doc_lengths", "metadata/doc_names"]
        tokens = [f"losses/{name}/token_{i}" for name, n in zip(NAMES, LENGTHS, strict=True) for i in range(n)]
        assert sorted(found) == sorted(metadata + tokens)
        for name, values in zip(metadata, ([0, 2], list(STEPS), LENGTHS), strict=False):
            assert found[name].dtype == np.int32 and found[name][:].tolist() == values
        assert h5py.check_string_dtype(found["metadata/doc_names"].dtype).length is None
        assert found["metadata/doc_names"].asstr()[:].tolist() == NAMES
        for column, name in enumerate(tokens):
            item = found[name]
            assert (item.dtype, item.compression, item.compression_opts) == (np.float16, "gzip", 4)
            expected = [[np.float16(1000 * seed + step + column / 8) for step in STEPS] for seed in (0, 2)]
            assert item[:].tolist() == np.array(expected).tolist()
        assert dict(file.attrs) == {}


def test_isolated_packing_is_marked_in_both(tmp_path):
    commit(create(tmp_path / "run"), 0)
    found = torch.load(export(tmp_path / "run", "pt", tmp_path / "x.pt"), weights_only=True)
    assert found["packing"] == "isolated" and "packing" not in found["results"][0]
    folder = export(tmp_path / "run", "pt", f"{tmp_path}/logs/")
    assert torch.load(folder / "seed0_one_eval_losses.pt", weights_only=True)["packing"] == "isolated"
    with h5py.File(export(tmp_path / "run", "hdf5", tmp_path / "x.h5")) as file:
        assert dict(file.attrs) == {"packing": "isolated"}


@pytest.mark.parametrize("format", ["pt", "hdf5", "parquet", "csv"])
def test_a_loss_beyond_float16_is_refused_and_leaves_nothing(tmp_path, format):
    dataset = create(tmp_path / "run")
    array = losses(0)
    array[3, 5] = 65520.0  # rounds to infinity; 65519 would still round to 65504
    dataset.commit(0, "one", np.array(STEPS), array, records())
    with pytest.raises(ValueError, match=r"65520\.0 of seed 0, step 20, document 'c', token 2 is beyond float16"):
        export(tmp_path / "run", format, tmp_path / "out" / "x", "float16")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_largest_float16_is_kept(tmp_path):
    dataset = create(tmp_path / "run")
    array = losses(0)
    array[3, 5] = 65519.0
    dataset.commit(0, "one", np.array(STEPS), array, records())
    with h5py.File(export(tmp_path / "run", "hdf5", tmp_path / "x.h5")) as file:
        assert file["losses/c.txt/token_1"][0, 3] == 65504


@pytest.mark.parametrize("format", ["pt", "hdf5", "parquet", "csv"])
def test_an_export_has_its_name_when_it_is_whole_and_on_disk(run, tmp_path, monkeypatch, format):
    path, flushed, real = tmp_path / "out" / "x", [], os.fsync

    def flush(descriptor):
        real(descriptor)
        staged = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append((staged.parent == path.parent, staged.stat().st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", flush)
    assert export(run, format, path) == path
    assert flushed == [(True, path.stat().st_size, False)]
    assert [file.name for file in path.parent.iterdir()] == ["x"]


def test_an_export_that_is_interrupted_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(run, "csv", tmp_path / "out" / "x")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_exported_is_said(run, tmp_path):
    with pytest.raises(ValueError, match="format 'xls' is unknown; use one of parquet, csv, pt, hdf5"):
        export(run, "xls", tmp_path / "x")
    with pytest.raises(ValueError, match="a pt export is float16, not float32"):
        export(run, "pt", tmp_path / "x", "float32")
    with pytest.raises(ValueError, match="a csv export is float32 or float16, not float64"):
        export(run, "csv", tmp_path / "x", "float64")
    with pytest.raises(ValueError, match="local file"):
        export(run, "pt", "s3://bucket/x.pt")
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FileExistsError, match="x exists"):
        export(run, "pt", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"
    create(tmp_path / "empty")
    with pytest.raises(ValueError, match="no seed is committed"):
        export(tmp_path / "empty", "pt", tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_hdf5_without_h5py_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"pip install 'discreteness\[hdf5\]'"):
        export(run, "hdf5", tmp_path / "x")


def test_two_documents_that_become_one_file_name_are_refused(tmp_path):
    same = [Text(doc_id=i, name=n, category="", token_ids=(50256, 1)) for i, n in enumerate(["c", "c.txt"])]
    dataset = create(tmp_path / "run", documents=same)
    dataset.commit(0, "one", np.array(STEPS), losses(0, STEPS, 2), records())
    with pytest.raises(ValueError, match=r"share the file name c\.txt"):
        export(tmp_path / "run", "pt", tmp_path / "x")
