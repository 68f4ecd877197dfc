"""A dataset on a real S3 server and on storage as NFS shows it: interrupted, refused, contended, seen late."""

import contextlib
import errno
import json
import pickle
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from discreteness.cluster.doctor import of_output
from discreteness.dataset import lock as lock_module
from discreteness.dataset import reader
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.lock import DatasetLock, LockHeld, LockLost
from discreteness.dataset.paths import LOCK_FILE
from discreteness.dataset.status import status as status_of
from discreteness.dataset.storage import open_storage
from discreteness.dataset.verify import verify
from tests.support.dataset_case import commit, create, losses
from tests.support.faulty_filesystem import Faults, NfsClient, nfs_storage
from tests.support.s3_server import BUCKET, CREDENTIALS, S3Server


@pytest.fixture(scope="module")
def server(private_home):
    with S3Server() as running:
        yield running


@pytest.fixture
def uri(server, request):
    """A folder of its own for each test, on a server that answers."""
    server.disturb, server.delay_s = lambda request: "", 0.0
    server.requests.clear()
    return server.uri(f"runs/{request.node.name.partition('[')[0]}")


def test_create_commit_resume_and_read(server, uri):
    writer = create(uri)
    assert writer.committed() == {} and not writer.storage.renames
    for seed in 3, 0:
        commit(writer, seed)
    assert list(create(uri).committed()) == [0, 3]
    commit(create(uri), 3)  # again, changes nothing
    with pytest.raises(ValueError, match="committed by attempt one already"):
        commit(create(uri), 3, "two")
    dataset = pickle.loads(pickle.dumps(reader.open(uri)))  # as another process gets it
    assert np.array_equal(dataset.losses("c"), np.stack([losses(0), losses(3)])[:, :, 4:])
    assert dataset.arrow().count_rows() == 24 and dataset.runs(3).num_rows == 4
    assert status_of(uri).rows == 24 and verify(uri) == []
    assert not [request for request in server.requests if request.startswith(("COPY", "DELETE"))], "a rename"


def again(action):
    """What `action` returns, tried until no OSError comes."""
    for _ in range(200):
        with contextlib.suppress(OSError):
            return action()
    pytest.fail("200 tries were not enough")


def stored(uri):
    """A dataset with one seed."""
    again(lambda: commit(create(uri), 0))


def test_every_write_refused_or_its_answer_lost_leaves_a_seed_whole_or_absent(server, uri):
    stored(uri)
    writes = [request for request in server.requests if request.startswith(("PUT", "POST"))]
    assert len(writes) == 4 * 3  # experiment, documents, records, losses: an upload begun, its part, its end
    for number in range(len(writes)):
        folder = server.uri(f"runs/cut-{number}")
        how = ("refuse", "lose")[number % 2]  # with three requests a file each of them meets both
        left = iter([""] * number + [how] + [""] * 100)
        server.disturb = lambda request, left=left: next(left) if request.startswith(("PUT", "POST")) else ""
        with pytest.raises(OSError, match="injected"):
            commit(create(folder), 0)
        if open_storage(folder).exists("experiment.json"):
            assert all("documents.parquet" in problem for problem in verify(folder))
            assert list(status_of(folder).committed) in ([], list(create(folder).committed().values()))
        stored(folder)
        assert verify(folder) == []
        assert np.array_equal(reader.open(folder).losses("a.txt")[0], losses(0)[:, :3])


def test_a_server_that_is_busy_for_a_while_is_not_noticed(server, uri):
    server.disturb = lambda request: "busy" if server.requests.count(request) == 1 else ""
    commit(create(uri), 0)
    assert len(set(server.requests)) > 12
    assert verify(uri) == []


UPLOADER = """
import sys
from discreteness.dataset.storage import open_storage
open_storage(sys.argv[1]).write("losses/seed=00001.parquet", bytes(30_000_000))
"""


