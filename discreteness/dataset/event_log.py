"""An event <-> a small JSON file in log/: what happened, for people and for `status`.

The log is best effort and decides nothing: a seed is committed by its file in losses/, whatever the log says. All of
log/ may be deleted.
"""

import json
import logging
import os
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from discreteness.dataset.paths import LOG_FOLDER
from discreteness.dataset.storage import Storage

JOB_BEGAN, ATTEMPT_LOST = "job began", "attempt lost"
"""Values of "event" that `status` reads."""

logger = logging.getLogger(__name__)


def write_event(storage: Storage, event: dict[str, Any]) -> None:
    """Best effort: keeps an event (JSON values) as one file. `attempt` with `error`: a failed attempt."""
    now = datetime.now(UTC)
    content = {"time": now.isoformat(), "host": socket.gethostname(), "pid": os.getpid(), **event}
    try:
        name = f"{LOG_FOLDER}/{now:%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:8]}.json"
        storage.write(name, json.dumps(content).encode(), durable=False)
    except OSError as error:
        logger.warning("an event is not logged in %s: %s", storage.uri, error)


def events(storage: Storage) -> Iterator[dict[str, Any]]:
    """Events of log/, oldest first. What cannot be read is passed over."""
    for info in storage.list(LOG_FOLDER):
        try:
            event = json.loads(storage.read(f"{LOG_FOLDER}/{info.base_name}"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event
