"""What the identity keeps of a shard: header, size, first MiB."""

import struct

import pytest

from discreteness.dataset.identity import differing_fields
from discreteness.shards.report import data_identity


def shard(path, tokens, body=b""):
    path.write_bytes(struct.pack("<3i", 20240520, 1, tokens).ljust(1024, b"\0") + body)
    return path


def test_data_identity_reads_header_size_and_first_mib(tmp_path):
    path = shard(tmp_path / "train_1.bin", 2**20, bytes(2 * 2**20))
    (found,) = data_identity([path])
    assert (found["name"], found["bytes"], found["tokens"]) == ("train_1.bin", 1024 + 2 * 2**20, 2**20)
    with path.open("r+b") as file:
        file.seek(2**20)
        file.write(b"\1")
    assert data_identity([path]) == [found]
    with path.open("r+b") as file:
        file.seek(2**20 - 1)
        file.write(b"\1")
    assert differing_fields(found, data_identity([path])[0])[0][0] == "first_mib"


def test_a_shard_that_is_longer_or_named_otherwise_is_another(tmp_path):
    path = shard(tmp_path / "train_1.bin", 2**20, bytes(2 * 2**20))
    (found,) = data_identity([path])
    with path.open("ab") as file:
        file.write(b"\0\0")
    assert differing_fields(found, data_identity([path])[0]) == [("bytes", 1024 + 2 * 2**20, 1026 + 2 * 2**20)]
    (renamed,) = data_identity([shard(tmp_path / "train_2.bin", 2**20, bytes(2 * 2**20))])
    assert [name for name, *_ in differing_fields(found, renamed)] == ["name"]


def test_data_identity_refuses_what_is_not_a_shard(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"hello, this is no shard")
    with pytest.raises(ValueError, match=r"x\.bin has 23 bytes, expected a header of 1024 bytes"):
        data_identity([tmp_path / "x.bin"])
