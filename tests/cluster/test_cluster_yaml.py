"""ray_cluster.yaml, offline: Ray's schema, its commands, and the nodes that Ray's scheduler would start for a job."""

import re
import shlex
import subprocess
from itertools import pairwise

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import ROOT
from tests.support.autoscaling import planned_nodes
from tests.support.ray_commands import unknown_to_ray

TEXT = (ROOT / "ray_cluster.yaml").read_text()
COMMANDS = ("initialization_commands", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


def config():
    return yaml.safe_load(TEXT)


def test_the_cluster_file_passes_rays_schema():
    validate_config(prepare_config(config()))


def test_rays_schema_would_notice_a_wrong_key():
    wrong = config()
    wrong["available_node_types"]["h100"]["max_wokers"] = 3
    with pytest.raises(Exception, match="max_wokers"):
        validate_config(prepare_config(wrong))


def test_every_field_and_command_is_explained_above_it():
    lines = [line.strip() for line in TEXT.splitlines()]
    assert lines[0].startswith("#")
    said = [line for line in lines if line and not line.startswith("#")]
    bare = [line for above, line in pairwise(lines) if line in said and not above.startswith("#")]
    assert len(said) > 40 and bare == []


def test_its_commands_are_shell_and_those_of_ray_are_known_to_the_installed_ray():
    starts = {}
    # Those in comments, to be switched on by who needs them, are commands as well.
    optional = re.findall(r"^ *#  *- (.*)$", TEXT, re.M)
    assert len(optional) == 3
    for kind, commands in {**{kind: config()[kind] for kind in COMMANDS}, "optional": optional}.items():
        for command in commands:
            done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), command
            part = re.search(r"\bray (?:start|stop)\b.*", command)
            if part:
                assert unknown_to_ray(shlex.split(part[0])) == [], command
                starts.setdefault(kind, []).append(command)
    head, worker = starts.pop("head_start_ray_commands")[-1], starts.pop("worker_start_ray_commands")[-1]
    assert starts == {}
    assert all("RAY_AUTH_MODE=token ray start" in command for command in (head, worker))
    assert "--dashboard-host=127.0.0.1" in head and "--num-cpus=0" in head


def test_the_scripts_and_folders_that_its_commands_name_are_in_the_project():
    text = "\n".join(command for kind in COMMANDS for command in config()[kind])
    names = re.findall(r"~/discreteness/([\w./-]+)", text)
    assert len(names) == 2
    assert [name for name in names if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    ("trainers", "workers", "nodes", "waiting"),
    [(1, 8, 1, 0), (3, 8, 3, 0), (8, 1, 1, 0), (9, 1, 2, 0), (20, 8, 8, 12)],
)
def test_rays_scheduler_starts_the_nodes_that_the_trainers_need_and_no_more_than_eight(
    trainers, workers, nodes, waiting
):
    assert planned_nodes(config(), trainers, workers, "H100") == ({"h100": nodes}, waiting)


def test_a_trainer_for_which_no_node_type_has_room_starts_nothing():
    small = config()
    small["available_node_types"]["h100"]["resources"]["GPU"] = 4
    assert planned_nodes(small, 1, 8) == ({}, 1)
    assert planned_nodes(config(), 1, 8, "H200") == ({}, 1)


def test_torch_for_cuda_can_be_installed_with_the_constraints():
    """A build for CUDA has no local version, and brings the Triton that it was made with."""
    pins = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==[\d.]+$", pins, re.M)
    assert not re.search(r"^triton==", pins, re.M)
