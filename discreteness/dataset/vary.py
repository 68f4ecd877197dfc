"""an experiment's identity -> what its seeds vary, in the words that tables, pages and pictures share."""

from typing import Any

WORDS = {
    "init": "different weights, the same data in the same order",
    "data": "the same weights, data in different orders",
    "both": "different weights, data in different orders",
    "model": "each is a model that others have trained",
}
"""Value of --vary, or "model" in a series -> how two seeds differ."""


def words_of(identity: dict[str, Any]) -> str:
    """How two seeds of this experiment differ; the value itself if this version knows no words for it."""
    vary = identity.get("vary")
    return WORDS.get(str(vary), "it is not recorded what they vary" if vary is None else f"they vary {vary}")
