"""a call to the hub -> its answer, waited for within bounds where the hub is busy or away."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from speedrun.least_rate import TooSlow

Answer = TypeVar("Answer")
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Between a call and the next. After the last the error is raised: two minutes, and more where the hub asks for it."""
MOST_ASKED_S = 300.0
"""Of a Retry-After: that of the hub's own limit, which counts five minutes."""
PASSING = (408, 425, 429, 500, 502, 503, 504)

logger = logging.getLogger(__name__)


def patiently(what: str, call: Callable[[], Answer]) -> Answer:
    """The answer of `call`, which is tried again after errors that pass: a hub that is busy (429), away (5xx, no
    connection) or too slow. Raises the last one as an OSError that names `what`; all others as they come."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    for wait_s in (*WAITS_S, None):
        try:
            return call()
        except OfflineModeIsEnabled:
            raise
        except (HTTPError, TooSlow) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status is not None and status not in PASSING:
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            if wait_s is None:
                raise OSError(
                    f"{what}: the hub did not give it in {len(WAITS_S) + 1} tries: {reason}; the same command goes on "
                    "from what is committed"
                ) from error
            pause_s = max(wait_s, min(_asked_s(error), MOST_ASKED_S))
            logger.warning("%s: %s; tried again in %.0f s", what, reason, pause_s)
            time.sleep(pause_s)
    raise AssertionError


def _asked_s(error: Exception) -> float:
    """Seconds that a Retry-After asks for."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    text = headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0
