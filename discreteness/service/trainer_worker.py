"""lease after lease -> the checkpoints of seeds, given by a source that stays, published as they come.

`train_seeds` runs on every worker of a trainer, inside Ray Train.
"""

from contextlib import closing
from functools import partial

import ray
import ray.train.torch
import torch
import torch.distributed as dist

from discreteness.checkpoint.seam import AttemptFailed, ContractBroken, MachineUnfit, Source
from discreteness.service.contract import in_order
from discreteness.service.job import TrainerSpec
from discreteness.service.messages import Lease
from discreteness.service.publisher import Publisher
from discreteness.service.timeouts import CALLS_WAITED_FOR, LEASE_POLL_S

PREEMPTION_STEPS = 50
"""Steps between two looks for a preemption notice at least."""


def train_seeds(spec: TrainerSpec) -> None:
    """Leases and trains seeds until there are none left. Any error ends all ranks; Ray Train starts them again, except
    where they would meet it again."""
    rank = ray.train.get_context().get_world_rank()
    process_group = dist.group.WORLD if dist.is_initialized() and dist.get_world_size() > 1 else None
    device = ray.train.torch.get_device() if spec.job.topology.use_gpu else torch.device("cpu")
    start = torch.ones(1)
    if rank == 0:
        here = ray.get_runtime_context()
        end = partial(ray.kill, here.current_actor)  # one rank is enough: Train ends the others
        start[0] = ray.get(spec.dispatcher.enter.remote(spec.name, here.get_node_id(), end))
    number = int(_broadcast(start, process_group).item())
    if not number:
        return

    def tell(what: str) -> None:
        if rank == 0:
            spec.dispatcher.prepare.remote(spec.name, number, what)

    try:
        source = spec.job.pair.source(device, process_group, tell)
    except Exception as error:  # missing shards, too little memory: said before it takes the trainer down
        text = f"rank {rank}: {type(error).__name__}: {error}"
        permanent = isinstance(error, ValueError | torch.OutOfMemoryError)  # with these sizes, on this machine
        ray.get(spec.dispatcher.trouble.remote(spec.name, number, text, permanent))
        if permanent and process_group is None:
            return  # in order, so that nothing is started again; of several ranks, others may wait for this one
        raise
    while (lease := _next_lease(spec, rank, process_group)) is not None:
        try:
            _train_seed(spec, lease, source, rank, process_group)
        except AttemptFailed as failure:
            alone = isinstance(failure, ContractBroken)  # perhaps: then the others wait for this rank
            if rank == 0 or alone:
                ray.get(spec.dispatcher.fail.remote(lease.attempt, str(failure), failure.ends))
            if alone and process_group is not None:
                raise
        except Exception as error:
            # Told before it takes the trainer down, so that the seed's record says more than "restarted".
            unfit = isinstance(error, MachineUnfit)
            text = f"rank {rank}: {error if unfit else f'{type(error).__name__}: {error}'}"
            ray.wait([spec.dispatcher.fail.remote(lease.attempt, f"{spec.name} {text}")], timeout=10)
            if unfit:
                ray.get(spec.dispatcher.trouble.remote(spec.name, number, text, True))
                if process_group is None:
                    return
            raise


