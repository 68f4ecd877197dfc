"""Losses as arrays, status, and the check of every row."""

import dataclasses
import json
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from discreteness.dataset import reader
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.identity import identity_hash
from discreteness.dataset.seed_file import CommittedSeed, losses_file
from discreteness.dataset.status import status as status_of
from discreteness.dataset.verify import verify
from discreteness.dataset.writer import DatasetWriter
from tests.support.dataset_case import DOCUMENTS, IDENTITY, STEPS, Text, commit, create, losses, records
from tests.support.faulty_filesystem import object_storage


@pytest.fixture
def run(tmp_path):
    dataset = create(tmp_path / "run")
    for seed in 3, 0:
        commit(dataset, seed)
    return tmp_path / "run"


def test_losses_are_seeds_by_steps_by_tokens(run):
    dataset = reader.open(run)
    assert (dataset.seeds, dataset.steps) == ([0, 3], list(STEPS))
    assert [(d.doc_id, d.name, d.num_losses) for d in dataset.documents] == [
        (0, "a.txt", 3), (1, "b.txt", 1), (4, "c", 2)
    ]  # fmt: skip
    everything = np.stack([losses(0), losses(3)])
    found = dataset.losses("c")
    assert found.dtype == np.float32 and np.array_equal(found, everything[:, :, 4:])
    assert np.array_equal(dataset.losses(4), found)
    # losses[i] is for token i + 1: token 2 of c is the last of the six losses of a step
    assert np.array_equal(dataset.losses("c", token=2), everything[:, :, 5])
    assert np.array_equal(dataset.losses("a.txt", seeds=[3, 0, 3], steps=[20, 0]), everything[[1, 0, 1]][:, [3, 0], :3])
    assert dataset.losses("a.txt", token=1, seeds=[3], steps=[5]).tolist() == [[3005.0]]


def test_what_is_missing_is_named_never_filled_in(run):
    dataset = reader.open(run)
    for arguments, message in (
        ({"doc": "d"}, r"no document 'd'; there are 'a\.txt' \(0\), 'b\.txt' \(1\), 'c' \(4\)"),
        ({"doc": 2}, "no document 2"),
        ({"doc": True}, "no document True"),
        ({"doc": 1.0}, r"no document 1\.0"),
        ({"doc": "c", "token": 0}, "no token 0 with a loss in document 'c'; there are 1, 2"),
        ({"doc": "a.txt", "token": 4}, "no token 4 with a loss in document 'a.txt'; there are 1 to 3"),
        ({"doc": "c", "token": [1, 0, 9]}, "no token 0, 9 with a loss"),
        (
            {"doc": "a.txt", "token": 1, "answers": True},
            "token=1 with answers=True: both choose tokens; give answers or token, not both",
        ),
        ({"doc": "c", "seeds": [0, 1, 2]}, "no seed 1, 2; there are 0, 3"),
        ({"doc": "c", "steps": [2]}, "no step 2; there are 0, 1, 5, 20"),
    ):
        with pytest.raises(ValueError, match=message):
            dataset.losses(**arguments)
    for seed, message in (1, "no seed 1"), (False, "False is not a seed"), ("0", "'0' is not a seed"):
        for use in dataset.runs, dataset.seed:
            with pytest.raises(ValueError, match=message):
                use(seed)
    with pytest.raises(ValueError, match="give answers or token, not both"):
        dataset.table("a.txt", token=1, answers=True)
    with pytest.raises(FileNotFoundError, match="is not a dataset"):
        reader.open(run.parent)


def test_an_experiment_without_seeds_has_no_losses(tmp_path):
    create(tmp_path)
    dataset = reader.open(tmp_path)
    assert dataset.seeds == [] and dataset.arrow().count_rows() == 0
    with pytest.raises(ValueError, match="no seed is committed"):
        dataset.losses("c")


def test_tables_of_runs_tokens_and_all_losses(run):
    dataset = reader.open(run)
    assert dataset.runs(3).to_pydict() == {
        "seed": [3] * 4, "attempt": ["one"] * 4, "step": list(STEPS), "train_loss": [10.0, 9.0, 5.0, -10.0]
    }  # fmt: skip
    assert dataset.tokens("b.txt")["token_id"].to_pylist() == [50256, 200]
    assert dataset.experiment["identity"] == IDENTITY
    assert dataset.experiment["identity_hash"] == identity_hash(IDENTITY)
    table = dataset.arrow().to_table(columns=["seed", "step"])
    assert sorted(table["seed"].to_pylist()) == [0] * 12 + [3] * 12


