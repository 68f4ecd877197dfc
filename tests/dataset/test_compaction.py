"""Compaction: equal answers to the bit, stale parts, merging, operations cut short, bounded memory."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discreteness.dataset import reader
from discreteness.dataset import storage as storage_module
from discreteness.dataset import verify as problems
from discreteness.dataset.by_token import compaction, token_file
from discreteness.dataset.by_token.compaction import compact, merge
from discreteness.dataset.by_token.parts import Part, PartReader, means_file, read_parts
from discreteness.dataset.paths import seed_path
from discreteness.dataset.seed_file import CommittedSeed
from discreteness.dataset.verify import verify
from tests.conftest import ROOT
from tests.support import skips
from tests.support.control_group import limited_memory
from tests.support.dataset_case import DOCUMENTS, STEPS, Text, commit, create, losses, names, records
from tests.support.faulty_filesystem import Cut, Faults, local_storage, object_storage

SEEDS = (4, 0, 7)


@pytest.fixture(params=["local", "object"])
def storage(request, tmp_path):
    return create(tmp_path / "run" if request.param == "local" else object_storage()).storage


@pytest.fixture(autouse=True)
def parts_always_pay(monkeypatch):
    """Reading a part seems cheaper than any seed's file, so that tests as small as these read parts."""
    monkeypatch.setattr(reader, "ROW_GROUP_LOSSES", 2**40)


def bits(array):
    return np.ascontiguousarray(array).view(np.uint32 if array.dtype == np.float32 else np.uint64).tolist()


def everything(storage):
    """Every kind of answer, as bits."""
    dataset = reader.open(storage)
    return [
        *(bits(dataset.losses(d.name)) for d in DOCUMENTS),
        bits(dataset.losses("a.txt", token=2)),
        bits(dataset.losses("a.txt", token=[3, 1], seeds=dataset.seeds[::-1], steps=[20, 0, 20])),
        bits(dataset.losses("a.txt", answers=True)),
        dataset.losses("b.txt", answers=True).shape,
        bits(dataset.mean_curves()),
        [(d.name, t.tolist(), bits(x)) for d, t, x in dataset.blocks(max_bytes=1)],
    ]


def forget_seed_files(monkeypatch):
    """From now on only parts can answer."""

    def refuse(*arguments):
        raise AssertionError("a seed's file was read")

    monkeypatch.setattr(reader, "read_losses", refuse)


def test_answers_are_equal_before_and_after_and_come_from_the_parts(storage, monkeypatch):
    dataset = create(storage)
    thirds = {seed: losses(seed) / np.float32(3) for seed in SEEDS}  # so that means need more digits than losses
    for seed in SEEDS:
        dataset.commit(seed, "one", np.array(STEPS, np.int32), thirds[seed], records())
    before = everything(storage)
    (part,) = compact(storage)
    assert [seed.seed for seed in part.seeds] == [0, 4, 7]
    assert verify(storage) == []
    forget_seed_files(monkeypatch)
    assert everything(storage) == before
    assert before[3] == bits(np.stack([thirds[seed][:, 1] for seed in (0, 4, 7)]))


def test_files_are_tables_that_any_reader_reads(tmp_path):
    dataset = create(tmp_path)
    for seed in SEEDS:
        commit(dataset, seed)
    (part,) = compact(tmp_path)
    table = pq.read_table(tmp_path / part.losses_path(0), page_checksum_verification=True)
    assert table.schema.names == ["doc_id", "token_index", "step", "seed", "loss"]
    assert table["loss"].type == pa.float32() and len(table) == 6 * 4 * 3
    rows = list(zip(*(table[name].to_pylist() for name in table.schema.names), strict=True))
    assert rows == sorted(rows)
    for doc_id, token_index, step, seed, loss in rows:
        column = {0: 0, 1: 3, 4: 4}[doc_id] + token_index - 1
        assert loss == 1000 * seed + step + column / 8
    means = pq.read_table(tmp_path / part.means_path(0)).to_pylist()
    assert means[0] == {"doc_id": 0, "seed": 0, "step": 0, "mean_loss": 0.125}
    assert means[-1] == {"doc_id": 4, "seed": 7, "step": 20, "mean_loss": 7020 + 4.5 / 8}


