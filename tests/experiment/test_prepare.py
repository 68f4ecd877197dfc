"""The experiment: a process that finds other shards than the job was started with says so before it uses them."""

import dataclasses

import numpy as np
import pytest
from speedrun.data.shards import BOS, write_shard

from discreteness.experiment.prepare import check_shards
from discreteness.scoring.evaluator import Evaluator
from tests.shards.test_make_shards import own
from tests.support.job_case import prepared

TRACK = "tests.shards.test_make_shards:own"


def fill(folder):
    random = np.random.default_rng(0)
    (folder / "data" / "mine").mkdir(parents=True)
    for name, count in ("train_000001", 9000), ("train_000002", 9000), ("val_000000", 3000):
        tokens = random.integers(200, 2000, count)
        tokens[::50] = BOS
        write_shard(folder / "data" / "mine" / f"mine_{name}.bin", tokens)
    return folder / "data" / "mine"


@pytest.fixture
def place(tmp_path):
    folder = fill(tmp_path)
    return folder, prepared(track=TRACK, data=str(tmp_path), val_tokens=512)


def test_the_same_shards_are_no_news(place):
    _, experiment = place
    check_shards(experiment, own.data.train_glob, own.data.val_glob)
    Evaluator(experiment, "cpu")


def change_a_token(folder):
    content = bytearray((folder / "mine_train_000002.bin").read_bytes())
    content[5000] ^= 1
    (folder / "mine_train_000002.bin").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change_a_token, "shard mine_train_000002.bin under .* differs.*copy"),
        (lambda folder: (folder / "mine_train_000002.bin").unlink(), "mine_train_000002.bin under .* is not there"),
        (
            lambda folder: fill_one(folder, "mine_train_000003.bin"),
            "mine_train_000003.bin under .* should not be there",
        ),
        (lambda folder: fill_one(folder, "mine_val_000000.bin"), "mine_val_000000.bin under .* differs"),
        (lambda folder: [path.unlink() for path in folder.glob("mine_train_*")], "no shard matches"),
    ],
)
def test_other_shards_are_named(place, damage, words):
    folder, experiment = place
    damage(folder)
    with pytest.raises(ValueError, match=words):
        check_shards(experiment, own.data.train_glob, own.data.val_glob)


def fill_one(folder, name):
    write_shard(folder / name, np.full(4000, BOS))


def test_an_evaluator_needs_the_validation_shard_and_only_that(place):
    folder, experiment = place
    change_a_token(folder)
    Evaluator(experiment, "cpu")
    fill_one(folder, "mine_val_000000.bin")
    with pytest.raises(ValueError, match=r"mine_val_000000\.bin under .* differs"):
        Evaluator(experiment, "cpu")
    Evaluator(dataclasses.replace(experiment, val_tokens=0), "cpu")
