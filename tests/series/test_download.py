"""Files of a checkpoint from a hub on this machine: whole, gone on with, waited for, refused, cleared away."""

import hashlib
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from speedrun import least_rate

from discreteness.series import download, patience
from discreteness.series.download import file_hash, local_files, scratch
from discreteness.series.hub import checkpoints_on_hub
from discreteness.series.step_names import StepPattern
from discreteness.series.stored import StoredCheckpoint, StoredFile, Unreadable
from tests.support.hub_server import HubServer, commit_of
from tests.support.series_case import served

WEIGHTS = bytes(range(256)) * 1000
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "README.md": b"of no use"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with (
        HubServer({}, models={"o/m": {"step1": dict(FILES)}}) as server,
        served(server, monkeypatch, tmp_path / "cache"),
    ):
        yield server


def listed_checkpoint():
    (checkpoint,) = checkpoints_on_hub("o/m", None, StepPattern(None))
    return checkpoint


def fetched(checkpoint, tmp_path):
    """Name -> bytes of what a scorer would find."""
    with local_files(checkpoint, checkpoint.needed, tmp_path) as folder:
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_needed_comes_whole_and_goes_again(hub, tmp_path):
    checkpoint = listed_checkpoint()
    assert (checkpoint.step, checkpoint.commit) == (1, commit_of("step1"))
    assert checkpoint.weights_hash == hashlib.sha256(WEIGHTS).hexdigest()
    assert fetched(checkpoint, tmp_path) == {name: FILES[name] for name in ("config.json", "model.safetensors")}
    assert [path for path in tmp_path.iterdir()] == [], "nothing is left"
    assert StoredCheckpoint.from_bytes(checkpoint.to_bytes()) == checkpoint