def test_the_last_page_of_a_token_may_be_shorter(monkeypatch):
    """Five steps in pages of three and two, of each token."""
    monkeypatch.setattr(token_file, "PAGE_LOSSES", 9)
    steps = (0, 1, 5, 20, 21)
    writer = create(object_storage(), steps=steps)
    for seed in SEEDS:
        writer.commit(seed, "one", np.array(steps), losses(seed, steps), records(steps))
    (part,) = compact(writer.storage)
    assert part.page_steps == 3
    forget_seed_files(monkeypatch)
    expected = np.stack([losses(seed, steps) for seed in sorted(SEEDS)])
    dataset = reader.open(writer.storage)
    for chosen in [0, 1, 2, 3, 4], [3, 4], [4], [4, 0]:
        found = dataset.losses("a.txt", steps=[steps[place] for place in chosen])
        assert bits(found) == bits(expected[:, chosen, :3])


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_shape_in_any_number_of_files_pages_and_row_groups(data):
    """Documents split over files, pages that begin in the middle of a token, and any finite float32."""
    lengths = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4), label="lengths")
    num_steps = data.draw(st.sampled_from([1, 3, 100]), label="steps")
    num_seeds = data.draw(st.integers(1, 5), label="seeds")
    documents = [
        Text(doc_id=2 * i, name=f"{i}", category="", token_ids=(50256, *[1] * n)) for i, n in enumerate(lengths)
    ]
    shape = (num_seeds, num_steps, sum(lengths))
    values = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2**32, shape, np.uint64)
    values = values.astype(np.uint32).view(np.float32)
    values = np.where(np.isfinite(values), values, np.float32(1e-40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "FILE_LOSSES", data.draw(st.sampled_from([1, 600, 2**27]), label="file"))
        near = data.draw(st.sampled_from([(0, 0), (0, 2**20), (2**16, 2**20)]), label="near")
        patch.setitem(storage_module.NEAR_BYTES, "object", near)
        patch.setattr(storage_module, "PIECES_AHEAD", data.draw(st.sampled_from([1, 64]), label="pieces"))
        patch.setattr(token_file, "PAGES_AT_ONCE", data.draw(st.sampled_from([1, 16]), label="pages at once"))
        patch.setattr(token_file, "ROW_GROUP_LOSSES", data.draw(st.sampled_from([1, 1300, 2**20]), label="group"))
        patch.setattr(token_file, "PAGE_LOSSES", data.draw(st.sampled_from([1, 15, 2**12]), label="page"))
        storage = object_storage()
        writer = create(storage, documents=documents, steps=tuple(range(num_steps)))
        for seed in range(num_seeds):
            writer.commit(seed, "a", np.arange(num_steps), values[seed], pa.table({"step": [0]}))
        compact(storage)
        assert verify(storage) == []
        forget_seed_files(patch)
        dataset = reader.open(storage)
        for document, first in zip(documents, np.cumsum([0, *lengths]).tolist(), strict=False):
            mine = values[:, :, first : first + len(document.token_ids) - 1]
            assert bits(dataset.losses(document.name)) == bits(mine)
            step = data.draw(st.integers(0, num_steps - 1), label="step")
            assert bits(dataset.losses(document.name, steps=[step])) == bits(mine[:, [step]])
            some = data.draw(st.lists(st.integers(0, num_steps - 1), min_size=1, max_size=9), label="some")
            assert bits(dataset.losses(document.name, steps=some)) == bits(mine[:, some])
            token = data.draw(st.integers(1, mine.shape[2]), label="token")
            assert bits(dataset.losses(document.name, token=token)) == bits(mine[:, :, token - 1])


def test_a_seed_committed_again_is_read_from_its_own_file(storage, monkeypatch):
    writer = create(storage)
    for seed in SEEDS:
        commit(writer, seed)
    (old,) = compact(storage)
    storage.delete(seed_path(4))
    writer.commit(4, "two", np.array(STEPS, np.int32), losses(4) + 0.5, pa.table({"step": [0]}))
    dataset = reader.open(storage)
    expected = np.stack([losses(0), losses(4) + np.float32(0.5), losses(7)])
    for document, columns in zip(DOCUMENTS, (slice(0, 3), slice(3, 4), slice(4, 6)), strict=True):
        assert bits(dataset.losses(document.name)) == bits(expected[:, :, columns])
    assert dataset.mean_curves()[1, 1].tolist() == [4000.875, 4001.875, 4005.875, 4020.875]
    assert verify(storage) == []
    (new,) = compact(storage)
    assert new.name != old.name and [seed.attempt for seed in new.seeds] == ["one", "two", "one"]
    forget_seed_files(monkeypatch)
    assert bits(reader.open(storage).losses("a.txt")) == bits(expected[:, :, :3])


def test_a_seed_that_is_gone_is_not_answered_from_a_part(tmp_path):
    dataset = create(tmp_path)
    for seed in SEEDS:
        commit(dataset, seed)
    compact(tmp_path)
    (tmp_path / "losses/seed=00004.parquet").unlink()
    assert reader.open(tmp_path).losses("b.txt")[:, 0, 0].tolist() == [0.375, 7000.375]
    (part,) = compact(tmp_path)
    assert [seed.seed for seed in part.seeds] == [0, 7]


def stub(seed):
    return CommittedSeed(seed=seed, attempt="a", rows=1, identity_hash="", documents_hash="", runs_sha256="")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=40))
