"""Shards, sampler, validation chunks and vocabulary against golden vectors, hand counts and properties."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from speedrun.data import sampler as data
from speedrun.data import shards
from speedrun.data.sampler import TrainingBatches, ValidationChunks
from speedrun.data.shards import BOS, ShardError, open_shard, write_shard
from speedrun.data.vocabulary import Vocabulary

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sampler.json").read_text())


def shard(path: Path, size: int, starts) -> Path:
    tokens = np.arange(size, dtype=np.uint16)
    tokens[list(starts)] = BOS
    write_shard(path, tokens)
    return path


def golden_tokens(k: int, first: int) -> np.ndarray:
    tokens = (17 * np.arange(600) + 3 + 1000 * k) % 50000
    position, j = first, 0
    while position < 600:
        tokens[position] = BOS
        position, j = position + 3 + (7 * j * j + 5 * j + 11 * k) % 29, j + 1
    return tokens


def sha256(array: np.ndarray, dtype: str) -> str:
    return hashlib.sha256(array.astype(dtype, casting="equiv").tobytes()).hexdigest()


@pytest.fixture(scope="module")
def golden_shards(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("golden")
    paths = [folder / f"{k}.bin" for k in range(2)]
    for k, path in enumerate(paths):
        write_shard(path, golden_tokens(k, first=4))
    return paths


def test_golden_shards_hold_the_tokens(golden_shards):
    for path, expected in zip(golden_shards, GOLDEN["shards"], strict=True):
        tokens = open_shard(path)
        assert tokens.dtype == np.uint16 and len(tokens) == expected["size"]
        assert hashlib.sha256(tokens.tobytes()).hexdigest() == expected["sha256_uint16"]
        assert np.flatnonzero(tokens == BOS).tolist() == expected["bos_positions"]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_sampler_equals_golden(golden_shards, world_size):
    n = GOLDEN["n"]
    calls = GOLDEN["training"][f"W={world_size}"]["calls"]
    for rank in range(world_size):
        batches = TrainingBatches(golden_shards, rank, world_size, 8, GOLDEN["cap"])
        for _ in range(2):  # the second time after rewind()
            for call in calls:
                inputs, targets, offsets = batches.next(8 * n)
                expected = call["ranks"][rank]
                assert batches.shard_index == call["shard"]
                assert batches.document_index == call["document_cursor_after"]
                assert inputs.tolist() == expected.get("inputs", inputs.tolist())
                assert targets.tolist() == expected.get("targets", targets.tolist())
                used = len(expected["offsets"])
                assert offsets[:used].tolist() == expected["offsets"] and (offsets[used:] == n).all()
                assert sha256(inputs, "<i4") == expected["inputs_sha256"]
                assert sha256(targets, "<i8") == expected["targets_sha256"]
                assert sha256(offsets, "<i4") == expected["offsets_full_sha256"]
            batches.rewind()


def test_validation_chunks_equal_golden(tmp_path):
    expected = GOLDEN["validation"]
    tokens = golden_tokens(2, first=0)
    tokens[64] = BOS
    write_shard(tmp_path / "val.bin", tokens)
    n = expected["local_n"]
    chunks = ValidationChunks([tmp_path / "val.bin"], n * len(expected["chunks"]), n)
    assert len(chunks) == len(expected["chunks"])
    for i, chunk in enumerate(expected["chunks"]):
        inputs, targets, offsets = chunks.chunk(i)
        assert inputs.tolist() == chunk["inputs"] and targets.tolist() == chunk["targets"]
        assert offsets[: len(chunk["offsets"])].tolist() == chunk["offsets"]
        assert sha256(inputs, "<i4") == chunk["inputs_sha256"]
        assert sha256(targets, "<i8") == chunk["targets_sha256"]
        assert sha256(offsets, "<i4") == chunk["offsets_full_sha256"]


# The toy counted by hand: spans of each rank and offsets for n = 8, cap 6.
TOY_STARTS = (0, 5, 8, 20, 21, 40, 44, 52, 60, 61)
TOY = [
    [((0, 5), (5, 8), (8, 9)), [0, 5, 8, 8]],
    [((20, 21), (21, 27), (40, 42)), [0, 1, 7, 8]],
    [((44, 50), (52, 55)), [0, 6, 8]],
]


@pytest.mark.parametrize("world_size", [1, 2])
def test_sampler_toy(tmp_path, world_size):
    path = shard(tmp_path / "toy.bin", 70, TOY_STARTS)
    tokens = open_shard(path)
    samplers = [TrainingBatches([path], rank, world_size, 2, 6) for rank in range(world_size)]
    for i, (spans, offsets) in enumerate(TOY[: 4 - world_size]):
        inputs, targets, found = samplers[i % world_size].next(2 * 8)
        expected = np.concatenate([tokens[a:b] for a, b in spans])
        assert inputs.tolist() == expected[:-1].tolist() and targets.tolist() == expected[1:].tolist()
        assert found[: len(offsets)].tolist() == offsets and (found[len(offsets) :] == 8).all()
    for sampler in samplers:
        for _ in range(2):
            with pytest.raises(ShardError, match=rf"ran out: a call needs {world_size} x 9 tokens"):
                sampler.next(16)


@pytest.mark.parametrize(
    ("num_tokens", "length"),
    [
        (1, 128),
        (16384, 128),
        (32768, 128),
        (49152, 256),
        (65536, 256),
        (262144, 896),
        (38399, 128),
        (38700, 256),
    ],
)
def test_offsets_length(num_tokens, length):
    assert data.offsets_length(num_tokens) == length


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=60), min_size=1, max_size=3),
    head=st.integers(0, 5),
    world_size=st.sampled_from([1, 2, 4, 8]),
    n=st.integers(1, 60),
    cap=st.integers(1, 30),
)
def test_sampler_invariants(tmp_path_factory, gaps, head, world_size, n, cap):
    folder = tmp_path_factory.mktemp("property")
    paths, document_of_token = [], {}
    for k, lengths in enumerate(gaps):
        starts = head + np.cumsum([0, *lengths[:-1]])
        size = head + sum(lengths)
        # Every id but BOS occurs once: it tells its place.
        tokens = (np.arange(size) + 10_000 * k).astype(np.uint16)
        tokens[starts] = BOS
        for place, token in enumerate(tokens):
            document_of_token[int(token)] = (k, int(np.searchsorted(starts, place, side="right")))
        write_shard(folder / f"{k}.bin", tokens)
        paths.append(folder / f"{k}.bin")
    samplers = [TrainingBatches(paths, rank, world_size, 8, cap) for rank in range(world_size)]
    seen: list[int] = []
    with pytest.raises(ShardError, match="ran out"):
        while True:
            assert len({(sampler.shard_index, sampler.document_index) for sampler in samplers}) == 1
            for sampler in samplers:
                inputs, targets, offsets = sampler.next(8 * n)
                assert inputs.shape == targets.shape == (n,)
                assert (inputs[1:] == targets[:-1]).all()
                assert offsets[0] == 0 and offsets[-1] == n and (np.diff(offsets) >= 0).all()
                assert len(offsets) % 128 == 0
                assert np.diff(offsets).max() <= cap
                whole = np.append(inputs, targets[-1])
                begins = set(np.flatnonzero(whole == BOS).tolist())
                assert begins - {n} == set(offsets[offsets < n].tolist())
                seen += [token for token in whole.tolist() if token != BOS]
                for start, end in itertools.pairwise(offsets):
                    documents = {document_of_token[int(t)] for t in inputs[start:end] if t != BOS}
                    assert len(documents) <= 1
    assert len(seen) == len(set(seen))  # no token twice


def test_too_many_documents_fail_on_every_rank(tmp_path):
    # Rank 0 gets long documents, rank 1 documents of two tokens: 100 of them fit, 128 do not.
    starts = [0, *range(301, 1000, 2)]
    path = shard(tmp_path / "short.bin", 1000, starts)
    for rank in range(2):
        assert TrainingBatches([path], rank, 2, 2, 10_000).next(400)[2][-1] == 200
        with pytest.raises(
            ShardError, match=r"short.bin packs 130 documents into 259 tokens, but the offsets hold 127"
        ):
            TrainingBatches([path], rank, 2, 2, 10_000).next(2 * 259)


def test_exactly_full_offsets_are_accepted(tmp_path):
    path = shard(tmp_path / "full.bin", 400, range(0, 400, 2))
    offsets = TrainingBatches([path], 0, 1, 1, 100).next(2 * 127 - 1)[2]
    assert offsets.tolist() == [*range(0, 253, 2), 253]
    with pytest.raises(ShardError, match="packs 128 documents into 255 tokens"):
        TrainingBatches([path], 0, 1, 1, 100).next(255)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_too_few_tokens_fail_at_once(tmp_path, world_size):
    paths = [shard(tmp_path / f"{k}.bin", 100, [3]) for k in range(3)]
    with pytest.raises(ShardError, match=rf"the 3 training shards from .*0.bin to .*2.bin ran out.*{world_size} x 201"):
        TrainingBatches(paths, world_size - 1, world_size, 8, 1000).next(8 * 200)
    with pytest.raises(ShardError, match="ran out"):  # no BOS, no document
        TrainingBatches([shard(tmp_path / "none.bin", 100, [])], 0, world_size, 8, 1000).next(8)


def test_id_beyond_gpt2_is_named(tmp_path):
    write_shard(tmp_path / "bad.bin", np.array([BOS, 1, 50300, 2]))
    with pytest.raises(ShardError, match=r"bad.bin holds id 50300, beyond GPT-2's last id 50256"):
        TrainingBatches([tmp_path / "bad.bin"], 0, 1, 1, 10).next(2)
    with pytest.raises(ShardError, match="50300"):
        ValidationChunks([tmp_path / "bad.bin"], 3, 3)


def test_bos_is_found_across_scan_borders(tmp_path, monkeypatch):
    path = shard(tmp_path / "toy.bin", 70, TOY_STARTS)
    whole = TrainingBatches([path], 0, 1, 1, 6).next(8)
    monkeypatch.setattr(shards, "SCAN_TOKENS", 7)
    for a, b in zip(whole, TrainingBatches([path], 0, 1, 1, 6).next(8), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize(
    ("rank", "world_size", "num_slots", "batch_tokens", "message"),
    [
        (0, 3, 8, 80, "world size 3 does not divide the 8 slots"),
        (0, 16, 8, 80, "world size 16 does not divide"),
        (2, 2, 8, 80, r"rank 2 is outside 0..1"),
        (0, 2, 8, 81, "81 batch tokens do not split into 8 slots"),
        (0, 2, 8, 0, "0 batch tokens do not split"),
    ],
)
def test_impossible_layouts_are_named(tmp_path, rank, world_size, num_slots, batch_tokens, message):
    path = shard(tmp_path / "toy.bin", 70, TOY_STARTS)
    with pytest.raises(ValueError, match=message):
        TrainingBatches([path], rank, world_size, num_slots, 6).next(batch_tokens)


def header(magic=shards.MAGIC, version=shards.VERSION, count=5) -> bytes:
    values = np.zeros(256, dtype="<i4")
    values[:3] = magic, version, count
    return values.tobytes()


BODY = np.arange(5, dtype="<u2").tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(magic=20240521) + BODY, "has magic 20240521, expected 20240520"),
        (header(version=2) + BODY, "has version 2, expected 1"),
        (header() + BODY[:-1], "has 1033 bytes, expected 1034 for the 5 tokens"),
        (header() + BODY + b"\0\0", "has 1036 bytes, expected 1034"),
        (header()[:-1], "has 1023 bytes, expected a header of 1024 bytes"),
        (b"", "has 0 bytes, expected a header"),
        (header(count=0), "has a token count of 0, expected at least 1"),
        (header(count=-1), "has a token count of -1"),
    ],
)
def test_malformed_shards_are_named(tmp_path, content, message):
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=message) as error:
        open_shard(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ShardError, match=message):
        TrainingBatches([path], 0, 1, 1, 10).next(1)
    with pytest.raises(ShardError, match=message):
        ValidationChunks([path], 1, 1)


@pytest.mark.parametrize("name", ["folder.bin", "absent.bin"])
def test_not_a_file(tmp_path, name):
    (tmp_path / "folder.bin").mkdir()
    with pytest.raises(ShardError, match=rf"{name} is not a file"):
        open_shard(tmp_path / name)


@settings(max_examples=100, deadline=None)
@given(
    magic=st.just(shards.MAGIC) | st.integers(-(2**31), 2**31 - 1),
    version=st.just(1) | st.integers(-(2**31), 2**31 - 1),
    count=st.integers(0, 12) | st.integers(-(2**31), 2**31 - 1),
    body=st.binary(max_size=24),
)
def test_shard_opens_only_when_header_and_length_agree(tmp_path_factory, magic, version, count, body):
    path = tmp_path_factory.mktemp("header") / "x.bin"
    path.write_bytes(header(magic, version, count) + body)
    if magic == shards.MAGIC and version == 1 and count > 0 and len(body) == 2 * count:
        assert open_shard(path).tobytes() == body
    else:
        with pytest.raises(ShardError):
            open_shard(path)


@given(tokens=st.lists(st.integers(0, 65535), min_size=1, max_size=50))
@settings(max_examples=50, deadline=None)
def test_shard_round_trip(tmp_path_factory, tokens):
    path = tmp_path_factory.mktemp("shard") / "x.bin"
    write_shard(path, np.array(tokens))
    assert open_shard(path).tolist() == tokens
    assert [p.name for p in path.parent.iterdir()] == ["x.bin"]  # no temporary file is left


@pytest.mark.parametrize(
    "tokens",
    [np.array([], dtype=int), np.array([-1]), np.array([65536]), np.zeros((2, 2), int), np.array([1.0])],
)
def test_write_shard_refuses(tmp_path, tokens):
    with pytest.raises(ShardError, match=r"x.bin"):
        write_shard(tmp_path / "x.bin", tokens)
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_shard(tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    write_shard(path, np.array([1, 2]))

    def no_space(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(OSError, match="No space"):
        write_shard(path, np.array([3]))
    assert open_shard(path).tolist() == [1, 2] and list(tmp_path.iterdir()) == [path]


def test_find_shards(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train_2.bin", "train_1.bin", "val_0.bin", "train_3.bin.abc.tmp"):
        (tmp_path / "data" / name).touch()
    assert [p.name for p in shards.find_shards(tmp_path, "data/train_*.bin")] == ["train_1.bin", "train_2.bin"]
    with pytest.raises(ShardError, match=r"no shard matches 'data/test_\*.bin' under .*: .*discreteness data make"):
        shards.find_shards(tmp_path, "data/test_*.bin")
    with pytest.raises(ShardError, match="no training shard"):
        TrainingBatches([], 0, 1, 1, 10)
    with pytest.raises(ShardError, match="no validation shard"):
        ValidationChunks([], 8, 8)


def test_validation_shard_too_short(tmp_path):
    path = shard(tmp_path / "val.bin", 64, [0, 20])
    assert len(ValidationChunks([path], 48, 16)) == 3
    with pytest.raises(ShardError, match=r"val.bin has 64 tokens, expected 65 or more"):
        ValidationChunks([path], 64, 16)
    with pytest.raises(ValueError, match="50 validation tokens do not split into chunks of 16"):
        ValidationChunks([path], 50, 16)
    with pytest.raises(ValueError, match=r"chunk 3 is outside 0..2"):
        ValidationChunks([path], 48, 16).chunk(3)


def test_validation_offsets_overflow_is_refused_before_any_chunk(tmp_path):
    # 126 documents and the two borders fill the 128 offsets; one document more must not be dropped.
    path = shard(tmp_path / "val.bin", 301, range(0, 126))
    offsets = ValidationChunks([path], 300, 150).chunk(0)[2]
    assert offsets.tolist() == [0, *range(126), 150]
    path = shard(tmp_path / "val.bin", 301, range(150, 277))
    with pytest.raises(ShardError, match=r"127 documents in a chunk of 150 tokens, but the offsets hold 126"):
        ValidationChunks([path], 300, 150)


def test_identity_vocabulary():
    vocabulary = Vocabulary.identity()
    assert vocabulary.num_rows == 50257 and vocabulary.row_of_id.dtype == np.int32
    assert vocabulary.rows(np.array([0, 1, BOS])).tolist() == [0, 1, BOS]
    assert vocabulary.contains(np.arange(50257))
    assert (Vocabulary.load(None).row_of_id == vocabulary.row_of_id).all()


def test_small_vocabulary(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("3\n10\n50255\n")
    vocabulary = Vocabulary.load(path)
    assert vocabulary.num_rows == 5 and vocabulary.row_of_id.shape == (50257,)
    assert vocabulary.rows(np.array([[BOS, 3], [10, 50255]])).tolist() == [[0, 2], [3, 4]]
    assert vocabulary.rows(np.array([0, 1, 2, 11])).tolist() == [1, 1, 1, 1]
    assert vocabulary.contains(np.array([BOS, 10])) and not vocabulary.contains(np.array([10, 11]))
    path.write_text("3\n10\n50255\n50256\n")
    assert (Vocabulary.load(path).row_of_id == vocabulary.row_of_id).all()
    with pytest.raises(IndexError):
        vocabulary.rows(np.array([50257]))


@pytest.mark.parametrize("text", ["", "3\n2\n", "3\n3\n", "-1\n", "50257\n", "three\n", "1.5\n"])
def test_bad_vocabulary_is_named(tmp_path, text):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(ValueError, match=r"vocabulary .*ids.txt: .*expected"):
        Vocabulary.load(tmp_path / "ids.txt")