def test_an_upload_that_is_left_unfinished_is_not_there(server, uri):
    dataset = create(uri)
    commit(dataset, 0)
    server.delay_s = 0.2
    process = subprocess.Popen([sys.executable, "-c", UPLOADER, uri])
    while not any("partNumber=1" in request and "00001" in request for request in server.requests):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    server.delay_s = 0.0
    assert not any("POST" in r and "uploadId" in r and "00001" in r for r in server.requests), "it was completed"
    assert list(dataset.committed()) == [0] and verify(uri) == []
    commit(dataset, 1)
    assert list(create(uri).committed()) == [0, 1] and verify(uri) == []


FAILING_WRITER = """
import sys
from discreteness.dataset.storage import open_storage

class Stream:
    def __init__(self, stream):
        self.stream = stream

    def write(self, content):
        self.stream.write(content[: len(content) // 2])
        raise MemoryError("the second half")

    def close(self):
        self.stream.close()

class FileSystem:
    def __init__(self, filesystem):
        self.filesystem = filesystem

    def open_output_stream(self, path):
        return Stream(self.filesystem.open_output_stream(path))

storage = open_storage(sys.argv[1])
storage.filesystem = FileSystem(storage.filesystem)
for size in 1_000, 30_000_000:
    try:
        storage.write("x", bytes(size))
    except MemoryError:
        print("cut")
"""


