"""Files whole or not at all: names, pieces, failed writes, what is swept, and footers of any size."""

import contextlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from discreteness.dataset import reader, seed_file
from discreteness.dataset import storage as storage_module
from discreteness.dataset.seed_file import FOOTER_GUESS_BYTES, footer_bytes
from discreteness.dataset.storage import ABANDONED_S, NEAR_BYTES, open_storage, refuse_credentials
from tests.support.dataset_case import STEPS, Text, commit, create, losses, names, records
from tests.support.faulty_filesystem import Cut, Faults, local_storage, object_storage


@pytest.fixture(params=["local", "object"])
def storage(request, tmp_path):
    return open_storage(tmp_path / "set") if request.param == "local" else object_storage()


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "a/../x", "..", "a/..", "/x", "/etc/passwd", "\0", "a\0b", "losses/\0.parquet"]
)
def test_no_name_leads_out_of_the_folder(storage, name):
    for use in (
        storage.path,
        storage.open,
        storage.read,
        storage.exists,
        storage.size,
        storage.delete,
        lambda name: storage.list(name),
        lambda name: storage.read_tail(name, 1),
        lambda name: storage.write(name, b"x"),
        lambda name: list(storage.read_ranges(name, [(0, 1)])),
    ):
        with pytest.raises(ValueError, match="is not the name of a file below"):
            use(name)


def test_dots_in_a_name_are_no_way_up(storage):
    for name in "a..b", "..a", "a..", "x/...", ".hidden":
        storage.write(name, name.encode())
        assert storage.read(name) == name.encode()


def test_what_is_no_file_neither_exists_nor_has_a_size(storage):
    storage.write("folder/file", b"12345")
    assert (storage.exists("folder/file"), storage.size("folder/file")) == (True, 5)
    for name in "folder", "none", "folder/none":
        assert (storage.exists(name), storage.size(name)) == (False, 0)
    assert storage.list("none") == []
    assert [info.base_name for info in storage.list("folder")] == ["file"]


def test_a_tail_is_the_end_or_all_of_a_shorter_file(storage):
    storage.write("x", b"0123456789")
    assert [storage.read_tail("x", length) for length in (3, 10, 11, 2**20)] == [b"789", *[b"0123456789"] * 3]
    storage.write("x", b"")
    assert storage.read_tail("x", 8) == b""


def test_pieces_far_apart_all_come_however_many(storage):
    content = np.random.default_rng(0).bytes(400_000)
    storage.write("x", content)
    ranges = [(offset, 1 + offset % 7) for offset in range(0, 400_000, 2_000)]
    assert len(ranges) > 3 * storage_module.PIECES_AHEAD
    for near in (0, 0), (2_000, 4_000), (2_000, 2**20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage_module, "NEAR_BYTES", {"local": near, "object": near})
            pieces = list(storage.read_ranges("x", ranges))
        assert pieces == [content[offset : offset + length] for offset, length in ranges]
    assert list(storage.read_ranges("x", [])) == []


def test_near_pieces_are_read_as_one_but_no_more_than_the_most_at_once(tmp_path, monkeypatch):
    storage = open_storage(tmp_path)
    gap, most = NEAR_BYTES["local"]
    storage.write("x", bytes(4 * most))
    read, real = [], os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, at: read.append((at, length)) or real(file, length, at))
    ranges = [(offset, 100) for offset in range(0, 4 * most - 100, gap)]
    assert sum(map(len, storage.read_ranges("x", ranges))) == 100 * len(ranges)
    assert len(read) < 8 and max(length for _, length in read) <= most
    read.clear()
    list(storage.read_ranges("x", [(0, 10), (10 + gap, 10), (20 + 2 * gap + 1, 10)]))
    assert read == [(0, 20 + gap), (21 + 2 * gap, 10)]


