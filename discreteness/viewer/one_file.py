"""the page's modules, styles and answers -> one HTML file that a browser opens from disk.

- Modules become one script, each a function of its own in the order in which they need each other: a browser loads no
  module from a file.
- The security policy admits that script, uPlot and the style by their SHA-256, and no connection at all.
- Answers are text in elements that no browser runs; page/embedded.js finds them there.
"""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from graphlib import TopologicalSorter
from importlib.resources import files
from typing import Any

PAGE = files("discreteness.viewer") / "page"
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w-]+)\.js";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async function|function|class|const) (\w+))", re.MULTILINE)
LINKED = re.compile(r'^ *<(?:link rel="stylesheet"|script) .*\n', re.MULTILINE)


def one_file(answers: Mapping[str, Any]) -> str:
    """`answers`: path -> bytes of a frame, or what is told as JSON."""
    uplot, page = (PAGE / "uplot" / "uPlot.iife.min.js").read_text(), script()
    style = (PAGE / "uplot" / "uPlot.min.css").read_text() + (PAGE / "style.css").read_text()
    policy = (
        f"default-src 'none'; script-src {_hash(uplot)} {_hash(page)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = f'    <meta http-equiv="Content-Security-Policy" content="{policy}" />\n    <style>{style}</style>\n'
    told = "".join(_element(path, answer) for path, answer in answers.items())
    html = LINKED.sub("", (PAGE / "index.html").read_text())
    before, after = html.split("    <title>")
    html = f"{before}{head}    <title>{after}"
    before, after = html.split("  </body>")
    return f"{before}{told}<script>{uplot}</script>\n<script>{page}</script>\n  </body>{after}"


def script() -> str:
    """All modules that main.js needs, as one script."""
    texts = {path.name.removesuffix(".js"): path.read_text() for path in PAGE.iterdir() if path.name.endswith(".js")}
    needs = {name: {needed for _, needed in IMPORT.findall(text)} for name, text in texts.items()}
    modules = "".join(_module(name, texts[name]) for name in TopologicalSorter(needs).static_order())
    found = f'"use strict";\nconst modules = {{}};\n{modules}'
    if "</script" in found.lower() or "<!--" in found:
        raise AssertionError("a module says what ends a script in HTML")
    return found


def _module(name: str, text: str) -> str:
    """A function that is called at once; what it exports is in `modules`. Names of exports do not change afterwards."""
    exported = EXPORT.findall(text)
    text = IMPORT.sub(lambda found: f"const {{{_renamed(found[1])}}} = modules.{found[2]};\n", text)
    text = EXPORT.sub("", text)
    if left := re.search(r"^(?:import|export)\b.*", text, re.MULTILINE):
        raise AssertionError(f"{name}.js: {left[0]!r} cannot be put into one script")
    return f"modules.{name} = (() => {{\n{text}\nreturn {{ {', '.join(exported)} }};\n}})();\n"


def _renamed(names: str) -> str:
    return re.sub(r"(\w+) as (\w+)", r"\1: \2", names)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _element(path: str, answer: Any) -> str:
    kind, content = ("frame", answer) if isinstance(answer, bytes) else ("json", json.dumps(answer).encode())
    packed = base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
    return f'<script type="text/plain" data-path="{path}" data-kind="{kind}">{packed}</script>\n'
