"""an autoscaler's configuration + trainers that wait -> the nodes that Ray's own scheduler would start."""

from dataclasses import replace

from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest

from discreteness.service.trainers import scaling
from tests.support.job_case import ONE_TRAINER


def planned_nodes(configuration, num_trainers, workers, gpu_type=None):
    """({node type: how many}, how many trainers get no place). The requests are those of a real run."""
    config = AutoscalingConfig(configuration, skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        gang_resource_requests=[_trainer(number, workers, gpu_type) for number in range(num_trainers)],
    )
    reply = ResourceDemandScheduler().schedule(request)
    started = {launch.instance_type: launch.count for launch in reply.to_launch}
    return started, len(reply.infeasible_gang_resource_requests)


def _trainer(number, workers, gpu_type):
    """What Ray's autoscaler is told of one trainer: a STRICT_PACK placement group wants to be together."""
    place = scaling(replace(ONE_TRAINER, workers_per_trainer=workers, gpus_per_worker=0.9), gpu_type)
    assert place.placement_strategy == "STRICT_PACK"
    together = [(ResourceRequestUtil.PlacementConstraintType.AFFINITY, f"_PG_{number}", "")]
    bundle = ResourceRequestUtil.make(place._resources_per_worker_not_none, together)
    return GangResourceRequest(requests=[bundle] * place.num_workers)
