"""The viewer's server for browsers on this machine: files of the page, words of a dataset as JSON, numbers as frames.

- It only reads, only answers GET, and only listens on 127.0.0.1.
- A page of another site cannot use it: the Host header must name this machine (a foreign name that resolves to
  127.0.0.1 does not) or a host that the user named, and no answer may be embedded or read elsewhere.
- Whatever takes time is done in a thread, so that one slow answer does not hold up the others.
"""

import asyncio
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from aiohttp import web

from discreteness.analysis.schedule_changes import schedule_of
from discreteness.dataset.reader import Dataset
from discreteness.dataset.storage import Storage, open_storage
from discreteness.viewer.desktop import show_in_browser
from discreteness.viewer.drop_finder import DropFinder
from discreteness.viewer.findings import findings
from discreteness.viewer.frames import frame
from discreteness.viewer.growing import Growing
from discreteness.viewer.overview import drop_table_frame, overview_frame
from discreteness.viewer.pair import Pair
from discreteness.viewer.seed_times import seed_times
from discreteness.viewer.words import words

HOST = "127.0.0.1"
OUR_NAMES = frozenset({"127.0.0.1", "localhost"})
HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
PAGE = files("discreteness.viewer") / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

HOSTS = web.AppKey("hosts", frozenset)
BESIDE = web.AppKey("beside", dict)
GROWING = web.AppKey("growing", Growing)
DROP_FINDER = web.AppKey("drop_finder", DropFinder)
OF_FITS = ("time", "width", "delta_bic", "base", "origin", "times", "widths", "falls")
"""Numbers of a fit that the page has: of its main fall, and what its curve is made of."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(
    uri: str | os.PathLike[str] | Storage,
    port: int,
    allowed_hosts: Sequence[str] = (),
    open_browser: bool = False,
    beside: str | os.PathLike[str] | Storage | None = None,
) -> None:
    """Answers until interrupted. `port` 0: a free one. `open_browser`: where there is a desktop. Raises what
    `application` raises, and OSError if the port is taken.
    """
    app = application(uri, allowed_hosts, beside=beside)
    listening = _listen(port)
    address = f"http://{HOST}:{listening.getsockname()[1]}/"
    storage = app[GROWING].storage
    print(f"{storage.uri} is shown at {address} on this machine only; Ctrl-C ends it", flush=True)
    if open_browser:
        show_in_browser(address)
    web.run_app(app, sock=listening, print=None, handle_signals=True, shutdown_timeout=1)


def application(
    uri: str | os.PathLike[str] | Storage,
    allowed_hosts: Sequence[str] = (),
    opened: Callable[[Storage], Dataset] = Dataset,
    beside: str | os.PathLike[str] | Storage | None = None,
) -> web.Application:
    """The viewer of one dataset, or of what `opened` makes of it; or of what it has in common with another, `beside`,
    which answers below /beside. `allowed_hosts`: names under which a proxy shows this server, besides OUR_NAMES. Raises
    what discreteness.open raises, and ValueError if a host is not a bare name, or the two have nothing in common.
    """
    pair = None
    if beside is not None:
        pair = Pair.of(Dataset(open_storage(uri)), Dataset(open_storage(beside)))
        opened = pair.opened(0)
    hosts = OUR_NAMES.union(map(_host_name, allowed_hosts))
    growing = Growing(open_storage(uri), opened)
    _texts(growing, growing.snapshot.dataset.documents[0].doc_id)  # damaged words are said before the address is
    app = web.Application(middlewares=[_guarded])
    app[HOSTS] = hosts
    if pair is not None and beside is not None:
        second = application(beside, allowed_hosts, pair.opened(1))
        app[BESIDE] = _of_second(pair, growing, second[GROWING])
        app.add_subapp("/beside", second)
    app[GROWING] = growing
    app[DROP_FINDER] = DropFinder(app[GROWING])
    app.router.add_get("/", _index)
    app.router.add_get("/api/dataset", _dataset)
    app.router.add_get("/api/state", _state)
    app.router.add_get(r"/api/documents/{doc_id:\d{1,9}}/tokens", _tokens)
    app.router.add_get(r"/api/documents/{doc_id:\d{1,9}}/summary", _summary)
    app.router.add_get(r"/api/documents/{doc_id:\d{1,9}}/seeds/{seed:\d{1,10}}", _seed)
    app.router.add_get(r"/api/documents/{doc_id:\d{1,9}}/tokens/{token:\d{1,9}}", _curves)
    app.router.add_get(r"/api/documents/{doc_id:\d{1,9}}/tokens/{token:\d{1,9}}/fits", _fits)
    app.router.add_get(r"/api/documents/{doc_id:\d{1,9}}/drops", _drops)
    app.router.add_get("/api/overview", _overview)
    app.router.add_get(r"/api/seeds/{seed:\d{1,10}}/drops", _seed_times)
    app.router.add_get("/api/drops", _drop_table)
    app.router.add_get("/api/findings", _findings)
    app.router.add_get("/api/schedule", _schedule)
    app.router.add_get("/api/words", _words)
    app.router.add_static("/page", str(PAGE))
    return app


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise OSError(f"port {port} of {HOST} cannot be used ({error}); --port 0 takes a free one") from None
    listening.listen()  # from here on a browser that comes early waits, and is not refused
    return listening


def _host_name(given: str) -> str:
    """In lower case. Raises ValueError unless it is a name alone: no scheme, port, path or pattern."""
    name = given.lower()
    if not HOST_NAME.fullmatch(name):
        raise ValueError(
            f"--allow-host {given!r} is not the name of a host; give the name alone that stands in the browser's "
            "address, such as hub.example.org"
        )
    return name


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Foreign hosts are refused, errors become one line of JSON, every answer carries HEADERS."""
    try:
        hosts = request.app[HOSTS]
        if urlsplit(f"//{request.host}").hostname not in hosts:
            raise web.HTTPForbidden(text=f"this page is only for {', '.join(sorted(hosts))}; see --allow-host")
        response = await handler(request)
    except web.HTTPException as error:
        response = web.Response(status=error.status, text=error.text, headers=error.headers)
    except KeyError as error:
        response = _json({"error": str(error.args[0])}, status=404)
    except (ValueError, OSError, pa.ArrowException) as error:
        response = _json({"error": " ".join(str(error).split())}, status=500)
    response.headers.update(HEADERS)
    return response


