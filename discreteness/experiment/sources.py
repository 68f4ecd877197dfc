"""sources -> one hash: those that decide losses, without what changes nothing."""

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import speedrun

BETWEEN_WEIGHTS_AND_LOSSES = (
    "service/trainer_worker",
    "service/speedrun_source",
    "checkpoint/seam",
    "checkpoint/staging",
    "checkpoint/layout",
    "checkpoint/header",
    "service/publisher",
    "checkpoint/loading",
    "scoring/scorer",
    "scoring/cuda_graphs",
    "scoring/evaluator",
    "scoring/speedrun_scorer",
    "service/inline",
    "dataset/attempt_rows",
    "dataset/writer",
    "dataset/seed_file",
    "dataset/runs_file",
)
"""Modules that a weight passes on its way to a stored loss, or that set how it is computed (threads, validation's
state). Not the control path: it hands on references and rows by attempt and step, and never looks into one."""

BETWEEN_MODEL_AND_LOSSES = (
    "scoring/logits",
    "recording/recorder",
    "recording/kept_rows",
    "dataset/attempt_rows",
    "dataset/writer",
    "dataset/seed_file",
    "dataset/runs_file",
)
"""The same of a `Recorder`, whose model is given to it."""

BETWEEN_FILES_AND_LOSSES = (
    "checkpoint/seam",
    "checkpoint/header",
    "series/weights_files",
    "series/loading",
    "series/pair",
    "series/ahead",
    "scoring/logits",
    "dataset/attempt_rows",
    "dataset/writer",
    "dataset/seed_file",
    "dataset/runs_file",
)
"""The same of a series, whose models `transformers` makes."""
OURS = Path(__file__).parents[1]


def identity_sources() -> list[Path]:
    """Sources that decide losses: the whole trainer, and what lies between its weights and a stored loss."""
    return [Path(speedrun.__file__).parent, *(OURS / f"{name}.py" for name in BETWEEN_WEIGHTS_AND_LOSSES)]


def recorder_sources() -> list[Path]:
    """Sources that decide the losses of any model: what lies between it and a stored loss."""
    return [OURS / f"{name}.py" for name in BETWEEN_MODEL_AND_LOSSES]


def series_sources() -> list[Path]:
    """Sources that decide the losses of a series: what lies between a file of weights and a stored loss."""
    return [OURS / f"{name}.py" for name in BETWEEN_FILES_AND_LOSSES]


def sources_hash(roots: Iterable[str | Path]) -> str:
    """SHA-256, in hex, of sources: files, or folders with all files below them but Markdown and what Python caches.

    A file counts with its path below its root, so where a package lies does not matter, and with its content: a Python
    file with its syntax tree without docstrings and positions, so that a comment or another line break changes nothing.
    ValueError: a root without any Python file, or a file that is not Python.
    """
    digest = hashlib.sha256()
    for root in map(Path, roots):
        files = _files_below(root) if root.is_dir() else [root]
        if not any(path.suffix == ".py" for path in files):
            raise ValueError(f"{root} is neither a .py file nor a folder of them, so it has no sources to hash")
        for path in files:
            content = _meaning(path) if path.suffix == ".py" else path.read_bytes()
            digest.update(f"{path.relative_to(root.parent).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _files_below(folder: Path) -> list[Path]:
    """Sorted: the order in which a folder is listed is the file system's own."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".md" and "__pycache__" not in path.relative_to(folder).parts
    )


def _meaning(path: Path) -> bytes:
    """What a Python file does, as text."""
    try:
        return repr(_tree(ast.parse(path.read_bytes()))).encode()
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is not Python, so it cannot be part of an identity: {error}") from None


def _tree(node: Any) -> Any:
    """Nested tuples of a syntax tree. Empty fields are left out: another version of Python may have further ones."""
    if isinstance(node, ast.AST):
        fields = ((name, _tree(value)) for name, value in ast.iter_fields(node))
        return type(node).__name__, *((name, value) for name, value in fields if value not in (None, ()))
    if isinstance(node, list):
        return tuple(_tree(one) for one in node if not _is_docstring(one))
    return node if node is None else f"{type(node).__name__} {node!r}"


def _is_docstring(node: Any) -> bool:
    """A string that stands alone, below a field too: it does nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
