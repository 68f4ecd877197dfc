"""Nothing is skipped in silence: each skip says what brings it, the last line counts them, `make test` installs."""

import ast
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support import skips

REASONS = {name: text for name, text in vars(skips).items() if name.isupper()}


def skips_in(text):
    """The reason, as it is written, of every skip in a source; "" where none is given."""
    for node in ast.walk(ast.parse(text)):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if name in ("pytest.skip", "pytest.importorskip", "pytest.mark.skip", "pytest.mark.skipif", "unittest.skip"):
            given = {word.arg: word.value for word in node.keywords}
            first = node.args[0] if node.args and name in ("pytest.skip", "pytest.mark.skip") else None
            reason = given.get("reason", first)
            yield ast.unparse(reason) if reason else ""


def test_every_skip_of_the_tests_gives_a_reason_that_says_what_brings_it():
    assert len(REASONS) > 5 and all(re.fullmatch(r"needs .+?: .+", text) for text in REASONS.values())
    found = {path.name: set(skips_in(path.read_text())) for path in (ROOT / "tests").rglob("*.py")}
    found.pop("test_skips.py")
    used = set().union(*found.values())
    assert {name: reasons for name, reasons in found.items() if reasons - {f"skips.{name}" for name in REASONS}} == {}
    assert used == {f"skips.{name}" for name in REASONS}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pytest.skip('no GPU')", "'no GPU'"),
        ("pytest.skip(reason=x)", "x"),
        ("pytest.importorskip('triton')", ""),
        ("pytest.mark.skipif(True, reason=skips.GPU)", "skips.GPU"),
    ],
)
def test_the_search_finds_what_it_is_for(text, reason):
    assert list(skips_in(text)) == [reason]


SKIPPING = """
import pytest

needs = pytest.mark.skipif(True, reason="needs a GPU: a machine with one")

@needs
@pytest.mark.parametrize("n", range(2))
def test_marked(n): ...

def test_called(): pytest.skip("needs Chromium: `make browser`")

def test_other(): pytest.skip("on Mondays")

def test_passes(): ...
"""
COLLECTED = "import pytest\npytest.skip('needs a GPU: a machine with one', allow_module_level=True)\n"


def lines_of_a_run(folder, *options):
    """What pytest prints of the tests in a folder with this plugin, line by line."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.skips", "--rootdir", folder, folder, *options]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "--numprocesses", "2")], ids=["alone", "workers"])
def test_the_last_line_says_what_was_skipped_and_what_brings_it(tmp_path, options):
    (tmp_path / "test_some.py").write_text(SKIPPING)
    (tmp_path / "test_more.py").write_text(COLLECTED)
    *_, own, last = lines_of_a_run(tmp_path, *options)
    assert re.match(r"1 passed, \d skipped in [\d.]+s", own)
    expected = "5 skipped: 3 need a GPU (a machine with one); 1 needs Chromium (`make browser`); 1: on Mondays"
    assert sorted(re.split("[:;] ", last)) == sorted(re.split("[:;] ", expected))


def test_a_run_that_skips_nothing_says_so_and_a_listing_says_nothing(tmp_path):
    (tmp_path / "test_some.py").write_text("def test_passes(): ...")
    *_, own, last = lines_of_a_run(tmp_path)
    assert own.startswith("1 passed in ") and last == "nothing skipped"
    assert "nothing skipped" not in lines_of_a_run(tmp_path, "--collect-only")


@pytest.fixture
def machine(tmp_path):
    """Runs a target of the Makefile where no programs are but those of `make` itself, and those given as scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "make").symlink_to(shutil.which("make"))

    def run(target, **programs):
        for name, script in programs.items():
            (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name.replace("_", "-")).chmod(0o755)
        made = [word for what in ("installed", "developed") for word in ("-o", f"{tmp_path}/venv/{what}")]
        command = ["make", "--no-print-directory", f"VENV={tmp_path}/venv", *made, target]
        environment = {"PATH": str(folder)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.parametrize(("target", "word"), [("browser", "`chromium`"), ("prometheus", "`promtool`")])
@pytest.mark.parametrize(
    "programs",
    [
        {"id": "echo 1000", "apt_get": "echo called"},
        {"id": "echo 0"},
        {"id": "echo 0", "apt_get": "exit 100"},
    ],
    ids=["not root", "not Debian", "no network"],
)
def test_where_nothing_can_be_installed_one_line_says_what_to_install(machine, target, word, programs):
    done = machine(target, **programs)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("no ") and word in line and line.endswith("are skipped")


def test_on_debian_root_installs_chromium_unless_it_is_there(machine, tmp_path):
    calls = tmp_path / "calls"
    done = machine("browser", id="echo 0", apt_get=f'echo "$@" >> {calls}')
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert calls.read_text() == "update -qq\ninstall -qq --no-install-recommends chromium fonts-dejavu-core\n"
    assert machine("browser", chromium="").returncode == 0
    assert len(calls.read_text().splitlines()) == 2


def test_make_test_brings_the_programs_and_ends_with_pytest_and_ci_runs_nothing_else():
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    printed = done.stdout
    assert "install -qq --no-install-recommends chromium" in printed and "apt-get download -qq prometheus" in printed
    last = printed.splitlines()[-1]
    assert " -m pytest " in last and "--durations 10" in last and " -m " not in last.partition("pytest")[2]
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make check", "make test"]
