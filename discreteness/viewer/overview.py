"""What is found of all documents so far -> the frames of the overview: mean losses, spectrum, drops of every token."""

import numpy as np
import pyarrow.compute as pc

from discreteness.analysis.tables import ALL_DOCUMENTS, Analysis
from discreteness.viewer.drop_finder import DropFinder
from discreteness.viewer.drops import PER_TOKEN, Drops
from discreteness.viewer.frames import frame
from discreteness.viewer.growing import Growing

CHANCE = {"by_chance": "by_false_drops", "chance_low": "by_false_drops_low", "chance_high": "by_false_drops_high"}
"""Array of the frame -> column of the analysis' spectrum."""


def overview_frame(growing: Growing, finder: DropFinder) -> bytes:
    """`heat` [documents, steps]; of the documents fitted so far `edges` (octaves), `measured`, `by_drops` (nats per
    octave) [bins]; with an analysis also those of CHANCE.
    """
    dataset = growing.snapshot.dataset
    heat = np.full((len(dataset.documents), len(dataset.steps)), np.nan, np.float32)
    for row, document in enumerate(dataset.documents):
        if (mean := finder.mean_loss(document)) is not None:
            heat[row] = mean
    found = _found(growing, finder)
    arrays = {"heat": heat}
    if found:
        weights = [growing.document(doc_id).num_losses for doc_id in found]
        arrays["edges"] = next(iter(found.values())).edges.astype(np.float32)
        for name in ("measured", "by_drops"):
            of_documents = [getattr(one, name) for one in found.values()]
            arrays[name] = np.average(of_documents, axis=0, weights=weights).astype(np.float32)
        if all(one.analyzed for one in found.values()) and (analysis := finder.analysis()[0]) is not None:
            arrays |= _by_chance(analysis)
    return frame({"num_mean_seeds": len(finder.mean_seeds()), **_source(found)}, **arrays)


def drop_table_frame(growing: Growing, finder: DropFinder) -> bytes:
    """One row per token of the documents fitted so far: `doc_id`, `token` int32; PER_TOKEN and `steepness` float32."""
    found = _found(growing, finder)
    sizes = {doc_id: len(one.per_token["time"]) for doc_id, one in found.items()}
    columns = {
        name: np.concatenate([one.per_token[name] for one in found.values()] or [np.empty(0, np.float32)])
        for name in PER_TOKEN
    }
    columns["steepness"] = np.concatenate([one.steepness() for one in found.values()] or [np.empty(0, np.float32)])
    return frame(
        _source(found),
        doc_id=np.repeat(np.array(list(sizes), np.int32), list(sizes.values())),
        token=np.concatenate(
            [np.arange(1, size + 1, dtype=np.int32) for size in sizes.values()] or [np.empty(0, np.int32)]
        ),
        **columns,
    )


def _found(growing: Growing, finder: DropFinder) -> dict[int, Drops]:
    documents = growing.snapshot.dataset.documents
    return {d.doc_id: drops for d in documents if (drops := finder.drops(d)) is not None}


def _source(found: dict[int, Drops]) -> dict[str, int | bool]:
    """What the numbers are of."""
    return {
        "num_fitted": len(found),
        "num_seeds": max((one.num_seeds for one in found.values()), default=0),
        "analyzed": any(one.analyzed for one in found.values()),
    }


def _by_chance(analysis: Analysis) -> dict[str, np.ndarray]:
    bins = analysis.spectrum.filter(pc.equal(analysis.spectrum["document"], ALL_DOCUMENTS))
    return {name: bins[column].to_numpy().astype(np.float32) for name, column in CHANCE.items()}
