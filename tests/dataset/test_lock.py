"""One driver at a time: files, heartbeats, dead holders."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from discreteness.dataset import lock as lock_module
from discreteness.dataset.lock import DatasetLock, LockHeld, LockLost, process_start
from discreteness.dataset.paths import LOCK_FILE
from discreteness.dataset.storage import Storage
from tests.support.dataset_case import names
from tests.support.faulty_filesystem import object_storage

HOLDER = """
import sys
from discreteness.dataset.lock import DatasetLock
with DatasetLock(sys.argv[1], job="raysubmit_1"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(uri):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(uri)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    return process


def end(process):
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    process = hold(tmp_path)
    try:
        with pytest.raises(LockHeld) as caught, DatasetLock(tmp_path):
            pass
        text = str(caught.value)
        assert f"{tmp_path} is in use by pid {process.pid} on host" in text
        assert "(job raysubmit_1) since 20" in text and "--take-over" in text and "\n" not in text
        assert str(pickle.loads(pickle.dumps(caught.value))) == text
    finally:
        end(process)
    assert not (tmp_path / LOCK_FILE).exists()
    with DatasetLock(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
    assert not (tmp_path / LOCK_FILE).exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.stdin.close()
    process.stdout.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie: dead, though its pid is still there
    with DatasetLock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    process.wait()
    assert names(tmp_path) == []


def edit(tmp_path, **changes):
    """A lock file of this process with other content."""
    mine = DatasetLock(tmp_path)._content
    (tmp_path / LOCK_FILE).write_text(json.dumps({**mine, "token": "theirs", **changes}))


def test_a_pid_used_again_does_not_keep_the_lock(tmp_path):
    edit(tmp_path, process_start="another boot:1")
    with DatasetLock(tmp_path):
        pass


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"pid_namespace": "pid:[1]"}])
def test_another_host_is_refused_and_can_be_taken_over(tmp_path, change):
    edit(tmp_path, process_start="gone", **change)
    with pytest.raises(LockHeld, match=change.get("host", "pid")), DatasetLock(tmp_path):
        pass
    assert json.loads((tmp_path / LOCK_FILE).read_text())["token"] == "theirs"
    with DatasetLock(tmp_path, take_over=True):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_lock_that_was_taken_over_is_not_deleted_by_its_old_holder(tmp_path):
    with DatasetLock(tmp_path):
        edit(tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["token"] == "theirs"


def test_a_lock_that_would_spoil_a_terminal_or_a_log_is_not_ours(tmp_path):
    for change in {"host": "\x1b]0;title\x07"}, {"job": "\ud800"}:
        edit(tmp_path, **change)
        with pytest.raises(LockHeld, match="has not said who it is"), DatasetLock(tmp_path):
            pass


@pytest.mark.parametrize("content", ["", '{"host": "a', "[]", "{}"])
def test_a_half_written_lock_holds_for_a_minute(tmp_path, content):
    path = tmp_path / LOCK_FILE
    path.write_text(content)
    with pytest.raises(LockHeld, match="has not said who it is"), DatasetLock(tmp_path):
        pass
    os.utime(path, (time.time() - 100,) * 2)
    with DatasetLock(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_lock_whose_writing_is_cut_is_not_there(tmp_path, monkeypatch):
    def interrupted(content, file):
        file.write("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(lock_module.json, "dump", interrupted)
    with pytest.raises(KeyboardInterrupt), DatasetLock(tmp_path):
        pass
    assert not (tmp_path / LOCK_FILE).exists()


def contend(folder):
    """What eight threads get that want the lock at the same moment; who gets it keeps it until all have tried."""
    together, done = threading.Barrier(8), threading.Barrier(8)
    outcomes = []

    def one():
        contender = DatasetLock(folder)
        together.wait()
        try:
            with contender:
                outcomes.append("held")
                done.wait()
        except LockHeld:
            outcomes.append("refused")
            done.wait()

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_of_many_that_find_a_dead_holder_one_gets_the_lock(tmp_path):
    for _ in range(20):
        edit(tmp_path, process_start="gone")
        assert sorted(contend(tmp_path)) == ["held"] + ["refused"] * 7
        assert names(tmp_path) == []


def test_where_folders_cannot_be_locked_the_exclusive_creation_decides(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(lock_module.fcntl, "flock", refuse)
    assert sorted(contend(tmp_path)) == ["held"] + ["refused"] * 7


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lock_module.os, "open", refuse)
    with pytest.raises(PermissionError) as caught, DatasetLock(tmp_path):
        pass
    assert str(caught.value) == (f"{tmp_path}/{LOCK_FILE} cannot be written (Permission denied); give another --output")


def test_process_start_tells_processes_apart():
    """Of one pid: two processes may start in the same hundredth of a second, but not under one number."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    assert process_start(os.getpid()) == process_start(os.getpid()) != process_start(child.pid)
    child.communicate()
    assert process_start(child.pid) is None


def put(storage: Storage, **changes):
    content = {**DatasetLock(storage)._content, "token": "theirs", "beat_s": time.time(), **changes}
    storage.write(LOCK_FILE, json.dumps(content).encode())


def test_a_fresh_heartbeat_is_refused_and_a_stale_one_taken_over():
    storage = object_storage()
    put(storage, beat_s=time.time() - 50, host="elsewhere")
    with pytest.raises(LockHeld, match="on host elsewhere"), DatasetLock(storage):
        pass
    with DatasetLock(storage, take_over=True):
        assert json.loads(storage.read(LOCK_FILE))["pid"] == os.getpid()
    assert not storage.exists(LOCK_FILE)
    put(storage, beat_s=time.time() - 70)
    with DatasetLock(storage), pytest.raises(LockHeld), DatasetLock(storage):
        pass
    assert not storage.exists(LOCK_FILE)


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def lost(lock):
    try:
        lock.check()
    except LockLost as loss:
        return str(loss)
    return ""


def test_the_heartbeat_beats_until_another_takes_over(monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.01)
    storage = object_storage()
    with DatasetLock(storage) as held:
        first = json.loads(storage.read(LOCK_FILE))["beat_s"]
        wait_for(lambda: json.loads(storage.read(LOCK_FILE))["beat_s"] > first + 0.02)
        assert lost(held) == ""
        monkeypatch.setattr(storage, "write", lambda *arguments: None)  # what was on its way is done with
        put_storage = Storage(storage.filesystem, storage.root, renames=False, uri=storage.uri)
        wait_for(lambda: put(put_storage, host="elsewhere") or lost(held))
        assert "was taken over by" in lost(held) and "on host elsewhere" in lost(held)
    assert json.loads(storage.read(LOCK_FILE))["token"] == "theirs"


def test_all_heartbeats_have_one_size(monkeypatch):
    """A reader that asks for the size first, and then for the bytes, may get two different beats."""
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.01)
    storage = object_storage()
    with DatasetLock(storage):
        sizes = {}

        def four_are_seen():
            beat = storage.read(LOCK_FILE)
            sizes[json.loads(beat)["beat_s"]] = len(beat)
            return len(sizes) > 3

        wait_for(four_are_seen)
    assert set(sizes.values()) == {lock_module.BEAT_BYTES}


@pytest.mark.parametrize("late", [1, 2, 3])
def test_a_beat_on_its_way_does_not_undo_a_take_over(monkeypatch, late):
    """The old holder has looked, then its storage is slow: its beat arrives over the new holder's, `late` times."""
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.01)
    shared = object_storage()
    old_storage, new_storage = (
        Storage(shared.filesystem, shared.root, renames=False, uri=shared.uri) for _ in range(2)
    )
    beating, arrive = threading.Semaphore(0), threading.Semaphore(0)
    write = old_storage.write

    def slow(*arguments):
        beating.release()
        assert arrive.acquire(timeout=60)
        write(*arguments)

    with DatasetLock(old_storage) as old:
        monkeypatch.setattr(old_storage, "write", slow)
        for _ in range(late - 1):  # beats that arrive before the take-over are as ever
            assert beating.acquire(timeout=60)
            arrive.release()
        assert beating.acquire(timeout=60)
        with DatasetLock(new_storage, take_over=True) as new:
            arrive.release(100)
            wait_for(lambda: lost(old))
            assert lost(new) == ""
            assert json.loads(shared.read(LOCK_FILE))["token"] == new._content["token"]
    assert not shared.exists(LOCK_FILE)


def test_a_take_over_whose_place_was_overwritten_at_its_end_leaves_no_lock(monkeypatch):
    storage = object_storage()
    put(storage)
    theirs = storage.read(LOCK_FILE)
    with DatasetLock(storage, take_over=True):
        storage.write(LOCK_FILE, theirs)  # a beat that comes last of all
    assert not storage.exists(LOCK_FILE)


def test_the_holder_of_a_file_hears_of_a_take_over(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.01)
    with DatasetLock(tmp_path, job="first") as first:
        time.sleep(0.05)
        assert lost(first) == ""
        with DatasetLock(tmp_path, job="second", take_over=True) as second:
            wait_for(lambda: lost(first))
            assert lost(first).startswith(f"{tmp_path} was taken over by pid {os.getpid()} on host")
            assert "(job second)" in lost(first) and lost(second) == ""
    assert names(tmp_path) == []
    with pytest.raises(LockLost) as caught:
        first.check()
    assert str(pickle.loads(pickle.dumps(caught.value))) == lost(first)


def test_a_heartbeat_outlives_a_storage_that_is_away_for_a_while(monkeypatch, caplog):
    monkeypatch.setattr(lock_module, "HEARTBEAT_S", 0.01)
    storage = object_storage()
    with DatasetLock(storage) as held:
        write, failures = storage.write, []

        def fail(*arguments):
            failures.append(1)
            raise OSError("connection reset")

        monkeypatch.setattr(storage, "write", fail)
        wait_for(lambda: len(failures) > 1)
        monkeypatch.setattr(storage, "write", write)
        first = json.loads(storage.read(LOCK_FILE))["beat_s"]
        wait_for(lambda: json.loads(storage.read(LOCK_FILE))["beat_s"] > first)
        assert not lost(held) and "connection reset" in caplog.text
