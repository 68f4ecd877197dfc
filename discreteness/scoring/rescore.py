"""kept weights + new documents -> a second dataset, scored as if the documents had been there from the start.

The new dataset has its own identity: that of its origin, with these documents and steps, and the origin's hash. The
runs of its seeds, their training losses and times, are the origin's.
"""

import numpy as np
from speedrun.data import tokenizer
from speedrun.data.vocabulary import vocabulary_of
from speedrun.execution import Execution
from speedrun.kernels.flash_attention import loaded_library
from speedrun.tracks import Track

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.safetensors_file import WeightsFormat
from discreteness.dataset.kept_weights import kept_weights
from discreteness.dataset.lock import DatasetLock
from discreteness.dataset.manifest import listed
from discreteness.dataset.reader import Dataset
from discreteness.dataset.reader import open as open_reader
from discreteness.dataset.runs_file import trainers_library, with_libraries
from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.documents import Document, texts_hash
from discreteness.experiment.prepare import Experiment, load_documents
from discreteness.experiment.recorded_track import recorded_track
from discreteness.experiment.sources import identity_sources, sources_hash
from discreteness.scoring.speedrun_scorer import SpeedrunScorer


def rescore(
    origin_uri: str, documents: str, output: str, track_name: str | None = None, data: str | None = None
) -> int:
    """Scores every committed seed of a dataset that has its weights at all kept steps. Returns 0 if all seeds are
    scored; seeds whose weights are not all there, or not whole, are named and left out.

    `documents`, `data`: as for a run. `track_name`: the origin's track, which it records itself.
    Raises ValueError if the origin holds no weights, or was made with another track than the one of that name, and
    OSError as `DatasetLock` and `DatasetWriter.create_or_open` do.
    """
    origin = open_reader(origin_uri)
    kept = kept_weights(origin)
    steps = sorted({step for paths in kept.values() for step in paths})
    if not steps:
        raise ValueError(f"{origin_uri} holds no weights of its committed seeds; make it with --keep-weights STEPS")
    recipe = _track_of(origin, track_name, next(path for paths in kept.values() for path in paths.values()))
    complete = [seed for seed, paths in kept.items() if len(paths) == len(steps)]
    if partial := sorted(set(origin.seeds) - set(complete)):
        print(f"left out, as not all of steps {listed(steps)} are kept: seeds {listed(partial)}")
    texts = tuple(load_documents(documents, data, recipe))
    experiment = _experiment(origin, recipe, texts, tuple(steps), tuple(complete))
    with DatasetLock(output) as lock:
        dataset = DatasetWriter.create_or_open(
            output,
            experiment.identity,
            experiment.documents,
            token_bytes=tokenizer.decode_bytes,
            in_vocabulary=vocabulary_of(recipe).contains,
            steps=steps,
        )
        committed = dataset.committed()
        scorer = SpeedrunScorer(experiment, "cuda" if recipe.needs_gpu else "cpu")
        weights = WeightsFormat(recipe)
        for seed in complete:
            if seed in committed:
                continue
            try:
                losses = [_losses(scorer, *_read(weights, origin, kept[seed][step])) for step in steps]
            except NotWeights as error:
                print(f"left out: seed {seed}: {error}")
                partial.append(seed)
                continue
            lock.check()
            runs = origin.runs(seed)
            attempt = runs["attempt"][0].as_py()
            library = loaded_library()
            records = runs.drop_columns(["seed", "attempt"])
            records = with_libraries(records, trainers_library(runs), [library] if library else [])
            dataset.commit(seed, attempt, np.array(steps, np.int32), np.stack(losses), records)
            print(f"seed {seed} committed: {len(steps)} checkpoints")
    print(f"dataset: {output}")
    return 0 if not partial else 1


class NotWeights(ValueError):
    """A file of weights that is not whole."""


def _track_of(origin: Dataset, asked: str | None, weights: str) -> Track:
    """The track that the origin was made with."""
    values, storage = origin.experiment["identity"]["track"], origin.storage
    size = storage.filesystem.get_file_info(storage.path(weights)).size
    return recorded_track(values, asked, storage.uri, size)


def _read(weights: WeightsFormat, origin: Dataset, path: str) -> tuple[np.ndarray, CheckpointHeader]:
    content = origin.storage.read(path)
    try:
        return weights.read(content)
    except ValueError as error:
        raise NotWeights(f"{origin.storage.path(path)}, of {len(content)} bytes: {error}") from None


def _losses(scorer: SpeedrunScorer, data: np.ndarray, header: CheckpointHeader) -> np.ndarray:
    scorer.fetch(data, header)
    scorer.take()
    return scorer.score(header)


def _experiment(
    origin: Dataset, recipe: Track, texts: tuple[Document, ...], steps: tuple[int, ...], seeds: tuple[int, ...]
) -> Experiment:
    identity = origin.experiment["identity"]
    return Experiment(
        track=recipe,
        data_root="",
        documents=texts,
        vary=identity["vary"],
        packing=identity["packing"],
        score_tokens=identity["score_tokens"],
        world_size=identity["world_size"],
        execution=Execution(**identity["execution"]),
        plan=steps,
        validation_steps=frozenset(),
        val_tokens=0,
        kept_steps=frozenset(),
        seeds=seeds,
        identity=identity
        | {
            "checkpoints": list(steps),
            "documents": texts_hash(texts),
            "sources": sources_hash(identity_sources()),
            "origin": origin.experiment["identity_hash"],
        },
    )
