"""source + scorer -> losses, checkpoint by checkpoint, in one process: the next is fetched while this one is scored."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.seam import Bytes
from discreteness.series.pair import SeriesScorer, SeriesSource


def scored(
    source: SeriesSource, scorer: SeriesScorer, seed: int, attempt: str, steps: frozenset[int]
) -> Iterator[tuple[Bytes, np.ndarray]]:
    """Each checkpoint of a seed at `steps`, with its float32 losses of all documents.

    Raises what source and scorer raise; a ValueError of a score is one that names the step.
    """
    arriving = source.checkpoints(seed, steps)

    def fetch() -> tuple[Bytes, CheckpointHeader] | None:
        checkpoint = next(arriving, None)
        if checkpoint is None:
            return None
        header = CheckpointHeader(
            seed=seed,
            attempt=attempt,
            step=checkpoint.step,
            layout=checkpoint.layout,
            state=checkpoint.state,
            num_bytes=checkpoint.num_bytes,
        )
        scorer.fetch(checkpoint.data, header)
        return checkpoint, header

    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as ahead:
        coming = ahead.submit(fetch)
        while (arrived := coming.result()) is not None:
            checkpoint, header = arrived
            scorer.take()
            coming = ahead.submit(fetch)
            try:
                losses = scorer.score(header)
            except ValueError as error:
                raise ValueError(f"step {header.step}: {error}") from error
            yield checkpoint, losses
