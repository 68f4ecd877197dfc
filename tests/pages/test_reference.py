"""docs/reference.md is what the sources say now."""

import runpy

from discreteness.cli.main import COMMANDS
from tests.conftest import ROOT


def test_the_page_is_what_its_script_writes():
    made = runpy.run_path(str(ROOT / "docs/reference.py"))
    assert {name.split()[0] for name in made["SUBCOMMANDS"]} == COMMANDS.keys() - {"run"}
    page = made["page"]()
    for part in (
        "--workers-per-trainer",
        "### discreteness data make",
        "**losses(",
        "| val_loss | double |",
        "ray_discreteness_seeds",
    ):
        assert part in page
    assert page == (ROOT / "docs/reference.md").read_text(), "run: python docs/reference.py"
