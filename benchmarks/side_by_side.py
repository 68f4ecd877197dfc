"""one GPU + shards -> two one-GPU trainers at once against one after another: what sharing a GPU costs or gains.

python benchmarks/side_by_side.py --data DIR [--steps 20]
"""

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.synchronize import Barrier

from short_track import add_arguments, short_track


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=work, args=(rank, arguments, barrier, results)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a trainer ended with an error")
    seconds = [results.get() for _ in workers]
    alone = statistics.median(s for result in seconds for s in result["alone"])
    together = statistics.median(s for result in seconds for s in result["together"])
    print(f"{arguments.steps} updates of 131,072 tokens: alone {alone:.2f} s, beside another {together:.2f} s")
    print(f"two seeds at once take {together / (2 * alone):.3f} of the time of one after another")


def work(rank: int, arguments: argparse.Namespace, barrier: Barrier, results) -> None:
    import torch
    from speedrun.execution import Execution
    from speedrun.schedules import forward_state, step_settings
    from speedrun.training import Trainer

    track = short_track(arguments, 180, 20)
    for turn in (0, 1):  # the second finds the first one's compile caches
        if turn == rank:
            trainer = Trainer(track, arguments.data, "cuda", execution=Execution(micro_batch_tokens=32768))
        barrier.wait()

    def block_s() -> float:
        trainer.batches.start()
        torch.cuda.synchronize()
        began_s = time.perf_counter()
        for step in range(arguments.steps):
            trainer.update(step_settings(track.schedule, step), forward_state(track, step))
        torch.cuda.synchronize()
        return time.perf_counter() - began_s

    block_s()
    barrier.wait()
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    for _ in range(arguments.rounds):
        for turn in (0, 1):
            if turn == rank:
                seconds["alone"].append(block_s())
            barrier.wait()
        seconds["together"].append(block_s())
        barrier.wait()
    results.put(seconds)


if __name__ == "__main__":
    main()