async def _index(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(str(PAGE / "index.html"))


async def _dataset(request: web.Request) -> web.Response:
    """What does not change while seeds come."""
    growing = request.app[GROWING]
    dataset = growing.snapshot.dataset
    identity = dataset.experiment["identity"]
    content = {
        "name": growing.storage.root.rpartition("/")[2],
        "uri": growing.storage.uri,
        "track": str(identity.get("track", {}).get("name", "")),
        "seeds_differ": dataset.seeds_differ,
        "identity_hash": dataset.experiment["identity_hash"],
        "steps": dataset.steps,
        "documents": [
            {"doc_id": d.doc_id, "name": d.name, "category": d.category, "num_losses": d.num_losses}
            for d in dataset.documents
        ],
    }
    return _json(content | ({"beside": request.app[BESIDE]} if BESIDE in request.app else {}))


def _of_second(pair: Pair, first: Growing, second: Growing) -> dict[str, Any]:
    """What the page is told of the second dataset. `documents`: its doc_id for each of the first."""
    names = [growing.storage.root.rpartition("/")[2] for growing in (first, second)]
    return {
        "name": names[1] if names[0] != names[1] else second.storage.uri,
        "documents": {here.doc_id: there.doc_id for here, there in pair.documents},
        "left_out": pair.left_out,
    }


async def _state(request: web.Request) -> web.Response:
    """What changes: the page asks every second or two."""
    growing = request.app[GROWING]
    snapshot = await asyncio.to_thread(growing.refresh)
    content = {
        "version": snapshot.version,
        "committed": snapshot.dataset.seeds,
        "names": {str(seed): name for seed, name in snapshot.dataset.names.items()},
        "running": [{"seed": one.seed, "steps": one.steps} for one in snapshot.running.values()],
        "invalid": [{"file": name, "reason": reason} for name, reason in snapshot.dataset.invalid.items()],
        "to_fit": request.app[DROP_FINDER].num_waiting,
        "fitted": request.app[DROP_FINDER].num_made,
        "fit_error": request.app[DROP_FINDER].error,
        "reading": {str(doc_id): progress for doc_id, progress in growing.reading.copy().items()},
    }
    return _json(content)


async def _tokens(request: web.Request) -> web.Response:
    growing = request.app[GROWING]
    document = growing.document(int(request.match_info["doc_id"]))
    return _json({"tokens": await asyncio.to_thread(_texts, growing, document.doc_id)})


async def _summary(request: web.Request) -> web.Response:
    growing = request.app[GROWING]
    document = growing.document(int(request.match_info["doc_id"]))
    mean, deviation, num_seeds = await asyncio.to_thread(growing.summary, document)
    return await _framed({"num_seeds": num_seeds}, mean=mean, deviation=deviation)


async def _seed(request: web.Request) -> web.Response:
    growing = request.app[GROWING]
    document, seed = growing.document(int(request.match_info["doc_id"])), int(request.match_info["seed"])
    snapshot = growing.snapshot
    if seed not in snapshot.stamps:
        raise KeyError(f"there is no seed {seed}")
    losses = await asyncio.to_thread(growing.losses_of, snapshot, document, seed)
    return await _framed({"seed": seed}, losses=losses)


async def _curves(request: web.Request) -> web.Response:
    growing = request.app[GROWING]
    document, token = growing.document(int(request.match_info["doc_id"])), int(request.match_info["token"])
    curves = await asyncio.to_thread(growing.curves, document, token)
    return await _framed(
        {"num_committed": curves.num_committed},
        seeds=np.array(curves.seeds, np.int32),
        losses=curves.losses,
        mean=curves.mean,
        low=curves.low,
        high=curves.high,
    )


async def _fits(request: web.Request) -> web.Response:
    """Fits of one token in every committed seed: page/fits.js makes curves of them, to lay over the losses."""
    growing = request.app[GROWING]
    document, token = growing.document(int(request.match_info["doc_id"])), int(request.match_info["token"])

    def fitted() -> bytes:
        curves = growing.curves(document, token)
        fits = request.app[DROP_FINDER].fits(curves.losses[: curves.num_committed])
        numbers = {name: getattr(fits, name).astype(np.float32) for name in OF_FITS}
        return frame({}, **numbers, is_drop=fits.is_drop.astype(np.int32))

    return web.Response(body=await asyncio.to_thread(fitted), content_type="application/octet-stream")


async def _drops(request: web.Request) -> web.Response:
    """Learning time, width and so on of every token of a document, or {"num_seeds": 0} as long as there is nothing."""
    document = request.app[GROWING].document(int(request.match_info["doc_id"]))
    drops = await asyncio.to_thread(request.app[DROP_FINDER].drops, document, True)
    if drops is None:
        return await _framed({"num_seeds": 0})
    return await _framed({"num_seeds": drops.num_seeds}, **drops.per_token)


async def _seed_times(request: web.Request) -> web.Response:
    body = await asyncio.to_thread(seed_times, request.app[DROP_FINDER], int(request.match_info["seed"]))
    return web.Response(body=body, content_type="application/octet-stream")


async def _overview(request: web.Request) -> web.Response:
    return await _in_thread(overview_frame, request)


async def _drop_table(request: web.Request) -> web.Response:
    return await _in_thread(drop_table_frame, request)


async def _findings(request: web.Request) -> web.Response:
    return _json(await asyncio.to_thread(findings, request.app[GROWING], request.app[DROP_FINDER]))


async def _schedule(request: web.Request) -> web.Response:
    """Where the schedule changes, as the records of training say it."""
    schedule = await asyncio.to_thread(schedule_of, request.app[GROWING].snapshot.dataset)
    return _json({"changes": [asdict(change) for change in schedule.changes]})


async def _words(request: web.Request) -> web.Response:
    return _json(await asyncio.to_thread(words, request.app[GROWING].snapshot.dataset))


async def _in_thread(made: Callable[[Growing, DropFinder], bytes], request: web.Request) -> web.Response:
    body = await asyncio.to_thread(made, request.app[GROWING], request.app[DROP_FINDER])
    return web.Response(body=body, content_type="application/octet-stream")


def _texts(growing: Growing, doc_id: int) -> list[dict[str, Any]]:
    """Tokens of a document, BOS first. A token that is not a whole character has its bytes in hex."""
    return [
        {
            "text": row["token_text"],
            "answer": row["answer"],
            "known": row["in_vocabulary"],
            **({"bytes": row["token_bytes"].hex()} if "\ufffd" in row["token_text"] else {}),
        }
        for row in growing.snapshot.dataset.tokens(doc_id).to_pylist()
    ]


def _json(content: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(content, status=status, dumps=partial(json.dumps, allow_nan=False))


async def _framed(meta: dict[str, Any], **arrays: np.ndarray) -> web.Response:
    body = await asyncio.to_thread(frame, meta, **arrays)
    return web.Response(body=body, content_type="application/octet-stream")
