"""The least rate of downloads from the Hugging Face hub: no file is waited for without end.

The hub's client bounds each read alone, so a server that sends a byte every nine seconds would keep it for years.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

LEAST_BYTES_PER_S = 10_000
"""A shard of 200 MB would take six hours."""
WINDOW_S = 60.0
"""Over which the rate is taken: a pause of some seconds is nothing."""


class TooSlow(OSError):
    """A download came more slowly than LEAST_BYTES_PER_S over WINDOW_S."""


def at_least_rate(pieces: Iterable[bytes], url: str) -> Iterator[bytes]:
    """The pieces as they come. Raises TooSlow, which names the address, the rate and the bytes so far."""
    began_s, in_window, in_all = time.monotonic(), 0, 0
    for piece in pieces:
        in_window, in_all = in_window + len(piece), in_all + len(piece)
        yield piece
        passed_s = time.monotonic() - began_s
        if passed_s < WINDOW_S:
            continue
        if in_window < LEAST_BYTES_PER_S * passed_s:
            raise TooSlow(
                f"{url} came at {in_window / passed_s:.1f} bytes per second in the last {passed_s:.0f} s, below "
                f"{LEAST_BYTES_PER_S}; {in_all} bytes came since it was asked for: try again, or set HF_ENDPOINT to "
                "another mirror"
            )
        began_s, in_window = time.monotonic(), 0


def demand_least_rate() -> None:
    """Whatever this process's client of the hub fetches from now on is watched."""
    from huggingface_hub import get_session

    hooks = get_session().event_hooks["response"]
    if _watch not in hooks:
        hooks.append(_watch)


def _watch(response: Any) -> None:
    http = sys.modules[type(response).__module__.partition(".")[0]]  # which one depends on the hub's client

    class Watched(http.SyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self, stream: Any):
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            return at_least_rate(self.stream, str(response.request.url))

        def close(self) -> None:
            self.stream.close()

    response.stream = Watched(response.stream)
