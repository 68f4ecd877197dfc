"""Input made by others, drawn by machine: only named errors, no waiting, nothing written outside the dataset."""

import contextlib
import copy
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from speedrun.data.sampler import TrainingBatches, ValidationChunks
from speedrun.data.shards import HEADER_BYTES, MAGIC, VERSION, ShardError, open_shard
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus

from discreteness.dataset import reader
from discreteness.dataset.identity import identity_hash
from discreteness.dataset.lock import DatasetLock
from discreteness.dataset.paths import LOCK_FILE
from discreteness.dataset.seed_file import FOOTER_KEY, footer_bytes
from discreteness.dataset.status import status as status_of
from discreteness.dataset.storage import open_storage
from discreteness.dataset.verify import verify
from discreteness.experiment.checkpoint_steps import parse_checkpoints
from discreteness.experiment.config import ExperimentConfig, RunConfig
from discreteness.experiment.documents import MAX_FILE_BYTES, DocumentError, load
from discreteness.experiment.prepare import prepare
from discreteness.experiment.seeds import parse_seeds
from discreteness.shards.report import data_identity
from tests.support.dataset_case import DOCUMENTS, STEPS, commit, create
from tests.support.faulty_filesystem import object_storage
from tests.support.job_case import job_config

any_input = settings(deadline=None, suppress_health_check=list(HealthCheck))
slow_input = settings(any_input, max_examples=settings.default.max_examples // 3)
HANG_S = 60


class Hang(BaseException):
    """No error of ours, so that nothing takes it for one."""


def ring(*_):
    raise Hang(f"not done after {HANG_S} s")


@contextlib.contextmanager
def named_errors():
    """Lets pass what the command line shows as `error: ...`; everything else, and waiting, fails the test."""
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(HANG_S)
    try:
        yield
    except (ValueError, OSError) as error:
        assert not isinstance(error, UnicodeError | json.JSONDecodeError), repr(error)
        assert str(error).strip()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


KINDS = ("file", "folder", "pipe", "link", "broken link", "link to itself", "device")


def put(path: Path, kind: str, content: bytes) -> None:
    """Something of that kind at `path`, in place of what is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if kind == "file":
        path.write_bytes(content)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        other = path.with_name("behind the link")
        other.write_bytes(content)
        path.symlink_to(other)
    else:
        path.symlink_to({"broken link": "nowhere", "link to itself": path.name, "device": "/dev/zero"}[kind])


@pytest.fixture
def folder(tmp_path):
    """A function that gives an empty folder a call: hypothesis calls a test many times in one."""

    def empty():
        shutil.rmtree(tmp_path / "here", ignore_errors=True)
        (tmp_path / "here").mkdir()
        return tmp_path / "here"

    return empty


file_names = st.binary(min_size=1, max_size=40).map(lambda b: os.fsdecode(b.replace(b"/", b"").replace(b"\0", b"")))
marks = ["⟦", "⟧", "[answer[", "]answer]", "\\"]
marked = st.lists(st.sampled_from([*marks, " Paris", " is", "\n", "é", "\0", "word", " "]), max_size=40).map("".join)
contents = st.one_of(
    st.binary(max_size=200),
    marked.map(str.encode),
    st.builds(lambda text, n: (text * n).encode(), st.sampled_from(["a", " ", "ab ", "\n", "é"]), st.integers(1, 3000)),
)


@any_input
@given(st.lists(st.tuples(file_names, st.sampled_from(KINDS), contents), max_size=3))
def test_documents(folder, files):
    here = folder()
    for name, kind, content in files:
        with contextlib.suppress(OSError):  # names such as "." and too long ones cannot be made
            put(here / (name + ".txt"), kind, content)
    before = sorted(here.iterdir())
    with named_errors():
        try:
            documents = load(here)
        except DocumentError as error:
            assert str(here) in str(error) and not set("\n\r\x1b") & set(str(error))
        else:
            for document in documents:
                content = (here / document.name).read_bytes().decode()
                assert document.text == re.sub(
                    r"(\\*)(⟦|⟧|\[answer\[|\]answer\])",
                    lambda mark: "\\" * (len(mark[1]) // 2) + (mark[2] if len(mark[1]) % 2 else ""),
                    content,
                )
                assert 1 < len(document.token_ids) <= 2048 and document.name.isprintable()
    assert sorted(here.iterdir()) == before


def test_a_document_too_large_to_be_one_is_not_read(folder):
    with (folder() / "huge.txt").open("wb") as file:
        file.truncate(2**40)  # a terabyte that takes no room
    path = Path(file.name)
    with pytest.raises(DocumentError, match=r"1099511627776 bytes, more than 2047 tokens"):
        load(path.parent)
    path.write_bytes(b"a" + b"\n" * (128 * 2047 - 1))
    assert path.stat().st_size <= MAX_FILE_BYTES
    with pytest.raises(DocumentError, match="tokens of text"):
        load(path.parent)


int32 = st.integers(-(2**31), 2**31 - 1)


@any_input
@given(
    magic=st.one_of(st.just(MAGIC), int32),
    version=st.one_of(st.just(VERSION), int32),
    count=st.one_of(st.none(), int32),
    tokens=st.lists(st.one_of(st.just(50256), st.integers(0, 65535), st.integers(0, 300)), max_size=60),
    cut=st.integers(0, 4),
    kind=st.sampled_from(("file",) * 8 + KINDS),
    tokens_a_step=st.integers(-1, 40),
)
def test_shards(folder, magic, version, count, tokens, cut, kind, tokens_a_step):
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    header[:3] = magic, version, len(tokens) if count is None else count
    content = header.tobytes() + np.array(tokens, "<u2").tobytes()
    path = folder() / "shard_000001.bin"
    put(path, kind, content[: len(content) - cut] if cut < 4 else content[:cut])
    with named_errors():
        data_identity([path])
    with named_errors():
        assert open_shard(path).tolist() == tokens[: len(tokens) if count is None else count]
    with named_errors():
        batches = TrainingBatches([path], 0, 1, 1, 16)
        for _ in range(3):
            inputs, targets, offsets = batches.next(tokens_a_step)
            assert len(inputs) == len(targets) == tokens_a_step == offsets[-1] and max(inputs) <= 50256
    with named_errors():
        chunks = ValidationChunks([path], 2 * tokens_a_step, max(tokens_a_step, 1))
        assert [len(chunks.chunk(i)[0]) for i in range(len(chunks))] == [tokens_a_step] * 2


def test_a_shard_that_is_not_named_is_an_error(folder):
    with pytest.raises(ShardError, match="is not a file"):
        open_shard(folder() / "none.bin")


WHOLE = (0, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """{name: content} of a dataset of two seeds, and what a reader reads of it."""
    root = tmp_path_factory.mktemp("whole") / "set"
    dataset = create(root)
    for seed in WHOLE:
        commit(dataset, seed)
    dataset.log({"event": "attempt lost", "seed": 1, "attempt": "x", "error": "loss is nan"})
    dataset.write_running(7, "y", np.array(STEPS[:2]), np.zeros((2, 6), np.float32))
    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
    return {name: (root / name).read_bytes() for name in names}, everything(root)


def everything(root):
    """All that a reader gets: the bytes of losses, records, words."""
    dataset = reader.open(root)
    losses = [dataset.losses(document.name, seeds=WHOLE).tobytes() for document in DOCUMENTS]
    tables = [dataset.runs(seed).to_pydict() for seed in WHOLE]
    tables += [dataset.tokens(document.doc_id).to_pydict() for document in DOCUMENTS]
    return losses, tables, dataset.seeds, dataset.steps, dataset.documents


def lay_out(root, contents):
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


damages = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "extend", "delete", "swap", "copy", "noise", "zero", *KINDS[1:]]),
        st.integers(0, 2**20),
        st.integers(0, 2**20),
        st.integers(0, 7),
    ),
    min_size=1,
    max_size=2,
)


def damage(root, names, what, file, place, bit):
    """One damage of a file of the dataset, chosen by the numbers."""
    path, other = root / names[file % len(names)], root / names[place % len(names)]
    if not path.is_file() or (what in ("swap", "copy") and not other.is_file()):
        return
    content = bytearray(path.read_bytes())
    at = place % max(1, len(content))
    if what == "flip" and content:
        content[at] ^= 1 << bit
    elif what == "cut":
        content = content[:at]
    elif what == "extend":
        content += content[at:]
    elif what == "noise":
        content[at : at + 16] = np.random.default_rng(place).bytes(16)
    elif what == "zero":
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    elif what == "delete":
        path.unlink()
        return
    elif what == "swap":
        theirs = other.read_bytes()
        other.write_bytes(content)
        content = bytearray(theirs)
    elif what == "copy":
        content = bytearray(other.read_bytes())
    elif what in KINDS:
        put(path, what, bytes(content[:at]))
        return
    path.write_bytes(content)


@slow_input
@given(damages)
def test_verify_finds_every_damage_that_a_reader_could_meet(folder, whole, planted):
    root = folder()
    contents, expected = whole
    lay_out(root, contents)
    for one in planted:
        damage(root, list(contents), *one)
    with named_errors():
        status_of(root)
    problems = ["it cannot be opened"]
    with named_errors():
        problems = verify(root)
        assert all(problem.strip() and "\n" not in problem for problem in problems)
    if not problems and status_of(root).committed and len(reader.open(root).seeds) == len(WHOLE):
        assert everything(root) == expected, "damaged, and verify did not say so"


def test_verify_finds_damaged_statistics_which_no_checksum_covers(folder, whole):
    root, name = folder(), "losses/seed=00000.parquet"
    contents, expected = whole
    lay_out(root, contents)
    content, found = contents[name], 0
    for at in range(len(content) - footer_bytes(content), len(content) - 4):
        if content[at : at + 4] == bytes(4):  # the least document id, among other zeros
            (root / name).write_bytes(content[:at] + b"\x40" + content[at + 1 :])
            if problems := verify(root):
                found += any("statistics" in problem for problem in problems)
            else:
                assert everything(root) == expected
    assert found > 0


@slow_input
@given(planted=damages)
def test_a_damaged_dataset_is_continued_or_refused(folder, whole, monkeypatch, planted):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug here
    root = folder()
    contents, expected = whole
    lay_out(root, contents)
    for one in planted:
        damage(root, [name for name in contents if not name.startswith("log/")], *one)
    with named_errors():
        dataset = create(root)
        for seed in WHOLE:
            if seed not in dataset.committed():
                commit(dataset, seed, "two")
        assert list(dataset.committed()) == list(WHOLE)
        if not verify(root):
            losses, _, *rest = everything(root)
            assert (losses, rest) == (expected[0], list(expected[2:]))


@any_input
@given(st.sampled_from(["losses", "runs", "_staging", "_rejected", "_running", "log"]), st.booleans())
def test_nothing_is_written_or_swept_where_a_link_leads(folder, whole, name, deep):
    here = folder()
    root, outside = here / "set", here / "outside"
    lay_out(root, whole[0])
    (root / "losses" / "seed=00001.parquet").write_bytes(b"to be put aside")
    shutil.rmtree(root / name, ignore_errors=True)
    (outside / "losses").mkdir(parents=True)
    precious = outside / f"{'0' * 32}-letters.txt"
    precious.write_text("mine")
    os.utime(precious, (0, 0))
    (root / name).symlink_to(outside / "losses" if deep else outside)
    with named_errors():
        dataset = create(root)
        dataset.log({"event": "x"})
        dataset.write_running(3, "y", np.array(STEPS[:1]), np.zeros((1, 6), np.float32))
        for seed in 0, 1, 2:
            commit(dataset, seed, "one" if seed == 0 else "two")
    assert sorted(path.name for path in outside.rglob("*")) == [precious.name, "losses"]
    assert precious.read_text() == "mine"


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["../../outside", "/etc/passwd", 2**31, -1, 10**400, "\ud800", "one"]),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
raw_json = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b"NaN", b"\xff\xfe{}", b'"\\ud800"', b"-0"]),
    json_values.map(lambda value: json.dumps(value).encode()),
)


def paths(value, path=()):
    """Every place of a JSON value."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[key], (*path, key))


def changed(value, index, new):
    """`value` with another at its index-th place, or without that place where `new` is ..."""
    value = copy.deepcopy(value)
    places = list(paths(value))[1:]
    *way, last = places[index % len(places)]
    inner = value
    for key in way:
        inner = inner[key]
    if new is ...:
        del inner[last]
    else:
        inner[last] = new
    return value


@slow_input
@given(st.data())
def test_descriptions_made_by_others(folder, whole, data):
    root = folder()
    lay_out(root, whole[0])
    if data.draw(st.booleans()):
        content = data.draw(raw_json)
    else:
        value = json.loads(whole[0]["experiment.json"])
        for _ in range(data.draw(st.integers(1, 2))):
            value = changed(value, data.draw(st.integers(0, 99)), data.draw(st.one_of(json_values, st.just(...))))
        with contextlib.suppress(Exception):
            value["identity_hash"] = identity_hash(value["identity"])  # whoever edits can also hash
        content = json.dumps(value).encode()
    (root / "experiment.json").write_bytes(content)
    for use in status_of, verify, create, lambda path: reader.open(path).losses("a.txt"):
        with named_errors():
            use(root)


@slow_input
@given(data=st.data())
def test_footers_made_by_others(folder, whole, data):
    here = folder()
    root = here / "set"
    lay_out(root, whole[0])
    path = root / "losses" / "seed=00001.parquet"
    footer = json.loads(pq.read_metadata(path).metadata[FOOTER_KEY])
    raw = data.draw(st.one_of(st.none(), raw_json))
    if raw is None:
        footer = changed(footer, data.draw(st.integers(0, 99)), data.draw(st.one_of(json_values, st.just(...))))
        raw = json.dumps(footer).encode()
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema.remove_metadata()) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({FOOTER_KEY: raw})
    with named_errors():
        problems = verify(root)
        committed = status_of(root).committed
        assert [seed.seed for seed in committed] in ([0], [0, 1])
        assert problems or json.loads(raw)["attempt"] == "one"
    with named_errors():
        create(root)


