"""help, docstrings, schemas, metrics -> docs/reference.md: `python docs/reference.py` writes it, a test compares."""

import ast
import inspect
import io
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "modded-nanogpt")]

from discreteness.cli.main import COMMANDS  # noqa: E402
from discreteness.dataset.annotations import ANNOTATIONS  # noqa: E402
from discreteness.dataset.by_token.token_file import TOKENS  # noqa: E402
from discreteness.dataset.manifest import DOCUMENTS  # noqa: E402
from discreteness.dataset.reader import Dataset  # noqa: E402
from discreteness.dataset.runs_file import OF_A_SERIES, RUNS  # noqa: E402
from discreteness.dataset.seed_file import LOSSES  # noqa: E402
from discreteness.experiment.config import JobConfig  # noqa: E402
from discreteness.recording.recorder import Recorder  # noqa: E402
from discreteness.series.config import SeriesConfig  # noqa: E402
from discreteness.service.metrics import METRICS  # noqa: E402

PAGE = ROOT / "docs" / "reference.md"
HEAD = """# Options, Python, files and metrics

Written by `python docs/reference.py` from the sources: change those, then run it again. A test compares the two.
"""
SUBCOMMANDS = [name for name in COMMANDS if name not in ("run", "data")] + ["data make", "data info", "data verify"]
SCHEMAS = {
    "losses/seed=SEED.parquet": LOSSES,
    "runs/seed=SEED-ATTEMPT.parquet": RUNS,
    "runs/seed=SEED-ATTEMPT.parquet, further columns of a series": OF_A_SERIES,
    "documents.parquet": DOCUMENTS,
    "annotations.parquet": ANNOTATIONS,
    "tokens/PART/TOKEN.parquet": TOKENS,
}


def page() -> str:
    seeds = help_of_job(tyro.conf.OmitArgPrefixes[JobConfig], "run_seeds.py", JobConfig.__doc__)
    parts = [HEAD, "## run_seeds.py\n", seeds, "`discreteness run` takes the same, and `--inline`.\n"]
    series = help_of_job(SeriesConfig, "score_checkpoints.py", SeriesConfig.__doc__)
    parts += ["## score_checkpoints.py\n", "How to use it: [series](series.md).\n", series]
    parts += ["## discreteness\n"]
    for name in SUBCOMMANDS:
        parts += [f"### discreteness {name}\n", help_of(*name.split())]
    parts += ["## Python\n", "What `discreteness.open(path)` returns:\n", *attributes(Dataset), *methods(Dataset)]
    parts += ["### Recorder\n", "For a training loop of your own: [any model](any_model.md).\n", made(Recorder)]
    parts += methods(Recorder)
    parts += ["## Files\n", "What each is for: [the dataset](dataset.md).\n", *map(columns, SCHEMAS.items())]
    parts += ["## Metrics\n", "How to read them: [metrics](metrics.md).\n"]
    parts += ["\n".join(f"- `{metric.exported}` ({metric.kind}): {metric.help}" for metric in METRICS) + "\n"]
    return "\n".join(parts)


def help_of(*command: str) -> str:
    """What `--help` of a subcommand prints, 100 columns wide."""
    return printed_by(
        lambda: tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="discreteness", args=[*command, "--help"])
    )


def help_of_job(config: Any, name: str, about: str | None) -> str:
    """The same of a script in jobs/."""
    return printed_by(lambda: tyro.cli(config, prog=name, description=about, args=["--help"]))


def printed_by(show: Callable[[], object]) -> str:
    printed, columns_before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    with redirect_stdout(printed), suppress(SystemExit):
        show()
    if columns_before is None:
        del os.environ["COLUMNS"]
    else:
        os.environ["COLUMNS"] = columns_before
    lines = [line.rstrip() for line in printed.getvalue().strip().splitlines()]
    return "\n".join(["```text", *lines, "```\n"])


def attributes(of: type) -> Iterator[str]:
    """Those that the class declares, with the text below each."""
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(of))).body
    for field, text in pairwise(declared.body):
        if isinstance(field, ast.AnnAssign):
            about = inspect.cleandoc(ast.literal_eval(text.value))
            yield f"- **{field.target.id}** ({ast.unparse(field.annotation)}) {' '.join(about.split())}\n"


def methods(of: type) -> Iterator[str]:
    for name, member in vars(of).items():
        function = member.fget if isinstance(member, property) else member
        if not name.startswith("_") and inspect.isfunction(function):
            signature = inspect.signature(function)
            takes = (
                ""
                if isinstance(member, property)
                else f"({', '.join(list(map(bare, signature.parameters.values()))[1:])})"
            )
            yield f"- **{name}{takes}** {' '.join(inspect.getdoc(function).split())}\n"


def made(of: type) -> str:
    """How one is made."""
    takes = ", ".join(map(bare, inspect.signature(of).parameters.values()))
    return f"- **{of.__name__}({takes})** {' '.join((inspect.getdoc(of.__init__) or '').split())}\n"


def bare(parameter: inspect.Parameter) -> str:
    """Name and default; what it may be stands in the text."""
    return parameter.name + ("" if parameter.default is parameter.empty else f"={parameter.default!r}")


def columns(named: tuple[str, pa.Schema]) -> str:
    name, schema = named
    rows = [f"| {field.name} | {field.type} | {'yes' if field.nullable else 'no'} |" for field in schema]
    return "\n".join([f"`{name}`:\n", "| column | type | may be null |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
