"""Seeds -> the loss of every token of every document at every checkpoint."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("speedrun") is None:
    # Not installed (a checkout, or a job upload): the trainer lies beside this package, in this process and in every
    # worker that imports it, which a PYTHONPATH set for the driver alone would not reach.
    sys.path.append(str(Path(__file__).resolve().parents[1] / "modded-nanogpt"))


def open(path):
    """A dataset for reading: `discreteness.open("runs/first").losses("elements.txt", token=7)` -> [seeds, steps]."""
    from discreteness.dataset.reader import open as open_dataset  # a plain `import discreteness` stays light

    return open_dataset(path)
