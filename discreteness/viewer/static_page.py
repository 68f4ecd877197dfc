"""dataset -> one HTML file to send on: the viewer's page with its answers in it, thinned until it fits.

- The answers are the viewer's own, of an excerpt of the dataset (excerpt.py). The curves of a document's tokens come
  as one frame of all tokens, and so do the fits; page/embedded.js takes them apart.
- Means, spreads and bands are over all committed seeds, lines and fits of those that are kept.
- Fits are those of `discreteness analyze`; without its tables there are none.
- Nothing in the file says where the dataset lies.
"""

import asyncio
import math
import os
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from aiohttp import ClientSession, web

from discreteness.analysis.search import MAX_TERMS
from discreteness.analysis.tables import Analysis, load
from discreteness.dataset.manifest import DocumentInfo
from discreteness.dataset.reader import Dataset
from discreteness.dataset.reader import open as open_dataset
from discreteness.dataset.storage import Storage
from discreteness.viewer.excerpt import Excerpt, excerpt
from discreteness.viewer.frames import frame
from discreteness.viewer.growing import Growing
from discreteness.viewer.one_file import one_file
from discreteness.viewer.server import GROWING, HOST, application

PER_CURVE = ("time", "width", "delta_bic", "base", "origin")
PER_TERM = ("times", "widths", "falls")
OF_DOCUMENT = ("tokens", "summary", "drops")
"""Answers about a document that are taken as they are."""
LOOK_S = 0.05
PACKED = 0.87
"""Bytes in the page for each that excerpt.py counts: gzip took planted losses to 0.84."""


def write_page(uri: str | os.PathLike[str] | Storage, output: str | os.PathLike[str], max_mb: float) -> Excerpt:
    """Writes the page to a local file of at most `max_mb` megabytes, which appears whole, and says what it holds.

    Raises what discreteness.open raises; ValueError if no seed is committed, if not one document fits, or if an
    analysis is damaged or of another version; FileExistsError if the file is there already.
    """
    path = _new_file(output)
    if not 0 < max_mb < math.inf:
        raise ValueError(f"--max-mb {max_mb:g}: give a number of megabytes above 0")
    dataset = open_dataset(uri)
    if not dataset.seeds:
        raise ValueError(f"no seed is committed in {dataset.storage.uri} yet; there is nothing to show")
    try:
        analysis = load(dataset.storage.uri)
    except FileNotFoundError:
        analysis = None
    # Beforehand the size is counted without packing, page and overview: it is known when the page is made.
    max_bytes = max_mb * 1e6
    room = max_bytes / PACKED
    while True:
        kept = excerpt(dataset, _with_fits(dataset, analysis), room)
        with ThreadPoolExecutor(1) as thread:  # the caller's may have an event loop already, as in a notebook
            answers = thread.submit(asyncio.run, _answers(kept, analysis)).result()
        content = one_file(answers).encode()
        if len(content) <= max_bytes:
            break
        room -= 1.05 * (len(content) - max_bytes) / PACKED
    _write(path, content)
    return kept


def _new_file(output: str | os.PathLike[str]) -> Path:
    path = Path(output)
    if "://" in os.fspath(output):
        raise ValueError(f"a page is written to a local file, not to {os.fspath(output)}; copy it there afterwards")
    if path.exists():
        raise FileExistsError(f"{path} exists; give another --output or delete it")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path.parent} cannot be written; give another --output")
    return path


def _write(path: Path, content: bytes) -> None:
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        staged.write_bytes(content)
        staged.rename(path)
    finally:
        with suppress(FileNotFoundError):
            staged.unlink()


def _with_fits(dataset: Dataset, analysis: Analysis | None) -> list[int]:
    """Seeds whose curves may be shown: those that were analysed, if there are any of them."""
    return [seed for seed in analysis.seeds if seed in dataset.seeds] if analysis else dataset.seeds


async def _answers(kept: Excerpt, analysis: Analysis | None) -> dict[str, Any]:
    """Path -> answer, for one_file."""
    app = application(kept.whole.storage, opened=kept.open)
    async with _asked(app) as ask:
        # The first question begins what is made in the background, and the last one finds it made.
        for _ in range(2):
            answers = {path: await ask(path) for path in _paths(app, kept)}
            while (await ask("/api/state"))["to_fit"]:
                await asyncio.sleep(LOOK_S)
    growing = app[GROWING]
    answers["/api/state"] |= {"committed": kept.seeds, "running": [], "invalid": []}
    answers["/api/dataset"] |= {"uri": "", "copy": _copy(kept, analysis)}
    for document in kept.documents:
        path = f"/api/documents/{document.doc_id}"
        answers[f"{path}/curves"] = _curves(growing, document, kept)
        if analysis:
            answers[f"{path}/fits"] = _fits(analysis.fits, document, kept)
    return answers


def _paths(app: web.Application, kept: Excerpt) -> list[str]:
    """Every path of the server but those of which a document's frames are the sum."""
    plain = [one.canonical for one in app.router.resources() if isinstance(one, web.PlainResource)]
    of_documents = [f"/api/documents/{one.doc_id}/{what}" for one in kept.documents for what in OF_DOCUMENT]
    of_seeds = [f"/api/seeds/{seed}/drops" for seed in kept.seeds]
    return [path for path in plain if path.startswith("/api/")] + of_documents + of_seeds


@asynccontextmanager
async def _asked(app: web.Application) -> AsyncIterator[Any]:
    """The application, on a free port: path -> its answer, as one_file takes it."""
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        address = f"http://{HOST}:{runner.addresses[0][1]}"
        async with ClientSession() as session:

            async def ask(path: str) -> Any:
                async with session.get(address + path) as answer:
                    if answer.content_type != "application/json":
                        return await answer.read()
                    told = await answer.json()
                    if answer.status != web.HTTPOk.status_code:
                        raise ValueError(told["error"])
                    return told

            yield ask
    finally:
        await runner.cleanup()


def _copy(kept: Excerpt, analysis: Analysis | None) -> dict[str, Any]:
    """What the page says of itself."""
    return {
        "day": datetime.now(UTC).date().isoformat(),
        "seeds": len(kept.whole.seeds),
        "shown": len(kept.seeds),
        "left_out": kept.left_out,
        "fits": analysis is not None,
    }


def _curves(growing: Growing, document: DocumentInfo, kept: Excerpt) -> bytes:
    """losses: float32 [tokens, kept seeds, kept steps]; mean, low, high: float32 [tokens, kept steps]."""
    rows = [kept.whole.seeds.index(seed) for seed in kept.seeds]
    tokens = [growing.curves(document, token) for token in range(1, document.num_losses + 1)]
    of_all = {name: np.stack([getattr(token, name) for token in tokens]) for name in ("mean", "low", "high")}
    return frame({}, losses=np.stack([token.losses[rows] for token in tokens]), **of_all)


def _fits(fits: pa.Table, document: DocumentInfo, kept: Excerpt) -> bytes:
    """As /fits has them for one token, float32: [tokens, kept seeds], of terms [tokens, kept seeds, MAX_TERMS]."""
    mine = fits.filter((pc.field("doc_id") == document.doc_id) & pc.field("seed").isin(kept.seeds))
    numbers = {name: mine[name].to_numpy().astype(np.float32) for name in PER_CURVE}
    for name in PER_TERM:
        numbers[name] = np.full((mine.num_rows, MAX_TERMS), np.nan, np.float32)
        for row, values in enumerate(mine[name].to_pylist()):
            numbers[name][row, : len(values)] = values
    return frame({}, **numbers, is_drop=mine["is_drop"].to_numpy(zero_copy_only=False).astype(np.int32))
