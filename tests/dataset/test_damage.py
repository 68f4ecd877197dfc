"""Files that are not whole, of every kind: what each reader says or does, and what is whole again afterwards."""

import io
import json
import re
import struct
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq
import pytest

from discreteness.dataset import reader
from discreteness.dataset.annotations import ANNOTATIONS_FILE
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.by_token.parts import read_parts
from discreteness.dataset.lock import DatasetLock
from discreteness.dataset.manifest import read_manifest
from discreteness.dataset.paths import LOCK_FILE
from discreteness.dataset.status import job_status
from discreteness.dataset.storage import open_storage
from discreteness.dataset.verify import verify
from discreteness.experiment.annotate import annotate
from discreteness.viewer.growing import Growing
from tests.support.dataset_case import commit, create, losses
from tests.support.faulty_filesystem import object_storage

WEIGHTS = "weights/seed=00000-one/step=000020.safetensors"
TABLE, NUMBERS = "analysis/fits.parquet", "analysis/numbers.json"


@pytest.fixture(scope="module")
def files():
    """path -> content of a compacted dataset of seeds 0 and 1, with weights and an analysis as far as it knows them."""
    storage = object_storage()
    dataset = create(storage)
    for seed in 0, 1:
        commit(dataset, seed)
    compact(storage)
    header = json.dumps({"x": {"dtype": "U8", "shape": [100], "data_offsets": [0, 100]}, "__metadata__": {}}).encode()
    storage.write(WEIGHTS, struct.pack("<Q", len(header)) + header + bytes(100))
    storage.write(TABLE, storage.read("documents.parquet"))
    storage.write(NUMBERS, b'{"seeds": 2}')
    annotate(storage)
    assert verify(storage) == []
    names = [info.path.removeprefix(storage.path("")) for info in storage.list(recursive=True) if info.size]
    return {name: storage.read(name) for name in names}


@pytest.fixture
def storage(request, files, tmp_path):
    storage = object_storage() if getattr(request, "param", "local") == "object" else open_storage(tmp_path / "set")
    for name, content in files.items():
        storage.write(name, content, durable=False)
    return storage


def empty(content):
    return b""


