"""hf://: a file system of the hub's kind, whose errors of the network are those of a disk."""

import pickle

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from pyarrow.fs import FileSelector, FSSpecHandler, PyFileSystem

from discreteness.dataset.hub import with_errors_of_a_disk
from discreteness.dataset.storage import open_storage


class Unreached(MemoryFileSystem):
    """A file system that answers until the network is gone."""

    gone = False

    def info(self, path, **options):
        if Unreached.gone:
            raise HTTPError("Temporary failure in name resolution")
        return super().info(path, **options)

    def open(self, path, mode="rb", **options):
        file = super().open(path, mode, **options)
        if Unreached.gone:
            file.read = self.info
        return file


@pytest.fixture
def files(monkeypatch):
    monkeypatch.setattr(Unreached, "gone", False)
    return with_errors_of_a_disk(PyFileSystem(FSSpecHandler(Unreached())))


def test_files_are_written_listed_and_read_as_before(files):
    files.create_dir("/set")
    with files.open_output_stream("/set/a") as file:
        file.write(b"hello")
    files = pickle.loads(pickle.dumps(files))  # the dispatcher gets it so
    with files.open_input_file("/set/a") as file:
        assert file.size() == 5 and file.read_at(3, 1) == b"ell"
    assert [info.path for info in files.get_file_info(FileSelector("/set"))] == ["/set/a"]
    with pytest.raises(FileNotFoundError):
        files.open_input_file("/set/b")


def test_a_network_that_is_gone_is_an_error_of_a_disk(files, monkeypatch):
    with files.open_output_stream("/set/a") as file:
        file.write(b"hello")
    monkeypatch.setattr(Unreached, "gone", True)
    words = r"the hub cannot be reached \(Temporary failure in name resolution\): .*HF_ENDPOINT"
    with pytest.raises(OSError, match=words):
        files.get_file_info("/set/a")
    with pytest.raises(OSError, match=words):
        files.open_input_stream("/set/a").read()


def test_a_dataset_of_a_hub_that_is_not_there(monkeypatch):
    """No name ends in .invalid (RFC 2606)."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    with pytest.raises(OSError, match=r"the hub cannot be reached \("):
        open_storage("hf://datasets/me/losses").list()
