"""how much losses change from checkpoint to checkpoint -> how much of it cancels between tokens.

The measure is the destructive interference of Mircea et al. (arXiv 2506.05447), who compare a checkpoint with the next
update or with twice as many; here it is between neighbouring checkpoints of the plan, whatever lies between them.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def interference(change: np.ndarray, size: np.ndarray) -> np.ndarray:
    """1 - |mean change| / mean |change|, in one shape: 0 where all losses change in one direction, 1 where what some
    gain others lose; nan where none changes.
    """
    return np.where(size > 0, 1 - np.abs(change) / np.where(size > 0, size, 1), np.nan)


def interference_table(steps: Sequence[int], means: np.ndarray, sizes: np.ndarray) -> pa.Table:
    """One row per two neighbouring checkpoints. `means` [seeds, steps]: of the losses of all tokens; `sizes` [seeds,
    steps - 1]: of the amount of their changes. Values are means over seeds.
    """
    changes = np.diff(means, axis=1)
    columns = {"change": changes, "size": sizes, "interference": interference(changes, sizes)}
    return pa.table(
        {
            "from_step": np.array(steps[:-1], np.int64),
            "to_step": np.array(steps[1:], np.int64),
            **{name: pa.array(values.mean(axis=0), from_pandas=True) for name, values in columns.items()},
        }
    )
