"""The token that a Ray started here asks for: where it is, who may read it, and whether it can be had at all."""

import os
from pathlib import Path

from discreteness.cluster.rays_folder import try_writing

OTHER_PLACE = "give the file of a token with RAY_AUTH_TOKEN_PATH, or set HOME to a folder that can be written"


def is_asked_for() -> bool:
    """Whether a Ray that is started here asks for one: by itself it does."""
    return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"


def token_path() -> Path:
    """Where Ray looks for it, and writes it. Raises OSError if this user has no home."""
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return Path(named)
    try:
        return Path.home() / ".ray" / "auth_token"
    except RuntimeError:
        raise OSError(f"HOME is not set, and this user has none: nowhere to keep Ray's token; {OTHER_PLACE}") from None


def token_file() -> Path | None:
    """The file with the token that a Ray started here asks for. None: it asks for none, or the token is in
    RAY_AUTH_TOKEN."""
    if not is_asked_for() or os.environ.get("RAY_AUTH_TOKEN"):
        return None
    token = token_path()
    return token if token.is_file() else None


def keep_token_private() -> None:
    """Makes the file of Ray's token readable for its user only: anyone who can read the token can run code as this
    user. One that RAY_AUTH_TOKEN_PATH names is the user's own affair. Raises OSError if that cannot be done.
    """
    token = token_file()
    if not token or os.environ.get("RAY_AUTH_TOKEN_PATH") or not token.stat().st_mode & 0o077:
        return
    try:
        token.chmod(0o600)
    except OSError as error:
        raise OSError(
            f"others can read Ray's token in {token}, and so run code as this user; its mode cannot be changed "
            f"({error.strerror}): {OTHER_PLACE}"
        ) from None


def try_token() -> str:
    """Reads the token, or tries whether Ray can write one; where it is, in words. Raises OSError with what to do."""
    if not is_asked_for():
        return f"off (RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']})"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "on, in RAY_AUTH_TOKEN"
    token = token_path()
    try:
        if token.exists():
            if not token.read_text().strip():
                raise OSError(f"{token} is empty: Ray takes no such token; delete it, or {OTHER_PLACE}")
        elif os.environ.get("RAY_AUTH_TOKEN_PATH"):
            raise OSError(f"RAY_AUTH_TOKEN_PATH={token}: there is no such file; write a token of 64 hex digits into it")
        else:
            try_writing(token.parent)
    except OSError as error:
        if not error.errno:  # said above
            raise
        does = "read" if token.is_file() else "written"
        raise OSError(f"Ray's token {token} cannot be {does} ({error.strerror}): {OTHER_PLACE}") from None
    keep_token_private()
    return f"on, in {token}"
