"""Every command in a block of README.md and docs/: run on data, run dry, or parsed by its program; none left out."""

import argparse
import functools
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import tyro
from speedrun.data.shards import BOS, write_shard
from speedrun.data.supply import measure
from speedrun.tracks import small

import discreteness
from discreteness.cli.main import COMMANDS
from discreteness.cluster.machines import Cluster, Node
from discreteness.experiment import prepare
from discreteness.experiment.config import JobConfig
from discreteness.series.config import SeriesConfig
from discreteness.service import seeds_job
from tests.conftest import ROOT
from tests.pages.test_pages import FENCE, PAGES
from tests.support.dataset_case import DOCUMENTS, token_bytes
from tests.support.odd_place import ODD
from tests.support.planted_dataset import create_planted, log_plan
from tests.support.ray_commands import unknown_to_ray

DOCUMENTED = [
    page for page in PAGES if page.name not in ("log.md", "SPEEDRUN.md")
]  # what was typed once, and a contract
RUN = {"status", "watch", "verify", "compact", "analyze", "export", "documents"}
"""Subcommands that are run here, where they are given `runs/first` or `texts`."""
ELSEWHERE = {
    "doctor": "test_doctor.py, test_jobs.py",
    "view": "test_viewer.py",
    "page": "test_static_page.py",
    "rescore": "test_rescore.py",
    "merge": "test_merge.py",
    "publish": "test_publish.py",
    "score": "test_model_pages.py",
    "generate": "test_model_pages.py",
    "validate": "test_model_pages.py",
    "check-series": "test_check.py",
    "data": "test_model_pages.py",
}
"""Subcommands that are parsed here, and the tests that run them."""
OTHERS = {
    "export",
    "cd",
    "source",
    "chmod",
    "mount",
    "pip",
    "curl",
    "docker",
    "hf",
    "kubectl",
    "prometheus",
    "tensorboard",
    "ssh",
    "nft",
    "srun",
    "squeue",
    "sleep",
    "trap",
    "wait",
}
"""Programs of others: only the files of ours that they are given are looked up."""


def lines(page):
    """Command lines of a page's blocks, as words, without what they set before the program."""
    for language, block in FENCE.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines() if not language else ():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # a tree, with an apostrophe
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            if words[-1:] == ["&"]:
                del words[-1]
            if words and (words[0].startswith("./") or words[0].startswith(".venv/bin/")):
                words[0] = Path(words[0]).name
            if words:
                yield words
            if "--" in words and words[:3] == ["ray", "job", "submit"]:
                yield words[words.index("--") + 1 :]
            if words[:1] == ["srun"]:
                yield words[words.index("ray") :]


def given_to(*programs):
    return [(page, words) for page in DOCUMENTED for words in lines(page) if words[0] in programs]


def ours(words):
    """What `discreteness ...` would call. SystemExit: it is not understood."""
    return tyro.extras.subcommand_cli_from_dict(COMMANDS, args=words[1:], console_outputs=False)


def jobs():
    return [(p, words[2:]) for p, words in given_to("python") if words[1:2] == ["jobs/run_seeds.py"]]


def scripts():
    """[(script, arguments)] of other programs in Python."""
    for _, words in given_to("python", "torchrun"):
        at = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
        if at is not None and words[1] != "-m" and not words[at].startswith("jobs/"):
            (path,) = [p for folder in ("", "modded-nanogpt") if (p := ROOT / folder / words[at]).is_file()]
            yield path, words[at + 1 :]


def test_every_line_that_looks_like_a_command_is_of_a_program_that_is_checked():
    known = {"discreteness", "python", "torchrun", "ray", "make", "run.sh"} | OTHERS
    first = {words[0] for page in DOCUMENTED for words in lines(page)}
    # The rest is the outline of a dataset: names of files.
    assert {word for word in first - known if re.fullmatch(r"[a-z]+", word)} == set()
    named = [words for _, words in given_to("discreteness") if words[1] in COMMANDS]
    assert len(named) > 30 and {words[1] for words in named} - RUN - ELSEWHERE.keys() == set()
    files = [word for _, words in given_to(*OTHERS) for word in words if word.startswith("deploy/")]
    assert len(files) == 3 and all((ROOT / name).is_file() for name in files)


def test_every_command_of_ours_is_understood_by_its_own_parser():
    for _, words in given_to("discreteness"):
        ours(words)
    with pytest.raises(SystemExit):
        ours(["discreteness", "export", "runs/first", "--format", "arrow", "--output", "x"])


DATASETS = "first", "more", "mine", "small"
"""In runs/."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The datasets that pages name, as a user has them, and texts/."""
    folder = tmp_path / ODD
    (folder / "texts").mkdir(parents=True)
    (folder / "texts" / "one.txt").write_text("The capital of France is⟦ Paris⟧.")
    (prompts,) = [
        block for language, block in FENCE.findall((ROOT / "docs/howto.md").read_text()) if language == "jsonl"
    ]
    (folder / "questions.jsonl").write_text(prompts)
    monkeypatch.chdir(folder)
    steps = log_plan(12, 300)
    for name in DATASETS:
        dataset = create_planted(Path("runs", name).absolute(), DOCUMENTS, token_bytes, steps, range(3))
        dataset.log_job(range(3), 3)
    return folder


