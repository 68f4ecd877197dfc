"""deploy/kubernetes: KubeRay's fields, what pods mount and ask for, and the nodes that Ray's scheduler would start."""

import re
import shlex

import jsonschema
import pytest
import tyro
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from discreteness.experiment.config import JobConfig
from tests.conftest import ROOT
from tests.support.autoscaling import planned_nodes

IMAGE = (ROOT / "deploy/Dockerfile").read_text()
TEXT = (ROOT / "deploy/kubernetes/rayjob.yaml").read_text()
CLAIM, JOB = yaml.safe_load_all(TEXT)
CLUSTER = JOB["spec"]["rayClusterSpec"]
(WORKERS,) = CLUSTER["workerGroupSpecs"]
ENTRYPOINT = shlex.split(JOB["spec"]["entrypoint"])
HEAD_POD, WORKER_POD = (trainer["template"]["spec"] for trainer in (CLUSTER["headGroupSpec"], WORKERS))


def closed(required=(), **properties):
    """An object with these fields and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


# No package ships KubeRay's schema. This is its part for the fields in use, by the API reference of KubeRay 1.7.0, and
# for pods by the models of the Kubernetes client 37.0.2.
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
STRING, WHOLE, SWITCH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+([KMGT]i?|m)?$"}}
CONTAINER = closed(
    ["name", "image"],
    name=STRING,
    image=STRING,
    command={"type": "array", "items": STRING},
    env={"type": "array", "items": closed(["name", "value"], name=STRING, value=STRING)},
    resources=closed(requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts={"type": "array", "items": closed(["name", "mountPath"], name=STRING, mountPath=STRING)},
)
VOLUME = closed(
    ["name"],
    name=STRING,
    persistentVolumeClaim=closed(["claimName"], claimName=STRING),
    emptyDir=closed(medium={"enum": ["Memory"]}, sizeLimit=STRING),
)
POD = closed(
    ["spec"],
    spec=closed(
        ["containers"],
        securityContext=closed(runAsUser=WHOLE, runAsGroup=WHOLE, fsGroup=WHOLE),
        nodeSelector=TEXTS,
        tolerations={"type": "array", "items": closed(key=STRING, operator=STRING, effect=STRING)},
        initContainers={"type": "array", "items": CONTAINER},
        containers={"type": "array", "items": CONTAINER, "minItems": 1},
        volumes={"type": "array", "items": VOLUME},
    ),
)
RAY_JOB = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed(["name"], name=STRING, labels=TEXTS),
    spec=closed(
        ["entrypoint", "rayClusterSpec"],
        entrypoint=STRING,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit=WHOLE,
        shutdownAfterJobFinishes=SWITCH,
        ttlSecondsAfterFinished=WHOLE,
        rayClusterSpec=closed(
            ["headGroupSpec"],
            rayVersion=STRING,
            authOptions=closed(mode={"enum": ["disabled", "token"]}, secretName=STRING),
            enableInTreeAutoscaling=SWITCH,
            autoscalerOptions=closed(version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=WHOLE),
            headGroupSpec=closed(["rayStartParams", "template"], rayStartParams=TEXTS, template=POD),
            workerGroupSpecs={
                "type": "array",
                "items": closed(
                    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                    groupName=STRING,
                    replicas=WHOLE,
                    minReplicas=WHOLE,
                    maxReplicas=WHOLE,
                    rayStartParams=TEXTS,
                    template=POD,
                ),
            },
        ),
    ),
)


def num_bytes(quantity):
    number, unit = re.fullmatch(r"(\d+)([KMGT]i)?", quantity).groups()
    return int(number) * {None: 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]


def run_config():
    return tyro.cli(tyro.conf.OmitArgPrefixes[JobConfig], args=ENTRYPOINT[2:])


def test_every_field_is_one_of_kuberays():
    jsonschema.validate(JOB, RAY_JOB)


@pytest.mark.parametrize("wrong", ["maxReplica: 8", "maxReplicas: eight", "minReplicas: -1"])
def test_a_wrong_field_would_be_noticed(wrong):
    _, job = yaml.safe_load_all(TEXT.replace("maxReplicas: 8", wrong))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAY_JOB)


def test_ray_derives_an_autoscaler_from_it_that_starts_the_nodes_of_the_job():
    config = run_config()
    config.check()
    resource = {"metadata": {"name": "discreteness", "namespace": "default"}, "spec": CLUSTER}
    derived = _derive_autoscaling_config_from_ray_cr(resource)  # validates it, as the pod beside the head does
    assert derived["available_node_types"]["headgroup"]["resources"]["CPU"] == 0
    assert planned_nodes(derived, config.run.trainers, config.experiment.workers_per_trainer) == ({"h100": 8}, 0)
    assert planned_nodes(derived, 9, 1) == ({"h100": 2}, 0)
    assert planned_nodes(derived, 9, 8) == ({"h100": 8}, 1)


def test_every_container_is_of_one_image_with_the_scripts_and_the_ray_that_are_named():
    containers = [one for pod in (HEAD_POD, WORKER_POD) for one in pod["containers"] + pod.get("initContainers", [])]
    assert len(containers) == 3 and len({one["image"] for one in containers}) == 1
    assert f"-t {containers[0]['image']} " in IMAGE
    home = re.search(r"^WORKDIR (.*)$", IMAGE, re.M)[1]
    copied = re.findall(r"^COPY (.*) \S+$", IMAGE, re.M)
    assert all(list(ROOT.glob(name)) for line in copied for name in line.split())
    for script in (ENTRYPOINT[1], HEAD_POD["initContainers"][0]["command"][1]):
        name = script.removeprefix(f"{home}/")
        assert (ROOT / name).is_file()
        assert any(path == ROOT / name or path in (ROOT / name).parents for line in copied for path in ROOT.glob(line))
    assert f"ray=={CLUSTER['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()


def test_what_pods_mount_is_there_and_writable_by_the_images_user():
    for pod in (HEAD_POD, WORKER_POD):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"] + pod.get("initContainers", []):
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
        assert f"--uid {pod['securityContext']['runAsUser']} " in IMAGE
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    config = run_config()
    caches = [variable["value"] for variable in WORKER_POD["containers"][0]["env"]]
    assert all(path.startswith("/data") for path in (config.experiment.data, config.run.output, *caches))


@pytest.mark.parametrize("trainer", [CLUSTER["headGroupSpec"], WORKERS], ids=["head", "worker"])
def test_the_object_store_fits_into_shared_memory_and_that_into_the_pod(trainer):
    pod = trainer["template"]["spec"]
    (shm,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
    resources = pod["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]  # a pod that is never the first to be evicted
    store = int(trainer["rayStartParams"]["object-store-memory"])
    assert store < 0.95 * num_bytes(shm["sizeLimit"]) < num_bytes(resources["limits"]["memory"])


def test_the_cluster_asks_for_the_token_and_ends_with_the_job():
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True