def test_a_write_cut_by_any_exception_is_not_completed_not_even_at_the_end_of_its_process(server, uri):
    storage = open_storage(uri)
    storage.write("x", b"old")
    server.requests.clear()
    run = subprocess.run([sys.executable, "-c", FAILING_WRITER, uri], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (0, "cut\n" * 2), run.stderr
    begun = [request for request in server.requests if request.endswith("?uploads")]
    ended = [request for request in server.requests if request.startswith("POST") and "uploadId" in request]
    assert len(begun) == 2 and ended == [] and storage.read("x") == b"old"


@pytest.mark.parametrize("at", ["?uploads", "partNumber=1"])
def test_a_write_that_is_interrupted_appears_whole(server, uri, at):
    """Ctrl-C while the server answers. A stream that is let go of there would be completed with what it has."""
    storage = open_storage(uri)

    def interrupt(request):
        if at in request:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return ""

    server.disturb = interrupt
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist's processes ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            storage.write("x", b"new" * 1000)
    finally:
        signal.signal(signal.SIGINT, before)
    assert storage.read("x") == b"new" * 1000


def test_a_part_of_no_bytes_is_passed_over_and_made_again(uri, caplog):
    for seed in 0, 1:
        commit(create(uri), seed)
    (part,) = compact(uri)
    storage = open_storage(uri)
    storage.write(part.losses_path(0), b"")
    assert np.array_equal(reader.open(uri).losses("c"), np.stack([losses(0), losses(1)])[:, :, 4:])
    assert f"{part.losses_path(0)} is damaged" in caplog.text
    assert compact(uri) == (part,) and verify(uri) == []


def test_one_driver_at_a_time_by_heartbeats(uri, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.05)
    with DatasetLock(uri, job="first") as first:
        with pytest.raises(LockHeld, match=r"job first.*--take-over"), DatasetLock(uri):
            pass
        beat = json.loads(first.storage.read(LOCK_FILE))["beat_s"]
        deadline_s = time.monotonic() + 30
        while json.loads(first.storage.read(LOCK_FILE))["beat_s"] == beat:
            assert time.monotonic() < deadline_s
        with DatasetLock(uri, job="second", take_over=True) as second:
            with pytest.raises(LockLost, match="job second"):
                while time.monotonic() < deadline_s:
                    first.check()
                    time.sleep(0.01)
            second.check()
    content = json.dumps({**first._content, "beat_s": time.time() - lock_module.FRESH_S - 1}).encode()
    first.storage.write(LOCK_FILE, content)  # a holder that stopped beating
    with DatasetLock(uri) as third:
        assert json.loads(third.storage.read(LOCK_FILE))["token"] == third._content["token"]
    assert not third.storage.exists(LOCK_FILE)


def contend(datasets):
    """Every dataset's owner commits every seed as its own attempt, at the same time, again after an OSError."""
    errors = []

    def work(number, dataset):
        for seed in range(4):
            try:
                again(lambda seed=seed: commit(dataset, seed, f"driver-{number}"))
            except ValueError as error:
                if "already" not in str(error):
                    errors.append(error)

    threads = [threading.Thread(target=work, args=one) for one in enumerate(datasets)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_drivers_at_the_same_time_mix_nothing(server, uri):
    contend([create(uri) for _ in range(3)])
    committed = create(uri).committed()
    assert list(committed) == [0, 1, 2, 3] and {seed.rows for seed in committed.values()} == {12}
    assert verify(uri) == []
    dataset = reader.open(uri)
    for number, seed in enumerate(dataset.seeds):
        assert dataset.runs(seed)["attempt"].unique().to_pylist() == [committed[seed].attempt]
        assert np.array_equal(dataset.losses("a.txt")[number], losses(seed)[:, :3])


@pytest.mark.parametrize("number", range(4))
def test_clients_of_a_network_disk_that_see_each_other_late_mix_nothing(tmp_path, number):
    create(tmp_path / "set")
    chance = random.Random(number)
    clients = [nfs_storage(tmp_path / "set", NfsClient(random.Random(chance.random()))) for _ in range(2)]
    contend([again(lambda client=client: create(client)) for client in clients])
    committed = create(tmp_path / "set").committed()
    assert list(committed) == [0, 1, 2, 3] and verify(tmp_path / "set") == []
    for index, seed in enumerate(committed):
        assert np.array_equal(reader.open(tmp_path / "set").losses("c")[index], losses(seed)[:, 4:])


def test_a_move_that_is_no_rename_and_stops_half_way_leaves_no_seed(tmp_path):
    faults = Faults()
    client = NfsClient(random.Random(0), faults, stale=0.0, late=0.0)
    storage = nfs_storage(tmp_path / "set", client)
    dataset = create(storage)
    commit(dataset, 0)
    faults.names.clear()
    commit(dataset, 1)
    halves = [number for number, name in enumerate(faults.names, 1) if name.startswith("half move")]
    assert len(halves) == 2  # of the records and of the losses
    for offset, at in enumerate(halves):
        faults.count, faults.at, faults.mode = 0, at, "after"
        with pytest.raises(OSError, match="injected"):
            commit(dataset, 2 + offset)
        faults.at = None
        assert 2 + offset not in create(storage).committed()
        commit(create(storage), 2 + offset, "two")
        assert verify(storage) == []


def test_a_stale_handle_is_an_error_to_try_again(tmp_path):
    storage = nfs_storage(tmp_path / "set", NfsClient(random.Random(0), stale=1.0))
    with pytest.raises(OSError) as caught:
        storage.read("experiment.json")
    assert caught.value.errno == errno.ESTALE


def test_the_doctor_tries_the_bucket(server, uri):
    (finding,) = of_output(uri)
    assert finding.level == "ok" and not [r for r in server.requests if r.startswith("GET") and "_probe" not in r]
    assert open_storage(uri).list() == []
    (finding,) = of_output(uri.replace(BUCKET, "no-such-bucket"))
    assert finding.level == "problem" and "no-such-bucket" in finding.text


def test_an_inline_run_to_a_bucket_and_no_secret_anywhere(server, uri, program):
    arguments = [
        "run",
        "--inline",
        "--track",
        "tests.support.quick_track:quick",
        "--checkpoints",
        "every:10",
        "--seeds",
        "0",
    ]
    secrets = {"HF_TOKEN": "hf_ofATestOfNoAccount", "RAY_AUTH_TOKEN": "0f" * 32}
    run = program("-m", "discreteness", *arguments, "--output", uri, **secrets)
    assert run.wait() == 0, run.output
    assert reader.open(uri).seeds == [0] and verify(uri) == []
    storage = open_storage(uri)
    texts = [run.output.encode()]
    for info in storage.list(recursive=True):
        if info.size:
            texts.append(storage.filesystem.open_input_file(info.path).read())
    assert len(texts) >= 5
    for secret in *secrets.values(), *list(CREDENTIALS.values())[:2]:
        assert not any(secret.encode() in text for text in texts)
    assert not storage.exists(LOCK_FILE)