def test_an_attempt_that_names_a_file_elsewhere_is_not_followed(folder, whole):
    here = folder()
    lay_out(here / "set", whole[0])
    path = here / "set" / "losses" / "seed=00001.parquet"
    footer = json.loads(pq.read_metadata(path).metadata[FOOTER_KEY])
    table = pq.read_table(path)
    shutil.copy(here / "set" / "runs" / "seed=00001-one.parquet", here / "elsewhere.parquet")
    (here / "set" / "runs" / "seed=00001-").mkdir()
    with pq.ParquetWriter(path, table.schema.remove_metadata()) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({FOOTER_KEY: json.dumps({**footer, "attempt": "/../../../elsewhere"})})
    assert list(status_of(here / "set").invalid) == ["losses/seed=00001.parquet"]
    with pytest.raises(ValueError, match="no seed 1"):
        reader.open(here / "set").runs(1)


@any_input
@given(
    content=raw_json, name=st.sampled_from(["log/x.json", "_running/seed=00009.parquet"]), kind=st.sampled_from(KINDS)
)
def test_status_reads_past_logs_made_by_others(folder, whole, content, name, kind):
    root = folder()
    lay_out(root, whole[0])
    put(root / name, kind, content)
    assert [seed.seed for seed in status_of(root).committed] == list(WHOLE)