def test_hashes_are_those_of_the_hub(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    assert file_hash(path) == hashlib.sha256(b"hello\n").hexdigest()
    assert file_hash(path, "0" * 40) == "ce013625030ba8dba906f756967f9e9ca394464a", (
        "git hash-object of hello and a newline"
    )


def test_a_busy_hub_is_waited_for_within_bounds(hub, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(patience, "time", SimpleNamespace(sleep=waited.append))
    hub.refusals = [429, 503]
    checkpoint = listed_checkpoint()
    hub.refusals = [503, 502]
    assert fetched(checkpoint, tmp_path)["model.safetensors"] == WEIGHTS
    assert waited == [0.01] * 4
    hub.refusals = [503] * 100
    with pytest.raises(OSError, match=r"config.json of step1 of o/m: the hub did not give it in 5 tries: .*503"):
        fetched(checkpoint, tmp_path)
    assert len(hub.refusals) == 95


def test_what_the_hub_asks_for_is_waited_within_bounds(monkeypatch):
    from huggingface_hub.errors import HTTPError

    def refused(seconds):
        error = HTTPError("busy")
        error.response = SimpleNamespace(status_code=429, headers={"Retry-After": seconds})
        answers = iter([error, None])

        def call():
            if answer := next(answers):
                raise answer
            return "here"

        return call

    waited = []
    monkeypatch.setattr(patience, "time", SimpleNamespace(sleep=waited.append))
    assert patience.patiently("it", refused("7")) == "here"
    assert patience.patiently("it", refused("86400")) == "here"
    assert patience.patiently("it", refused("Wed, 21 Oct 2015")) == "here"
    assert waited == [7.0, 300.0, 1.0]


def test_a_stall_ends_and_is_gone_on_with(hub, tmp_path, monkeypatch):
    checkpoint = listed_checkpoint()
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(download, "LOST_BYTES", 1 << 16)
    hub.send, hub.stall = 200_000, True
    assert fetched(checkpoint, tmp_path)["model.safetensors"] == WEIGHTS
    ranges = [found for method, name, found in hub.requests if name.endswith("model.safetensors") and method == "GET"]
    assert ranges[0] is None and int(ranges[1].removeprefix("bytes=").rstrip("-")) > 100_000


def test_a_download_that_dribbles_ends_and_is_gone_on_with(hub, tmp_path, monkeypatch):
    checkpoint = listed_checkpoint()
    monkeypatch.setattr(download, "LOST_BYTES", 1 << 10)
    monkeypatch.setattr(least_rate, "WINDOW_S", 0.2)
    hub.send, hub.dribble = 200_000, True
    assert fetched(checkpoint, tmp_path)["model.safetensors"] == WEIGHTS
    ranges = [found for method, name, found in hub.requests if name.endswith("model.safetensors") and method == "GET"]
    assert len(ranges) == 2 and ranges[1].startswith("bytes=")


def test_bytes_that_are_not_what_the_hub_says_are_refused_after_a_second_try(hub, tmp_path):
    checkpoint = listed_checkpoint()
    hub.models["o/m"]["step1"]["model.safetensors"] = WEIGHTS[:-1] + b"?"
    with pytest.raises(Unreadable, match=r"model.safetensors of step1 of o/m: its hash is \w+, the hub says"):
        fetched(checkpoint, tmp_path)
    assert hub.fetched().count("o/m@step1/model.safetensors") == 2
    hub.models["o/m"]["step1"]["model.safetensors"] = WEIGHTS
    hub.cut = {"model.safetensors"}
    with pytest.raises(Unreadable, match="it has 128000 bytes, the hub says 256000"):
        fetched(checkpoint, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_listed_and_not_there(hub, tmp_path):
    checkpoint = listed_checkpoint()
    del hub.models["o/m"]["step1"]["model.safetensors"]
    with pytest.raises(Unreadable, match=r"model.safetensors of step1 of o/m: the hub lists it and does not have it"):
        fetched(checkpoint, tmp_path)


def test_a_model_that_is_not_there_or_not_shown(hub):
    with pytest.raises(ValueError, match="o/other: is neither a folder of this machine nor a model"):
        checkpoints_on_hub("o/other", None, StepPattern(None))


def test_a_disk_without_room_is_said_before_and_after(hub, tmp_path, monkeypatch):
    checkpoint = listed_checkpoint()
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(OSError, match=r"step1 of o/m: needs 0.000 GB, and the disk of .* TMPDIR"):
            fetched(checkpoint, tmp_path)
    assert not hub.fetched()
    folder = tmp_path / f"{checkpoint.commit[:12]}-1"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to("/dev/full")  # room that ends while the file comes
    with pytest.raises(OSError, match=r"model.safetensors of step1 of o/m: needs .* TMPDIR"):
        fetched(checkpoint, tmp_path)


def test_scratch_of_a_killed_process_is_removed_and_that_of_a_living_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(download.tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{download.SCRATCH}left"
    (left / "abc-1").mkdir(parents=True)
    with scratch() as living:
        assert not left.exists()
        with scratch() as other:
            assert living.is_dir() and other.is_dir() and living != other
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "optimizer.bin"], ["pytorch_model.bin"]),
        (["model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"], None),
        (["model-00001-of-00001.safetensors", "model.safetensors"], ["model.safetensors"]),
    ],
)
def test_safetensors_come_before_pickles_and_whole_files_before_shards(names, chosen):
    assert [file.name for file in stored(names).weights] == (chosen or sorted(names))


def test_shards_that_are_missing_are_named():
    with pytest.raises(Unreadable, match="2 of its 3 files of weights are missing: number 1, 3"):
        stored(["model-00002-of-00003.safetensors"]).weights  # noqa: B018
    with pytest.raises(Unreadable, match="has no weights"):
        stored(["optimizer.pt"]).weights  # noqa: B018


def stored(names):
    files = tuple(StoredFile(name=name, num_bytes=1, hash="") for name in names)
    return StoredCheckpoint(model="m", name="step1", step=1, tokens=None, commit="", folder="", files=files)
