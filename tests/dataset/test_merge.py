"""Datasets of one experiment made one: two halves are the whole, file by file, whenever the merge is killed."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import discreteness
from discreteness.cli.main import _parsed
from discreteness.dataset import storage
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.lock import DatasetLock, LockHeld
from discreteness.dataset.paths import LOCK_FILE, MERGE_FILE, weights_path
from discreteness.dataset.sharing.merge import merge
from discreteness.dataset.storage import Storage
from discreteness.dataset.verify import verify
from discreteness.experiment.annotate import annotate
from tests.support.dataset_case import DOCUMENTS, IDENTITY, STEPS, Text, commit, create, losses, records

HEADER = b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + b"ab"
"""A file of safetensors."""


def made(folder, seeds, attempt="one", **changes):
    dataset = create(folder, **changes)
    for seed in seeds:
        commit(dataset, seed, attempt)
    return dataset


def content(folder):
    """{name: bytes} of everything that belongs to a dataset."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if not name.startswith("_")}


@pytest.fixture
def halves(tmp_path):
    """Two halves that share seed 2, and the whole; kept weights and a log in one half each."""
    left, right = made(tmp_path / "left", (0, 1, 2)), made(tmp_path / "right", (2, 3))
    whole = made(tmp_path / "whole", (0, 1, 2, 3))
    for dataset in right, whole:
        dataset.storage.write(weights_path(3, "one", 20), WEIGHTS)
    right.storage.write(weights_path(3, "lost", 20), b"of an attempt that was not committed")
    for dataset in left, whole:
        dataset.storage.write("log/20260101T000000.000000-abcdef01.json", b'{"event": "job began"}')
    return tmp_path


def test_two_halves_are_the_whole_file_by_file(halves):
    merged = merge([halves / "left", halves / "right"], halves / "all")
    assert (merged.seeds, merged.added, merged.shared) == ((0, 1, 2, 3), (0, 1, 2, 3), (2,))
    assert content(halves / "all") == content(halves / "whole") and verify(halves / "all") == []
    again = merge([halves / "left", halves / "right"], halves / "all")
    assert (again.seeds, again.added, again.shared) == ((0, 1, 2, 3), (), (0, 1, 2, 3))
    assert content(halves / "all") == content(halves / "whole")
    assert not [path.name for path in (halves / "all").iterdir() if path.name.startswith("_m") or "lock" in path.name]


def test_more_seeds_and_more_datasets_join_a_dataset_that_is_there(halves):
    made(halves / "third", (7,))
    merge([halves / "left"], halves / "all")
    merged = merge([halves / "right", halves / "third"], halves / "all")
    assert merged.added == (3, 7) and discreteness.open(halves / "all").seeds == [0, 1, 2, 3, 7]
    assert merge([halves / "all", halves / "left"], halves / "left").added == (3, 7)  # into one of them


def test_compacted_inputs_make_a_compacted_output(halves):
    for name in "right", "whole":
        compact(halves / name)
    merge([halves / "left", halves / "right"], halves / "all")
    assert content(halves / "all") == content(halves / "whole") and "tokens/parts.json" in content(halves / "all")
    assert verify(halves / "all") == []


def test_annotations_of_an_input_are_those_of_the_output(halves):
    annotate(halves / "right")
    merge([halves / "left", halves / "right"], halves / "all")
    there = discreteness.open(halves / "right").annotations()
    assert discreteness.open(halves / "all").annotations().equals(there) and verify(halves / "all") == []


def test_a_seed_of_two_runs_with_equal_losses_is_taken_from_the_first(tmp_path):
    made(tmp_path / "a", (0,), "one"), made(tmp_path / "b", (0,), "two")
    assert merge([tmp_path / "b", tmp_path / "a"], tmp_path / "all").shared == (0,)
    assert discreteness.open(tmp_path / "all").attempts == {0: "two"} and verify(tmp_path / "all") == []


@pytest.mark.parametrize("where", ["inputs", "output"])
def test_a_seed_with_other_losses_is_refused_by_name_before_anything_is_written(tmp_path, where):
    made(tmp_path / "a", (0, 3))
    other = made(tmp_path / "b", (0, 2))
    changed = losses(3)
    changed[2, 3] = np.nextafter(changed[2, 3], np.float32(0))  # the last bit of step 5, first token of the second
    other.commit(3, "two", np.array(STEPS), changed, records())
    inputs = ["a", "b"] if where == "inputs" else ["b"]
    if where == "output":
        merge([tmp_path / "a"], tmp_path / "all")
        before = content(tmp_path / "all")
    words = r"differ of seed 3 of \S+ and of \S+/b, first at step 5, document 'b.txt', token 1: 3005\.375 and 3005\.3"
    with pytest.raises(ValueError, match=words):
        merge([tmp_path / name for name in inputs], tmp_path / "all")
    if where == "output":
        assert content(tmp_path / "all") == before
    else:
        assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"identity": {**IDENTITY, "packing": "reference"}}, "packing: 'reference' there, 'isolated' here; leave one"),
        ({"steps": (0, 1, 5)}, "checkpoints: 3 steps from 0 to 5 there, 4 steps from 0 to 20 here; leave one"),
        (
            {"documents": (Text(doc_id=0, name="a.txt", category="a", token_ids=(50256, 9, 6, 7)), *DOCUMENTS[1:])},
            "documents: with other text or answers a.txt; leave one",
        ),
        ({"identity": {**IDENTITY, "sources": "bbbb"}}, "sources: 'bbbb' there, 'aaaa' here; .* --allow-code-change"),
    ],
)
def test_another_experiment_is_refused_with_what_differs(tmp_path, changes, words):
    made(tmp_path / "a", (0,))
    create(tmp_path / "b", **changes)
    with pytest.raises(ValueError, match=words):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert not (tmp_path / "all").exists()
    if "--allow" not in words:
        with pytest.raises(ValueError, match=words):
            merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all", allow_code_change=True)