def test_merging_keeps_few_parts_and_rewrites_a_seed_seldom(batches):
    committed, there, written = {}, (), {}
    for batch in batches:
        committed |= {seed: stub(seed) for seed in range(len(committed), len(committed) + batch)}
        kept, merged = merge(there, committed)
        for seed in merged:
            written[seed] = written.get(seed, 0) + 1
        there = (*kept, Part(name="", seeds=tuple(committed[seed] for seed in merged), starts=(0,), page_steps=1))
        assert len(there) <= compaction.MOST_PARTS
        assert sorted(seed.seed for part in there for seed in part.seeds) == list(committed)
        assert len({len(part.seeds).bit_length() for part in there}) == len(there)
    assert max(written.values()) <= len(committed).bit_length()
    assert merge(there, committed) == (tuple(sorted(there, key=lambda part: -len(part.seeds))), [])


def test_at_most_eight_parts_however_many_seeds():
    committed = {seed: stub(seed) for seed in range(2**9)}
    there, first = [], 0
    for level in range(9):
        seeds = tuple(stub(seed) for seed in range(first, first + 2**level))
        there.append(Part(name=str(level), seeds=seeds, starts=(0,), page_steps=1))
        first += 2**level
    kept, merged = merge(tuple(there[1:]), {seed: committed[seed] for seed in range(1, 511)} | {0: committed[0]})
    assert len(kept) == 7 and merged == [0, 1, 2]


def test_one_by_one_the_parts_are_a_binary_counter(tmp_path):
    dataset, sizes = create(tmp_path), []
    for seed in range(7):
        commit(dataset, seed)
        sizes.append([len(part.seeds) for part in compact(tmp_path)])
    assert sizes == [[1], [2], [2, 1], [4], [4, 1], [4, 2], [4, 2, 1]]
    assert len(names(tmp_path / "tokens")) == 4, "replaced parts are deleted"
    assert verify(tmp_path) == []
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").rglob("*")}
    assert [len(part.seeds) for part in compact(tmp_path)] == [4, 2, 1]
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens").rglob("*")}


def test_parts_of_many_files_are_a_binary_counter_too(tmp_path, monkeypatch):
    """Where a document goes on in a second file, no means lie beside that: none are missed, nothing is built again."""
    monkeypatch.setattr(compaction, "FILE_LOSSES", 1)
    dataset, sizes, written = create(tmp_path), [], []
    for seed in range(5):
        commit(dataset, seed)
        sizes.append([len(part.seeds) for part in compact(tmp_path, lambda files: written.extend(files) or files)])
    assert sizes == [[1], [2], [2, 1], [4], [4, 1]]
    assert len(written) == 5 * 6
    assert verify(tmp_path) == []


