"""every source file's first sentence -> docs/layout.md: `python docs/layout.py` writes it, a test compares."""

import ast
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "layout.md"
FOLDERS = ("jobs", "modded-nanogpt", "discreteness", "tests", "benchmarks", "docs", "deploy")
SUFFIXES = {".py", ".js", ".css", ".sh", ".yaml", ".yml"}
HEAD = """# Every file, in one line

Written by `python docs/layout.py`: each line is the first sentence of the file itself. Change it there, then run the
script again; a test compares the two. An arrow reads "takes this, makes that". What the folders are for and which may
import which: [design](design.md#the-wings).
"""


def page() -> str:
    """The whole page as text."""
    parts = [HEAD]
    for folder, paths in groupby(sources(), key=lambda path: path.parent):
        about, rows = "", []
        for path in paths:
            if path.name == "__init__.py":
                about = f"{first_sentence(path)}\n\n"
            else:
                link = f"[{path.name}](../{path.relative_to(ROOT).as_posix()})"
                rows.append(f"| {link} | {first_sentence(path)} |")
        if rows:
            table = "\n".join(["| file | what it is |", "|---|---|", *rows])
            parts.append(f"## {folder.relative_to(ROOT).as_posix()}/\n\n{about}{table}\n")
    return "\n".join(parts)


def sources() -> Iterator[Path]:
    """Source files, the files of a folder before its subfolders. Minified code of others is left out."""
    for name in FOLDERS:
        found = [path for path in (ROOT / name).rglob("*") if path.suffix in SUFFIXES or path.name == "Dockerfile"]
        for path in sorted(found, key=lambda path: (path.parent.parts, path.name)):
            if ".min." not in path.name:
                yield path


def first_sentence(path: Path) -> str:
    """The first line of a module's docstring; of other files the first sentence of their first comment."""
    if path.suffix == ".py":
        text = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    else:
        comment = re.match(r"(?:#!.*\n)?((?:(?://|#|/\*).*\n)*)", path.read_text())[1]
        text = re.sub(r"^(?://|#|/\*) ?|\*/$", "", comment, flags=re.M).replace("\n", " ").strip()
        text = re.split(r"\. " if path.suffix == ".js" else r"\. |: ", text)[0].rstrip(".") + "." if text else ""
    if not text:
        raise ValueError(f"{path.relative_to(ROOT)} does not begin with what it is")
    return text.replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page())
