"""Fetching shards from a hub on this machine: whole, resumed, damaged, refused; and what the three scripts ask for."""

import os
import re
import signal
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import hf_hub_download
from speedrun import least_rate
from speedrun.data.shards import open_shard, write_shard

from tests.conftest import ROOT
from tests.support.hub_server import HubServer

REPOSITORY = "kjj0/fineweb10B-gpt2"
FIRST, SECOND = f"{REPOSITORY}/fineweb_val_000000.bin", f"{REPOSITORY}/fineweb_train_000001.bin"
TOKENS = {FIRST: 7, SECOND: 8_000_000}  # 16 MB: the client writes pieces of 10 MiB


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "shard.bin"
    content = {}
    for name, count in TOKENS.items():
        write_shard(path, np.arange(count) % 50257)
        content[name] = path.read_bytes()
    return content


@pytest.fixture
def hub(files):
    with HubServer(dict(files)) as server:
        yield server


def script(name="cached_fineweb10B"):
    return ROOT / "modded-nanogpt" / "data" / f"{name}.py"


def fetched(tmp_path):
    return sorted(path.name for path in (tmp_path / "data" / "fineweb10B").iterdir() if not path.name.startswith("."))


def test_shards_come_whole_and_are_not_fetched_again(program, hub, tmp_path):
    environment = dict(HF_ENDPOINT=hub.endpoint, DATA_PATH=tmp_path, TQDM_POSITION=-1)  # bars, though this is a file
    run = program(script(), "1", **environment)
    assert run.wait() == 0, run.output
    assert "2/2 fineweb_train_000001.bin: 8000000 tokens" in run.output
    assert "100%" in run.output, "the progress bar"
    assert fetched(tmp_path) == ["fineweb_train_000001.bin", "fineweb_val_000000.bin"]
    tokens = open_shard(tmp_path / "data/fineweb10B/fineweb_train_000001.bin")
    assert np.array_equal(tokens, np.arange(8_000_000) % 50257)
    assert hub.fetched() == [FIRST, SECOND]
    again = program(script(), "1", **environment)
    assert again.wait() == 0, again.output
    assert hub.fetched() == [FIRST, SECOND], "what is there and good needs no network"


def test_contents_may_lie_at_another_host(program, hub, tmp_path):
    hub.elsewhere = True
    run = program(script(), "1", HF_ENDPOINT=hub.endpoint, DATA_PATH=tmp_path)
    assert run.wait() == 0, run.output
    assert len(open_shard(tmp_path / "data/fineweb10B/fineweb_train_000001.bin")) == 8_000_000


def test_a_killed_run_is_gone_on_with_behind_the_last_byte_that_was_written(program, hub, tmp_path):
    environment = dict(HF_ENDPOINT=hub.endpoint, DATA_PATH=tmp_path)
    hub.send, hub.stall = 12_000_000, True
    run = program(script(), "1", **environment)
    assert hub.stalled.wait(600), run.output
    folder = tmp_path / "data" / "fineweb10B"
    deadline_s = time.monotonic() + 30
    while sum(part.stat().st_size for part in folder.glob("*.part")) < 10_000_000:
        assert time.monotonic() < deadline_s, run.output
        time.sleep(0.02)
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    (part,) = folder.glob("*.part")
    kept = part.stat().st_size
    hub.send = None
    again = program(script(), "1", **environment)
    assert again.wait() == 0, again.output
    assert hub.requests[-1] == ("GET", SECOND, f"bytes={kept}-")
    assert fetched(tmp_path) == ["fineweb_train_000001.bin", "fineweb_val_000000.bin"]
    assert len(open_shard(folder / "fineweb_train_000001.bin")) == 8_000_000