def test_rows_pieces_and_means_say_what_losses_says(run):
    dataset = reader.open(run)
    rows = dataset.table("c", token=[2, 1], seeds=[3, 0], steps=[5, 0]).to_pylist()
    assert rows == [
        {
            "doc_id": 4,
            "document": "c",
            "token_index": token,
            "token": chr(token),
            "step": step,
            "seed": seed,
            "loss": 1000 * seed + step + (3 + token) / 8,
        }
        for token in (2, 1)
        for step in (5, 0)
        for seed in (3, 0)
    ]
    assert dataset.texts("c") == ["\x01", "\x02"] and dataset.texts("a.txt", [3, 1]) == ["\x07", "\x05"]
    assert dataset.answers("a.txt") == [3] and dataset.answers("c") == []
    assert dataset.losses("c", answers=True).shape == (2, 4, 0)
    pieces = list(dataset.blocks(max_bytes=2 * 4 * 4 * 2))  # two tokens of two seeds and four steps
    assert [(d.name, tokens.tolist()) for d, tokens, _ in pieces] == [
        ("a.txt", [1, 2]), ("a.txt", [3]), ("b.txt", [1]), ("c", [1, 2])
    ]  # fmt: skip
    for document, tokens, losses_there in pieces:
        assert np.array_equal(losses_there, dataset.losses(document.name, token=tokens.tolist()))
    assert np.array_equal(dataset.seed(3), losses(3))
    means = dataset.mean_curves(seeds=[3])
    assert means.dtype == np.float64 and means.shape == (3, 1, 4)
    assert means[:, 0, 1].tolist() == [3001.125, 3001.375, 3001.5625]
    with pytest.raises(ValueError, match="no seed 1"):
        dataset.mean_curves(seeds=[1])


def test_a_dataset_says_what_it_holds(run):
    about = "seeds: 2 (0 to 3), vary: init, steps: 4 (0 to 20), documents: 3, tokens: 6"
    assert repr(reader.open(run)) == f"<Dataset {run}, {about}>"
    create(run.parent / "new <b>&")
    new = reader.open(run.parent / "new <b>&")
    assert "seeds: none, vary: init, steps: 4" in repr(new)
    commit(create(run.parent / "new <b>&"), 7)
    assert "seeds: 1 (7), vary: init, steps: 4" in repr(reader.open(run.parent / "new <b>&"))
    html = new._repr_html_()
    assert "new &lt;b&gt;&amp;</td>" in html and "<b>" not in html
    assert html.startswith("<table>") and "<tr><th>steps</th><td>4 (0 to 20)</td></tr>" in html


def answers_of(dataset):
    """What a dataset answers, in a process of its own too."""
    return [dataset.seeds, dataset.losses("a.txt").tolist(), dataset.mean_curves().tolist(), dataset.answers("a.txt")]


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_a_dataset_that_was_pickled_is_the_same(run, monkeypatch, compacted, used):
    monkeypatch.setattr(reader, "ROW_GROUP_LOSSES", 2**40)  # parts always pay
    if compacted:
        compact(run)
    dataset = reader.open(run)
    expected = answers_of(reader.open(run))
    if used:
        answers_of(dataset)
    content = pickle.dumps(dataset)
    assert len(content) < 10_000, "nothing that was read goes along"
    commit(create(run), 1)
    assert answers_of(pickle.loads(content)) == expected
    assert reader.open(run).seeds == [0, 1, 3]


def test_a_dataset_can_be_given_to_another_process(run):
    dataset = reader.open(run)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(answers_of, dataset).result() == answers_of(dataset)


def test_documents_are_listed_by_name(run):
    dataset = reader.open(run)
    assert [document.name for document in dataset.documents] == ["a.txt", "b.txt", "c"]
    assert dataset.document_table().to_pydict() == {
        "doc_id": [0, 1, 4],
        "name": ["a.txt", "b.txt", "c"],
        "category": ["a", "b", "c"],
        "tokens": [3, 1, 2],
        "answers": [1, 0, 0],
    }


def test_to_xarray_without_xarray_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ValueError, match=r"pip install 'discreteness\[xarray\]'"):
        reader.open(run).to_xarray("c")


def test_the_object_store_reads_the_same():
    storage = object_storage()
    commit(create(storage), 5)
    dataset = reader.open(storage)
    assert np.array_equal(dataset.losses("a.txt")[0], losses(5)[:, :3])
    assert dataset.arrow().count_rows() == 12
    assert verify(storage) == []


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_finite_float32_comes_back_bit_for_bit(data):
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    steps = data.draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6, unique=True))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = data.draw(hnp.arrays(np.float32, (len(steps), sum(lengths)), elements=finite))
    documents = [
        Text(doc_id=3 * i, name=str(i), category="", token_ids=(50256, *([1] * n))) for i, n in enumerate(lengths)
    ]
    storage = object_storage()
    dataset = create(storage, documents=documents, steps=sorted(steps))
    dataset.commit(2**31 - 1, "a", np.array(steps), values, records())
    found = np.concatenate([reader.open(storage).losses(str(i))[0] for i in range(len(lengths))], axis=1)
    assert np.array_equal(found.view(np.uint32), values[np.argsort(steps)].view(np.uint32))
    assert verify(storage) == []