def everything_below(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["before", "half"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_staged(tmp_path, monkeypatch, mode, old):
    real_fsync, cuts = os.fsync, 0
    while True:
        faults = Faults()
        monkeypatch.setattr(os, "fsync", lambda fd, faults=faults: faults.run("fsync", lambda: real_fsync(fd)))
        root = tmp_path / f"{cuts}"
        storage = local_storage(root, faults)
        if old is not None:
            storage.write("losses/x", old)
        faults.count, faults.at, faults.mode = 0, cuts + 1, mode
        try:
            storage.write("losses/x", b"new" * 1000)
        except Cut:
            at_the_end = faults.names[-1] == "fsync" and "move" in " ".join(faults.names)
            new = {"losses/x": b"new" * 1000} if at_the_end else {}
            assert everything_below(root) == ({} if old is None else {"losses/x": old}) | new, faults.names[-1]
        else:
            break
        cuts += 1
    assert cuts >= 8 and everything_below(root) == {"losses/x": b"new" * 1000}


def test_a_write_that_is_interrupted_leaves_nothing_staged(tmp_path, monkeypatch):
    storage = open_storage(tmp_path)

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.write("losses/x", b"new")
    assert everything_below(tmp_path) == {}


@pytest.mark.parametrize("mode", ["before", "half"])
def test_an_object_is_put_by_one_write_and_a_failed_one_leaves_the_old(mode):
    faults = Faults()
    storage = object_storage(faults)
    storage.write("x", b"old")
    faults.names.clear()
    storage.write("y", bytes(2**22))
    assert [name.split()[0] for name in faults.names] == ["create", "write", "close"]
    for at in 1, 2, 3:
        faults.count, faults.at, faults.mode = 0, at, mode
        with pytest.raises(Cut):
            storage.write("x", b"new")
        faults.at = None
        assert storage.read("x") == b"old"


def test_what_may_be_lost_is_not_flushed_and_all_else_is(tmp_path, monkeypatch):
    storage, flushed = open_storage(tmp_path), []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(Path(f"/proc/self/fd/{fd}").readlink()))
    storage.write("log/x", b"x", durable=False)
    assert flushed == []
    storage.make_folders("losses", "runs")
    assert flushed == [tmp_path], "folders survive the machine"
    storage.write("log/x", b"y")
    staged, folder = flushed[1:]
    assert staged.parent == tmp_path / "_staging" and folder == tmp_path / "log"


def test_only_old_files_that_a_write_of_ours_has_named_are_swept(tmp_path):
    storage = open_storage(tmp_path)
    staging = tmp_path / "_staging"
    staging.mkdir()
    swept = [f"{'0123456789abcdef' * 2}-seed=00000.parquet", f"{'f' * 32}-a\nb"]
    kept = ["notes.txt", f"{'g' * 32}-x", f"{'0' * 31}-x", f"x{'0' * 32}-x", f"{'0' * 32}"]
    ages_s = {name: ABANDONED_S + 60 for name in swept + kept} | {f"{'1' * 32}-young": ABANDONED_S - 60}
    for name, age_s in ages_s.items():
        (staging / name).write_bytes(b"half")
        os.utime(staging / name, (time.time() - age_s,) * 2)
    storage.sweep_staging()
    assert names(staging) == sorted([*kept, f"{'1' * 32}-young"])


@pytest.mark.parametrize("deep", [False, True])
def test_nothing_is_written_through_a_link_that_leads_out(tmp_path, deep):
    outside = tmp_path / "outside" / "deeper"
    outside.mkdir(parents=True)
    storage = open_storage(tmp_path / "set")
    storage.write("x", b"x")
    (tmp_path / "set" / "losses").symlink_to(outside if deep else outside.parent)
    with pytest.raises(PermissionError, match=r"losses is a link that leads out of the dataset"):
        storage.write("losses/seed", b"x")
    (tmp_path / "set" / "_staging").rmdir()
    (tmp_path / "set" / "_staging").symlink_to(outside)
    for use in lambda: storage.write("y", b"y"), storage.sweep_staging:
        with pytest.raises(PermissionError, match="leads out"):
            use()
    assert everything_below(tmp_path / "outside") == {}


def test_a_link_within_the_dataset_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "losses").symlink_to(tmp_path / "disk")
    open_storage(tmp_path).write("losses/x", b"x")
    assert (tmp_path / "disk" / "x").read_bytes() == b"x"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:secret@bucket/run",
        "s3://key:@bucket/run",
        "S3://bucket/run?SECRET_KEY=x",
        "s3://bucket?region=a&access_token=x",
        "gs://bucket/run?Password=x",
    ],
)
def test_credentials_in_any_writing_are_refused(uri):
    with pytest.raises(ValueError, match="carries credentials"):
        refuse_credentials(uri)


