"""The pool of evaluators: actors that turn checkpoints, given by their handles, into losses, kept alive and busy.

- A checkpoint is scored on the node of its trainer, in order of arrival, while an evaluator is alive there.
- An evaluator that dies or hangs is replaced, and its checkpoints are scored again, without a word to who asked.
- Blame goes to the checkpoint only if several evaluators die under it, each time alone.
"""

import asyncio
import heapq
import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from discreteness.checkpoint.header import CheckpointHeader
from discreteness.checkpoint.seam import AttemptFailed, Ends, Pair
from discreteness.cluster.rays_words import in_one_line
from discreteness.dataset.runs_file import Library
from discreteness.scoring.evaluator import Evaluator
from discreteness.service.messages import Event
from discreteness.service.timeouts import CALL_TIMEOUT_S, START_TIMEOUT_S

IN_FLIGHT_EACH = 2
"""One scoring, one in the evaluator's mailbox with its bytes already on the node."""
MAX_STRIKES = 3
"""Evaluators that may die under one checkpoint before the checkpoint is to blame."""
MAX_FAILED_STARTS = 3
"""Starts of each evaluator that may fail, with none anywhere succeeding between them, before the pool gives up."""
RESTART_S, LONGEST_RESTART_S = 5.0, 300.0
"""Wait after a failed start, doubled each time: what fails at once must not become a busy loop."""
ANYWHERE = ""
"""In place of a node's id, which no evaluator has: all are near."""
VALIDATION_WAITS_FOR = 64
"""Checkpoints that may overtake a validation chunk: it is not urgent, but it holds its checkpoint's bytes."""


class CheckpointLost(AttemptFailed):
    """The bytes died with the worker that owned them: its attempt is over, nobody is to blame."""


class CheckpointRejected(AttemptFailed):
    """Evaluators cannot score this checkpoint: a deterministic error, it killed several of them, or none can start.

    `ends`: what the scorer said it is the end of.
    """

    def __init__(self, reason: str, ends: Ends = "attempt"):
        super().__init__(reason)
        self.ends = ends


@dataclass(eq=False)
class _Member:
    """One evaluator actor."""

    number: int
    trainer: str
    actor: Any
    alive: bool = False
    node: str = ""
    """Where it runs, once it is alive."""
    suspects: list[object] = field(default_factory=list)
    """The calls that may have killed it."""
    calls: list[object] = field(default_factory=list)
    """A token a call, oldest first: it works on as many as it has threads."""
    busy_since_s: float = 0.0
    """When it was given the first of its calls."""
    alone: bool = False
    """Its call has been under suspicion and must have no company that could be blamed, or be to blame."""


_Waiting = tuple[int, int, bool, asyncio.Future]
"""(order of arrival + patience, patience, whether it needs an evaluator to itself, its place to be)."""


