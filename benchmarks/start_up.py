"""one GPU + shards -> seconds to the first step and from seed to seed, compilations after warm-up, loss curves.

python benchmarks/start_up.py --data DIR [--steps 150] [--cache DIR]

Runs the same program twice: with empty compile caches (cold) and with those that the first run left (warm). The cold
run ends after its first step; the warm one trains two seeds over a shortened schedule that passes every stage, with
validation, and exits with code 1 if anything was compiled after the trainer was built. --cache keeps the caches.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    # The flags of short_track.py, which imports torch: the child's time counts that, the parent has no use for it.
    parser.add_argument("--data", default=".")
    parser.add_argument("--train-glob")
    parser.add_argument("--val-glob")
    parser.add_argument("--steps", type=int, default=150, help="scheduled steps of the shortened schedule")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cache", help="folder of the compile caches; default: a new one")
    parser.add_argument("--skip-cold", action="store_true", help="the caches are filled already")
    parser.add_argument("--only-first-step", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child-began", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child_began:
        return child(arguments)
    cache = arguments.cache or tempfile.mkdtemp()
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor", "TRITON_CACHE_DIR": f"{cache}/triton"}
    code = 0
    for kind in ("warm",) if arguments.skip_cold else ("cold", "warm"):
        print(f"--- {kind}", flush=True)
        command = [sys.executable, *sys.argv, "--child-began", str(time.time())]
        command += ["--only-first-step"] if kind == "cold" else []
        code |= subprocess.run(command, env=environment, check=False).returncode
    return code


def child(arguments: argparse.Namespace) -> int:
    import torch
    from short_track import short_track
    from speedrun.tracks import small
    from speedrun.training import Trainer

    def since_start_s() -> float:
        torch.cuda.synchronize()
        return time.time() - arguments.child_began

    imported_s = time.time() - arguments.child_began
    arguments.train_glob = arguments.train_glob or small.data.train_glob
    arguments.val_glob = arguments.val_glob or small.data.val_glob
    track = short_track(arguments, arguments.steps, max(2, arguments.steps // 45))
    trainer = Trainer(track, arguments.data, "cuda")
    built_s = since_start_s()
    graphs, kernels = count_compilations()
    last = track.schedule.last_step
    plan = sorted({1, *range(0, last, 10), last})
    ended_s = None
    for seed in range(arguments.seeds):
        trainer.prepare(seed)
        for checkpoint in trainer.train(seed, plan, validate=not arguments.only_first_step):
            if checkpoint.step == 0 and ended_s is not None:
                print(f"from seed to seed, with a validation: {since_start_s() - ended_s:.2f} s")
            if checkpoint.step == 0:
                trainer.prepare(seed + 1)
            if checkpoint.step == 1:
                if seed == 0:
                    print(
                        f"process start to torch {imported_s:.1f} s, to a built trainer {built_s:.1f} s, "
                        f"to the first step {since_start_s():.1f} s",
                        flush=True,
                    )
                if arguments.only_first_step:
                    return 0
            for record in checkpoint.records:
                print(
                    json.dumps(
                        {"seed": seed}
                        | {
                            key: round(record[key], 4)
                            for key in ("step", "val_loss", "train_loss", "step_ms", "train_s")
                            if key in record
                        }
                    )
                )
        ended_s = since_start_s()
    next(trainer.train(arguments.seeds, [0, last]))
    print(f"from seed to seed: {since_start_s() - ended_s:.2f} s")
    after = [count - before for count, before in zip(count_compilations(), (graphs, kernels), strict=True)]
    print(f"compiled after warm-up: {after[0]} graphs, {after[1]} kernels")
    print(
        f"peak memory allocated {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB, "
        f"reserved {torch.cuda.max_memory_reserved() / 2**30:.1f} GiB"
    )
    return 1 if any(after) else 0


_kernels: set[str] = set()


def count_compilations() -> tuple[int, int]:
    """Graphs of torch.compile and Triton kernels compiled so far; the second from the first call on."""
    import triton
    from torch._dynamo.utils import counters

    def compiled(*_: object, **facts: object) -> None:
        _kernels.add(str(facts.get("key")))

    triton.knobs.runtime.jit_post_compile_hook = compiled
    return counters["stats"]["unique_graphs"], len(_kernels)


if __name__ == "__main__":
    sys.exit(main())
