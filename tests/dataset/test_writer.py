"""Creating and committing: the layout on disk, and every write cut short."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from discreteness.dataset import reader
from discreteness.dataset.mismatch import IdentityMismatch
from discreteness.dataset.seed_file import FOOTER_KEY
from discreteness.dataset.status import status as status_of
from discreteness.dataset.verify import verify
from discreteness.dataset.writer import DatasetWriter
from tests.support.dataset_case import (
    DOCUMENTS,
    IDENTITY,
    STEPS,
    Text,
    commit,
    create,
    losses,
    names,
    records,
    token_bytes,
)
from tests.support.faulty_filesystem import Cut, Faults, local_storage, object_storage

INT_STEPS = np.array(STEPS, np.int32)


@pytest.fixture(params=["local", "object"])
def storage(request, tmp_path):
    return tmp_path / "run" if request.param == "local" else object_storage()


def test_a_committed_seed_is_one_sorted_float32_file(tmp_path):
    dataset = create(tmp_path / "run")
    order = [2, 0, 3, 1]
    given = losses(17)
    given[3, 5] = np.float32(1e-40)  # subnormal: kept bit for bit
    committed = dataset.commit(17, "one", INT_STEPS[order], given[order], records().take(order))
    assert (committed.seed, committed.attempt, committed.rows) == (17, "one", 12)
    table = pq.read_table(tmp_path / "run" / "losses" / "seed=00017.parquet")
    assert table.schema.types == [
        pa.int32(), pa.string(), pa.int32(), pa.int32(), pa.list_(pa.field("element", pa.float32(), False))
    ]  # fmt: skip
    assert table["seed"].to_pylist() == [17] * 12 and table["attempt"].to_pylist() == ["one"] * 12
    assert table["doc_id"].to_pylist() == [0] * 4 + [1] * 4 + [4] * 4
    assert table["step"].to_pylist() == list(STEPS) * 3
    for first, length, start in (0, 3, 0), (4, 1, 3), (8, 2, 4):
        found = np.array(table["losses"].to_pylist()[first : first + 4], np.float32)
        assert np.array_equal(found.view(np.uint32), given[:, start : start + length].view(np.uint32))
    runs = pq.read_table(tmp_path / "run" / "runs" / "seed=00017-one.parquet")
    assert runs["step"].to_pylist() == list(STEPS)
    assert runs.column_names == ["seed", "attempt", "step", "train_loss"]
    assert runs["train_loss"].to_pylist() == [10.0, 9.0, 5.0, -10.0]
    assert dataset.committed() == {17: committed}
    assert names(tmp_path / "run") == [
        "_staging", "documents.parquet", "experiment.json", "log", "losses", "runs"
    ]  # fmt: skip
    assert not names(tmp_path / "run" / "_staging")


def test_documents_have_a_row_a_token(tmp_path):
    create(tmp_path, in_vocabulary=lambda token: token != 6)
    table = pq.read_table(tmp_path / "documents.parquet").to_pydict()
    assert table["doc_id"] == [0, 0, 0, 0, 1, 1, 4, 4, 4]
    assert table["token_index"] == [0, 1, 2, 3, 0, 1, 0, 1, 2]
    assert table["token_id"] == [50256, 5, 6, 7, 50256, 200, 50256, 1, 2]
    assert table["token_bytes"][4:6] == [b"<|endoftext|>", b"\xc8"]
    assert table["token_text"][4:6] == ["<|endoftext|>", "�"]
    assert table["answer"] == [False, False, False, True] + [False] * 5
    assert table["in_vocabulary"] == [True, True, False] + [True] * 6


def test_large_documents_get_row_groups_of_their_own_and_small_ones_share(tmp_path):
    sizes = [2000, 100, 100, 3000, 50]
    steps = tuple(range(200))
    documents = [Text(doc_id=i, name=f"{i}", category="", token_ids=(50256, *([1] * n))) for i, n in enumerate(sizes)]
    dataset = create(tmp_path, documents=documents, steps=steps)
    dataset.commit(0, "one", np.array(steps), losses(0, steps, sum(sizes)), records())
    file = pq.ParquetFile(tmp_path / "losses" / "seed=00000.parquet")
    groups = [file.read_row_group(i, ["doc_id"])["doc_id"].to_numpy() for i in range(file.num_row_groups)]
    assert [np.unique(group).tolist() for group in groups] == [[0], [1, 2, 3], [4]]
    column = file.metadata.row_group(0).column(4)
    assert column.compression == "ZSTD" and "BYTE_STREAM_SPLIT" in column.encodings
    assert np.array_equal(reader.open(tmp_path).losses("3")[0], losses(0, steps, sum(sizes))[:, 2200:5200])


def test_opening_again_continues_and_committing_again_changes_nothing(storage):
    dataset = create(storage)
    first = commit(dataset, 3)
    again = create(storage)
    assert again.committed() == {3: first}
    before = dataset.storage.read(first.path)
    assert again.commit(3, "one", INT_STEPS, losses(4), records()) == first
    with pytest.raises(ValueError, match="seed 3 is committed by attempt one already; attempt two is not"):
        commit(again, 3, "two")
    assert dataset.storage.read(first.path) == before
    assert verify(storage) == []


def test_a_dataset_survives_a_trip_to_another_process(tmp_path):
    assert commit(pickle.loads(pickle.dumps(create(tmp_path))), 1).rows == 12


def test_another_identity_is_refused_by_field(tmp_path):
    create(tmp_path)
    other = {**IDENTITY, "track": {"name": "tiny", "lr": 0.25}}
    with pytest.raises(IdentityMismatch, match=r"track\.lr: 0\.5 there, 0\.25 here") as caught:
        create(tmp_path, identity=other, allow_code_change=True)
    assert str(tmp_path) in str(caught.value) and "--output" in str(caught.value)
    with pytest.raises(
        IdentityMismatch, match=r"\(checkpoints: 4 steps from 0 to 20 there, 4 steps from 0 to 21 here\)"
    ):
        create(tmp_path, steps=(0, 1, 5, 21))
    with pytest.raises(IdentityMismatch, match=r"\(documents: with other text or answers b\.txt\)"):
        longer = Text(doc_id=1, name="b.txt", category="b", token_ids=(50256, 200, 1))
        create(tmp_path, documents=(DOCUMENTS[0], longer, DOCUMENTS[2]))


def test_other_words_of_the_same_lengths_are_refused(tmp_path):
    create(tmp_path)
    other = Text(doc_id=4, name="c", category="c", token_ids=(50256, 1, 3))
    with pytest.raises(IdentityMismatch, match=r"\(documents: with other text or answers c\)"):
        create(tmp_path, documents=(*DOCUMENTS[:2], other))


def test_opening_again_writes_nothing(tmp_path):
    commit(create(tmp_path), 0)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*") if path.is_file()}
    for _ in range(2):
        create(tmp_path)
    after = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before and json.loads((tmp_path / "experiment.json").read_text())["accepted_sources"] == ["aaaa"]


def test_a_code_change_is_let_in_only_when_allowed_and_keeps_what_is_committed(tmp_path):
    old = commit(create(tmp_path), 0)
    changed = {**IDENTITY, "sources": "bbbb"}
    with pytest.raises(IdentityMismatch, match="--allow-code-change"):
        create(tmp_path, identity=changed)
    dataset = create(tmp_path, identity=changed, allow_code_change=True)
    new = commit(dataset, 1)
    assert dataset.committed() == {0: old, 1: new} and old.identity_hash != new.identity_hash
    for identity in changed, IDENTITY:  # both are known now
        assert create(tmp_path, identity=identity).committed() == {0: old, 1: new}
    assert commit(create(tmp_path), 2).identity_hash == old.identity_hash
    assert verify(tmp_path) == []


def test_a_directory_of_something_else_is_refused_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match=r"holds thesis\.tex and is not a dataset"):
        create(tmp_path)
    assert names(tmp_path) == ["thesis.tex"]


def test_empty_and_half_created_directories_are_completed(tmp_path):
    create(tmp_path / "run")
    (tmp_path / "run" / "documents.parquet").unlink()
    (tmp_path / "run" / "losses").rmdir()
    commit(create(tmp_path / "run"), 0)
    (tmp_path / "empty" / "_staging").mkdir(parents=True)
    (tmp_path / "empty" / "_lock.json").write_text("{}")
    (tmp_path / "empty" / ".DS_Store").write_text("hidden")
    commit(create(tmp_path / "empty"), 0)
    assert verify(tmp_path / "run") == verify(tmp_path / "empty") == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 1}', "null"])
def test_a_damaged_description_is_named_kept_aside_and_written_anew(tmp_path, content):
    create(tmp_path)
    path = tmp_path / "experiment.json"
    good = path.read_bytes()
    path.write_text(content)
    with pytest.raises(ValueError, match=r"experiment\.json does not describe an experiment"):
        reader.open(tmp_path)
    create(tmp_path)
    assert path.read_bytes() == good
    (kept,) = (tmp_path / "_rejected").iterdir()
    assert kept.name.endswith("-experiment") and kept.read_text() == content


def test_a_newer_schema_and_an_edited_identity_are_refused(tmp_path):
    create(tmp_path)
    content = json.loads((tmp_path / "experiment.json").read_text())
    (tmp_path / "experiment.json").write_text(json.dumps({**content, "schema_version": 2}))
    with pytest.raises(ValueError, match="schema version 2, this discreteness reads 1"):
        create(tmp_path)
    content["identity"]["packing"] = "reference"
    (tmp_path / "experiment.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was edited"):
        reader.open(tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("steps", 0), 1),
        (("steps", 3), 2**31),
        (("steps", 1), 1.0),
        (("documents", 0, "doc_id"), 1),
        (("documents", 2, "doc_id"), 1),
        (("documents", 1, "num_losses"), 0),
        (("documents", 1, "name"), 7),
        (("accepted_sources",), []),
        (("identity",), []),
        (("documents_hash",), None),
    ],
)
def test_an_edited_description_is_refused(tmp_path, place, value):
    create(tmp_path)
    content = json.loads((tmp_path / "experiment.json").read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "experiment.json").write_text(json.dumps(content))
    for use in reader.open, verify, status_of:
        with pytest.raises(ValueError, match="does not describe an experiment"):
            use(tmp_path)


def test_damaged_documents_are_named_kept_aside_and_written_anew(tmp_path):
    create(tmp_path)
    path = tmp_path / "documents.parquet"
    content = path.read_bytes()
    for damage in content[:100], b"", content.replace(b"a.txt", b"d.txt"):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"documents\.parquet does not hold the experiment's documents"):
            reader.open(tmp_path).tokens("a.txt")
        assert any("documents.parquet" in problem for problem in verify(tmp_path))
        create(tmp_path)
        assert path.read_bytes() == content
        assert damage in [kept.read_bytes() for kept in (tmp_path / "_rejected").iterdir()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": ()}, "no documents"),
        ({"documents": (DOCUMENTS[0], DOCUMENTS[0])}, r"share the name a\.txt"),
        ({"documents": DOCUMENTS[::-1]}, "ascending ids"),
        ({"documents": (Text(doc_id=0, name="e", category="", token_ids=(50256,)),)}, "'e' has no token"),
        ({"steps": ()}, "ascending"),
        ({"steps": (0, 5, 5)}, "ascending"),
        ({"steps": (-1, 5)}, "ascending"),
    ],
)
def test_documents_and_steps_are_checked(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        create(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def with_value(row, column, value):
    array = losses(0)
    array[row, column] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": losses(0).astype(np.float64)}, "are float64"),
        ({"losses": losses(0)[:, :5]}, r"expected float32 \(4, 6\)"),
        ({"steps": INT_STEPS.astype(np.float32)}, "at float32 steps"),
        ({"steps": np.array([0, 1, 5, 5])}, r"missing 20; twice 5; not planned none"),
        ({"steps": np.array([0, 1, 7, 20])}, r"missing 5; twice none; not planned 7"),
        ({"steps": INT_STEPS[:3], "losses": losses(0)[:3]}, "missing 20"),
        ({"steps": np.array([0, 1, 5, 5, 20]), "losses": losses(0, (0, 1, 5, 5, 20))}, "missing none; twice 5"),
        ({"steps": np.array([0, 1, 5, 7, 20]), "losses": losses(0, (0, 1, 5, 7, 20))}, "twice none; not planned 7"),
        ({"losses": with_value(2, 3, np.nan)}, r"seed 0 at step 5, document 'b\.txt', token 1 is nan"),
        ({"losses": with_value(0, 5, np.inf)}, r"step 0, document 'c', token 2 is inf"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**31}, "seed 2147483648"),
        ({"attempt": "../x"}, "cannot be part of a file name"),
        ({"records": pa.table({"loss": [1.0]})}, "no integer column 'step'"),
        ({"records": pa.table({"step": [1, 1]})}, "steps twice: 1"),
        ({"records": pa.table({"step": [1], "attempt": ["x"]})}, "column attempt"),
    ],
)
def test_what_is_not_whole_is_not_committed(tmp_path, change, message):
    dataset = create(tmp_path)
    arguments = {"seed": 0, "attempt": "one", "steps": INT_STEPS, "losses": losses(0), "records": records()}
    with pytest.raises(ValueError, match=message):
        dataset.commit(**{**arguments, **change})
    assert not names(tmp_path / "losses") and not names(tmp_path / "runs")


def attempt_all(storage, faults):
    """One create and two commits, retried after the cut; what is committed is checked after it."""
    done = set()
    try:
        dataset = create(storage)
        for seed in 0, 1:
            commit(dataset, seed)
            done.add(seed)
        return False
    except Cut:
        pass
    finally:
        operations = faults.count
        faults.at = None
    again = create(storage)
    committed = again.committed()
    assert done <= committed.keys() <= {0, 1}, "a seed is lost or foreign"
    assert [problem for problem in verify(storage)] == [], f"after operation {operations}"
    for seed in 0, 1:
        commit(again, seed)
    return True


@pytest.mark.parametrize("mode", ["before", "half", "after"])
@pytest.mark.parametrize("kind", ["local", "object"])
def test_a_cut_at_every_operation_leaves_a_seed_whole_or_absent(tmp_path, monkeypatch, kind, mode):
    cuts = 0
    while True:
        faults = Faults(at=cuts + 1, mode=mode)
        # fsync is no part of pyarrow.fs, but an operation that fails like the others
        monkeypatch.setattr(os, "fsync", lambda fd, faults=faults: faults.run("fsync", int))
        root = tmp_path / f"{cuts}"
        storage = local_storage(root, faults) if kind == "local" else object_storage(faults)
        was_cut = attempt_all(storage, faults)
        dataset = reader.open(storage)
        assert dataset.seeds == [0, 1]
        for seed in 0, 1:
            found = np.concatenate([dataset.losses(d.name, seeds=[seed])[0] for d in DOCUMENTS], axis=1)
            assert np.array_equal(found, losses(seed))
        assert verify(storage) == []
        if kind == "local":
            assert pa.dataset.dataset(root / "losses").count_rows() == 24
        if not was_cut:
            break
        cuts += 1
    assert cuts > (40 if kind == "local" else 15), f"only {cuts} operations were cut"


def test_a_seed_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    faults = Faults()
    dataset = create(local_storage(tmp_path, faults))
    monkeypatch.setattr(os, "fsync", lambda fd: faults.run(f"fsync {Path(f'/proc/self/fd/{fd}').readlink()}", int))
    faults.names.clear()
    commit(dataset, 0)
    words = [name.replace(str(tmp_path), "").split() for name in faults.names]
    changes = [word for word in words if word[0] in ("write", "close", "fsync", "move")]
    assert [word[0] for word in changes] == ["write", "close", "fsync", "move", "fsync"] * 2
    for first, folder in (0, "/runs"), (5, "/losses"):
        write, close, fsync, move, fsync_folder = changes[first : first + 5]
        assert write[1] == close[1] == fsync[1] == move[1] and write[1].startswith("/_staging/")
        assert move[2].startswith(f"{folder}/seed=00000") and fsync_folder[1] == folder


def test_plain_arrow_sees_complete_seeds_only(tmp_path):
    dataset = create(tmp_path)
    assert pa.dataset.dataset(tmp_path / "losses").count_rows() == 0
    commit(dataset, 0)
    dataset.write_running(1, "two", INT_STEPS[:2], losses(1)[:2])
    (tmp_path / "_staging" / "0123-seed=00002.parquet").write_bytes(b"half")
    (tmp_path / "losses" / ".seed=00002.parquet.swp").write_bytes(b"half")
    (tmp_path / "losses" / "_temporary").write_bytes(b"half")
    assert pa.dataset.dataset(tmp_path / "losses").to_table()["seed"].unique().to_pylist() == [0]
    assert list(dataset.committed()) == [0] and verify(tmp_path) == []


WRITERS = """
import os, sys
from tests.support.dataset_case import commit, create
for line in sys.stdin:
    if writer := os.fork():  # this process imports once, for all writers
        os.waitpid(writer, 0)
        print("gone", flush=True)
        continue
    dataset = create(sys.argv[1])
    print(os.getpid(), flush=True)
    for seed in range(10000):
        commit(dataset, seed)