def test_a_running_file_with_a_hostile_footer_is_passed_over(folder, whole):
    root = folder()
    lay_out(root, whole[0])
    path = root / "_running" / "seed=00007.parquet"
    with pq.ParquetWriter(path, pa.schema([("x", pa.int32())])) as writer:
        writer.add_key_value_metadata({FOOTER_KEY: "[" * 100_000})
    assert status_of(root).running == ()


@any_input
@given(data=st.data(), renames=st.booleans())
def test_locks_made_by_others(folder, data, renames):
    storage = open_storage(folder()) if renames else object_storage()
    content = data.draw(raw_json)
    if data.draw(st.booleans()):
        value = {**DatasetLock(storage)._content, "token": "theirs", "beat_s": 0.0}
        content = json.dumps(changed(value, data.draw(st.integers(0, 99)), data.draw(json_values))).encode()
    storage.write(LOCK_FILE, content, durable=False)
    with named_errors(), DatasetLock(storage):
        pass
    with named_errors(), DatasetLock(storage, take_over=True):
        assert json.loads(storage.read(LOCK_FILE))["pid"] == os.getpid()


@any_input
@given(st.text(st.sampled_from("0123456789-, ") | st.characters(), max_size=30))
def test_seed_expressions(text):
    with named_errors():
        seeds = parse_seeds(text)
        assert 0 < len(seeds) <= 1_000_000 and list(seeds) == sorted(set(seeds)) and seeds[-1] < 2**31


