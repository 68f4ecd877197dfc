"""The service without Ray: the real worker in this thread, the real dispatcher on a loop in another."""

import asyncio
import concurrent.futures
import threading
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

from discreteness.checkpoint.seam import AttemptFailed
from discreteness.scoring.evaluator import Evaluator
from discreteness.service import publisher, trainer_worker
from discreteness.service.dispatcher import Dispatcher
from discreteness.service.evaluator_pool import CheckpointRejected
from discreteness.service.job import TrainerSpec
from tests.support.job_case import a_job
from tests.support.plain_ray import Reference

PATIENCE_S = 300


class ThreadedRay:
    """As much of the module `ray` as a trainer's only worker uses."""

    train = SimpleNamespace(
        get_context=lambda: SimpleNamespace(get_world_rank=lambda: 0), get_preemption_info=lambda: None
    )

    def get_runtime_context(self):
        return SimpleNamespace(current_actor=None, get_node_id=lambda: "node")

    def kill(self, actor):
        raise AssertionError("no trainer is silent here")

    def put(self, data):
        return Reference(data)

    def get(self, call, timeout=None):
        return call.result(timeout or PATIENCE_S)

    def wait(self, calls, *, num_returns=1, timeout=None):
        concurrent.futures.wait(calls, timeout, concurrent.futures.FIRST_COMPLETED)
        done = [call for call in calls if call.done()][:num_returns]
        return done, [call for call in calls if call not in done]


class OnLoop:
    """An asyncio actor: its methods are called from other threads, and answered with futures."""

    def __init__(self, plain, loop):
        self._plain, self._loop = plain, loop

    def __getattr__(self, name):
        def remote(*arguments):
            return asyncio.run_coroutine_threadsafe(getattr(self._plain, name)(*arguments), self._loop)

        return SimpleNamespace(remote=remote)


class OneEvaluator:
    """A pool of one evaluator, in the dispatcher's own thread. The pool's own rules: test_evaluator_pool_rules.py."""

    given_up, replaced, libraries, on_event = "", 0, (), print

    def __init__(self, pair):
        self.evaluator = Evaluator(pair, "cpu")

    def place_beside(self, trainer, node_id):
        pass

    def ready(self):
        return 1

    def busy_s(self):
        return 0.0

    async def score(self, trainer, reference, header):
        try:
            return self.evaluator.score(reference.data, header)
        except AttemptFailed as failure:
            raise CheckpointRejected(f"step {header.step}: {failure}", failure.ends) from None
        except ValueError as error:
            raise CheckpointRejected(f"step {header.step} cannot be scored: {error}") from None


@contextmanager
def dispatching(recording, pair, dataset, **how):
    """A dispatcher at work, and what a worker is told of it: (spec, OnLoop). `how`: settings of how it is run."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        job = a_job(recording, recording.seeds, pair=pair, **how)
        dispatcher = OnLoop(Dispatcher(job, dataset, OneEvaluator(pair)), loop)
        yield TrainerSpec(name="trainer-0", dispatcher=dispatcher, job=job), dispatcher
    finally:
        asyncio.run_coroutine_threadsafe(_end(), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def train(spec, times=1):
    """What a trainer's processes do, started again `times` times at most; the errors that ended them."""
    errors = []
    with patch.object(publisher, "ray", ThreadedRay()), patch.object(trainer_worker, "ray", ThreadedRay()):
        for _ in range(times):
            try:
                trainer_worker.train_seeds(replace(spec))
                break
            except Exception as error:
                errors.append(error)
    return errors


async def _end():
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
