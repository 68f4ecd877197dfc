"""planted dataset -> seconds and bytes of merging two halves, and of publishing and opening on a hub on loopback.

python -m benchmarks.sharing [--seeds 8] [--steps 48]

The documents are the built-in ones. The hub is that of the tests, in threads of this process: its times say what this
machine does, not what a network would.
"""

import argparse
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pytest import MonkeyPatch
from speedrun.data.tokenizer import decode_bytes

import discreteness
from discreteness.dataset.by_token.compaction import compact
from discreteness.dataset.sharing.card import Words
from discreteness.dataset.sharing.merge import merge
from discreteness.dataset.sharing.publish import publish
from discreteness.dataset.verify import verify
from discreteness.experiment.documents import built_in
from tests.support.dataset_hub import DatasetHub
from tests.support.planted_dataset import create_planted, log_plan


@contextmanager
def timed(what: str):
    began_s = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - began_s:.2f} s", flush=True)


def content(folder: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if not name.startswith("_")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=48)
    arguments = parser.parse_args()
    seeds, steps = range(arguments.seeds), log_plan(arguments.steps, 10 * arguments.steps)
    half = arguments.seeds // 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, some in ("whole", seeds), ("left", seeds[: half + 1]), ("right", seeds[half:]):
            create_planted(folder / part, built_in(), decode_bytes, steps, some)
            compact(folder / part)
        with timed(f"merge two halves of {arguments.seeds} seeds, one in both, and compact"):
            merge([folder / "left", folder / "right"], folder / "all")
        whole, merged = content(folder / "whole"), content(folder / "all")
        equal = sum(merged.get(file) == data for file, data in whole.items())
        print(f"{equal} of {len(whole)} files of the whole are equal, and {len(merged) - equal} others are there")
        print(f"{sum(map(len, merged.values())) / 1e6:.2f} MB")
        with timed("merge again"):
            merge([folder / "left", folder / "right"], folder / "all")
        share(folder / "all", folder)


def share(dataset: Path, folder: Path) -> None:
    with DatasetHub() as hub, MonkeyPatch.context() as patch:
        hub.use(patch, folder)
        for what in "publish", "publish again":
            with timed(what):
                published = publish(dataset, "me/name", Words(licence="mit"))
            num_bytes = sum(published.files.values())
            print(f"{len(published.files)} files, {num_bytes / 1e6:.2f} MB, {len(published.sent)} sent")
        hub.requests.clear()
        with timed("open"):
            there = discreteness.open("hf://datasets/me/name")
        print(f"{len(hub.requests)} requests")
        hub.requests.clear()
        document = there.documents[0].name
        with timed("the losses of one token in all seeds"):
            found = there.losses(document, token=3)
        ranges = [request.partition(" bytes=")[2].split("-") for request in hub.requests]
        num_bytes = sum(int(end) - int(begin) + 1 for begin, end in ranges)
        print(f"{len(ranges)} requests, {num_bytes} bytes; {found.nbytes} bytes of losses")
        assert np.array_equal(found, discreteness.open(dataset).losses(document, token=3))
        with timed("verify, which fetches everything"):
            print(f"{len(verify('hf://datasets/me/name'))} problems")


if __name__ == "__main__":
    main()