def half(content):
    return content[: len(content) // 2]


def flipped(content):
    """One bit of the last page of a Parquet file, or of the first number of a JSON."""
    changed = bytearray(content)
    if content.startswith(b"PAR1"):
        group = pq.read_metadata(io.BytesIO(content)).row_group(0)
        column = group.column(group.num_columns - 1)
        begin = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        changed[begin + column.total_compressed_size - 3] ^= 1
    else:
        changed[re.search(rb"0\.\d", content).end() - 1] ^= 1
    return bytes(changed)


def rows(dataset):
    assert all(np.array_equal(dataset.seed(seed), losses(seed)) for seed in dataset.seeds)
    return f"seeds {dataset.seeds}"


def by_token(dataset):
    expected = np.stack([losses(seed)[:, 1] for seed in dataset.seeds])
    assert np.array_equal(dataset.losses("a.txt", token=2), expected)
    return f"seeds {dataset.seeds}"


def means(dataset):
    expected = [losses(seed)[:, :3].mean(axis=1) for seed in dataset.seeds]
    assert np.allclose(dataset.mean_curves()[0], expected)
    return f"seeds {dataset.seeds}"


def view(dataset):
    growing = Growing(dataset.storage)
    curves = growing.curves(growing.document(0), 2)
    assert np.array_equal(curves.losses, [losses(seed)[:, 1] for seed in curves.seeds])
    return f"seeds {curves.seeds}"


def status(storage):
    state = job_status(storage).status
    return f"seeds {[seed.seed for seed in state.committed]}{state.invalid or ''}"


OF_DATASETS = {
    "rows": rows,
    "by token": by_token,
    "means": means,
    "view": view,
    "records": lambda dataset: f"{dataset.runs(dataset.seeds[-1]).num_rows} steps",
    "words": lambda dataset: f"{dataset.tokens('a.txt').num_rows} tokens",
    "annotations": lambda dataset: f"{dataset.annotations().num_rows} tokens",
}
OF_STORAGE = {
    "open": lambda storage: f"seeds {reader.open(storage).seeds}",
    "status": status,
    "verify": lambda storage: "; ".join(verify(storage)) or "whole",
}
ALL_IS_WELL = dict.fromkeys(["open", "rows", "by token", "means", "view", "status"], "seeds [0, 1]") | {
    "records": "4 steps",
    "words": "4 tokens",
    "annotations": "6 tokens",
}
ONE_LEFT = dict.fromkeys(["open", "rows", "by token", "means", "view"], r"seeds \[1\]")


@dataclass(frozen=True, kw_only=True)
class Case:
    """`said`: reader -> pattern of its answer or error, where it is not that of a whole dataset. `warned`: what is
    logged. `delete`: what a person must delete, as `verify` says. In the end all is whole."""

    name: str
    damage: tuple = (empty, half, flipped)
    said: dict = field(default_factory=dict)
    warned: str = ""
    delete: str = ""


RECORDS = (
    r"the losses of seed 1 are whole: do without its records, or delete losses/seed=00001\.parquet, and the command of "
    "its run trains the seed again"
)
NO_EXPERIMENT = r"experiment\.json (does not describe an experiment|was edited: .*); restore it, or give the command"
NO_DOCUMENTS = r"documents\.parquet does not hold the experiment's documents; the command of its run writes it again"
CUT_PART = r"{} is damaged \(.+\); the seeds are not: delete the folder .*tokens/\w+, and run discreteness compact"
CUT_LIST = r"parts\.json is damaged or of another version; .* run discreteness compact"
CASES = [
    Case(name="experiment.json", said=dict.fromkeys(OF_STORAGE, NO_EXPERIMENT)),
    Case(name="documents.parquet", said={"words": NO_DOCUMENTS, "verify": NO_DOCUMENTS}),
    Case(
        name="losses/seed=00000.parquet",
        damage=(empty, half),
        said=ONE_LEFT
        | {
            "status": r"seeds \[1\].*seed=00000\.parquet.*truncated",
            "verify": r"seed=00000\.parquet: truncated.*the command of its run keeps it aside and trains",
        },
    ),
    Case(
        name="losses/seed=00000.parquet",
        damage=(flipped,),
        said={
            "rows": r"seed=00000\.parquet cannot be read \(.*CRC.*\).*damaged: delete it, and the command of its run",
            "verify": r"seed=00000\.parquet: cannot be read \(.*CRC.*\).*delete it, and the command of its run trains",
        },
        delete="losses/seed=00000.parquet",
    ),
    Case(
        name="runs/seed=00001-one.parquet",
        said={
            "records": rf"runs/seed=00001-one\.parquet is damaged \(.*\); {RECORDS}",
            "verify": rf"runs/seed=00001-one\.parquet: its hash is not the one in .*; {RECORDS}",
        },
        delete="losses/seed=00001.parquet",
    ),
    Case(
        name="tokens/PART/0000000.parquet",
        damage=(empty, half),
        said={"verify": CUT_PART.format(r"0000000\.parquet")},
        warned=CUT_PART.format(r"0000000\.parquet"),
    ),
    Case(
        name="tokens/PART/0000000.parquet",
        damage=(flipped,),
        said={"verify": CUT_PART.format(r"0000000\.parquet")},
        delete="tokens/PART/0000000.parquet",
    ),
    Case(
        name="tokens/PART/0000000.means.parquet",
        damage=(empty, half),
        said={"verify": CUT_PART.format(r"0000000\.means\.parquet")},
        warned=CUT_PART.format(r"0000000\.means\.parquet"),
    ),
    Case(
        name="tokens/PART/0000000.means.parquet",
        damage=(flipped,),
        said={"verify": CUT_PART.format(r"0000000\.means\.parquet")},
        warned=CUT_PART.format(r"0000000\.means\.parquet"),
        delete="tokens/PART/0000000.means.parquet",
    ),
    Case(name="tokens/parts.json", damage=(empty, half), said={"verify": CUT_LIST}, warned=CUT_LIST),
    Case(
        name=TABLE,
        said={"verify": r"fits\.parquet: cannot be read \(.*\); run: discreteness analyze"},
        delete=TABLE,
    ),
    Case(
        name=NUMBERS,
        damage=(empty, half),
        said={"verify": r"numbers\.json: cannot be read \(.*\); run: discreteness analyze"},
        delete=NUMBERS,
    ),
    Case(
        name=ANNOTATIONS_FILE,
        said=dict.fromkeys(
            ["annotations", "verify"], r"annotations\.parquet is damaged \(.*\); run: discreteness annotate"
        ),
        delete=ANNOTATIONS_FILE,
    ),
    Case(
        name=WEIGHTS,
        damage=(empty, half),
        said={"verify": r"step=000020\.safetensors: has \d+ bytes, expected (\d+|a header.*); delete it: these"},
        delete=WEIGHTS,
    ),
    Case(name=LOCK_FILE, damage=(empty, half)),
]


def answer(use, what):
    """What a reader says, be it an error."""
    try:
        return use(what)
    except (ValueError, OSError) as error:
        assert type(error).__module__.startswith(("builtins", "discreteness")), f"Arrow's own word: {error!r}"
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    ("storage", "case", "damage"),
    [("local", case, damage) for case in CASES for damage in case.damage]
    + [("object", case, half) for case in CASES if half in case.damage],
    ids=lambda value: getattr(value, "name", None) or getattr(value, "__name__", value),
    indirect=["storage"],
)
def test_what_is_not_whole_is_named_and_made_again_or_set_aside(storage, caplog, case, damage):
    (part,) = read_parts(storage, read_manifest(storage))
    name = case.name.replace("PART", part.name)
    if name == LOCK_FILE:
        with DatasetLock(storage):
            content = storage.read(LOCK_FILE)
        storage.write(LOCK_FILE, damage(content))
    else:
        storage.write(name, damage(storage.read(name)))

    # What readers say.
    said = {what: answer(use, storage) for what, use in OF_STORAGE.items()}
    if said["open"].startswith("seeds"):
        dataset = reader.open(storage)
        said |= {what: answer(use, dataset) for what, use in OF_DATASETS.items()}
    for what, text in said.items():
        assert re.search(case.said.get(what) or re.escape(ALL_IS_WELL.get(what, "whole")), text), what
    assert re.search(case.warned, caplog.text)

    # What compact and the run that goes on make of it, where a person did what `verify` asked for.
    if case.delete:
        storage.delete(case.delete.replace("PART", part.name))
    writer = create(storage)
    for seed in {0, 1} - set(writer.committed()):
        commit(writer, seed, "two")
    compact(storage)
    assert verify(storage) == []
    dataset = reader.open(storage)
    assert rows(dataset) == by_token(dataset) == means(dataset) == "seeds [0, 1]"


