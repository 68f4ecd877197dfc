"""docs/layout.md is what the files say of themselves now."""

import runpy

import pytest

from tests.conftest import ROOT


def test_the_page_is_what_its_script_writes():
    page = runpy.run_path(str(ROOT / "docs/layout.py"))["page"]()
    for part in ("## discreteness/service/", "[driver.py](", "[test_layout.py](", "[curves.js](", "[Dockerfile]("):
        assert part in page
    assert page == (ROOT / "docs/layout.md").read_text(), "run: python docs/layout.py"


def test_a_file_that_does_not_say_what_it_is_is_refused(tmp_path):
    made = runpy.run_path(str(ROOT / "docs/layout.py"))
    for name, text, said in (
        ("a.py", '"""a -> b.\n\nMore.\n"""\n', "a -> b."),
        ("b.js", "// The chart: lines, a band. Drawn here.\n\nlet x;\n", "The chart: lines, a band."),
        ("c.sh", "#!/bin/sh\n# All GPUs\n# of this machine: ./c.sh\nls\n", "All GPUs of this machine."),
        ("d.css", "/* Two themes. */\na {}\n", "Two themes."),
    ):
        path = tmp_path / name
        path.write_text(text)
        assert made["first_sentence"](path) == said
    (tmp_path / "e.py").write_text("x = 1\n")
    made["first_sentence"].__globals__["ROOT"] = tmp_path
    with pytest.raises(ValueError, match=r"e\.py does not begin"):
        made["first_sentence"](tmp_path / "e.py")
