"""ray_cluster.yaml against Ray's own schema, offline."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PATH = Path(__file__).parents[1] / "ray_cluster.yaml"


def test_the_cluster_file_passes_rays_schema():
    config = yaml.safe_load(PATH.read_text())
    validate_config(prepare_config(config))
    workers = config["available_node_types"]["h100"]
    assert workers["resources"]["GPU"] == 8
    assert workers["min_workers"] == 0 < workers["max_workers"] == config["max_workers"]


def test_rays_schema_would_notice_a_wrong_key():
    config = yaml.safe_load(PATH.read_text())
    config["available_node_types"]["h100"]["max_wokers"] = 3
    with pytest.raises(Exception, match="max_wokers"):
        validate_config(prepare_config(config))


def test_every_ray_start_has_authentication_on():
    config = yaml.safe_load(PATH.read_text())
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in config[commands] if "ray start" in command]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token" in starts[0]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
