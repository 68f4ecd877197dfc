"""Listings, sets, groups and ties in another order than usual: nothing relies on one that no library promises."""

import ast
import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.acero
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow.fs import PyFileSystem
from speedrun.data import tiny_corpus
from speedrun.data.shards import find_shards

from discreteness.analysis import analyze, comovement, tables
from discreteness.analysis.figures import curves
from discreteness.cluster import connection
from discreteness.cluster.machines import Cluster
from discreteness.dataset import manifest, reader, runs_file, seed_file
from discreteness.dataset import verify as problems
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.event_log import events
from discreteness.dataset.export.files import export
from discreteness.dataset.seed_file import FOOTER_KEY
from discreteness.dataset.status import job_status, status
from discreteness.dataset.storage import Storage
from discreteness.dataset.verify import verify
from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.documents import built_in
from discreteness.experiment.sources import sources_hash
from discreteness.inference.generate import distribution
from discreteness.inference.sampling import Sampling
from discreteness.shards.make import text_files
from tests.support.dataset_case import STEPS, Text, commit, create, losses, records
from tests.support.faulty_filesystem import Faults, FaultyLocal
from tests.support.planted_dataset import create_planted, text_documents


class Shuffled(FaultyLocal):
    """A local folder that lists its files in another order at each look."""

    def __init__(self):
        super().__init__(Faults())
        self.chance = random.Random(0)

    def get_file_info_selector(self, selector):
        found = super().get_file_info_selector(selector)
        self.chance.shuffle(found)
        return found


def shuffled(folder):
    return Storage(PyFileSystem(Shuffled()), str(folder), renames=True, uri=str(folder))


def test_a_dataset_is_the_same_in_whatever_order_its_folders_are_listed(tmp_path):
    writer = create(shuffled(tmp_path))
    for seed in range(12):
        commit(writer, seed)
        writer.log({"event": "attempt lost", "seed": seed, "attempt": "x", "error": str(seed)})
    for name in "abcdefghijkl":
        (tmp_path / "losses" / f"{name}.tmp").write_bytes(b"")
    jobs = [list(range(4)), list(range(4, 10)), list(range(13))]
    for seeds in jobs:
        writer.log_job(seeds, 2)
    for seed in range(20, 32):
        writer.write_running(seed, "y", np.array(STEPS[:1]), losses(seed)[:1])
    again = create(shuffled(tmp_path))
    assert list(again.committed()) == list(range(12))
    found = status(again.storage)
    assert [event["seed"] for event in found.failed_attempts] == list(range(12)), "oldest first"
    assert [job["seeds"] for job in found.jobs] == jobs
    assert [running.seed for running in found.running] == list(range(20, 32))
    assert list(found.invalid) == [f"losses/{name}.tmp" for name in "abcdefghijkl"]
    assert job_status(again.storage).planned == tuple(range(13))
    dataset = reader.open(again.storage)
    assert dataset.arrow().files == [f"{tmp_path}/losses/seed={seed:05d}.parquet" for seed in range(12)]
    (part,) = compact(again.storage)
    assert [seed.seed for seed in part.seeds] == list(range(12))
    assert compact(again.storage) == (part,)
    for one in (tmp_path / "losses").glob("*.tmp"):
        one.unlink()
    assert verify(again.storage) == []
    assert [event["seed"] for event in events(again.storage) if "seed" in event] == list(range(12))
    path = export(again.storage, "parquet", tmp_path.with_name("exported"))
    expected = np.stack([losses(seed) for seed in range(12)]).transpose(2, 1, 0).reshape(-1)
    assert np.array_equal(pq.ParquetFile(path).read()["loss"].to_numpy(), expected)


def backwards(table):
    return table.take(np.arange(len(table))[::-1])


@pytest.fixture
def arrow_backwards(monkeypatch):
    """Of what Arrow does by its datasets and its execution engine, the rows come in another order."""
    by_rows = pyarrow.acero._filter_table
    monkeypatch.setattr(pyarrow.acero, "_filter_table", lambda *arguments: backwards(by_rows(*arguments)))
    parquet = SimpleNamespace(**vars(pq))
    parquet.read_table = lambda *arguments, **options: backwards(pq.read_table(*arguments, **options))
    compute = SimpleNamespace(**vars(pc))
    compute.unique = lambda column: pc.unique(column)[::-1]
    for module in manifest, runs_file, seed_file, problems, tables:
        monkeypatch.setattr(module, "pq", parquet)
    monkeypatch.setattr(problems, "pc", compute)


def test_rows_of_words_runs_and_losses_come_as_they_were_written(tmp_path, arrow_backwards):
    commit(create(tmp_path), 0)
    dataset = reader.open(tmp_path)
    assert dataset.tokens("a.txt")["token_index"].to_pylist() == [0, 1, 2, 3]
    assert dataset.runs(0)["step"].to_pylist() == list(STEPS)
    assert verify(tmp_path) == []


def test_words_of_a_problem_are_sorted(tmp_path, arrow_backwards):
    path = tmp_path / "losses" / "seed=00000.parquet"
    commit(create(tmp_path), 0)
    file = pq.ParquetFile(path)
    table = file.read()
    attempts = pa.array(["one"] * 6 + ["two"] * 6)
    with pq.ParquetWriter(path, table.schema.remove_metadata()) as writer:
        writer.write_table(table.set_column(1, table.schema.field("attempt"), attempts))
        writer.add_key_value_metadata({FOOTER_KEY: file.metadata.metadata[FOOTER_KEY]})
    assert any("attempt is one, two, its footer says one" in problem for problem in verify(tmp_path))


