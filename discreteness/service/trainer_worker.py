"""lease after lease -> seeds trained in warm processes, whose checkpoints are published as they train.

`train_seeds` runs on every worker of a trainer, inside Ray Train.
"""

from functools import partial

import ray
import ray.train.torch
import torch
import torch.distributed as dist
from speedrun.data.shards import ShardError
from speedrun.data.tiny_corpus import ensure_tiny_corpus
from speedrun.execution import one_thread_on_a_cpu
from speedrun.kernels.flash_attention import loaded_library
from speedrun.training import SeedFailed, Trainer

from discreteness.checkpoint.layout import CheckpointLayout
from discreteness.checkpoint.staging import Staging
from discreteness.experiment.prepare import check_shards
from discreteness.scoring.scorer import Scorer
from discreteness.service.job import TrainerSpec
from discreteness.service.messages import Lease
from discreteness.service.publisher import Publisher
from discreteness.service.timeouts import LEASE_POLL_S

HEARTBEAT_STEPS = 50
"""Steps between two signs of life at most, where checkpoints lie further apart."""


def train_seeds(spec: TrainerSpec) -> None:
    """Leases and trains seeds until there are none left. Any error ends all ranks; Ray Train starts them again, except
    where they would meet it again."""
    experiment = spec.job.experiment
    rank = ray.train.get_context().get_world_rank()
    process_group = dist.group.WORLD if dist.is_initialized() and dist.get_world_size() > 1 else None
    device = ray.train.torch.get_device() if spec.job.topology.use_gpu else torch.device("cpu")
    one_thread_on_a_cpu(device)
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
        tell("checking its shards")
        if experiment.track.data.made_on_first_use:
            ensure_tiny_corpus(experiment.data_root)
        data = experiment.track.data
        check_shards(experiment, data.train_glob, data.val_glob)
        tell("compiling its model" if experiment.execution.compiled else "building its model")
        trainer = Trainer(
            experiment.track,
            experiment.data_root,
            device,
            process_group,
            experiment.execution,
            experiment.vary,
            experiment.epochs,
        )
        staging = Staging(trainer.model, CheckpointLayout.from_model(trainer.model))
    except Exception as error:  # missing shards, too little memory: said before it takes the trainer down
        text = f"rank {rank}: {type(error).__name__}: {error}"
        permanent = isinstance(error, ValueError | torch.OutOfMemoryError)  # with these sizes, on this machine
        ray.get(spec.dispatcher.trouble.remote(spec.name, number, text, permanent))
        if permanent and process_group is None:
            return  # in order, so that nothing is started again; of several ranks, others may wait for this one
        raise
    while (lease := _next_lease(spec, rank, process_group)) is not None:
        try:
            _train_seed(spec, lease, trainer, staging)
        except SeedFailed as failure:
            if rank == 0:
                ray.get(spec.dispatcher.fail.remote(lease.attempt, str(failure), failure.ends))
        except Exception as error:
            # Told before it takes the trainer down, so that the seed's record says more than "restarted".
            text = f"{spec.name} rank {rank}: {type(error).__name__}: {error}"
            ray.wait([spec.dispatcher.fail.remote(lease.attempt, text)], timeout=10)
            if isinstance(error, ShardError):  # this machine's shards are bad; another's may not be
                text = f"rank {rank}: {type(error).__name__}: {error}"
                ray.get(spec.dispatcher.trouble.remote(spec.name, number, text, True))
                if process_group is None:
                    return
            raise


def _train_seed(spec: TrainerSpec, lease: Lease, trainer: Trainer, staging: Staging) -> None:
    experiment = spec.job.experiment
    verifier = Scorer.for_experiment(experiment, trainer.model) if spec.job.run.verify_every else None
    publisher = Publisher(
        spec.dispatcher,
        staging,
        rank=trainer.rank,
        world_size=trainer.world_size,
        seed=lease.seed,
        attempt=lease.attempt,
        published_steps=experiment.published_steps,
        max_in_flight=spec.job.run.max_in_flight,
        verifier=verifier,
        verify_every=spec.job.run.verify_every,
    )
    votes = _Votes(trainer.process_group)
    heartbeats = range(0, experiment.track.schedule.last_step, HEARTBEAT_STEPS)
    checkpoints = trainer.train(lease.seed, experiment.published_steps | set(heartbeats))
    for checkpoint in checkpoints:
        if checkpoint.step == 0 and lease.next_seed >= 0:
            trainer.prepare(lease.next_seed)  # on the host, while the devices train
        publisher.offer(checkpoint)
        if checkpoint.step in heartbeats:
            _preempted(spec, trainer.rank)  # so that the loss of the machine is not taken for a failure
        if votes.stop(publisher.rejection != ""):
            checkpoints.close()  # all ranks at this same checkpoint
            break
    records = publisher.drain()
    if votes.now(publisher.rejection != ""):
        return  # the dispatcher said no and has ended the attempt
    # The commit comes before the next seed's first checkpoint.
    rank, process_group = trainer.rank, trainer.process_group
    finish = partial(spec.dispatcher.finish.remote, lease.attempt, records, publisher.stall_s, loaded_library())
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
