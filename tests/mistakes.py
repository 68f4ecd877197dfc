"""Plants each mistake of mistakes.toml in a copy of the checkout and says which test notices it.

python -m tests.mistakes                          all of them: about an hour on two cores
python -m tests.mistakes discreteness/service/evaluator_pool.py     those of one source file
python -m tests.mistakes --table                  runs nothing: the table of docs/development.md, from past results

A mistake counts as noticed when an assertion or an error of a test fails it within TIMEOUT_S. One that only hangs, or
that only breaks an import, was not noticed.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "runs/mistakes.json"
TIMEOUT_S = 240
"""For all tests of one mistake. Whole, the slowest of these files takes a quarter of that."""


def mistakes() -> list[dict]:
    """Each with `file`, `rule`, `mistake`, `old`, `new` and the `tests` that should notice: paths below tests/."""
    return tomllib.loads(Path(__file__).with_name("mistakes.toml").read_text())["mistake"]


def planted(mistake: dict, source: str) -> str:
    """The source with the mistake in it. ValueError: its place is not there exactly once."""
    if source.count(mistake["old"]) != 1:
        raise ValueError(f"{mistake['file']} holds {source.count(mistake['old'])} times: {mistake['old']!r}")
    return source.replace(mistake["old"], mistake["new"])


def copy_checkout(folder: Path) -> None:
    """Tracked and new files, as git sees them."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in names.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def noticed_by(mistake: dict, checkout: Path) -> str:
    """The test that fails, or "" and why none did."""
    path = checkout / mistake["file"]
    sound = path.read_text()
    path.write_text(planted(mistake, sound))
    try:
        return _run(checkout, mistake["tests"])
    finally:
        path.write_text(sound)


def _run(checkout: Path, tests: list[str]) -> str:
    search = os.pathsep.join([str(checkout), str(checkout / "modded-nanogpt")])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        *(f"tests/{name}" for name in tests),
    ]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "(only hangs)"
        output.seek(0)
        text = output.read()
    failed = re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", text, re.MULTILINE)
    return failed[0] if code == 1 and failed else "(not noticed)" if code == 0 else f"(pytest ended with {code})"


def table(results: dict[str, str]) -> str:
    """Markdown: rule, planted mistake, the test that notices it."""
    rows = ["| rule | planted mistake | noticed by |", "|---|---|---|"]
    for mistake in mistakes():
        test = results.get(key(mistake), "(not run)")
        rows.append(f"| {mistake['rule']} | `{Path(mistake['file']).name}`: {mistake['mistake']} | {test} |")
    return "\n".join(rows)


def key(mistake: dict) -> str:
    return f"{mistake['file']}: {mistake['mistake']}"


def main(arguments: list[str]) -> int:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if "--table" in arguments:
        print(table(results))
        return 0
    chosen = [mistake for mistake in mistakes() if not arguments or mistake["file"] in arguments]
    with tempfile.TemporaryDirectory(prefix="mistakes-") as folder:
        copy_checkout(Path(folder))
        for mistake in chosen:
            results[key(mistake)] = found = noticed_by(mistake, Path(folder))
            print(f"{key(mistake)}\n    {found}", flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    missed = sum(results[key(mistake)].startswith("(") for mistake in chosen)
    print(f"{len(chosen) - missed} of {len(chosen)} planted mistakes are noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
