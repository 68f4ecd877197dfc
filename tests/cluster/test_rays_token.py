"""The token of a Ray that is started here: read, written or asked for elsewhere, or refused in one line."""

import os
from pathlib import Path

import pytest

from discreteness.cluster.rays_token import keep_token_private, token_file, try_token


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def refused(attempt):
    with pytest.raises(OSError) as caught:
        attempt()
    assert "\n" not in str(caught.value) and "RAY_AUTH_TOKEN_PATH" in str(caught.value)
    return str(caught.value)


def write(path, text="0" * 64, mode=0o600):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_home_that_takes_a_token_is_left_as_it_was(home):
    assert try_token() == f"on, in {home}/.ray/auth_token" and not list(home.iterdir())
    assert token_file() is None


def test_a_token_that_is_there_is_read_and_made_private(home):
    token = write(home / ".ray" / "auth_token", mode=0o644)
    assert try_token() == f"on, in {token}" and token.stat().st_mode & 0o777 == 0o600
    write(token, "\n")
    assert f"{token} is empty" in refused(try_token)


def test_a_home_that_takes_none_is_named(home, monkeypatch):
    (home / ".ray").write_text("a file")
    assert f"Ray's token {home}/.ray/auth_token cannot be written (Not a folder)" in refused(try_token)
    (home / ".ray").unlink()
    (home / ".ray" / "auth_token").mkdir(parents=True)
    assert "(Is a directory)" in refused(try_token)
    monkeypatch.setattr(Path, "home", no_home)
    assert "HOME is not set" in refused(try_token)


def no_home():
    raise RuntimeError("Could not determine home directory.")  # as Python says it


def test_a_token_that_others_can_read_for_good_is_refused(home, monkeypatch):
    token = write(home / ".ray" / "auth_token", mode=0o644)

    def read_only(self, mode):
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", read_only)
        for attempt in keep_token_private, try_token:
            text = refused(attempt)
            assert f"others can read Ray's token in {token}" in text and "Operation not permitted" in text
    token.chmod(0o600)
    monkeypatch.setattr(Path, "chmod", read_only)
    keep_token_private()  # nothing has to be changed


def test_a_token_may_come_from_elsewhere(home, monkeypatch, tmp_path_factory):
    (home / ".ray").write_text("a file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path_factory.mktemp("secret") / "token"))
    named = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert f"RAY_AUTH_TOKEN_PATH={named}: there is no such file" in refused(try_token)
    write(named, mode=0o644)  # a mounted secret, which the user has named
    assert try_token() == f"on, in {named}" and named.stat().st_mode & 0o777 == 0o644 and token_file() == named
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert try_token() == "on, in RAY_AUTH_TOKEN" and token_file() is None
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert try_token() == "off (RAY_AUTH_MODE=disabled)" and token_file() is None
