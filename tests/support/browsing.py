"""Fixtures of tests in a browser: one Chromium a module, pages that must stay clean, viewers in this process."""

import asyncio
import logging
import threading
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from playwright import sync_api as playwright

from discreteness.viewer.server import application
from tests.support import skips
from tests.support.chromium import CHROMIUM, until

NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"
STROKES = """
window.strokes = 0;  // of the chart's own paths with some transparency: the thin lines. uPlot strokes Path2D objects
window.points = 0;
const { stroke, lineTo } = CanvasRenderingContext2D.prototype;
const ofChart = (context) => context.canvas.parentElement?.classList.contains("u-wrap");
CanvasRenderingContext2D.prototype.stroke = function (...path) {
  if (ofChart(this) && !path.length && this.globalAlpha < 1) window.strokes++;
  return stroke.apply(this, path);
};
CanvasRenderingContext2D.prototype.lineTo = function (...at) {
  if (ofChart(this)) window.points++;
  return lineTo.apply(this, at);
};
"""


@pytest.fixture(scope="module")
def browser():
    """Of a module, not of the session: while it is open this thread has an event loop, which others may not bear."""
    if CHROMIUM is None:
        pytest.skip(skips.CHROMIUM)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser):
    """Opens pages. At the end: no request left 127.0.0.1, no page reported an error, no dialog came.

    `expected`: part of what the console may say; that pixels are read back is these tests' own doing. A page whose
    files did not come because this machine's network changed (other tests make networks) is loaded again."""
    contexts, requests, complaints, changes = [], [], [], []

    def open_page(address, expected="willReadFrequently", **options):
        def heard(said):
            if NETWORK_CHANGED in said.text:
                changes.append(said.text)
            elif said.type in ("error", "warning") and expected not in said.text:
                complaints.append(said.text)

        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(STROKES)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on("console", heard)
        page.goto(address)
        if changes:
            page.goto(address)
        until(page, "document.documentElement.dataset.ready === 'yes'")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    elsewhere = [url for url in requests if not url.startswith(("data:", "blob:", "file:///"))]
    assert requests and {urlsplit(url).hostname for url in elsewhere} <= {"127.0.0.1"}


@pytest.fixture(scope="module")
def serve_here():
    """Shows datasets by the command's own application, in a thread of this process: path -> address; `.app`: the same
    of any application. At the end: no request failed in a way that the application did not foresee."""
    errors = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.append(record.getMessage())
    logging.getLogger("aiohttp").addHandler(handler)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="viewers")
    thread.start()
    runners = []

    def here(task):
        return asyncio.run_coroutine_threadsafe(task, loop).result(60)

    def serve(path, *allowed_hosts):
        return serve_app(application(path, allowed_hosts))

    def serve_app(app):
        runner = web.AppRunner(app, shutdown_timeout=1)
        runners.append(runner)
        here(runner.setup())
        here(web.TCPSite(runner, "127.0.0.1", 0).start())
        return f"http://127.0.0.1:{runner.addresses[0][1]}/"

    serve.app = serve_app
    yield serve
    for runner in runners:
        here(runner.cleanup())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    logging.getLogger("aiohttp").removeHandler(handler)
    assert errors == []
