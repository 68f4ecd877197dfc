"""What a Ray that is started here needs of its folder and of shared memory: found missing beforehand, in one line."""

import os
import shutil
import socket
import sys
from types import SimpleNamespace

import pytest

from discreteness import allowance
from discreteness.cluster import machines, rays_folder
from discreteness.cluster.rays_folder import (
    LONGEST_SOCKET,
    MAX_SOCKET_BYTES,
    nearest_folder,
    room_for_a_store,
    try_folder,
    try_store,
)


@pytest.fixture
def folder(short_folder, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    return short_folder / "ray"


def disk(monkeypatch, total, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=total, used=total - free, free=free))


def refused(attempt, *arguments):
    with pytest.raises(OSError) as caught:
        attempt(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_where_ray_keeps_its_files(monkeypatch):
    from ray._common.utils import get_default_ray_temp_dir  # whose rule ours has to be

    for name in "RAY_TMPDIR", "TMPDIR":
        monkeypatch.delenv(name, raising=False)
    for changes in {}, {"TMPDIR": "/a"}, {"RAY_TMPDIR": "/b"}:
        for name, value in changes.items():
            monkeypatch.setenv(name, value)
        assert str(rays_folder.rays_folder()) == get_default_ray_temp_dir()


def test_a_good_folder_is_found_good_and_left_as_it_was(folder):
    assert f"{folder} takes sockets" in try_folder() and not folder.exists()
    folder.mkdir()
    assert f"{folder} takes sockets" in try_folder() and not list(folder.iterdir())


def test_a_path_too_long_for_a_socket_is_refused_by_the_byte(short_folder, monkeypatch):
    most = MAX_SOCKET_BYTES - len(f"/ray/{LONGEST_SOCKET}") - len(f"{short_folder}/")
    for name, fits in ("a" * most, True), ("a" * (most + 1), False), ("é" * (most // 2 + 1), False):
        monkeypatch.setenv("RAY_TMPDIR", str(short_folder / name))
        path = short_folder / name / "ray" / LONGEST_SOCKET
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as one:  # the system's own opinion
            if fits:
                one.bind(str(path))
                try_folder()
            else:
                with pytest.raises(OSError, match="too long"):
                    one.bind(str(path))
                assert "bytes longer than the system takes" in refused(try_folder)


def test_a_folder_that_takes_nothing_is_named_with_its_owner(folder, monkeypatch):
    folder.write_text("a file")
    assert refused(try_folder) == (
        f"Ray cannot use its folder {folder} (Not a folder): give Ray another folder: RAY_TMPDIR=DIR"
    )
    folder.unlink()
    folder.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 7)
    assert rays_folder._owner(folder) == f"; it belongs to user {folder.stat().st_uid}, this is 7"
    assert rays_folder._owner(folder / "none") == ""


def test_a_full_disk_is_said_before_ray_times_out_on_it(folder, monkeypatch):
    disk(monkeypatch, 10**9, 3 * 10**6)
    assert f"the disk of Ray's folder {folder} has 3 MB free" in refused(try_folder)


def test_the_store_lies_in_shared_memory_or_in_a_file(folder, monkeypatch):
    monkeypatch.setattr(allowance, "shared_memory_bytes", lambda: 10**9)
    assert try_store(10**9) == "1.00 GB in /dev/shm"
    disk(monkeypatch, 20 * 10**9, 5 * 10**9)
    assert room_for_a_store() == pytest.approx(4 * 10**9), "Ray puts nothing on a disk that is 95 % full"
    assert try_store(3 * 10**9) == f"3.00 GB in {folder}" and not folder.exists()
    text = refused(try_store, 5 * 10**9)
    assert f"nor on the disk of {folder} (4.00 GB)" in text and "RAY_TMPDIR" in text and "--object-store-gb" in text
    assert "at most 10 GB in a file" in refused(try_store, 11 * 10**9)
    assert "10 MB is less than Ray takes (79 MB)" in refused(try_store, 10**7)


def test_a_store_that_is_chosen_fits_on_the_disk(monkeypatch, folder):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(allowance, "memory_bytes", lambda: 20 * 10**9)
    monkeypatch.setattr(allowance, "shared_memory_bytes", lambda: 2**26)
    disk(monkeypatch, 20 * 10**9, 5 * 10**9)
    assert machines.object_store_bytes() == pytest.approx(4 * 10**9)
    try_store(machines.object_store_bytes())


def test_shared_memory_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "shm").write_text("a file")
    monkeypatch.setattr(allowance, "SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr(allowance, "shared_memory_bytes", lambda: 10**9)
    text = refused(try_store, 10**9)
    assert (
        text == f"no object store can be made in {tmp_path / 'shm'} (Not a folder): mount one that this user may write"
    )


def test_the_nearest_folder(tmp_path):
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "a").write_text("")
    with pytest.raises(NotADirectoryError):
        nearest_folder(tmp_path / "a" / "b")
