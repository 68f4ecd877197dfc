"""The experiment: a process that finds other shards than the job was started with says so, as does one with too few."""

import dataclasses

import numpy as np
import pytest
from speedrun.data.shards import BOS, find_shards, open_shard, write_shard
from speedrun.data.supply import measure

from discreteness.cluster.estimate import what_is_trained_on
from discreteness.experiment import prepare
from discreteness.experiment.prepare import check_shards
from discreteness.scoring.speedrun_scorer import SpeedrunScorer
from tests.shards.test_make_shards import own
from tests.support.brief_track import brief, write_shards
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
    SpeedrunScorer(experiment, "cpu")


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
    SpeedrunScorer(experiment, "cpu")
    fill_one(folder, "mine_val_000000.bin")
    with pytest.raises(ValueError, match=r"mine_val_000000\.bin under .* differs"):
        SpeedrunScorer(experiment, "cpu")
    SpeedrunScorer(dataclasses.replace(experiment, val_tokens=0), "cpu")


# ---- how many tokens there are ----


@pytest.fixture(autouse=True)
def no_code(monkeypatch):
    """To hash the code takes a second or two each time."""
    monkeypatch.setattr(prepare, "sources_hash", lambda sources: "the code")


def brief_settings(tmp_path, **settings):
    """A track of 12 updates of 4 documents each, and shards of 40 documents."""
    return dict(track="tests.service.test_trainer_worker:long", data=str(write_shards(tmp_path)), **settings)


def test_a_run_whose_documents_run_out_is_refused_with_the_arithmetic(tmp_path):
    settings = brief_settings(tmp_path)
    with pytest.raises(ValueError, match=r"needs 768 training tokens for 12 updates.* gives 640, 10 upd") as error:
        prepared(**settings)
    assert str(error.value).startswith(f"--data {tmp_path}: a seed of track long needs ")
    assert (
        "or of shards): add shards, or give --epochs 2, which reads the shards 2 times and changes what is learned"
        in str(error.value)
    )
    experiment = prepared(**settings, epochs=2)
    assert (experiment.epochs, experiment.supply.passes, experiment.identity["epochs"]) == (2, 2, 2)
    with pytest.raises(ValueError, match="--epochs 0: must be at least 1"):
        prepared(**settings, epochs=0)


def test_the_plan_says_what_is_taken_of_the_shards(tmp_path):
    settings = brief_settings(tmp_path)
    (line,) = what_is_trained_on(prepared(**settings, epochs=3))
    begin = "data: 768 training tokens per seed from 1 shard of 1,640"
    assert line == f"{begin}, of which one pass gives 640: 2 passes, the last not whole"
    settings["track"] = "tests.support.brief_track:brief"
    begin = begin.replace("768", "320")
    assert what_is_trained_on(prepared(**settings)) == (f"{begin}; one pass is enough",)
    (line,) = what_is_trained_on(prepared(**settings, vary="data"))
    assert line == f"{begin}; one pass is enough in any order"


def test_passes_belong_to_the_identity_where_they_are_taken(tmp_path):
    """A permission that nobody needs changes nothing."""
    settings = brief_settings(tmp_path)
    assert prepared(**settings, epochs=5).identity == prepared(**settings, epochs=2).identity
    settings["track"] = "tests.support.brief_track:brief"
    once = prepared(**settings)
    assert prepared(**settings, epochs=2).identity == once.identity
    assert once.identity["epochs"] == 1
    shuffled = prepared(**settings, vary="data")
    assert shuffled.supply.any_order and prepared(**settings, vary="data", epochs=2).identity == shuffled.identity
    settings["track"] = "tests.service.test_trainer_worker:long"
    assert prepared(**settings, vary="both", epochs=3).identity["epochs"] == 3


def test_the_seeds_of_a_run_are_those_that_are_counted(tmp_path):
    settings = brief_settings(tmp_path, vary="data")
    with pytest.raises(ValueError, match=r": seed 7 of track long needs "):
        prepared(**settings, seeds="7-9")


def test_workers_of_a_trainer_count(tmp_path):
    """Several take their slots from the documents of one shard together, so each shard's end is lost to all of them."""
    folder = tmp_path / "data" / "tiny"
    write_shards(tmp_path)
    whole = open_shard(folder / "tiny_train_000001.bin")
    for number in range(8):  # 5 documents each: one micro-batch of four ranks, or five of one
        write_shard(folder / f"tiny_train_{number + 1:06d}.bin", whole[41 * 5 * number : 41 * 5 * (number + 1)])
    settings = dict(track="tests.support.brief_track:brief", data=str(tmp_path), epochs=9)
    found = {workers: prepared(**settings, workers_per_trainer=workers).supply for workers in (1, 4)}
    assert (found[1].usable_updates, found[4].usable_updates) == (5, 5)
    assert (measured(tmp_path, 1), measured(tmp_path, 4)) == (10, 8)


def measured(root, world_size):
    return measure(find_shards(root, brief.data.train_glob), brief, world_size, beyond=True).usable_updates
