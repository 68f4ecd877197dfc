"""hf://datasets/...: a dataset of the hub read at one commit, by ranges and from the cache, through a bad network."""

import pickle

import numpy as np
import pytest

import discreteness
from discreteness.cli.main import _parsed
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.storage import open_storage
from discreteness.dataset.verify import verify
from tests.support.dataset_case import commit, create
from tests.support.dataset_hub import TOKEN, DatasetHub

URI = "hf://datasets/me/name"


@pytest.fixture
def folder(tmp_path):
    dataset = create(tmp_path / "local")
    for seed in 0, 1, 2:
        commit(dataset, seed)
    compact(tmp_path / "local")
    return tmp_path / "local"


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub that has the dataset."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with DatasetHub(commits=[files], created=True) as hub:
        hub.use(monkeypatch, tmp_path)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield hub


def test_answers_are_those_of_the_folder_and_of_one_commit(hub, folder):
    local, remote = discreteness.open(folder), discreteness.open(URI)
    hub.commits.append({})  # emptied while it is read
    assert (remote.seeds, remote.steps, remote.documents) == (local.seeds, local.steps, local.documents)
    for document in local.documents:
        assert np.array_equal(remote.losses(document.name), local.losses(document.name))
    assert np.array_equal(remote.mean_curves(), local.mean_curves()) and np.array_equal(remote.seed(1), local.seed(1))
    assert remote.runs(2).equals(local.runs(2)) and remote.find("\x05") == local.find("\x05")
    assert remote.arrow().to_table().num_rows == local.arrow().to_table().num_rows
    assert verify(f"{URI}@{hub.sha(0)}") == []
    with pytest.raises(FileNotFoundError, match=r"is not a dataset: it has no experiment.json"):
        discreteness.open(URI)


def test_a_token_is_read_by_ranges_and_once(hub, folder):
    dataset = discreteness.open(URI)
    hub.requests.clear()
    found = dataset.losses("a.txt", token=2)
    assert np.array_equal(found, discreteness.open(folder).losses("a.txt", token=2))
    assert hub.requests and all("/tokens/" in request and " bytes=" in request for request in hub.requests)
    hub.requests.clear()
    again = discreteness.open(URI)
    assert np.array_equal(again.losses("a.txt", token=2), found)
    assert [request for request in hub.requests if "/resolve/" in request and "HEAD" not in request] == []


def test_it_crosses_processes(hub):
    dataset = pickle.loads(pickle.dumps(discreteness.open(URI)))
    assert dataset.losses("b.txt", token=1, seeds=1, steps=5).tolist() == 1005.375


@pytest.mark.parametrize("how", ["busy", "cut", "half"])
def test_a_bad_network_is_asked_again(hub, how):
    seen = set()

    def disturb(request):
        """The first of every request for content."""
        known = request.partition(" bytes=")[0] in seen
        seen.add(request.partition(" bytes=")[0])
        return "" if known or "GET /datasets" not in request else how

    hub.disturb = disturb
    dataset = discreteness.open(URI)
    assert dataset.losses("a.txt", token=2, seeds=2, steps=0).tolist() == 2000.125
    assert dataset.seed(1)[0, 0] == 1000 and len(seen) > 5


def test_a_hub_that_stays_busy_is_one_line(hub):
    hub.disturb = lambda request: "busy"
    with pytest.raises(OSError, match=r"hf://datasets/me/name: the hub answers 429; try again later"):
        discreteness.open(URI)


def test_a_private_repository_needs_the_hubs_own_token(hub, monkeypatch):
    hub.private = True
    with pytest.raises(FileNotFoundError, match=r"no such repository for you; .* `hf auth login` or set HF_TOKEN"):
        discreteness.open(URI)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert discreteness.open(URI).losses("a.txt", token=1).shape == (3, 4)


def test_what_is_asked_wrongly_is_named(hub):
    with pytest.raises(ValueError, match="hf://datasets/name is not a dataset of the hub; give hf://datasets/OWNER"):
        open_storage("hf://datasets/name")
    for change in (lambda s: s.write("a", b""), lambda s: s.delete("a"), lambda s: s.check_writable()):
        with pytest.raises(PermissionError, match=r"is on the hub, where `discreteness publish` alone writes"):
            change(open_storage(URI))


def test_commands_read_it(hub, folder, tmp_path, capsys):
    assert _parsed(["status", URI])() == 0
    assert "committed: 3 seeds: 0-2" in capsys.readouterr().out
    assert _parsed(["merge", URI, "--output", str(tmp_path / "copy")])() == 0
    for name in "losses/seed=00001.parquet", "runs/seed=00001-one.parquet", "experiment.json", "tokens/parts.json":
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
