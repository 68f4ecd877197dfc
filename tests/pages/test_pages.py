"""The pages: links lead somewhere; commands, options, variables, messages named there exist; nothing is said twice."""

import io
import re
import shlex
from collections import Counter
from contextlib import redirect_stdout
from functools import cache

import pytest
import tyro
from speedrun.tracks import Track, tiny

from discreteness.cli.main import COMMANDS
from discreteness.experiment.config import JobConfig, RunConfig
from discreteness.inference import load
from discreteness.service import evaluator_pool, timeouts
from tests.conftest import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "modded-nanogpt" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
PROGRAMS = {"python", "torchrun", "ray", "make", "discreteness"}


def anchors(page):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            yield target


def commands(text):
    """Command lines, as words, of code blocks without a language and of inline code."""
    lines = [line for of, block in FENCE.findall(text) if not of for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`]+)`", FENCE.sub("", text))
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # an apostrophe: prose or a tree, not a command
            continue
        if words[:3] == ["ray", "job", "submit"] and "--" in words:
            words = words[words.index("--") + 1 :]
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words and words[0] in PROGRAMS:
            yield words


@cache
def options(*command):
    """Options in the help of `discreteness COMMAND`, or of run_seeds.py if none is given. Nothing is run."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end, redirect_stdout(printed):
        patch.setenv("COLUMNS", "200")
        if command:
            tyro.extras.subcommand_cli_from_dict(COMMANDS, args=[*command, "--help"])
        else:
            tyro.cli(tyro.conf.OmitArgPrefixes[JobConfig], args=["--help"])
    assert end.value.code == 0, f"discreteness {' '.join(command)}"
    lines = re.findall(r"^[│| ]*(-.*)$", printed.getvalue(), re.M)
    return {option for line in lines for option in re.findall(r"(?<![\w-])--[\w-]+", line)}


def wrong(words):
    """What does not exist of a command."""
    program, *rest = words
    given = [word.partition("=")[0] for word in rest if word.startswith("--")]
    if program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
        return [word for word in rest if "=" not in word and word not in targets]
    if program == "python" and rest[:1] == ["-m"]:
        module = ROOT / rest[1].replace(".", "/")
        ours = rest[1].partition(".")[0] in ("tests", "discreteness", "benchmarks")
        return [rest[1]] if ours and not (module.is_dir() or module.with_suffix(".py").is_file()) else []
    if program in ("python", "torchrun"):
        scripts = [word for word in rest if word.endswith(".py")][:1]
        missing = [name for name in scripts if not any((ROOT / at / name).is_file() for at in ("", "modded-nanogpt"))]
        if scripts == ["jobs/run_seeds.py"]:
            missing += [option for option in given if option not in options()]
        return missing
    if program == "discreteness" and rest:
        if rest[0] not in COMMANDS:
            return rest[:1]
        known = options(*rest[: 2 if rest[0] == "data" and len(rest) > 1 else 1])
        return [option for option in given if option not in known]
    return []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_its_heading(page):
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_exists_with_its_options(page):
    assert {shlex.join(words): what for words in commands(page.read_text()) if (what := wrong(words))} == {}


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_sources():
    code = "".join(path.read_text() for at in ("discreteness", "modded-nanogpt") for path in (ROOT / at).rglob("*.py"))
    cells = re.findall(r"^\| `([^`]+)`", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    assert len(cells) > 30
    assert [part for cell in cells for part in cell.split(" … ") if part not in code] == []


def test_the_track_of_the_how_to_page_is_one():
    ((_, block),) = [found for found in FENCE.findall((ROOT / "docs/howto.md").read_text()) if found[0] == "python"]
    names = {}
    exec(compile(block, "docs/howto.md", "exec"), names)
    assert isinstance(names["slow"], Track) and names["slow"].optimizer.normuon_lr == tiny.optimizer.normuon_lr / 2


def said_twice(page):
    """What two bullets of one list begin with, and rows that stand in a table twice."""
    for block in FENCE.sub("", page.read_text()).split("\n\n"):
        items = re.findall(r"^[-*] (\*\*.+?\*\*|`.+?`)|^(\|.+\|)$", block, re.M)
        yield from (text for text, count in Counter(map("".join, items)).items() if count > 1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_list_or_table_says_a_thing_twice(page):
    assert list(said_twice(page)) == []


OTHERS_VARIABLES = re.compile(r"(RAY|AWS|HF)_\w+|SLURMD?_\w+|(TORCHINDUCTOR|TRITON)_CACHE_DIR")
"""Read by Ray, by libraries of object stores and of the hub, by torch's compiler; or set by SLURM."""


def unread_variables(page):
    """Environment variables that a page names and nobody reads."""
    named = set(re.findall(r"(?<![\w{.])[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b(?!\.)", page.read_text()))
    folders = ("discreteness", "modded-nanogpt", "benchmarks", "tests/chaos")
    files = [path for at in folders for path in (ROOT / at).rglob("*") if path.suffix in (".py", ".sh")]
    code = "".join(path.read_text() for path in [*files, ROOT / "Makefile"])
    return {name for name in named if name not in code and not OTHERS_VARIABLES.fullmatch(name)}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ("log.md", "SPEEDRUN.md")], ids=str)
