"""records of a series -> which of its checkpoints have the same weights, and so cannot both be what their names say."""

from collections.abc import Iterable, Iterator, Sequence

from discreteness.dataset.names import with_name
from discreteness.dataset.runs_file import read_runs
from discreteness.dataset.seed_file import CommittedSeed
from discreteness.dataset.status import ranges
from discreteness.dataset.storage import Storage


def same_weights(hashes: Iterable[tuple[int, str]]) -> list[list[int]]:
    """(step, hash) of each checkpoint -> groups of steps whose weights are the same. An unknown hash, "", is equal to
    none."""
    groups: dict[str, list[int]] = {}
    for step, digest in hashes:
        if digest:
            groups.setdefault(digest, []).append(step)
    return [steps for steps in groups.values() if len(steps) > 1]


def words_of_equal(model: str, steps: Sequence[int]) -> str:
    return f"{model}: {len(steps)} checkpoints have the same weights: steps {ranges(sorted(steps))}"


def notes_of_equal(storage: Storage, committed: Iterable[CommittedSeed]) -> Iterator[str]:
    """A sentence for each group of a seed's checkpoints with the same weights. Records that cannot be read are passed
    over: `verify` says so."""
    for seed in committed:
        try:
            records = read_runs(storage, seed)
        except OSError:
            continue
        if "weights" not in records.column_names:
            continue
        hashes = zip(records["step"].to_pylist(), records["weights"].to_pylist(), strict=True)
        for steps in same_weights((step, digest or "") for step, digest in hashes):
            yield words_of_equal(f"seed {with_name(seed.seed, {seed.seed: seed.name} if seed.name else {})}", steps)