def test_tables_of_an_analysis_come_as_they_were_written(tmp_path, monkeypatch, request):
    documents, words = text_documents({"a.txt": "one two three fo", "b.txt": "five six seven e"})
    steps = tuple(range(0, 256, 6))
    create_planted(tmp_path, documents, words, steps, range(2))
    found = analyze.analyze(tmp_path)
    request.getfixturevalue("arrow_backwards")
    again = tables.load(tmp_path)
    assert again.tokens.equals(found.tokens) and again.spectrum.equals(found.spectrum)
    assert again.numbers.as_json() == found.numbers.as_json()


def lists_backwards(monkeypatch, name):
    real = getattr(Path, name)
    monkeypatch.setattr(Path, name, lambda *arguments: iter(sorted(real(*arguments), reverse=True)))


def test_documents_shards_sources_and_texts_are_found_in_the_order_of_their_names(tmp_path, monkeypatch):
    for name in "a_1.txt", "b.txt", "c.txt", "shard_1.bin", "shard_2.bin", "one.py", "inner/two.py":
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    looks = (
        lambda: [(document.doc_id, document.name) for document in built_in()],
        lambda: find_shards(tmp_path, "shard_*.bin"),
        lambda: sources_hash([tmp_path]),
        lambda: text_files(tmp_path, "**/*.txt"),
    )
    before = [look() for look in looks]
    for name in "iterdir", "glob", "rglob":
        lists_backwards(monkeypatch, name)
    assert list(tmp_path.iterdir())[-1].name == "a_1.txt"
    assert [look() for look in looks] == before


def test_sentences_of_the_tiny_corpus_do_not_depend_on_how_a_tree_is_walked(tmp_path, monkeypatch):
    (tmp_path / "module.py").write_text(
        '"""The module says something first."""\nclass A:\n    """Then the class says a thing."""\n'
        '    def f():\n        """What is inside comes at the end."""\n'
        'def g():\n    """A function is as deep as a class."""\n'
    )
    real = ast.walk
    monkeypatch.setattr(ast, "walk", lambda tree: reversed(list(real(tree))))
    assert list(tiny_corpus._sentences(tmp_path / "module.py")) == [
        "The module says something first.",
        "Then the class says a thing.",
        "A function is as deep as a class.",
        "What is inside comes at the end.",
    ]


def test_nodes_are_named_in_the_order_of_their_names(monkeypatch):
    entries = [
        {"NodeManagerHostname": host, "NodeID": node * 8, "Alive": alive, "Resources": {"CPU": cpus}}
        for host, node, alive, cpus in (("b", "1", True, 2.0), ("a", "2", True, 4.0), ("a", "0", False, 8.0))
    ]
    for some in entries, entries[::-1]:
        monkeypatch.setattr(connection.ray, "nodes", partial(list, some))
        nodes = tuple(map(connection._node, connection._alive()))
        assert Cluster(nodes, local=False).describe() == "4 CPU | 2 CPU"


def test_of_equal_logits_the_first_are_kept():
    for size in 50, 50_304:
        logits = (torch.arange(size) % 7).float()
        kept = distribution(logits, [], Sampling(top_k=3, temperature=1.0, repetition_penalty=1.0, top_p=None))
        assert kept.nonzero().flatten().tolist() == [6, 13, 20]


def test_clusters_are_numbered_by_size_and_first_token_whatever_scipy_calls_them(monkeypatch):
    random = np.random.default_rng(0)
    patterns = random.normal(0, 1, (4, 24))[[1, 2, 1, 0, 0, 2, 1, 0, 3, 0, 1, 2]]
    times = random.normal(6, 1, (12, 1)) + patterns + random.normal(0, 0.05, (12, 24))
    times[8] += random.normal(0, 3, 24)
    expected = [0, 2, 0, 1, 1, 2, 0, 1, -1, 1, 0, 2]  # of the two with four tokens, the one with the first is 0
    assert comovement.clusters(times, np.random.default_rng(0)).tolist() == expected
    real = comovement.fcluster
    monkeypatch.setattr(comovement, "fcluster", lambda *arguments: 100 - real(*arguments))
    assert comovement.clusters(times, np.random.default_rng(0)).tolist() == expected


def test_pictured_tokens_of_equal_evidence_are_the_first(monkeypatch):
    real = np.argsort

    def ties_backwards(values, axis=-1, kind=None):
        return real(values, axis, kind) if kind == "stable" else len(values) - 1 - real(values[::-1], axis, "stable")

    monkeypatch.setattr(np, "argsort", ties_backwards)
    monkeypatch.setattr(curves.Token, "at", lambda dataset, doc_id, token: token)
    fits = {name: np.ones(24) for name in ("delta_bic", "high", "doc_id", "seed")}
    table = pa.table({**fits, "low": np.full(24, -1.0), "token_index": np.arange(24)})
    found = SimpleNamespace(fits=table, seeds=[1])
    assert curves.from_most_to_least_evidence(None, found, 12) == [0, 2, 4, 6, 8, 10, 13, 15, 17, 19, 21, 23]


def test_what_is_wrong_with_records_is_said_in_one_order(tmp_path):
    columns = {"attempt": ["x"] * 4, **records().to_pydict(), "seed": [0] * 4}
    with pytest.raises(ValueError, match="a column seed, attempt, which"):
        create(tmp_path).commit(0, "one", np.array(STEPS), losses(0), pa.table(columns))


def test_two_documents_of_one_name_are_named_in_one_order(tmp_path):
    same = [Text(doc_id=i, name=name, category="", token_ids=(50256, 1)) for i, name in enumerate("zazbb")]
    with pytest.raises(ValueError, match="share the name b, z;"):
        DatasetWriter.create_or_open(tmp_path, {}, same, lambda token: b"", None, STEPS)