@pytest.mark.parametrize("kind", ["local", "object"])
def test_a_description_that_may_be_of_other_seeds_is_left_as_it_is(kind, tmp_path):
    storage = open_storage(tmp_path / "set") if kind == "local" else object_storage()
    commit(create(storage), 0)
    storage.write("experiment.json", b"")
    with pytest.raises(ValueError, match=r"experiment\.json does not .* certain: losses/seed=00000\.parquet"):
        create(storage, identity={"track": "another"})
    assert storage.read("experiment.json") == b"" and storage.list("_rejected") == []
    create(storage, dry_run=True)
    assert storage.read("experiment.json") == b"", "a dry run writes nothing"


def test_a_part_that_an_interrupt_left_half_written_is_finished(storage):
    """Not in force yet: a compaction finds it by its name alone."""
    (part,) = read_parts(storage, read_manifest(storage))
    storage.delete("tokens/parts.json")
    storage.write(part.losses_path(0), b"")
    assert compact(storage) == (part,)
    assert verify(storage) == []


def test_verify_reads_the_pages_that_only_other_programs_read(storage):
    """DuckDB and Polars take steps and seeds from the columns, which our reader counts instead."""
    (part,) = read_parts(storage, read_manifest(storage))
    path = part.losses_path(0)
    content = storage.read(path)
    column = pq.read_metadata(io.BytesIO(content)).row_group(0).column(3)
    changed = bytearray(content)
    changed[column.dictionary_page_offset + column.total_compressed_size - 3] ^= 1
    storage.write(path, bytes(changed))
    assert by_token(reader.open(storage)) == "seeds [0, 1]"
    (problem,) = verify(storage)
    assert re.search(rf"{path} is damaged \(.*CRC.*\).* run discreteness compact", problem)