def _train_seed(
    spec: TrainerSpec, lease: Lease, source: Source, rank: int, process_group: dist.ProcessGroup | None
) -> None:
    published_steps = spec.job.experiment.published_steps
    publisher = Publisher(
        spec.dispatcher,
        rank=rank,
        world_size=dist.get_world_size(process_group) if process_group else 1,
        seed=lease.seed,
        attempt=lease.attempt,
        published_steps=published_steps,
        max_in_flight=spec.job.run.max_in_flight,
        verify_every=spec.job.run.verify_every,
        wait_timeout_s=CALLS_WAITED_FOR * spec.job.pair.call_timeout_s,
    )
    votes = _Votes(process_group)
    prepared, look_at = False, 0
    with closing(in_order(source.checkpoints(lease.seed, published_steps), lease.seed, published_steps)) as checkpoints:
        for checkpoint in checkpoints:
            if not prepared and lease.next_seed >= 0:
                source.prepare(lease.next_seed)  # on the host, while the devices train
                prepared = True
            publisher.offer(checkpoint)
            if checkpoint.step >= look_at:
                _preempted(spec, rank)  # so that the loss of the machine is not taken for a failure
                look_at = checkpoint.step // PREEMPTION_STEPS * PREEMPTION_STEPS + PREEMPTION_STEPS
            if votes.stop(publisher.rejection != ""):
                break  # all ranks at this same checkpoint
    records = publisher.drain()
    if votes.now(publisher.rejection != ""):
        return  # the dispatcher said no and has ended the attempt
    # The commit comes before the next seed's first checkpoint.
    finish = partial(spec.dispatcher.finish.remote, lease.attempt, records, publisher.stall_s, source.library)
    _wait_together(finish() if rank == 0 else None, process_group)


def _next_lease(spec: TrainerSpec, rank: int, process_group: dist.ProcessGroup | None) -> Lease | None:
    """The next seed for all ranks, None to stop. Rank 0 asks; what is broadcast are numbers."""
    while not _preempted(spec, rank):
        order = torch.zeros(4, dtype=torch.int64)
        if rank == 0:
            lease: Lease = ray.get(spec.dispatcher.lease.remote(spec.name))
            number = ["stop", "wait", "train"].index(lease.order)
            order = torch.tensor([number, lease.seed, int(lease.attempt or "0", 16), lease.next_seed])
        number, seed, attempt, next_seed = _broadcast(order, process_group).tolist()
        if number == 0:
            return None
        if number == 2:
            return Lease(order="train", seed=seed, attempt=f"{attempt:012x}", next_seed=next_seed)
    return None  # the trainer starts again on another machine


def _preempted(spec: TrainerSpec, rank: int) -> bool:
    """Whether this machine is about to be taken away; then the dispatcher knows. All ranks ask together: it is a
    barrier of Ray Train's, too slow (milliseconds) for every step."""
    if ray.train.get_preemption_info() is None:
        return False
    if rank == 0:
        ray.get(spec.dispatcher.preempted.remote(spec.name))
    return True


def _wait_together(call: ray.ObjectRef | None, process_group: dist.ProcessGroup | None) -> None:
    """Rank 0 waits for an answer. The others hear of it often enough not to take the wait for a hang."""
    while True:
        waiting = torch.zeros(1)
        if call is not None:
            waiting[0] = not ray.wait([call], timeout=LEASE_POLL_S)[0]
        if not _broadcast(waiting, process_group).item():
            break
    if call is not None:
        ray.get(call)


def _broadcast(numbers: torch.Tensor, process_group: dist.ProcessGroup | None) -> torch.Tensor:
    """Rank 0's numbers on every rank."""
    if process_group:
        dist.broadcast(numbers, 0, group=process_group)
    return numbers


class _Votes:
    """A yes of any rank becomes a yes on every rank at the same checkpoint, without a wait in between.

    The vote of one checkpoint is under way while the next steps train, and counted at the next checkpoint.
    """

    def __init__(self, process_group: dist.ProcessGroup | None):
        self.process_group = process_group
        self._vote: torch.Tensor | None = None
        self._work: dist.Work | None = None

    def stop(self, mine: bool) -> bool:
        """Counts the vote begun at the last checkpoint and begins this one's."""
        if not self.process_group:
            return mine
        counted = self._count()
        if not counted:
            self._vote = torch.tensor([float(mine)])
            self._work = dist.all_reduce(self._vote, group=self.process_group, async_op=True)
        return counted

    def now(self, mine: bool) -> bool:
        """A vote that is counted at once, together with one still under way."""
        if not self.process_group:
            return mine
        earlier = self._count()
        vote = torch.tensor([float(mine)])
        dist.all_reduce(vote, group=self.process_group)
        return earlier or vote.item() > 0

    def _count(self) -> bool:
        if self._work is None or self._vote is None:
            return False
        self._work.wait()
        counted = self._vote.item() > 0
        self._work = self._vote = None
        return counted
