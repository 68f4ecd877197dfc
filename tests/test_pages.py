"""README.md and docs/: links lead somewhere; commands, options, targets, scripts, messages named there exist."""

import io
import re
import shlex
from contextlib import redirect_stdout
from functools import cache

import pytest
import tyro
from speedrun.tracks import Track, tiny

from discreteness.cli import COMMANDS
from discreteness.config import RunConfig
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
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
            tyro.cli(RunConfig, args=["--help"])
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_its_heading(page):
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
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


def test_a_page_that_is_wrong_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading\n[a](none.md) [b](#one-heading) [c](#two) `make tee` `discreteness stat`\n"
        "```\npython jobs/run_seeds.py --seed 3 \\\n    --dry-run  # --nothing\nX=1 python -m tests.none\n"
        "ray job submit --working-dir . -- python jobs/run_seed.py\n"
        "discreteness data make --globs x\ndiscreteness status runs/first --json --yaml\n```\n"
    )
    assert list(broken_links(page)) == ["none.md", "#two"]
    found = [what for words in commands(page.read_text()) for what in wrong(words)]
    assert sorted(found) == ["--globs", "--seed", "--yaml", "jobs/run_seed.py", "stat", "tee", "tests.none"]
    assert {"--seeds", "--no-fp8"} < options() and "--json" in options("status")