def test_seeds_of_both_sources_count_where_a_code_change_is_allowed(tmp_path):
    made(tmp_path / "a", (0,)), made(tmp_path / "b", (1,), identity={**IDENTITY, "sources": "bbbb"})
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all", allow_code_change=True)
    assert discreteness.open(tmp_path / "all").seeds == [0, 1] and verify(tmp_path / "all") == []
    # Somebody has accepted the change there: it needs no saying again.
    assert merge([tmp_path / "b", tmp_path / "all"], tmp_path / "more").seeds == (0, 1)


@pytest.fixture
def moments(halves, monkeypatch):
    """A merge of the halves, and copies of its output before and after every file that appears or goes, without the
    lock: what a kill at that moment leaves."""
    found = []

    def copied(change):
        def call(*arguments, **options):
            if (halves / "all").exists():
                found.append(halves / f"moment-{len(found)}")
                shutil.copytree(halves / "all", found[-1], ignore=lambda folder, names: {LOCK_FILE} & set(names))
            return change(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_fsync", copied(lambda path: None))  # a file is written, or has got its name
        for name in "write", "delete":
            patch.setattr(Storage, name, copied(getattr(Storage, name)))
        merge([halves / "left", halves / "right"], halves / "all")
    return found


def test_killed_at_any_moment_it_goes_on_and_is_no_dataset_until_it_is_whole(halves, moments):
    whole = content(halves / "whole")
    assert len(moments) >= 40 and content(halves / "all") == whole
    for folder in moments:
        if "experiment.json" in content(folder):
            assert content(folder) == whole
        else:
            with pytest.raises(FileNotFoundError, match=r"is not a dataset|unfinished merge; give its command"):
                discreteness.open(folder)
            if content(folder):
                with pytest.raises(FileExistsError):
                    create(folder)  # what a run would do
        merge([halves / "left", halves / "right"], folder)
        assert content(folder) == whole and not (folder / MERGE_FILE).exists()


def test_an_unfinished_merge_wants_all_its_inputs_again(halves, monkeypatch):
    made(halves / "third", (7,))
    unfinished(halves, monkeypatch)
    words = r"unfinished merge that was also of \S+/right; give all of \S+/left, \S+/right again"
    with pytest.raises(ValueError, match=words):
        merge([halves / "left", halves / "third"], halves / "all")
    assert merge([halves / "left", halves / "right", halves / "third"], halves / "all").seeds == (0, 1, 2, 3, 7)


def unfinished(halves, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("discreteness.dataset.sharing.merge._copy_log", lambda *storages: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merge([halves / "left", halves / "right"], halves / "all")


def test_a_damaged_description_of_an_unfinished_merge_is_named(halves, monkeypatch):
    unfinished(halves, monkeypatch)
    (halves / "all" / "_merge.json").write_text('{"inputs": []}')
    with pytest.raises(ValueError, match=r"_merge.json does not describe a merge; delete \S+/all"):
        merge([halves / "left", halves / "right"], halves / "all")


@pytest.mark.parametrize("damage", ["losses", "runs"])
def test_a_damaged_seed_is_not_copied(halves, damage):
    (path,) = (halves / "right" / damage).glob("seed=00003*")
    whole, at = path.read_bytes(), pq.read_metadata(path).row_group(0).column(1).data_page_offset + 60
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(OSError, match=rf"right/{damage}/seed=00003\S*: (its hash is not the one|cannot be read)"):
        merge([halves / "left", halves / "right"], halves / "all")
    path.write_bytes(whole)
    merge([halves / "left", halves / "right"], halves / "all")
    assert content(halves / "all") == content(halves / "whole")


def test_what_is_no_committed_seed_is_named_and_left_out(halves):
    (halves / "left/losses/seed=00009.parquet").write_bytes(b"PAR1")
    merged = merge([halves / "left", halves / "right"], halves / "all")
    assert list(merged.not_counted) == [str(halves / "left/losses/seed=00009.parquet")] and 9 not in merged.seeds
    (halves / "all/losses/seed=00003.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"all/losses/seed=00003.parquet: truncated, .*; take it out"):
        merge([halves / "right"], halves / "all")


def test_other_files_a_dataset_given_twice_and_one_in_use_are_refused(halves):
    (halves / "other").mkdir()
    (halves / "other/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"other holds notes.txt and is not a dataset; give another --output"):
        merge([halves / "left"], halves / "other")
    with pytest.raises(ValueError, match=r"left is given twice"):
        merge([halves / "left", f"{halves}/left"], halves / "all")
    with pytest.raises(ValueError, match="no dataset was given"):
        merge([], halves / "all")
    with DatasetLock(halves / "all"), pytest.raises(LockHeld, match="is in use by pid"):
        merge([halves / "left"], halves / "all")


def test_the_command_says_what_it_did(halves, capsys):
    paths = [str(halves / name) for name in ("left", "right")]
    assert _parsed(["merge", *paths, "--output", str(halves / "all")])() == 0
    assert capsys.readouterr().out == (
        f"merged: 4 seeds in {halves}/all: 0-3\ncopied now: 0-3; in several, with equal losses: 2\n"
    )
