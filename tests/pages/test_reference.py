"""docs/reference.md is what the sources say now."""

import runpy

import discreteness
from discreteness.cli.main import COMMANDS
from tests.conftest import ROOT
from tests.support.planted_dataset import create_planted, log_plan, text_documents


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


def test_the_page_shows_all_that_a_dataset_has(tmp_path):
    documents, token_bytes = text_documents({"one.txt": "one two three"})
    create_planted(tmp_path / "run", documents, token_bytes, log_plan(8, 20), seeds=(0,))
    dataset = discreteness.open(tmp_path / "run")
    public = {name for name in dir(dataset) if not name.startswith("_")}
    assert {"losses", "steps", "attempts"} < public
    page = (ROOT / "docs/reference.md").read_text()
    for name in public:
        takes = "(" if callable(getattr(dataset, name)) else "**"
        assert f"\n- **{name}{takes}" in page, name
