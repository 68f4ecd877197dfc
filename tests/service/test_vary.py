"""What seeds vary, in real runs: the first losses, the later ones, what the dataset says, what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console
from speedrun.training import Trainer
from speedrun.vary import Vary

import discreteness
from discreteness.cli.dataset_commands import Status
from discreteness.cluster.estimate import inline_report
from discreteness.cluster.machines import this_machine
from discreteness.dataset.mismatch import IdentityMismatch
from discreteness.dataset.status import job_status
from discreteness.dataset.vary import WORDS, words_of
from discreteness.dataset.watch import picture
from discreteness.service import inline
from tests.support.brief_track import brief, write_shards
from tests.support.job_case import job_config, prepared

MODES = ("init", "data", "both")


@pytest.fixture(scope="module")
def settings(tmp_path_factory, private_home):
    folder = tmp_path_factory.mktemp("vary")
    (folder / "documents").mkdir()
    (folder / "documents/a.txt").write_text("one two three four five six seven eight nine ten " * 4)
    return {
        "track": "tests.support.brief_track:brief",
        "data": str(write_shards(folder / "shards")),
        "documents": str(folder / "documents"),
        "checkpoints": "0,1,5",
        "seeds": "0-2",
    }


@pytest.fixture(scope="module")
def datasets(settings, tmp_path_factory):
    """Value of --vary -> the dataset of a finished inline run."""
    folder = tmp_path_factory.mktemp("sets")
    for vary in MODES:
        assert inline.run_inline(job_config(**settings, vary=vary, val_tokens=0, output=str(folder / vary))) == 0
    return {vary: discreteness.open(folder / vary) for vary in MODES}


def all_differ(losses):
    """float32 [seeds, tokens]: no two seeds have the same."""
    return len(np.unique(losses, axis=0)) == len(losses)


def test_seeds_begin_alike_where_the_data_vary_and_part_at_the_first_update(datasets):
    first, second, last = np.moveaxis(datasets["data"].losses("a.txt"), 1, 0)
    assert first[0].tobytes() == first[1].tobytes() == first[2].tobytes()
    assert all_differ(second) and all_differ(last)


@pytest.mark.parametrize("vary", ["init", "both"])
def test_seeds_begin_apart_where_the_weights_vary(datasets, vary):
    assert all(all_differ(losses) for losses in np.moveaxis(datasets[vary].losses("a.txt"), 1, 0))


def test_what_is_not_varied_is_that_of_seed_0_or_of_the_files(datasets):
    init, data, both = (datasets[vary].losses("a.txt") for vary in MODES)
    assert (data[:, 0] == init[0, 0]).all()  # the weights of seed 0
    assert (both[:, 0] == init[:, 0]).all()  # those of each seed
    assert (both[0] == data[0]).all()  # seed 0 is the same in both, to the last step
    assert (data[0, 1:] != init[0, 1:]).any()  # and is not that of the files' order
    objectives = {vary: [datasets[vary].runs(seed)["train_loss"].to_pylist() for seed in range(3)] for vary in MODES}
    assert objectives["both"][0] == objectives["data"][0] and objectives["both"][1] != objectives["data"][1]


@pytest.mark.parametrize("vary", ["data", "both"])
def test_a_seed_is_the_same_in_a_warm_trainer_prepared_ahead_and_in_a_fresh_one(settings, datasets, vary):
    trainer = Trainer(brief, settings["data"], vary=vary)
    list(trainer.train(0, [5]))
    trainer.prepare(2)
    objectives = [record["train_loss"] for point in trainer.train(2, range(6)) for record in point.records]
    fresh = Trainer(brief, settings["data"], vary=vary)
    assert objectives == [record["train_loss"] for point in fresh.train(2, range(6)) for record in point.records]
    assert objectives == datasets[vary].runs(2)["train_loss"].drop_null().to_pylist()


def test_the_dataset_says_it(datasets):
    for vary, dataset in datasets.items():
        assert dataset.vary == vary and f", vary: {vary}, " in repr(dataset)
        assert dataset.seeds_differ == WORDS[vary]
    assert words_of({}) == "it is not recorded what they vary" and words_of({"vary": [1]}) == "they vary [1]"


@pytest.mark.parametrize("vary", MODES)
def test_plan_status_and_watch_say_it(settings, datasets, vary, capsys):
    config = job_config(**settings, vary=vary)
    said = f"seeds vary {vary}: {WORDS[vary]}"
    assert said in inline_report(prepared(**settings, vary=vary), config.run, this_machine())
    uri = datasets[vary].storage.uri
    Status(uri)()
    assert said in capsys.readouterr().out.splitlines()
    Status(uri, json=True)()
    assert json.loads(capsys.readouterr().out)["vary"] == vary
    console = Console(width=200)
    with console.capture() as shown:
        console.print(picture(job_status(uri)))
    assert f"seeds: {WORDS[vary]}" in shown.get()


def test_there_are_words_for_every_value():
    assert set(WORDS) - {"model"} == set(Vary.__args__) == set(MODES)  # "model": of a series


def test_going_on_with_another_value_is_refused(settings, datasets):
    output = datasets["init"].storage.uri
    with pytest.raises(IdentityMismatch, match="vary: 'init' there, 'data' here") as error:
        inline.run_inline(job_config(**settings, vary="data", val_tokens=0, output=output))
    (difference,) = error.value.differing
    assert difference.startswith("vary: ")


def test_only_the_value_differs_between_their_identities(settings):
    init, data = (prepared(**settings, vary=vary) for vary in ("init", "data"))
    assert (init.supply.seed, data.supply.seed) == (None, 0), "the count of the order that is read"
    identity = init.identity | {"vary": "data"}
    assert dataclasses.replace(init, vary="data", identity=identity, supply=data.supply) == data
