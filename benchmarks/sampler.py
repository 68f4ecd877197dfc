"""this machine -> tokens per second of the sampler in both orders; seconds to index shards, shuffle a seed, and count.

Counted is what `small` takes of the shards, as before each run.

python benchmarks/sampler.py --shards 10 --tokens 10000000

Shards of random ids in documents of log-normal lengths, 810 tokens on average, are written to a temporary folder. Needs
no GPU. Nothing is read by other programs: shards are in the page cache, as those of later seeds are.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from speedrun.data.document_order import DocumentIndex, DocumentOrder
from speedrun.data.sampler import TrainingBatches
from speedrun.data.shards import BOS, ShardError, write_shard
from speedrun.data.supply import measure
from speedrun.tracks import small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=10**7, help="per shard; FineWeb's have 10^8")
    parser.add_argument("--ranks", type=int, default=1, help="of which the first is timed")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    cap, slots = small.data.max_document_tokens, small.data.num_slots
    with tempfile.TemporaryDirectory(prefix="sampler-") as folder:
        paths = [write_documents(Path(folder) / f"{k}.bin", arguments.tokens, k) for k in range(arguments.shards)]
        index, index_s = timed(lambda: DocumentIndex(paths, cap))
        order, shuffle_s = timed(lambda: DocumentOrder(index, 1))
        print(
            f"{arguments.shards} shards of {arguments.tokens} tokens, {len(index)} documents: index {index_s:.2f} s, "
            f"shuffle of one seed {shuffle_s:.3f} s; in memory {num_mib(index.starts, index.lengths):.1f} MiB "
            f"and {num_mib(order.documents, order.kept):.1f} MiB per order"
        )
        for name, how in {"init": {}, "data, 10 seeds": {"shuffled": True, "seeds": range(10)}}.items():
            supply, count_s = timed(lambda how=how: measure(paths, small, arguments.ranks, **how))
            print(f"--vary {name}: counted in {count_s:.2f} s: {supply.words()}, passes needed: {supply.passes}")
        samplers = {
            name: TrainingBatches(paths, 0, arguments.ranks, slots, cap, shuffled=name == "data")
            for name in ("init", "data")
        }
        for number in range(arguments.repeat):
            for name, batches in samplers.items():
                batches.rewind(number)
                tokens, pass_s = timed(lambda batches=batches: whole_pass(batches))
                print(
                    f"--vary {name}, pass {number}: {tokens / pass_s / 1e6:.1f} million tokens per second of one rank"
                )


def write_documents(path: Path, num_tokens: int, number: int) -> Path:
    random = np.random.default_rng(number)
    tokens = random.integers(0, 50_000, num_tokens, dtype=np.uint16)
    lengths = np.maximum(2, random.lognormal(6.2, 1.0, num_tokens // 100)).astype(int)
    starts = np.cumsum(lengths) - lengths[0]
    tokens[starts[starts < num_tokens]] = BOS
    write_shard(path, tokens)
    return path


def whole_pass(batches: TrainingBatches) -> int:
    """Tokens of this rank until the shards run out, in micro-batches as at the first batch size of `small`."""
    batch_tokens, tokens = small.schedule.batch_tokens[0], 0
    try:
        while True:
            tokens += len(batches.next(batch_tokens)[0])
    except ShardError:
        return tokens


def timed(function):
    began_s = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began_s


def num_mib(*arrays: np.ndarray) -> float:
    return sum(array.nbytes for array in arrays) / 2**20


if __name__ == "__main__":
    main()