def test_commands_on_a_dataset_run_as_they_are_printed(folder, capsys):
    done = set()
    for page in DOCUMENTED:
        for _, words in [(p, w) for p, w in given_to("discreteness") if p == page and w[1] in RUN]:
            if not any(word.startswith(("s3://", "hf://")) for word in words):
                if (output := getattr(command := ours(words), "output", None)) and Path(output).is_file():
                    Path(output).unlink()  # of the page before
                assert command() == 0, (page.name, words)
                done.add(words[1])
    assert done == RUN
    told = capsys.readouterr().out
    for part in (
        "committed: 3 seeds: 0-2",
        "complete and correct",
        "' Paris'",
        "africa_kenya",
        "3 seeds added to board",
    ):
        assert part in told
    assert Path("losses.csv").is_file() and Path("runs/first/analysis/overview.png").is_file()


def pythons(page):
    return [block for language, block in FENCE.findall(page.read_text()) if language == "python"]


def test_every_block_of_python_is_of_a_page_whose_blocks_are_run():
    """Here, in test_model_pages.py, test_any_model_page.py, test_analysis_page.py and test_dataset_page.py."""
    found = {page.name: len(pythons(page)) for page in DOCUMENTED if pythons(page)}
    run = {"README.md": 1, "researchers.md": 1, "howto.md": 1, "data.md": 1, "models.md": 1, "analysis.md": 1}
    assert found == run | {"dataset.md": 5, "any_model.md": 3}


def test_the_python_of_the_readme_runs(folder):
    (block,) = pythons(ROOT / "README.md")
    for name, token in ("elements_symbols.txt", None), ("brackets_quotes.txt", 196):
        assert name in block and (token is None or f"token={token}" in block)
        block = block.replace(name, DOCUMENTS[0].name).replace(f"token={token}", "token=1")
    matplotlib.use("Agg")
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    (axes,) = names["plt"].gcf().axes
    drawn = [line.get_ydata().tolist() for line in axes.get_lines()]
    names["plt"].close("all")
    assert drawn == discreteness.open("runs/first").losses(DOCUMENTS[0].name, token=1).tolist()
    assert (folder / "token.png").read_bytes().startswith(b"\x89PNG")


def test_the_python_about_seeds_runs(folder, capsys):
    (block,) = pythons(ROOT / "docs/researchers.md")
    block = block.replace("one.txt", DOCUMENTS[0].name).replace("token=6", "token=1")
    exec(compile(block, "docs/researchers.md", "exec"), {})
    assert capsys.readouterr().out.startswith("learned in ")


def many_shards(folder):
    """What `small` takes and more: one shard of 10^7 tokens in documents of 2,000, under many names."""
    tokens = np.zeros(10**7, np.uint16)
    tokens[::2000] = BOS
    write_shard(folder / "one.bin", tokens)
    for glob, count in ((small.data.train_glob, 60), (small.data.val_glob, 1)):
        for number in range(count):
            path = folder / glob.replace("*", f"{number:06d}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.hardlink_to(folder / "one.bin")


def test_jobs_are_planned_as_they_are_printed(folder, monkeypatch, capsys):
    """`--dry-run` of each: on this machine, and for `small` on eight nodes of eight H100."""
    many_shards(folder)
    counted = functools.cache(measure)  # a second for each job of `small`, and few of them differ
    monkeypatch.setattr(prepare, "measure", lambda paths, *rest, **how: counted(tuple(paths), *rest, **how))
    track = dict(FENCE.findall((ROOT / "docs/howto.md").read_text()))["python"]
    (folder / "mytracks.py").write_text(track)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the current folder is looked into
    cluster = Cluster((Node(192, 8, "H100", 4 * 10**11),) * 8, local=False)
    asked = {shlex.join(words): tyro.cli(tyro.conf.OmitArgPrefixes[JobConfig], args=words) for _, words in jobs()}
    assert len(asked) > 10
    for line, config in asked.items():
        with monkeypatch.context() as patch:
            experiment = config.experiment
            if experiment.track == "small":
                experiment = replace(experiment, data=str(folder))
                patch.setattr(seeds_job, "find_cluster", lambda metadata, object_store_gb: cluster)
            # A plan looks at its output; those of the pages are buckets, or datasets of other experiments here.
            run = replace(config.run, dry_run=True, output=str(folder / "planned"))
            assert seeds_job.run(JobConfig(experiment=experiment, run=run)) == 0, line
            assert not (folder / "planned").exists()
    told = capsys.readouterr().out
    assert told.count("time: about") == len(asked)
    assert "trainers: 64, each with 1 worker on one node, one GPU per worker" in told
    assert "trainers: 8, each with 8 workers" in told
    assert "track slow: 4 seeds" in told
    assert sorted(path.name for path in (folder / "runs").iterdir()) == sorted(DATASETS)


def test_series_are_asked_for_as_they_are_printed():
    printed = [words[2:] for _, words in given_to("python") if words[1:2] == ["jobs/score_checkpoints.py"]]
    assert len(printed) > 1
    for words in printed:
        assert tyro.cli(SeriesConfig, args=words).models


class Parsed(Exception):
    """A script has understood its arguments."""


def test_scripts_understand_the_arguments_they_are_printed_with(monkeypatch):
    def stop(parser, *arguments):
        raise Parsed(real(parser, *arguments))

    real = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    folders = (ROOT / name for name in ("benchmarks", "modded-nanogpt", "modded-nanogpt/data"))
    monkeypatch.setattr(sys, "path", [*sys.path, *map(str, folders)])
    found = list(scripts())
    assert len({path for path, _ in found}) > 5
    for path, arguments in found:
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        with pytest.raises(Parsed):
            runpy.run_path(str(path), run_name="__main__")


def test_ray_and_make_know_what_they_are_asked():
    commands = [words for _, words in given_to("ray")]
    assert len(commands) > 10 and [words for words in commands if unknown_to_ray(words)] == []
    targets = {words[1] for _, words in given_to("make")}
    assert {"run", "test", "chaos"} < targets
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
