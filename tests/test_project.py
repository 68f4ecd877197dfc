"""What the project says of itself is true: the README's tree, its commands, who imports whom, no foreign addresses."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # noqa: F401  (Ray's own dependency; the cluster file's tests use it too)

from tests.conftest import ROOT

USES_RAY = {"cluster", "driver", "groups", "metrics", "pool", "publisher", "trainers"}
LISTED = ("jobs", "modded-nanogpt", "discreteness", "benchmarks", "tests", "docs")


def tracked():
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Path(name) for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def arrow(path):
    """First line of a module's docstring."""
    return ast.get_docstring(ast.parse((ROOT / path).read_text())).splitlines()[0]


def tree():
    """{path: comment} of the README's file tree, folders given by lines that end in a slash."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"## The tree\n\n```\n(.*?)```", text, re.S)[1]
    entries, folders = {}, []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, comment = line.strip().partition("  ")
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
        else:
            entries[Path("".join(folders) + name)] = comment.strip()
    return entries


def test_the_readmes_tree_names_every_source_file_and_nothing_else():
    files = {
        path
        for path in tracked()
        if (path.parts[0] in LISTED and path.suffix in (".py", ".md", ".sh") and len(path.parts) > 1)
        and "golden" not in path.parts
    }
    files |= {path for path in tracked() if path.parts[0] == "deploy"}
    files |= {Path(name) for name in ("Makefile", "pyproject.toml", "constraints.txt", "ray_cluster.yaml", ".ci/run")}
    files |= {path for path in tracked() if path.parts[0] == "deploy"}
    listed = set(tree())
    assert listed - files == set(), "named in the README, not there"
    assert files - listed == set(), "there, not named in the README"


def test_the_readmes_comments_are_the_modules_first_lines():
    wrong = {
        str(path): comment
        for path, comment in tree().items()
        if path.suffix == ".py" and comment != arrow(path).rstrip(".")
    }
    assert wrong == {}


def imports(path):
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_the_trainer_knows_neither_ray_nor_the_service():
    for path in tracked():
        if path.parts[0] == "modded-nanogpt" and path.suffix == ".py":
            assert not imports(path) & {"ray", "discreteness"}, path


def test_only_the_wiring_imports_ray():
    importing = {
        path.stem
        for path in tracked()
        if path.parts[0] == "discreteness" and path.suffix == ".py" and "ray" in imports(path)
    }
    assert importing == USES_RAY


def test_the_trainer_runs_where_ray_is_not_installed():
    code = "import sys; sys.modules['ray'] = None; sys.modules['discreteness'] = None\n"
    code += "import speedrun.training, speedrun.data.tiny_corpus; print('fine')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "fine", done.stderr


def test_the_inline_run_needs_no_ray():
    code = "import sys; sys.modules['ray'] = None\nimport discreteness.service.inline\n"
    code += "import discreteness.dataset.reader; print('fine')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "fine", done.stderr


def imported_by(code, *names):
    """Which of the packages a new Python holds after `code`."""
    code += f"\nimport sys; print(*sorted({set(names)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_processes_that_compute_nothing_do_not_wait_for_torch(tmp_path):
    """What the driver sends is unpickled by the dispatcher and the groups' actor, and what that sends on by Ray Train's
    state actor. Each would otherwise take seconds and a quarter of a gigabyte more, for every job."""
    send = f"""
import pickle
from functools import partial
from discreteness.cluster import topology
from discreteness.service import dispatcher, driver, evaluator_pool, trainer_groups
from discreteness.cluster.machines import Cluster, Node
from discreteness.experiment.config import RunConfig
from discreteness.experiment.prepare import prepare
config = RunConfig(track="tests.support.quick_track:quick", checkpoints="every:10", seeds="0", val_tokens=0)
experiment = prepare(config, config.track)
place = topology.choose(experiment, config, Cluster((Node(2.0, 0.0, None, 10**9),), local=True))
spec = trainer_groups.GroupSpec(
    name="g", dispatcher=None, experiment=experiment, max_in_flight=8, verify_every=0, use_gpu=False)
sent = {{
    "dispatcher": (dispatcher.Dispatcher, experiment, evaluator_pool.EvaluatorPool(experiment, 1, 1, 0.0)),
    "groups": (trainer_groups.TrainerGroups, config, experiment, place),
    "worker": partial(trainer_groups.train, spec),
}}
for name, values in sent.items():
    open({str(tmp_path)!r} + "/" + name, "wb").write(pickle.dumps(values))
"""
    assert imported_by(send, "torch", "ray.train") == ["torch"]  # it chooses, and makes the corpus
    read = "import discreteness, pickle; pickle.load(open({!r}, 'rb'))"
    for name in ("dispatcher", "groups", "worker"):
        assert imported_by(read.format(f"{tmp_path}/{name}"), "torch", "scipy", "matplotlib") == [], name
    for name in ("dispatcher", "groups", "worker"):
        assert imported_by(read.format(f"{tmp_path}/{name}"), "ray.train", "ray.data", "pandas") == [], name
    assert imported_by("import discreteness.service.driver", "torch", "ray.train", "pandas") == []


def test_training_and_scoring_on_a_cpu_load_no_compiler(tmp_path):
    """It takes a second or two, of each worker and each evaluator, where nothing is compiled."""
    train_and_score = f"""
from pathlib import Path
from discreteness.experiment.config import RunConfig
from discreteness.service.inline import run_inline
from tests.support.brief_track import write_shards
write_shards(Path({str(tmp_path)!r}))
Path({str(tmp_path / "texts")!r}).mkdir()
Path({str(tmp_path / "texts/a.txt")!r}).write_text("One line follows the other.")
config = RunConfig(track="tests.support.brief_track:brief", seeds="0", checkpoints="every:1", data={str(tmp_path)!r},
                   documents={str(tmp_path / "texts")!r}, output={str(tmp_path / "set")!r})
assert run_inline(config) == 0
"""
    assert imported_by(train_and_score, "torch", "torch._dynamo", "torch._inductor", "sympy")[-1:] == ["torch"]


def test_every_module_begins_with_its_arrow():
    for path in tracked():
        if path.parts[0] in ("discreteness", "modded-nanogpt", "jobs") and path.suffix == ".py":
            if path.name in ("__main__.py",):
                continue
            assert " -> " in arrow(path) or "<->" in arrow(path), path


@pytest.mark.parametrize("dependency", ["huggingface-hub"])
def test_dependencies_are_justified_one_by_one(dependency):
    pyproject = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", pyproject, re.S | re.M)[1]
    declared = re.findall(r'"([A-Za-z0-9_\-\[\],]+)>=', block)
    table = (ROOT / "docs/dependencies.md").read_text()
    for name in declared:
        assert f"| {name} |" in table, name
    assert dependency in table
