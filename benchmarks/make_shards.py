"""folder of text -> tokens a second of `discreteness data make`, beside tiktoken alone on the same cores, in one run.

python benchmarks/make_shards.py [--texts DIR] [--glob '**/*.txt'] [--rounds 5]

Without --texts the Python files of this Python's library stand for text. tiktoken alone: texts in memory, in pieces of
4 MiB, encoded to lists by its own threads (encode_ordinary_batch), and by warm processes that give nothing back.
`data make`: from the files to the shards, the start of its processes included.
"""

import argparse
import multiprocessing
import statistics
import sysconfig
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

from speedrun.data.tokenizer import _encoding, encode
from speedrun.tracks import small

from discreteness import allowance
from discreteness.shards.make import batches, make_shards, text_files


def read(texts: str, glob: str) -> list[str]:
    """What `data make` gives its processes, as texts."""
    contents = []
    for batch in batches(text_files(texts, glob)):
        contents.append("".join(p.path.read_bytes()[p.start : p.stop].decode(errors="replace") for p in batch))
    return contents


def count(text: str) -> int:
    return len(encode(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", default=sysconfig.get_path("stdlib"))
    parser.add_argument("--glob", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    glob = arguments.glob or ("**/*.py" if arguments.texts == sysconfig.get_path("stdlib") else "**/*.txt")
    contents = read(arguments.texts, glob)
    seconds: dict[str, list[float]] = {"tiktoken, threads": [], "tiktoken, processes": [], "data make": []}
    tokens = 0
    encode("warm")
    with ProcessPoolExecutor(allowance.cores(), multiprocessing.get_context("spawn")) as pool:
        list(pool.map(count, ["warm"] * 2 * allowance.cores()))
        for _ in range(arguments.rounds):
            began_s = time.perf_counter()
            _encoding().encode_ordinary_batch(contents, num_threads=allowance.cores())
            seconds["tiktoken, threads"].append(time.perf_counter() - began_s)
            began_s = time.perf_counter()
            tokens = sum(pool.map(count, contents))
            seconds["tiktoken, processes"].append(time.perf_counter() - began_s)
            with tempfile.TemporaryDirectory() as folder:
                began_s = time.perf_counter()
                made = make_shards(arguments.texts, folder, small, glob=glob, val_tokens=tokens // 10)
                seconds["data make"].append(time.perf_counter() - began_s)
    print(f"{sum(map(len, contents)) / 1e6:.0f} M characters, {tokens / 1e6:.2f} M tokens, {made.documents} documents,")
    rounds = f"medians of {arguments.rounds} rounds"
    print(f"{allowance.cores()} cores, {rounds}; speeds as a share of tiktoken's in the same round\n")
    print("| what | s | M tokens/s | of its threads | of its processes |\n|---|---|---|---|---|")
    for name, values in seconds.items():
        shares = [
            statistics.median(one / mine for one, mine in zip(seconds[f"tiktoken, {way}"], values, strict=True))
            for way in ("threads", "processes")
        ]
        median = statistics.median(values)
        print(f"| {name} | {median:.2f} | {tokens / median / 1e6:.2f} | {shares[0]:.2f} | {shares[1]:.2f} |")


if __name__ == "__main__":
    main()
