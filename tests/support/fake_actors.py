"""Ray's actors as the pool sees them, in this process, on a clock that jumps: they answer, fail, hang and die as told.

The pool and the dispatcher are state machines. Here they run whole, without a process, a thread or a wait, so that a
bound of 900 s takes no time and can be tested to the second.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from discreteness.service import dispatcher as dispatcher_module
from discreteness.service import evaluator_pool as pool_module
from discreteness.service import ledger as ledger_module
from discreteness.service.evaluator_pool import EvaluatorPool

HERE, THERE, ELSEWHERE = "a" * 56, "b" * 56, "c" * 56
"""Nodes, named as Ray names them."""
LONGEST_S = 10_000
"""A scenario that is not over by then waits for something that never comes."""


class JumpingLoop(asyncio.SelectorEventLoop):
    """Time stands still while there is something to do, and jumps to the next timer when there is not.

    What the code under test hands to a thread runs here, `thread_s` later.
    """

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.thread_s = 0.001
        self.in_threads = self.most_in_threads = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        self.now_s += 1e-9  # as on a real clock, no two moments are equal
        return self.now_s

    def run_in_executor(self, executor: Any, function: Callable, *arguments: Any) -> asyncio.Future:
        future = self.create_future()
        self.in_threads += 1
        self.most_in_threads = max(self.most_in_threads, self.in_threads)

        def work() -> None:
            self.in_threads -= 1
            try:
                result = function(*arguments)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_later(self.thread_s, work)
        return future


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop):
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list:
        assert timeout is not None, "everybody waits for ever"
        self.loop.now_s += max(0, timeout)
        assert self.loop.now_s < LONGEST_S, "somebody waits for ever"
        return super().select(0)


class ProcessEnds(BaseException):
    """Raised by an evaluator whose process is to end there and then."""


class Reference:
    """A handle of a checkpoint's bytes: `data`, or an exception instead, which reading it raises. None never comes."""

    def __init__(self, data: Any = b""):
        self.data = data

    def __await__(self):
        if self.data is None:
            yield from asyncio.get_running_loop().create_future()
        if isinstance(self.data, Exception):
            raise self.data
        return self.data


def lost() -> ObjectLostError:
    """The error of bytes that died with the worker that owned them."""
    return ObjectLostError("00", None, "")


def of_a_task(error: Exception) -> RayTaskError:
    """An actor's own error, as Ray raises it where the call is awaited."""
    name = type(error).__name__
    wrapped = RayTaskError("score", f"Traceback (...)\n{name}: {error}", error, proctitle="evaluator", pid=1, ip="ip")
    return wrapped.as_instanceof_cause()


class FakeActor:
    """Takes calls as an actor of Ray does: in the order in which they are made, `max_concurrency` at once."""

    def __init__(self, evaluator: type, options: dict[str, Any], arguments: tuple, node: str):
        self.options = options
        self.device = arguments[1]
        self.node = node
        self.began_s = now_s()
        self.open: list[asyncio.Future] = []
        self.most_open = 0
        self.ended: Exception | None = None
        self._turn = asyncio.Semaphore(options["max_concurrency"])
        self._works: set[asyncio.Task] = set()
        try:
            self.instance = evaluator(*arguments)
        except Exception as error:
            self.die(f"an error was raised in its creation task\n{type(error).__name__}: {error}")

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *arguments: self._call(name, arguments))

    def die(self, why: str) -> None:
        """The process is gone, and with it whatever was asked of it."""
        self.ended = RayActorError("", why)
        for work in self._works:
            work.cancel()
        for answer in self.open:
            if not answer.done():
                answer.set_exception(self.ended)

    def _call(self, name: str, arguments: tuple) -> asyncio.Future:
        answer = asyncio.get_running_loop().create_future()
        self.open.append(answer)
        answer.add_done_callback(self.open.remove)
        self.most_open = max(self.most_open, len(self.open))
        if self.ended:
            answer.set_exception(self.ended)
        else:
            work = asyncio.ensure_future(self._work(name, arguments, answer))
            self._works.add(work)
            work.add_done_callback(self._works.discard)
        return answer

    async def _work(self, name: str, arguments: tuple, answer: asyncio.Future) -> None:
        async with self._turn:
            try:
                if name == "__ray_call__":
                    result = self.node, None  # it has loaded no FlashAttention-3
                else:
                    known = [await one if isinstance(one, Reference) else one for one in arguments]
                    result = await getattr(self.instance, name)(*known)
            except ProcessEnds as end:
                self.die(f"The actor is dead because its worker process has died\n{end}")
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error if isinstance(error, RayError) else of_a_task(error))
            else:
                if not answer.done():
                    answer.set_result(result)


