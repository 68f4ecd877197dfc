"""Headless Chromium of the system, and waiting for a page whose security policy forbids what drivers inject."""

import shutil
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "chromium-browser"))), None)
"""Path of the program, None where there is none."""


def until(page, expression, timeout_s=90):
    """Waits until a JavaScript expression is true."""
    deadline_s = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < deadline_s, f"did not come true in {timeout_s} s: {expression}"
        time.sleep(0.02)
