"""function -> its result on each of N gloo ranks, each a new process with one thread."""

import multiprocessing
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run(function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 120) -> list[Any]:
    """[function(process_group, *args) of rank 0, 1, ...]: `function` importable, results of tensors.

    AssertionError with the ranks' tracebacks if one raises, or with those still at work after `timeout_s`.
    """
    # One server imports the heavy modules once and ranks are forked from it: spawned ones need seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "hypothesis", "numpy", "pytest"])
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_work, args=(function, rank, world_size, folder, timeout_s, args), daemon=True)
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        deadline = time.monotonic() + timeout_s
        # One dead rank leaves the others waiting for it: stop at the first failure.
        while any(p.is_alive() for p in processes) and not any(p.exitcode for p in processes):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        late = [rank for rank, process in enumerate(processes) if process.exitcode is None]
        for process in processes:
            process.kill()
            process.join()
        results = Path(folder)
        errors = [error.read_text() for error in sorted(results.glob("*.error"))]
        codes = [process.exitcode for process in processes]
        assert not errors, "\n".join(errors)
        assert not any(codes), f"ranks {late} of {world_size} were at work after {timeout_s} s; exit codes {codes}"
        return [torch.load(results / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


@contextmanager
def in_step(process_group: dist.ProcessGroup) -> Iterator[list[str]]:
    """Collectives of all ranks are the same ones in the same order: where they are not, none waits for another for
    ever, but each gets an AssertionError at once. Yields the names of those that this rank has entered.

    Before each of them, and at the end of the block, the ranks ask each other what they are about to do.
    """
    entered: list[str] = []

    def agree(what: str, numbers: int = 0) -> None:
        all_ranks: list[Any] = [None] * dist.get_world_size(process_group)
        dist.all_gather_object(all_ranks, (what, numbers), group=process_group)
        entered.append(what)
        if len(set(all_ranks)) > 1:
            raise OutOfStep(f"the ranks go different ways after {len(entered) - 1} collectives: {all_ranks}")

    def asking(name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
        def ask(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            agree(name, tensor.numel())
            return collective(tensor, *args, **kwargs)

        return ask

    sound = {name: getattr(dist, name) for name in ("broadcast", "all_reduce")}
    for name, collective in sound.items():
        setattr(dist, name, asking(name, collective))
    try:
        yield entered
        agree("the end")
    except OutOfStep:
        raise
    except Exception as error:
        with suppress(OutOfStep):
            agree(f"{type(error).__name__}: {error}")
        raise
    finally:
        for name, collective in sound.items():
            setattr(dist, name, collective)


class OutOfStep(AssertionError):
    """Ranks that would have waited for each other for ever."""


def _work(
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    folder: str,
    timeout_s: float,
    args: tuple[Any, ...],
) -> None:
    try:
        warnings.simplefilter("error")
        torch.set_num_threads(1)
        store = dist.FileStore(str(Path(folder) / "store"), world_size)
        timeout = timedelta(seconds=timeout_s)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)
        torch.save(function(dist.group.WORLD, *args), Path(folder) / f"{rank}.pt")
        dist.barrier()  # a rank that leaves early breaks the connections that others still set up
        dist.destroy_process_group()
    except BaseException:
        (Path(folder) / f"{rank}.error").write_text(f"rank {rank} of {world_size}:\n{traceback.format_exc()}")
        raise