@pytest.mark.parametrize("uri", ["s3://bucket/run", "s3://bucket/a:b@c", "gs://bucket?region=eu&anonymous=true"])
def test_what_is_no_credential_is_let_through(uri):
    refuse_credentials(uri)


def test_a_seed_with_a_footer_of_any_size_is_valid(storage, monkeypatch):
    """A row group adds 430 bytes to the footer: 153 of them pass 64 KiB."""
    monkeypatch.setattr(seed_file, "ROW_GROUP_LOSSES", 1)
    documents = [Text(doc_id=i, name=f"{i}", category="", token_ids=(50256, 1)) for i in range(200)]
    dataset = create(storage, documents=documents)
    first = dataset.commit(0, "one", np.array(STEPS), losses(0, STEPS, 200), records())
    assert footer_bytes(storage.read_tail(first.path, 8)) > FOOTER_GUESS_BYTES
    assert dataset.committed() == {0: first}
    assert dataset.commit(0, "one", np.array(STEPS), losses(0, STEPS, 200), records()) == first
    with pytest.raises(ValueError, match="committed by attempt one already"):
        dataset.commit(0, "two", np.array(STEPS), losses(0, STEPS, 200), records())
    assert np.array_equal(reader.open(storage).losses("199")[0, :, 0], losses(0, STEPS, 200)[:, 199])


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_footer_as_large_as_the_guess_or_a_byte_off(storage, monkeypatch, extra):
    dataset = create(storage)
    first = commit(dataset, 0)
    size = footer_bytes(storage.read_tail(first.path, 8))
    monkeypatch.setattr(seed_file, "FOOTER_GUESS_BYTES", size + extra)
    assert dataset.committed() == {0: first}


def test_a_damaged_file_is_kept_before_it_is_replaced(storage):
    """Every write of a commit in its place fails once: the damaged bytes are always somewhere."""
    dataset = create(storage)
    path, damaged = commit(dataset, 0).path, b"damaged"
    real = storage.write
    for allowed in range(4):
        storage.write(path, damaged)
        left = iter(range(allowed))

        def write(name, content, left=left):
            if next(left, None) is None:
                raise OSError("no space left on device")
            real(name, content)

        storage.write = write
        with pytest.raises(OSError) if allowed < 3 else contextlib.nullcontext():
            commit(dataset, 0, "two")
        storage.write = real
        kept = [storage.read(f"_rejected/{info.base_name}") for info in storage.list("_rejected")]
        assert kept == [damaged] * allowed
        assert (storage.read(path) == damaged) == (allowed < 3)
    assert dataset.committed()[0].attempt == "two"


def test_the_record_of_a_run_is_there_before_its_seed(storage):
    """A seed's footer names the hash of its runs file, so that must be on disk whenever the seed is."""
    faults = Faults()
    where = object_storage(faults)
    dataset = create(where)
    written, real = [], where.write
    where.write = lambda name, *arguments, **options: written.append(name) or real(name, *arguments, **options)
    committed = commit(dataset, 0)
    assert written == [committed.runs_path, committed.path]


def test_a_folder_has_one_name_however_it_is_written_and_the_root_is_one_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in tmp_path, f"{tmp_path}/", f"{tmp_path}//", ".", f"file://{tmp_path}", f"file://{tmp_path}/":
        storage = open_storage(name)
        assert (storage.uri, storage.path("x")) == (str(tmp_path), f"{tmp_path}/x")
    assert {"dev", "proc"} <= {info.base_name for info in open_storage("/").list()}, "so no dataset begins there"