def test_many_ranges_do_not_fill_the_memory():
    text = ",".join(f"{start}-{start + 999_999}" for start in range(0, 2_000_000_000, 1_000_000))
    with pytest.raises(ValueError, match="more than 1000000 seeds"):
        parse_seeds(text)


plans = st.one_of(
    st.text(max_size=20),
    st.text("0123456789,:- everylogmin-gap", max_size=30),
    st.builds("every:{}".format, st.integers()),
    st.builds("log:{},min-gap:{}".format, st.integers(-1, 10**10), st.integers(-1, 10**10)),
    st.lists(st.integers(-1, 3000)).map(lambda steps: ",".join(map(str, steps))),
)


@any_input
@given(plans, st.integers(2, 3000))
def test_checkpoint_expressions(text, last):
    with named_errors():
        plan = parse_checkpoints(text, last)
        assert plan[0] == 0 and plan[-1] == last and list(plan) == sorted(set(plan))


# Nothing that asks a network: those file systems are tests/dataset/test_object_store.py's.
outputs = st.text(max_size=30).filter(lambda text: not text.startswith(("s3:", "gs:", "gcs:", "hdfs:", "viewfs:")))
odd = ["", "\0", "/", ".", "..", "x" * 300, "\ud800", "a:b", ":", "os:path"]
awkward = st.one_of(st.text(max_size=12), st.sampled_from(odd))
values = {
    str: awkward,
    str | None: st.none() | awkward,
    int: st.integers() | st.integers(-2, 20),
    int | None: st.none() | st.integers() | st.integers(-2, 20),
    float: st.floats() | st.integers(-2, 900),
    float | None: st.none() | st.floats() | st.integers(-2, 900),
    bool: st.booleans(),
}
flags = {"seeds": st.text("0123456789-,", max_size=12), "checkpoints": plans, "workers_per_trainer": st.integers(0, 9)}