@pytest.mark.parametrize("kind", ["losses", "means"])
def test_a_file_of_a_part_that_is_gone_is_written_again_and_no_other(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(compaction, "FILE_LOSSES", 1)
    dataset = create(tmp_path)
    for seed in SEEDS:
        commit(dataset, seed)
    (part,) = compact(tmp_path)
    path = tmp_path / (part.losses_path(3) if kind == "losses" else part.means_path(3))
    content = path.read_bytes()
    path.unlink()
    assert any("cannot be read" in problem for problem in verify(tmp_path))
    written = []
    assert compact(tmp_path, lambda files: written.extend(files) or files) == (part,)
    assert written == [(3, 4)] and path.read_bytes() == content and verify(tmp_path) == []


def test_seeds_in_and_outside_of_parts_are_answered_together(storage, monkeypatch):
    writer = create(storage)
    for seed in 0, 1, 2:
        commit(writer, seed)
    compact(storage)
    for seed in 3, 4:
        commit(writer, seed)
    read, real = [], reader.read_losses
    monkeypatch.setattr(reader, "read_losses", lambda *arguments: read.append(arguments[2].seed) or real(*arguments))
    dataset = reader.open(storage)
    for seeds in [0, 1, 2, 3, 4], [4, 2, 0], [3], [1, 1, 3, 0]:
        expected = np.stack([losses(seed) for seed in seeds])
        assert bits(dataset.losses("a.txt", seeds=seeds)) == bits(expected[:, :, :3])
        assert bits(dataset.losses("c", token=2, seeds=seeds)) == bits(expected[:, :, 5])
        means = np.stack([expected[:, :, 3], expected[:, :, 4:].mean(2, np.float64)])
        assert bits(dataset.mean_curves(seeds)[1:]) == bits(means.astype(np.float64))
    assert set(read) == {3, 4}


STRIDE, FIRST_CUT = 4, {"before": 1, "half": 2, "after": 3}
"""Every fourth operation is cut, in each mode others: all of them took a minute."""


@pytest.mark.parametrize("mode", FIRST_CUT)
@pytest.mark.parametrize("kind", ["local", "object"])
def test_a_cut_at_any_operation_leaves_the_old_parts_or_the_new(tmp_path, monkeypatch, kind, mode):
    """Two files a part; a part of one seed is there, a second seed comes; then the same compaction again."""
    monkeypatch.setattr(compaction, "FILE_LOSSES", 3 * 4 * 2)
    cuts, expected = 0, None
    while True:
        faults = Faults()
        monkeypatch.setattr(os, "fsync", lambda fd, faults=faults: faults.run("fsync", int))
        root = tmp_path / f"{cuts}"
        storage = local_storage(root, faults) if kind == "local" else object_storage(faults)
        dataset = create(storage)
        commit(dataset, 0)
        (old,) = compact(storage)
        commit(dataset, 4)
        expected = expected or everything(storage)
        faults.count, faults.at, faults.mode = 0, STRIDE * cuts + FIRST_CUT[mode], mode
        try:
            (new,) = compact(storage)
        except Cut:
            new = None
        faults.at = None
        (now,) = read_parts(storage, dataset.manifest)
        assert now == new or new is None
        assert len(now.seeds) in (1, 2) and (now == old) == (len(now.seeds) == 1)
        assert all(storage.exists(path) for path in now.files(dataset.manifest))
        assert everything(storage) == expected
        (again,) = compact(storage)
        assert len(again.seeds) == 2 and everything(storage) == expected
        if new is not None:
            break
        cuts += 1
    assert verify(storage) == []
    assert STRIDE * cuts > (40 if kind == "local" else 15), f"only {STRIDE * cuts} operations were there to be cut"


def test_a_compaction_goes_on_behind_the_last_file(tmp_path, monkeypatch):
    monkeypatch.setattr(compaction, "FILE_LOSSES", 1)
    commit(create(tmp_path), 3)

    def stop_after_four(files):
        for index, file in enumerate(files):
            if index == 4:
                raise KeyboardInterrupt
            yield file

    with pytest.raises(KeyboardInterrupt):
        compact(tmp_path, stop_after_four)
    assert read_parts(create(tmp_path).storage, create(tmp_path).manifest) == ()
    left = []
    (part,) = compact(tmp_path, lambda files: left.extend(files) or files)
    assert left == [(4, 5), (5, 6)] and part.starts == (0, 1, 2, 3, 4, 5)
    assert verify(tmp_path) == []


def test_a_reader_whose_part_is_replaced_finds_the_new_one_or_the_seeds(tmp_path, monkeypatch):
    dataset = create(tmp_path)
    commit(dataset, 0)
    compact(tmp_path)
    early, late = reader.open(tmp_path), reader.open(tmp_path)
    commit(dataset, 4)
    compact(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        forget_seed_files(patch)
        assert bits(early.losses("a.txt")[0]) == bits(losses(0)[:, :3])
    for part in read_parts(dataset.storage, dataset.manifest):
        shutil.rmtree(tmp_path / part.folder)
    assert bits(late.losses("a.txt")[0]) == bits(losses(0)[:, :3])
    assert late.mean_curves().shape == (3, 1, 4)
    assert any("cannot be read" in problem for problem in verify(tmp_path))
    compact(tmp_path)
    assert verify(tmp_path) == []


def test_what_nobody_works_on_is_deleted_after_a_while(tmp_path):
    commit(create(tmp_path), 0)
    for name, age_s in ("old", 7200), ("young", 0):
        folder = tmp_path / "tokens" / name
        folder.mkdir(parents=True)
        file = folder / "0000000.parquet"
        file.write_bytes(b"x")
        os.utime(file, (file.stat().st_mtime - age_s,) * 2)
    (part,) = compact(tmp_path)
    assert names(tmp_path / "tokens") == sorted([part.name, "parts.json", "young"])


def test_a_part_that_another_compaction_builds_is_left_alone_while_one_of_its_files_is_young(tmp_path):
    commit(create(tmp_path), 0)
    folder = tmp_path / "tokens" / "slow"
    folder.mkdir(parents=True)
    for number, age_s in enumerate((7200, 5400, 30)):
        (folder / f"{number}.parquet").write_bytes(b"x")
        os.utime(folder / f"{number}.parquet", (time.time() - age_s,) * 2)
    compact(tmp_path)
    assert names(folder) == ["0.parquet", "1.parquet", "2.parquet"]


def test_another_compaction_meanwhile_is_noticed(tmp_path):
    dataset = create(tmp_path)
    commit(dataset, 0)

    def meanwhile(files):
        commit(dataset, 1)
        compact(tmp_path)
        return files

    with pytest.raises(OSError, match=r"another compaction of .* finished in the meantime; run it again"):
        compact(tmp_path, meanwhile)
    assert [len(part.seeds) for part in compact(tmp_path)] == [2] and verify(tmp_path) == []


def assert_the_seeds_are_read(folder, caplog, warning):
    """The part of seed 0 is damaged: that is said once, and the answer is right."""
    caplog.clear()
    dataset = reader.open(folder)
    for _ in range(2):
        assert bits(dataset.losses("a.txt")[0]) == bits(losses(0)[:, :3])
    (record,) = caplog.records
    assert re.search(warning, record.message)


def test_one_flipped_bit_is_seen_and_named(tmp_path, caplog):
    dataset = create(tmp_path)
    commit(dataset, 0)
    (part,) = compact(tmp_path)
    path = tmp_path / part.losses_path(0)
    content = bytearray(path.read_bytes())
    rows = np.frombuffer(content, token_file.index_rows(4, part.page_steps), 6, token_file.INDEX_AT)
    assert rows["pages"].shape == (6, 1)
    page = rows["pages"][1, 0].copy()
    content[page["offset"] + page["num_bytes"] - 3] ^= 1
    path.write_bytes(content)
    damaged = r"0000000\.parquet is damaged \({}\).*delete the folder .*tokens/\w+, and run discreteness compact"
    assert_the_seeds_are_read(tmp_path, caplog, damaged.format("CRC of page 0 of token 1"))
    assert any("CRC of page 0" in problem for problem in verify(tmp_path))
    assert bits(reader.open(tmp_path).losses("a.txt", token=3)[0]) == bits(losses(0)[:, 2])
    content[token_file.INDEX_AT + rows.itemsize] ^= 1
    path.write_bytes(content)
    assert_the_seeds_are_read(tmp_path, caplog, damaged.format("the index of its pages"))
    path.write_bytes(content[:100])
    assert_the_seeds_are_read(tmp_path, caplog, damaged.format("the index of its pages"))
    shutil.rmtree(tmp_path / "tokens")
    compact(tmp_path)
    assert verify(tmp_path) == []


@pytest.mark.parametrize("block_bytes", [1, problems.BLOCK_BYTES])
@pytest.mark.parametrize(("token", "document"), [(0, 0), (2, 0), (3, 1), (5, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_verify_finds_one_loss_of_a_part_that_is_another(tmp_path, monkeypatch, seed, token, document, block_bytes):
    monkeypatch.setattr(problems, "BLOCK_BYTES", block_bytes)
    dataset = create(tmp_path)
    for one in 0, 1:
        commit(dataset, one)
    (part,) = compact(tmp_path)
    assert verify(tmp_path) == []
    found = pq.read_table(tmp_path / part.losses_path(0))["loss"].to_numpy().reshape(6, 4, 2).copy()
    found[token, 3, seed] += 1
    doc_ids, tokens = compaction._names(dataset.manifest.documents)
    dataset.storage.write(part.losses_path(0), token_file.token_file(doc_ids, tokens, STEPS, [0, 1], found, 4))
    path = f"losses/seed=0000{seed}.parquet"
    assert verify(tmp_path) == [
        f"tokens/{part.name}: losses of seed {seed}, document {document} are not those of {path}"
    ]


def with_means(tmp_path):
    """A dataset of seeds 0 and 1, its part, and the part's means (documents, seeds, steps)."""
    dataset = create(tmp_path)
    for one in 0, 1:
        commit(dataset, one)
    (part,) = compact(tmp_path)
    return dataset, part, PartReader(dataset.storage, dataset.manifest, part, dataset.committed()).means.copy()


@pytest.mark.parametrize(("document", "seed"), [(0, 1), (2, 0)])
def test_verify_finds_one_mean_of_a_part_that_is_another(tmp_path, document, seed):
    dataset, part, means = with_means(tmp_path)
    means[document, seed, 2] = np.nextafter(means[document, seed, 2], 0)
    dataset.storage.write(part.means_path(0), means_file([0, 1, 4], [0, 1], STEPS, means))
    assert verify(tmp_path) == [
        f"tokens/{part.name}: means of seed {seed}, document {[0, 1, 4][document]} are not those of "
        f"losses/seed=0000{seed}.parquet"
    ]


def test_one_flipped_bit_of_the_means_is_seen(tmp_path, caplog):
    _, part, expected = with_means(tmp_path)
    path = tmp_path / part.means_path(0)
    column = pq.read_metadata(path).row_group(0).column(3)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(content)
    assert np.array_equal(reader.open(tmp_path).mean_curves(), expected)
    assert re.search(r"means\.parquet is damaged \(.*CRC", caplog.text)
    assert any(f"tokens/{part.name}: cannot be read" in problem for problem in verify(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../elsewhere"},
        {"page_steps": 0},
        {"starts": [1]},
        {"starts": [0, 3, 3]},
        {"starts": [0, 6]},
        {"seeds": []},
    ],
)
def test_a_part_that_no_compaction_wrote_is_passed_over(tmp_path, change):
    dataset = create(tmp_path)
    commit(dataset, 0)
    compact(tmp_path)
    path = tmp_path / "tokens" / "parts.json"
    content = json.loads(path.read_text())
    content["parts"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="damaged"):
        read_parts(dataset.storage, dataset.manifest)
    assert bits(reader.open(tmp_path).losses("a.txt")[0]) == bits(losses(0)[:, :3])


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 1, "parts": []}', '{"format": 2, "parts": [{}]}', "[" * 10**5]
)
def test_a_damaged_list_of_parts_is_passed_over_reported_and_replaced(tmp_path, caplog, content):
    commit(create(tmp_path), 0)
    compact(tmp_path)
    (tmp_path / "tokens" / "parts.json").write_text(content)
    assert bits(reader.open(tmp_path).losses("a.txt")[0]) == bits(losses(0)[:, :3])
    assert "parts.json is damaged or of another version" in caplog.text
    assert any("parts.json" in problem for problem in verify(tmp_path))
    compact(tmp_path)
    assert verify(tmp_path) == []


MEMORY = """
import re, sys
from pathlib import Path
import rich.progress
from discreteness.dataset.by_token import compaction, token_file

compaction.FILE_LOSSES = 2**20
compaction.SEEDS_AT_ONCE = 2
token_file.ROW_GROUP_LOSSES = 2**16

def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

compaction.compact(sys.argv[1])  # loads what is loaded once
before = peak_kb()
compaction.compact(sys.argv[2])
print(1024 * (peak_kb() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason=skips.PROC)
def test_memory_is_bounded_by_the_files_size_not_by_the_datasets(tmp_path, monkeypatch):
    """At full size the bound is 2 GB, four times FILE_LOSSES: 16 MB here, and 16 MB for what has a fixed size; of
    48 MB of losses: all of them at once took 72 MB.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    steps = tuple(range(200))
    documents = [Text(doc_id=i, name=f"{i}", category="", token_ids=(50256, *[1] * 1200)) for i in range(2)]
    for name, seeds in ("few", 3), ("many", 25):
        dataset = create(tmp_path / name, documents=documents, steps=steps)
        for seed in range(seeds):
            values = np.random.default_rng(seed).standard_normal((200, 2400), dtype=np.float32)
            dataset.commit(seed, "a", np.array(steps), values, pa.table({"step": [0]}))
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "few"), str(tmp_path / "many")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 32e6
    assert np.array_equal(reader.open(tmp_path / "many").losses("1", seeds=[24])[0], values[:, 1200:])
    assert len(read_parts(dataset.storage, dataset.manifest)[0].starts) > 8


LIMITED = """
import os, sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
import numpy as np
from discreteness.dataset.by_token.compaction import compact
compact(sys.argv[2]) if len(sys.argv) > 2 else np.ones(22 * 10**8, np.uint8)
"""


@pytest.fixture
def two_gigabytes():
    """A control group that kills a process when all of its have more memory."""
    with limited_memory(2 * 10**9) as group:
        yield group


def test_full_size_is_compacted_within_two_gigabytes(tmp_path, monkeypatch, two_gigabytes):
    """300 seeds of 1,841 steps, one document of 240 losses: a file of nearly the most losses that one has."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    steps = np.arange(1841)
    text = Text(doc_id=0, name="long", category="", token_ids=(50256, *[1] * 240))
    dataset = create(tmp_path / "run", documents=[text], steps=steps.tolist())
    for seed in range(300):
        dataset.commit(seed, "a", steps, np.full((1841, 240), seed, np.float32), pa.table({"step": [0]}))

    def within_the_limit(*arguments):
        command = [sys.executable, "-c", LIMITED, str(two_gigabytes), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    assert within_the_limit().returncode == -signal.SIGKILL
    done = within_the_limit(str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    (part,) = read_parts(dataset.storage, dataset.manifest)
    assert len(part.starts) == 1
    forget_seed_files(monkeypatch)
    found = reader.open(tmp_path / "run").losses("long", token=240)
    assert np.array_equal(found, np.broadcast_to(np.arange(300, dtype=np.float32)[:, None], (300, 1841)))


def test_ranges_of_a_file_are_read_near_ones_as_one(storage, monkeypatch):
    content = np.random.default_rng(0).bytes(300_000)
    storage.write("x", content)
    ranges = [(0, 3), (3, 1), (5, 0), (6, 100), (110, 7), (150_000, 2), (290_000, 9_000)]
    if storage.renames:
        ranges += [(299_999, 5), (300_007, 1)]
    expected = [content[offset : offset + length] for offset, length in ranges]
    for near in (0, 0), (0, 2**20), (2**20, 2**20):
        monkeypatch.setattr(storage_module, "NEAR_BYTES", {"local": near, "object": near})
        assert list(storage.read_ranges("x", ranges)) == expected
    with pytest.raises(FileNotFoundError):
        list(storage.read_ranges("y", [(0, 1)]))
