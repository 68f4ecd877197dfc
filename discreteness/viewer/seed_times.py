"""tables of an analysis -> when one seed learned which tokens: what the page lays against another seed's times."""

import numpy as np
import pyarrow.compute as pc

from discreteness.viewer.drop_finder import DropFinder
from discreteness.viewer.frames import frame


def seed_times(finder: DropFinder, seed: int) -> bytes:
    """A frame of the tokens that have a drop in this seed: `doc_id` and `token` int32, `time` float32 in updates,
    `error` float32, its standard error in octaves, at most the drop's width, as where `analyze` compares seeds.
    `analyzed` says whether there is an analysis of the seed; without one there are no times.
    """
    analysis, _ = finder.analysis()
    if analysis is None or seed not in analysis.seeds:
        return frame({"analyzed": False})
    drops = analysis.fits.filter((pc.field("seed") == seed) & pc.field("is_drop"))
    return frame(
        {"analyzed": True},
        doc_id=drops["doc_id"].to_numpy().astype(np.int32),
        token=drops["token_index"].to_numpy().astype(np.int32),
        time=drops["time"].to_numpy().astype(np.float32),
        error=np.minimum(drops["time_error"].to_numpy(), drops["width"].to_numpy()).astype(np.float32),
    )