"""


@pytest.fixture
def writers(tmp_path):
    """A process that starts a writer of tmp_path/run for each line, says its process id, and when it has ended."""
    command = [sys.executable, "-c", WRITERS, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) as process:
        yield process


def test_a_writer_killed_at_any_moment_leaves_whole_seeds(tmp_path, writers):
    root = tmp_path / "run"
    random.seed(0)
    most = 0
    for _ in range(5):
        print("another", file=writers.stdin, flush=True)
        writer = int(writers.stdout.readline())
        time.sleep(random.uniform(0.0, 0.2))
        os.kill(writer, signal.SIGKILL)
        assert writers.stdout.readline() == "gone\n"
        dataset = create(root)
        committed = dataset.committed()
        assert list(committed) == list(range(len(committed))) and len(committed) >= most
        most = len(committed)
        assert verify(root) == []
        assert pa.dataset.dataset(root / "losses").count_rows() == 12 * most
    assert most > 0
    commit(dataset, most)
    assert np.array_equal(reader.open(root).losses("a.txt", seeds=[most])[0], losses(most)[:, :3])


def damage(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[:-20])
    elif how == "first half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "garbage":
        path.write_bytes(random.Random(0).randbytes(5000) + b"\x40\0\0\0PAR1")
    elif how == "foreign":
        pq.write_table(pa.table({"x": [1]}), path)
    elif how == "another seed's":
        path.write_bytes((path.parent / "seed=00000.parquet").read_bytes())
    elif how == "rewritten":
        footer, table = pq.read_metadata(path).metadata[FOOTER_KEY], pq.read_table(path)
        with pq.ParquetWriter(path, table.schema) as writer:
            writer.write_table(table.slice(1))
            writer.add_key_value_metadata({FOOTER_KEY: footer})
    elif how == "a folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "not a Parquet file"),
        ("first half", "not a Parquet file"),
        ("empty", "not a Parquet file"),
        ("garbage", "not a Parquet file"),
        ("foreign", "without the footer"),
        ("another seed's", "says seed 0: the file was renamed"),
        ("rewritten", "11 rows, its footer says 12"),
    ],
)
def test_a_file_that_is_no_seed_is_reported_kept_aside_and_replaced(tmp_path, caplog, how, reason):
    dataset = create(tmp_path)
    for seed in 0, 1:
        commit(dataset, seed)
    path = tmp_path / "losses" / "seed=00001.parquet"
    damage(path, how)
    bad = path.read_bytes()
    assert list(dataset.committed()) == [0]
    assert "seed=00001.parquet" in caplog.text and reason in caplog.text
    assert [problem for problem in verify(tmp_path) if reason in problem and "00001" in problem]
    assert status_of(tmp_path).invalid.keys() == {"losses/seed=00001.parquet"}
    assert reader.open(tmp_path).seeds == [0]
    assert reader.open(tmp_path).arrow().count_rows() == 12
    commit(dataset, 1, "two")
    assert dataset.committed()[1].attempt == "two" and verify(tmp_path) == []
    (aside,) = (tmp_path / "_rejected").iterdir()
    assert aside.read_bytes() == bad


def test_foreign_names_and_folders_in_losses_are_reported(tmp_path):
    dataset = create(tmp_path)
    for seed in 0, 1:
        commit(dataset, seed)
    damage(tmp_path / "losses" / "seed=00001.parquet", "a folder")
    for name in "seed=1.parquet", "seed=000001.parquet", "copy of seed=00000.parquet", "x.tmp":
        (tmp_path / "losses" / name).write_bytes(b"")
    assert list(dataset.committed()) == [0]
    assert len(status_of(tmp_path).invalid) == 5


def test_a_seed_of_another_experiment_is_not_counted(tmp_path):
    theirs, ours = create(tmp_path / "a", identity={**IDENTITY, "world_size": 8}), create(tmp_path / "b")
    words = create(tmp_path / "c", documents=(*DOCUMENTS[:2], Text(
        doc_id=4, name="c", category="c", token_ids=(50256, 1, 3))))  # fmt: skip
    for dataset, seed in (theirs, 0), (words, 1), (ours, 2):
        commit(dataset, seed)
        content = dataset.storage.read(f"losses/seed={seed:05d}.parquet")
        ours.storage.write(f"losses/seed={seed:05d}.parquet", content)
    invalid = status_of(tmp_path / "b").invalid
    assert "another experiment's" in invalid["losses/seed=00000.parquet"]
    assert "other documents" in invalid["losses/seed=00001.parquet"]
    assert list(ours.committed()) == [2]


def test_a_seed_of_a_shorter_plan_is_not_counted(tmp_path):
    short, ours = create(tmp_path / "short", steps=STEPS[:2]), create(tmp_path / "ours")
    path = short.commit(0, "one", INT_STEPS[:2], losses(0)[:2], records()).path
    ours.storage.write(path, short.storage.read(path))
    assert status_of(tmp_path / "ours").invalid == {path: "it has 6 rows, its footer says 6, the plan needs 12"}


def test_seeds_ascend_where_their_names_do_not(tmp_path):
    dataset = create(tmp_path)
    for seed in 100_000, 99_999, 7:
        commit(dataset, seed)
    assert list(dataset.committed()) == reader.open(tmp_path).seeds == [7, 99_999, 100_000]


def test_log_and_running_rows_never_stop_a_run(storage, caplog, monkeypatch):
    dataset = create(storage)
    dataset.log({"event": "attempt lost", "seed": 3, "attempt": "x", "error": "loss is nan"})
    dataset.log({"event": "started"})
    dataset.write_running(3, "y", INT_STEPS[[1, 0]], losses(3)[[1, 0]])
    status = status_of(storage)
    assert [(e["seed"], e["attempt"], e["error"]) for e in status.failed_attempts] == [(3, "x", "loss is nan")]
    local = dataset.storage.renames
    assert [(r.seed, r.attempt, r.steps) for r in status.running] == ([(3, "y", 2)] if local else [])
    commit(dataset, 3)
    assert status_of(storage).running == ()
    assert not dataset.storage.list("_running")

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset.storage, "write", full)
    dataset.log({"event": "x"})
    dataset.write_running(4, "y", INT_STEPS, losses(3))
    assert caplog.text.count("No space left") == (2 if local else 1)


def test_rows_in_training_are_those_of_their_steps_by_document(tmp_path):
    dataset = create(tmp_path)
    given = losses(3)[[2, 0, 1]]
    dataset.write_running(3, "y", INT_STEPS[[2, 0, 1]], given)
    table = pq.read_table(tmp_path / "_running" / "seed=00003.parquet")
    assert table["step"].to_pylist() == [0, 1, 5] * 3
    assert table["losses"].to_pylist()[:3] == losses(3)[:3, :3].tolist()
    assert table["losses"].to_pylist()[3:6] == losses(3)[:3, 3:4].tolist()


def test_leftovers_of_killed_writers_are_swept_when_old(tmp_path):
    create(tmp_path)
    for name, age_s in (f"{'0' * 32}-old", 7200), (f"{'0' * 32}-new", 60), ("not ours", 7200):
        path = tmp_path / "_staging" / name
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age_s,) * 2)
    create(tmp_path)
    assert names(tmp_path / "_staging") == [f"{'0' * 32}-new", "not ours"]


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        create(tmp_path / "file")
    with pytest.raises(ValueError, match="empty"):
        create("")


def test_relative_paths_and_uris_name_the_same_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commit(create("run"), 0)
    assert list(create(f"file://{tmp_path}/run/").committed()) == [0]
    assert DatasetWriter.create_or_open(tmp_path / "run", IDENTITY, DOCUMENTS, token_bytes, None, STEPS).uri == str(
        tmp_path / "run"
    )


@pytest.mark.slow
def test_a_seed_of_the_small_track_commits_without_per_value_python(tmp_path):
    steps = tuple(range(1841))
    documents = [Text(doc_id=i, name=f"{i}", category="", token_ids=(50256, *([1] * 250))) for i in range(14)]
    dataset = create(tmp_path, documents=documents, steps=steps)
    values = np.random.default_rng(0).random((1841, 3500), np.float32)
    calls = 0

    def count(*arguments):
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        dataset.commit(0, "one", np.array(steps), values, records(steps))
    finally:
        sys.setprofile(None)
    assert calls < 20_000  # 6.4 million values, 25,774 rows
    assert np.array_equal(reader.open(tmp_path).losses(13)[0], values[:, 3250:])


def test_a_dry_run_refuses_what_a_run_would_and_writes_nothing(tmp_path):
    commit(create(tmp_path / "set"), 3)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/thesis.tex").write_text("")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert list(create(tmp_path / "set", dry_run=True).committed()) == [3]
    assert create(tmp_path / "new/set", dry_run=True).committed() == {}
    with pytest.raises(IdentityMismatch, match="packing"):
        create(tmp_path / "set", identity={**IDENTITY, "packing": "reference"}, dry_run=True)
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        create(tmp_path / "texts", dry_run=True)
    with pytest.raises(OSError, match=r"not a folder|Not a directory"):
        create(tmp_path / "texts/thesis.tex/set", dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "set/documents.parquet").write_bytes(b"PAR1")
    create(tmp_path / "set", dry_run=True)
    assert (tmp_path / "set/documents.parquet").read_bytes() == b"PAR1" and "_rejected" not in names(tmp_path / "set")