@dataclass
class Script:
    """What evaluators do. It stands in the place of the experiment, which the pool only hands on to them."""

    call_s: float = 1.0
    does: dict[int, Exception | ProcessEnds | None] = field(default_factory=dict)
    """What scoring a step ends in, instead of losses; None: never."""
    starts: list[Exception] = field(default_factory=list)
    """Errors of the next starts."""
    start_s: float = 0.0
    losses: Callable[[Any], np.ndarray] = lambda header: np.array([header.step], np.float32)
    val_loss: Callable[[Any, int], float] = lambda header, chunk: float(chunk)
    began: list[tuple] = field(default_factory=list)
    """(evaluator, step) of every score and (evaluator, step, chunk) of every validation, as they began."""
    company: dict[int, set[int]] = field(default_factory=dict)
    """step -> the steps that one evaluator worked on at the same time."""


class FakeEvaluator:
    """Follows the script."""

    def __init__(self, script: Script, device: str):
        if script.starts:
            raise script.starts.pop(0)
        self.script = script
        self.at_work: list[int] = []

    async def ready(self) -> int:
        await asyncio.sleep(self.script.start_s)
        return 1

    async def score(self, data: Any, header: Any) -> np.ndarray:
        await self._work(header.step)
        return self.script.losses(header)

    async def validate(self, data: Any, header: Any, chunk: int) -> float:
        await self._work(header.step, chunk)
        return self.script.val_loss(header, chunk)

    async def _work(self, step: int, *chunk: int) -> None:
        script = self.script
        script.began.append((self, step, *chunk))
        self.at_work.append(step)
        for one in self.at_work:
            script.company.setdefault(one, set()).update(self.at_work)
        try:
            await asyncio.sleep(script.call_s)
            if step in script.does:
                if (end := script.does[step]) is None:
                    await asyncio.get_running_loop().create_future()
                raise end
        finally:
            self.at_work.remove(step)


class FakeRay:
    """Stands where evaluator_pool.py says `ray`, and runs scenarios on a clock of their own."""

    def __init__(self) -> None:
        self.actors: list[FakeActor] = []
        """All that were ever started, in order."""
        self.killed: list[FakeActor] = []
        self.lands_on: dict[str, str] = {}
        """node that was asked for -> node that was given instead."""

    def remote(self, evaluator: type) -> SimpleNamespace:
        def start(options: dict[str, Any], arguments: tuple) -> FakeActor:
            asked = getattr(options["scheduling_strategy"], "node_id", ELSEWHERE)
            self.actors.append(FakeActor(evaluator, options, arguments, self.lands_on.get(asked, asked)))
            return self.actors[-1]

        return SimpleNamespace(
            options=lambda **options: SimpleNamespace(remote=lambda *arguments: start(options, arguments))
        )

    def kill(self, actor: FakeActor) -> None:
        self.killed.append(actor)
        actor.die("it was killed")

    def run(self, scenario: Coroutine) -> Any:
        """What the scenario returns. Fails if it waits for something that never comes."""
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            clock = SimpleNamespace(monotonic=runner.get_loop().time)
            with (
                patch.object(pool_module, "ray", self),
                patch.object(pool_module, "time", clock),
                patch.object(dispatcher_module, "time", clock),
                patch.object(ledger_module, "time", clock),
            ):
                return runner.run(scenario)


def a_pool(
    script: Script,
    trainers: dict[str, str] | None = None,
    num_evaluators: int = 1,
    num_gpus_each: float = 0.0,
    num_trainers: int | None = None,
) -> EvaluatorPool:
    """A pool of evaluators that follow the script. `trainers`: name -> node of those that have their place."""
    trainers = {"g": HERE} if trainers is None else trainers
    pool = EvaluatorPool(script, num_evaluators, num_trainers or len(trainers), num_gpus_each, evaluator=FakeEvaluator)
    pool.events = []
    pool.on_event = pool.events.append
    for trainer, node in trainers.items():
        pool.place_beside(trainer, node)
    return pool


def header(step: int) -> SimpleNamespace:
    """As much of a checkpoint's header as the pool looks at."""
    return SimpleNamespace(step=step)


def now_s() -> float:
    """On the scenario's clock."""
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], Any]) -> None:
    """Looks ten times a second, on the scenario's clock."""
    while not condition():
        await asyncio.sleep(0.1)
