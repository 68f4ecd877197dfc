"""The browser of a desktop: whether there is one for the user of this command, and the page opened in it."""

import os
import sys
import threading
import webbrowser

DISPLAYS = "DISPLAY", "WAYLAND_DISPLAY"


def show_in_browser(address: str) -> bool:
    """Opens the address, without waiting for the browser, if there is a desktop: whether there is."""
    if not is_desktop():
        return False
    threading.Thread(target=webbrowser.open, args=(address,), name="browser", daemon=True).start()
    return True


def is_desktop() -> bool:
    """Whether who started this command sits at a terminal of a machine with a display: not in a job, not over SSH,
    where a browser would open on the wrong machine.
    """
    if not sys.stdout.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in DISPLAYS)