def test_every_variable_that_a_page_names_is_read_by_somebody(page):
    assert unread_variables(page) == set()


def test_the_bounds_of_the_faults_page_are_those_of_the_code():
    table = (ROOT / "docs/faults.md").read_text().partition("## Every wait and its end")[2]
    page = {
        who: re.findall(r"(\d+) s\b", bound) for who, bound in re.findall(r"^\| (.+?) \| .+? \| (.+?) \|", table, re.M)
    }
    code = {
        "evaluator's answer, of the speedrun": [
            timeouts.CALL_TIMEOUT_S,
            evaluator_pool.IN_FLIGHT_EACH * timeouts.CALL_TIMEOUT_S,
        ],
        "evaluator's start": [timeouts.START_TIMEOUT_S],
        "bytes of a checkpoint to keep": [evaluator_pool.IN_FLIGHT_EACH * timeouts.CALL_TIMEOUT_S],
        "credit or staging buffer, of the speedrun": [timeouts.WAIT_TIMEOUT_S],
        "drain at the end of a seed": [timeouts.WAIT_TIMEOUT_S],
        "collective of a trainer": [timeouts.PROCESS_GROUP_TIMEOUT_S],
        "finish: validation of a trained seed": [timeouts.TAIL_PATIENCE_S],
        "finish: the commit": [timeouts.COMMIT_PATIENCE_S],
        "other ranks for rank 0's lease or finish": [timeouts.LEASE_POLL_S],
        "silence of an attempt, or of a trainer that builds its model": [timeouts.LEASE_DEADLINE_S],
        "a trainer's place": [RunConfig.start_timeout_s],
        "trainers leaving when all is done": [timeouts.LEAVE_S],
    }
    assert {who: page[who] for who in code} == {who: [str(s) for s in bounds] for who, bounds in code.items()}
    assert page["dispatcher's answer to the driver"][0] == str(timeouts.ANSWER_S)


def test_the_default_track_of_weights_is_that_of_the_code():
    text = " ".join((ROOT / "docs/models.md").read_text().split())
    assert f"its track is `{load.DEFAULT_TRACK}` unless `--track` says otherwise" in text
    assert "neither is guessed" not in text


def test_a_page_that_is_wrong_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading\nNO_SUCH_THING=1 HF_TOKEN=x\n"
        "[a](none.md) [b](#one-heading) [c](#two) `make tee` `discreteness stat`\n"
        "```\npython jobs/run_seeds.py --seed 3 \\\n    --dry-run  # --nothing\nX=1 python -m tests.none\n"
        "ray job submit --working-dir . -- python jobs/run_seed.py\n"
        "discreteness data make --globs x\ndiscreteness status runs/first --json --yaml\n```\n"
    )
    assert list(broken_links(page)) == ["none.md", "#two"] and list(said_twice(page)) == []
    assert unread_variables(page) == {"NO_SUCH_THING"}
    twice = tmp_path / "twice.md"
    twice.write_text("- **Data**: here\n- **Output**: there\n- **Data**: here\n\n| a | 1 |\n| b | 1 |\n| a | 1 |\n")
    assert list(said_twice(twice)) == ["**Data**", "| a | 1 |"]
    found = [what for words in commands(page.read_text()) for what in wrong(words)]
    assert sorted(found) == ["--globs", "--seed", "--yaml", "jobs/run_seed.py", "stat", "tee", "tests.none"]
    assert {"--seeds", "--no-fp8"} < options() and "--json" in options("status")