@slow_input
@given(data=st.data())
def test_configurations(private_home, data):
    ensure_tiny_corpus(default_data_root())
    kinds = get_type_hints(ExperimentConfig) | get_type_hints(RunConfig)
    chosen = data.draw(st.sets(st.sampled_from(list(kinds)), min_size=1, max_size=3))
    drawn = {}
    for name, kind in kinds.items():
        if name in chosen - {"data"}:
            otherwise = values[kind] if kind in values else st.sampled_from(get_args(kind))
            drawn[name] = data.draw(flags.get(name, otherwise), label=name)
    config = job_config(**drawn)
    with named_errors():
        config.check()
        for name, least in ("max_in_flight", 1), ("score_tokens", 16), ("trainers", 1), ("start_timeout_s", 1):
            value = (vars(config.experiment) | vars(config.run))[name]
            assert value is None or least <= value < float("inf")
        track = config.experiment.track if "track" in chosen else "tests.support.quick_track:quick"
        experiment = prepare(config.experiment, config.run, track)
        assert experiment.plan[-1] == experiment.track.schedule.last_step and experiment.seeds


@any_input
@given(outputs)
def test_outputs_without_a_network(text):
    with named_errors():
        assert open_storage(text).renames


@any_input
@given(st.one_of(st.text(max_size=12), st.text("./\0a", max_size=8)))
def test_file_names_stay_below_the_dataset(folder, name):
    assume(name.isprintable() or "\0" in name)
    here = folder()
    storage = open_storage(here / "set")
    with named_errors():
        storage.write(name, b"x", durable=False)
    assert [path.name for path in here.iterdir()] in ([], ["set"])
