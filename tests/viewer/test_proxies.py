"""The page where another server shows it, as JupyterHub's proxy does below /user/NAME/proxy/PORT/, and on a desktop."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from aiohttp import ClientSession, web

from discreteness.cli.main import main
from discreteness.viewer import desktop, server
from discreteness.viewer.server import application
from tests.conftest import ROOT
from tests.support.chromium import until
from tests.support.planted_dataset import create_planted, log_plan, text_documents

pytest_plugins = ["tests.support.browsing"]

PLAN = log_plan(24, 300)
TEXTS = {"first.txt": "one two three", "second.txt": "a bee sees"}
HUB = "hub.example.org"
PREFIX = "/user/me/proxy/8321"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("proxied") / "d"
    create_planted(folder, *text_documents(TEXTS), PLAN, range(3))
    return folder


def proxy_of(address):
    """What jupyter-server-proxy does: the prefix is taken off, the Host of the browser's address is passed on."""

    async def pass_on(request):
        async with (
            ClientSession(auto_decompress=False) as session,
            session.get(f"{address}{request.match_info['path']}", headers={"Host": HUB}) as answer,
        ):
            kept = {name: answer.headers[name] for name in ("Content-Security-Policy", "Content-Type")}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    app = web.Application()
    app.router.add_get(PREFIX + "/{path:.*}", pass_on)
    return app


def test_the_page_works_below_a_proxys_path_and_the_address_stays_there(new_page, serve_here, planted):
    shown_at = serve_here.app(proxy_of(serve_here(planted, "other.example", HUB))) + PREFIX[1:] + "/"
    page = new_page(shown_at)
    page.click("#heatmap .names button:nth-child(2)")
    until(page, "document.querySelectorAll('.token').length > 0")
    page.click('[data-token="3"]')
    until(page, "document.querySelector('#chart').dataset.curves === '3'")
    assert page.url == f"{shown_at}?document=second.txt&token=3"
    page.click("#view-overview")
    until(page, "!document.querySelector('#overview').hidden")
    assert page.url == shown_at
    page.go_back()
    until(page, "document.querySelector('.chosen')?.dataset.token === '3'")


def test_a_proxy_that_was_not_named_is_refused(serve_here, planted):
    for allowed in [], ["example.org"], ["x" + HUB]:
        address = serve_here(planted, *allowed)
        with pytest.raises(urllib.error.HTTPError, match="403") as refused:
            urllib.request.urlopen(urllib.request.Request(address, headers={"Host": HUB}))
        refused.value.close()
    request = urllib.request.Request(serve_here(planted, HUB.upper()), headers={"Host": f"{HUB}:443"})
    assert urllib.request.urlopen(request).status == 200


@pytest.mark.parametrize(
    "name", ["https://hub.example.org", "hub.example.org:443", "*", "*.example.org", "a/b", "", "."]
)
def test_what_is_not_the_name_of_a_host_is_refused(planted, name):
    with pytest.raises(ValueError, match=re.escape(f"--allow-host {name!r} is not the name of a host")):
        application(planted, [name])


@pytest.mark.parametrize(
    ("terminal", "platform", "environment", "expected"),
    [
        (True, "linux", {"DISPLAY": ":0"}, True),
        (True, "linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        (True, "darwin", {}, True),
        (True, "linux", {}, False),
        (True, "linux", {"DISPLAY": ""}, False),
        (False, "linux", {"DISPLAY": ":0"}, False),
        (False, "darwin", {}, False),
        (True, "linux", {"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "10.0.0.1 5000 10.0.0.2 22"}, False),
    ],
)
def test_a_desktop_is_a_terminal_with_a_display(monkeypatch, terminal, platform, environment, expected):
    for name in "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION":
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert desktop.is_desktop() == expected


def test_the_command_opens_the_page_in_the_users_browser(planted, tmp_path):
    """The real command at a terminal, with a browser that writes down what it is told."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/part && mv {tmp_path}/part {tmp_path}/opened\n')
    browser.chmod(0o755)
    ours, its = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name != "SSH_CONNECTION"}
    process = subprocess.Popen(
        [sys.executable, "-m", "discreteness", "view", str(planted), "--port", "0"],
        cwd=ROOT,
        env={**kept, "DISPLAY": ":99", "BROWSER": f"{browser} %s"},
        stdout=its,
        stderr=its,
    )
    os.close(its)
    said = b""
    while b"Ctrl-C" not in said:
        said += os.read(ours, 4096)
    while not (tmp_path / "opened").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.wait(120)
    os.close(ours)
    assert (tmp_path / "opened").read_text() == re.search(rb"http://127.0.0.1:\d+/", said)[0].decode()


@pytest.mark.parametrize(("flag", "opened"), [("--open", 1), ("--no-open", 0)])
def test_no_browser_opens_where_none_is_wanted(planted, monkeypatch, flag, opened):
    asked = []
    monkeypatch.setattr(server, "show_in_browser", asked.append)
    monkeypatch.setattr(server.web, "run_app", lambda app, sock, **_: sock.close())
    monkeypatch.setattr(sys, "argv", ["discreteness", "view", str(planted), "--port", "0", flag])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert len(asked) == opened