def test_a_download_that_dribbles_ends_and_is_gone_on_with_by_the_next(hub, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(script().parent)
    import fetch

    monkeypatch.setattr(fetch, "hf_hub_url", partial(fetch.hf_hub_url, endpoint=hub.endpoint))
    hub.send, hub.dribble = 200_000, True
    with monkeypatch.context() as patch:
        patch.setattr(least_rate, "WINDOW_S", 0.2)
        with pytest.raises(least_rate.TooSlow) as caught:
            fetch.fetch(REPOSITORY, "fineweb_train_000001.bin", tmp_path)
    words = re.search(
        r"^(http\S+) came at ([\d.]+) bytes per second in the last .* (\d+) bytes came", str(caught.value)
    )
    address, rate, came = words.groups()
    assert address.startswith(hub.endpoint) and address.endswith("fineweb_train_000001.bin")
    assert float(rate) < least_rate.LEAST_BYTES_PER_S and int(came) > 200_000
    (part,) = tmp_path.glob("*.part")
    kept = part.stat().st_size
    assert 200_000 - fetch.constants.DOWNLOAD_CHUNK_SIZE < kept < int(came)
    hub.send = None
    assert fetch.fetch(REPOSITORY, "fineweb_train_000001.bin", tmp_path) == 8_000_000
    assert hub.requests[-1] == ("GET", SECOND, f"bytes={kept}-")


def test_whatever_the_client_of_the_hub_fetches_is_watched(hub, tmp_path, monkeypatch):
    """As FlashAttention-3's package does it."""
    least_rate.demand_least_rate()
    monkeypatch.setattr(least_rate, "WINDOW_S", 0.2)
    hub.send, hub.dribble = 10, True
    repository, name = SECOND.rsplit("/", 1)
    with pytest.raises(least_rate.TooSlow, match=f"{name} came at"):
        hf_hub_download(repository, name, repo_type="dataset", endpoint=hub.endpoint, cache_dir=tmp_path)


def test_pauses_within_a_window_are_nothing_and_a_slow_window_ends_it(monkeypatch):
    """On a clock that the pieces move: 600,000 bytes a minute are just enough."""
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(least_rate, "time", SimpleNamespace(monotonic=lambda: clock.now_s))

    def pieces(*timed):
        for passed_s, size in timed:
            clock.now_s += passed_s
            yield bytes(size)

    enough = [(59, 0), (1, 600_000), (1, 600_000), (58, 0), (1, 0)]
    assert sum(map(len, least_rate.at_least_rate(pieces(*enough), "there"))) == 1_200_000
    short = least_rate.at_least_rate(pieces(*enough, (30, 300_000), (30, 299_999)), "there")
    with pytest.raises(
        least_rate.TooSlow, match=r"^there came at 10000\.0 bytes per second in the last 60 s.* 1799999 "
    ):
        list(short)


def test_what_is_damaged_here_is_fetched_again_and_what_is_damaged_there_never_gets_its_name(program, hub, tmp_path):
    environment = dict(HF_ENDPOINT=hub.endpoint, DATA_PATH=tmp_path)
    folder = tmp_path / "data" / "fineweb10B"
    folder.mkdir(parents=True)
    good = hub.files[SECOND]
    (folder / "fineweb_train_000001.bin").write_bytes(good[:-2])  # header and length do not agree
    hub.etags[SECOND] = "0" * 64  # a hash that it does not have
    run = program(script(), "1", **environment)
    assert run.wait() == 1, run.output
    assert "has 16001022 bytes, expected 16001024" in run.output
    assert "the hub says 0000" in run.output
    assert fetched(tmp_path) == ["fineweb_train_000001.bin", "fineweb_val_000000.bin"], "no .part that cannot be used"
    hub.etags.clear()
    hub.files[SECOND] = b"<html>log in</html>" + bytes(2000)
    run = program(script(), "1", **environment)
    assert run.wait() == 1, run.output
    assert "magic" in run.output
    hub.files[SECOND] = good
    run = program(script(), "1", **environment)
    assert run.wait() == 0, run.output
    assert len(open_shard(folder / "fineweb_train_000001.bin")) == 8_000_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["2"], ["fineweb_train_000002.bin", "404", "goes on from here"]),
        (["104"], ["1 to 103", "104"]),
    ],
)
def test_what_is_not_there_is_named(program, hub, tmp_path, arguments, words):
    run = program(script(), *arguments, HF_ENDPOINT=hub.endpoint, DATA_PATH=tmp_path)
    assert run.wait() != 0
    assert "Traceback" not in run.output
    for word in words:
        assert word in run.output


def test_a_hub_that_cannot_be_reached_is_one_line(program, tmp_path):
    run = program(script(), "1", HF_ENDPOINT="http://127.0.0.1:9", DATA_PATH=tmp_path)
    assert run.wait() == 1
    assert "Traceback" not in run.output
    assert run.output.splitlines()[-1].startswith("error: fineweb_val_000000.bin: ")


@pytest.mark.parametrize(
    ("name", "repository", "prefix"),
    [
        ("cached_fineweb100B", "kjj0/fineweb100B-gpt2", "fineweb"),
        ("cached_finewebedu10B", "kjj0/finewebedu10B-gpt2", "finewebedu"),
    ],
)
def test_the_other_two_ask_for_their_own(program, hub, files, tmp_path, name, repository, prefix):
    names = [f"{repository}/{prefix}_{kind}.bin" for kind in ("val_000000", "train_000001")]
    hub.files = {one: files[FIRST] for one in names}
    run = program(script(name), "1", "--folder", tmp_path / "here", HF_ENDPOINT=hub.endpoint)
    assert run.wait() == 0, run.output
    assert hub.fetched() == names
    assert len(open_shard(tmp_path / "here" / f"{prefix}_train_000001.bin")) == 7