def test_status_sums_up(run):
    status = status_of(run)
    assert (status.steps, status.documents, status.losses_per_step, status.rows) == (4, 3, 6, 24)
    assert [seed.seed for seed in status.committed] == [0, 3]
    assert status.num_bytes == sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert status.identity_hash == identity_hash(IDENTITY)
    (run / "log").mkdir(exist_ok=True)
    (run / "log" / "broken.json").write_text("{")
    (run / "log" / "list.json").write_text("[]")
    (run / "_running").mkdir()
    (run / "_running" / "seed=00007.parquet").write_bytes(b"half")
    assert status_of(run).failed_attempts == status_of(run).running == ()


def rewrite(run, **columns):
    """Puts other columns under the valid footer of seed 3, as no writer of ours would."""
    dataset = create(run)
    footer = dataclasses.asdict(dataset.committed()[3])
    content = losses_file(dataset.manifest, 3, "one", np.array(STEPS), losses(3), footer)
    table = pq.read_table(pa.BufferReader(content))
    for name, column in columns.items():
        values = column(table[name].to_pylist())
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    with pq.ParquetWriter(run / "losses" / "seed=00003.parquet", table.schema.remove_metadata()) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"discreteness": json.dumps(footer)})


def changed(index, value):
    return lambda values: [*values[:index], value, *values[index + 1 :]]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"attempt": changed(5, "two")}, "attempt is one, two, its footer says one"),
        ({"seed": changed(0, 4)}, "seed is 3, 4, its footer says 3"),
        ({"step": changed(1, 0)}, r"missing: (0, 1)"),
        ({"doc_id": changed(11, 5)}, r"missing: (4, 20)"),
        ({"step": changed(1, 2)}, r"missing: (0, 1)"),
        ({"step": lambda v: [1, 0, *v[2:]]}, "not sorted"),
        ({"losses": changed(2, [1.0])}, "document 0, step 5 has 1 losses, expected 3"),
        ({"losses": changed(6, [np.nan])}, "document 1, step 5 has a loss of nan"),
        ({"losses": changed(9, [1.0, np.inf])}, "document 4, step 1 has a loss of inf"),
    ],
)
def test_verify_reads_every_row(run, changes, problem):
    rewrite(run)
    assert verify(run) == []
    rewrite(run, **changes)
    assert list(create(run).committed()) == [0, 3], "footers alone do not show it"
    problems = verify(run)
    assert any(found.startswith("losses/seed=00003.parquet: ") and problem in found for found in problems)


def test_losses_refuses_rows_that_are_not_the_plan(run):
    rewrite(run, step=changed(1, 0))
    with pytest.raises(ValueError, match=r"seed=00003\.parquet does not hold each step of document 'a\.txt' once"):
        reader.open(run).losses("a.txt")


def test_verify_sees_one_flipped_bit_of_a_loss(run):
    path = run / "losses" / "seed=00000.parquet"
    column = pq.read_metadata(path).row_group(0).column(4)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(content)
    assert list(create(run).committed()) == [0, 3]
    assert any("seed=00000.parquet: cannot be read" in problem for problem in verify(run))
    with pytest.raises(OSError, match="CRC"):
        reader.open(run).losses("a.txt")


def test_verify_sees_runs_that_are_gone_or_changed(run):
    (run / "runs" / "seed=00000-one.parquet").unlink()
    (run / "runs" / "seed=00003-one.parquet").write_bytes(b"x")
    to_do = (
        "the losses of seed {0} are whole: do without its records, or delete losses/seed=0000{0}.parquet, and the "
        "command of its run trains the seed again"
    )
    assert verify(run) == [
        f"runs/seed=00000-one.parquet: is missing, losses/seed=00000.parquet names it; {to_do.format(0)}",
        f"runs/seed=00003-one.parquet: its hash is not the one in losses/seed=00003.parquet; {to_do.format(3)}",
    ]


def test_committed_seed_is_plain(run):
    (first, _) = status_of(run).committed
    assert first == CommittedSeed(**dataclasses.asdict(first))
    assert isinstance(create(run), DatasetWriter) and len(DOCUMENTS) == 3