class EvaluatorPool:
    """A fixed number of evaluators, each replaced when it dies or hangs. Lives in the dispatcher's event loop.

    `evaluator`: the class that its actors are made of, from a pair and a device. `call_timeout_s`: bound of one call.
    `stays`: a checkpoint is scored on its trainer's node while an evaluator is alive there.
    """

    def __init__(
        self,
        pair: Pair,
        num_evaluators: int,
        num_trainers: int,
        num_gpus_each: float,
        evaluator: type = Evaluator,
        call_timeout_s: float = CALL_TIMEOUT_S,
        stays: bool = True,
    ):
        self.pair = pair
        self.call_timeout_s = call_timeout_s
        self.stays = stays
        self.evaluator = evaluator
        self.num_evaluators = num_evaluators
        self.share = -(-num_evaluators // num_trainers)
        self.num_gpus_each = num_gpus_each
        self.threads = IN_FLIGHT_EACH if num_gpus_each else 1
        self.on_event: Callable[[Event], None] = print
        self.members: list[_Member] = []
        self.replaced = 0
        self.created = 0
        self.given_up = ""
        """Why no evaluator will ever score again; empty while there is hope."""
        self.nodes: dict[str, str] = {}
        self.libraries: list[Library] = []
        """Every FlashAttention-3 that an evaluator of this job has loaded: one, unless its source has moved."""
        self._failed_starts = 0
        self._busy_s = 0.0
        self._waiting: defaultdict[str, list[_Waiting]] = defaultdict(list)
        """Node whose object store has the bytes -> a heap of who waits."""
        self._order = itertools.count()
        self._starts: set[asyncio.Task] = set()

    def place_beside(self, trainer: str, node_id: str) -> None:
        """A trainer has its place: its share of the evaluators goes beside it, later ones follow it there.

        Not earlier: an evaluator that comes first takes a GPU from under a trainer. Those with a whole GPU to
        themselves go wherever one is free.
        """
        known, self.nodes[trainer] = trainer in self.nodes, node_id
        for _ in range(0 if known else min(self.share, self.num_evaluators - self.created)):
            self._create(self.created, trainer)
            self.created += 1

    def ready(self) -> int:
        return sum(member.alive for member in self.members)

    def busy_s(self) -> float:
        """Seconds, summed over evaluators, in which one had a call: scoring it, or waiting for its bytes."""
        now_s = time.monotonic()
        return self._busy_s + sum(now_s - member.busy_since_s for member in self.members if member.calls)

    async def score(self, trainer: str, reference: ray.ObjectRef, header: CheckpointHeader) -> np.ndarray:
        """float32 losses of all documents. Raises CheckpointLost or CheckpointRejected; a dead evaluator is replaced
        and its checkpoints scored again without a word to the caller.

        A checkpoint stays on the node of its trainer, unless no evaluator is alive there: half a gigabyte per step is
        more than a network takes from every node. Nodes without one share the others' in order of arrival.
        """
        return await self._call(0, "score", trainer, reference, header)

    async def fetch(self, reference: ray.ObjectRef) -> np.ndarray:
        """The bytes themselves, for who keeps them. Raises CheckpointLost."""
        try:
            return await asyncio.wait_for(reference, IN_FLIGHT_EACH * self.call_timeout_s)
        except ObjectLostError:
            raise CheckpointLost("the worker that held a checkpoint to keep is gone") from None
        except RayError as error:  # a full disk or store of this node, where it is brought
            raise CheckpointLost(f"the bytes of a checkpoint to keep cannot be had: {in_one_line(error)}") from None
        except TimeoutError:
            bound_s = IN_FLIGHT_EACH * self.call_timeout_s
            raise CheckpointLost(f"the bytes of a checkpoint to keep did not come within {bound_s} s") from None

    async def validate(self, trainer: str, reference: ray.ObjectRef, header: CheckpointHeader, chunk: int) -> float:
        """Mean loss of one validation chunk, after the documents that wait and some of those to come. Raises as
        `score` does."""
        return await self._call(VALIDATION_WAITS_FOR, "validate", trainer, reference, header, chunk)

    async def _call(
        self, patience: int, method: str, trainer: str, reference: ray.ObjectRef, header: CheckpointHeader, *rest: int
    ):
        strikes, trouble = 0, ""
        while True:
            member, token = await self._acquire(
                self.nodes[trainer] if self.stays else ANYWHERE, patience, alone=strikes > 0
            )
            try:
                call = getattr(member.actor, method).remote(reference, header, *rest)
                # Two in the mailbox: the younger waits for the older.
                return await asyncio.wait_for(call, IN_FLIGHT_EACH * self.call_timeout_s)
            except RayTaskError as error:
                if isinstance(error, ObjectLostError) or isinstance(error.cause, ObjectLostError):
                    raise CheckpointLost(f"the worker that held step {header.step} is gone") from None
                if isinstance(error.cause, AttemptFailed):
                    raise CheckpointRejected(f"step {header.step}: {error.cause}", error.cause.ends) from None
                if isinstance(error.cause, ValueError):  # the bytes are wrong, for every evaluator alike
                    raise CheckpointRejected(f"step {header.step} cannot be scored: {in_one_line(error)}") from None
                # Its own trouble, such as a full or broken GPU, which would meet every later checkpoint as well.
                self._replace(member, error, [token])
                strikes, trouble = strikes + (token in member.suspects), in_one_line(error)
            except ObjectLostError:
                raise CheckpointLost(f"the worker that held step {header.step} is gone") from None
            except (RayError, TimeoutError) as error:  # it died, hangs, or Ray ended it for its memory
                self._replace(member, error, member.calls[: self.threads])
                strikes, trouble = strikes + (token in member.suspects), in_one_line(error)
            finally:
                self._release(member, token)
            if strikes >= MAX_STRIKES:
                raise CheckpointRejected(f"step {header.step} ended {strikes} evaluators; the last: {trouble}")

    async def _acquire(self, node: str, patience: int, alone: bool) -> tuple[_Member, object]:
        """Waits for a place on this node: in order of arrival, but `patience` later ones may go first; `alone`: an idle
        evaluator to itself. CheckpointRejected: there will be none."""
        if self.given_up:
            raise CheckpointRejected(self.given_up)
        place: asyncio.Future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting[node], (next(self._order) + patience, patience, alone, place))
        self._hand_out()
        try:
            return await place
        except asyncio.CancelledError:
            if not place.cancelled():  # handed out in the same turn as the cancellation
                self._release(*place.result())
            raise

    def _release(self, member: _Member, token: object) -> None:
        member.calls.remove(token)
        if not member.calls and member.alive:  # else counted when it was replaced
            self._busy_s += time.monotonic() - member.busy_since_s
        member.alone = False
        self._hand_out()

    def _hand_out(self) -> None:
        """The longest waiting first, whatever its node. Where that one needs an idle evaluator, the least busy is kept
        from those behind it, who would not let it become idle."""
        alive = [member for member in self.members if member.alive]
        first = [(waiting[0], node) for node, waiting in self._waiting.items() if _anybody(waiting)]
        heapq.heapify(first)
        kept: set[_Member] = set()
        while first:
            (_, _, alone, place), node = heapq.heappop(first)
            near = [member for member in alive if member.node == node] or alive
            open_to_it = [member for member in near if not member.alone and member not in kept]
            member = min(open_to_it, key=lambda member: len(member.calls), default=None)
            if member is None:
                continue
            if len(member.calls) > (0 if alone else IN_FLIGHT_EACH - 1):
                kept.add(member)
                continue
            waiting = self._waiting[node]
            heapq.heappop(waiting)
            if _anybody(waiting):
                heapq.heappush(first, (waiting[0], node))
            token = object()
            if not member.calls:
                member.busy_since_s = time.monotonic()
            member.calls.append(token)
            member.alone = alone
            place.set_result((member, token))

    def _create(self, number: int, trainer: str) -> None:
        beside = NodeAffinitySchedulingStrategy(self.nodes[trainer], soft=True)
        actor: Any = (
            ray.remote(self.evaluator)
            .options(
                name=f"evaluator-{number}" + (f"-{self.replaced}" if self.replaced else ""),
                num_cpus=0,
                num_gpus=self.num_gpus_each,
                # On a GPU the second call's checkpoint comes in while the first's is scored (loading.py); a CPU has
                # nothing to gain and one thread adds in one order.
                max_concurrency=self.threads,
                scheduling_strategy="DEFAULT" if self.num_gpus_each == 1 else beside,
            )
            .remote(self.pair, "cuda" if self.num_gpus_each else "cpu")
        )
        member = _Member(number, trainer, actor)
        self.members.append(member)
        start = asyncio.ensure_future(self._greet(member))
        self._starts.add(start)
        start.add_done_callback(self._started)

    async def _greet(self, member: _Member) -> None:
        try:
            pid = await asyncio.wait_for(member.actor.ready.remote(), START_TIMEOUT_S)
            told = await asyncio.wait_for(member.actor.__ray_call__.remote(_node_and_library), START_TIMEOUT_S)
            member.node, library = told
        except (RayError, TimeoutError) as error:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS * self.created and not self.ready():
                self._give_up(f"no evaluator can start: {in_one_line(error)}")
                return
            rounds = self._failed_starts // self.created
            await asyncio.sleep(min(RESTART_S * 2**rounds, LONGEST_RESTART_S))
            self._replace(member, error, [])
            return
        if library and library not in self.libraries:
            self.libraries.append(library)
        member.alive = True
        self._failed_starts = 0
        self.on_event(Event(event="evaluator ready", message=f"evaluator {member.number} ready (pid {pid})"))
        self._hand_out()

    def _started(self, start: asyncio.Task) -> None:
        self._starts.discard(start)
        if not start.cancelled() and (error := start.exception()):
            self._give_up(f"an evaluator could not be made: {in_one_line(error)}")

    def _give_up(self, reason: str) -> None:
        """Everybody who waits is told, and everybody who comes."""
        self.given_up = reason
        text = f"the evaluators are given up: {reason}"
        self.on_event(Event(event="evaluators given up", level="error", message=text))
        for *_, place in itertools.chain.from_iterable(self._waiting.values()):
            if not place.done():
                place.set_exception(CheckpointRejected(reason))
        self._waiting.clear()
        for start in self._starts:
            start.cancel()

    def _replace(self, member: _Member, error: Exception, suspects: list[object]) -> None:
        """Ends a member and creates its successor, once however many of its calls fail; the first names suspects."""
        if member not in self.members:
            return
        self.members.remove(member)
        if member.calls:
            self._busy_s += time.monotonic() - member.busy_since_s
        member.alive = False
        member.suspects = suspects
        self.replaced += 1
        ray.kill(member.actor)  # one that hangs holds its GPU until it is ended
        text = f"evaluator {member.number} lost ({in_one_line(error)}); a new one starts"
        self.on_event(Event(event="evaluator lost", level="warning", message=text))
        self._create(member.number, member.trainer)


def _anybody(waiting: list[_Waiting]) -> bool:
    """Whether somebody still waits; those whose callers have left are taken off the top."""
    while waiting and waiting[0][-1].done():
        heapq.heappop(waiting)
    return bool(waiting)


def _node_and_library(evaluator: Evaluator) -> tuple[str, Library]:
    """Of the actor in which it is called."""
    return ray.get_runtime_context().get_node_id(), evaluator.library
