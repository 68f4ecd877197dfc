"""Seeds -> the loss of every token of every document at every checkpoint."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from discreteness.dataset.reader import Dataset
    from discreteness.recording.recorder import Recorder as Recorder

__all__ = ["Recorder", "__version__", "open"]
__version__ = "0.1.0"
"""pyproject.toml reads it here: a job's upload is not installed, so there is no metadata to ask."""

if importlib.util.find_spec("speedrun") is None:
    # Not installed (a checkout, or a job upload): the trainer lies beside this package, in this process and in every
    # worker that imports it, which a PYTHONPATH set for the driver alone would not reach.
    sys.path.append(str(Path(__file__).resolve().parents[1] / "modded-nanogpt"))


def open(path: str | os.PathLike[str]) -> "Dataset":
    """Opens a dataset, a directory or the URI of one, for reading.

    `discreteness.open("runs/first").losses("elements.txt", token=7)` is float32 [seeds, steps], in nats. Raises
    FileNotFoundError if there is no dataset, and ValueError if it is damaged or of another version.
    """
    from discreteness.dataset.reader import open as open_dataset  # a plain `import discreteness` stays light

    return open_dataset(path)


def __getattr__(name: str) -> Any:
    """`Recorder`, which needs torch, when it is asked for."""
    if name != "Recorder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from discreteness.recording.recorder import Recorder

    return Recorder
