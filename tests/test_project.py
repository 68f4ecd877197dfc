"""What the project says of itself is true: who imports whom, what each process loads, why each dependency is here."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def tracked():
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Path(name) for name in done.stdout.splitlines() if (ROOT / name).is_file()]


RAY = {"discreteness.service", "discreteness.cluster"}


def sources():
    """{dotted name: text} of the modules of both packages; a folder's name stands for its __init__.py."""
    found = {}
    for package, folder in (("discreteness", ROOT), ("speedrun", ROOT / "modded-nanogpt")):
        for path in (folder / package).rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imported(text, inside=True):
    """Full names that a source imports; `inside` its functions too."""
    nodes = [ast.parse(text)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        functions = () if inside else (ast.FunctionDef, ast.AsyncFunctionDef)
        nodes += [child for child in ast.iter_child_nodes(node) if not isinstance(child, functions)]


def wing(name):
    """discreteness.service of discreteness.service.driver; what lies in no folder is a wing by itself."""
    return ".".join(name.split(".")[:2])


def arrows(texts):
    """{module: modules that it imports}."""
    found = {}
    for name, text in texts.items():
        ends = {known for of in imported(text) for known in (of, of.rpartition(".")[0]) if known in texts}
        found[name] = {end for end in ends if end != name and not any(other.startswith(f"{end}.") for other in ends)}
    return found


def circle(ways):
    """Names of which each imports the next and the last is the first; [] where there is no circle."""
    done = set()

    def follow(path):
        for name in sorted(ways.get(path[-1], ())):
            if name in path:
                return [*path[path.index(name) :], name]
            if name not in done and (found := follow([*path, name])):
                return found
        done.add(path[-1])
        return []

    return next((found for name in sorted(ways) if name not in done and (found := follow([name]))), [])


def broken(texts):
    """The rules about folders that these sources break, in words."""
    for name, text in texts.items():
        folder = "." in name and any(other.startswith(f"{name}.") for other in texts)
        names = set(imported(text))
        packages = {of.partition(".")[0] for of in names}
        if folder and names:
            yield f"{name}/__init__.py imports something"
        if "ray" in packages and wing(name) not in RAY:
            yield f"{name} imports Ray"
        if name.startswith("speedrun") and "discreteness" in packages:
            yield f"{name} imports the service"
        if wing(name) == "discreteness.dataset":
            others = {wing(of) for of in names if of.partition(".")[0] in ("discreteness", "speedrun")} - {wing(name)}
            torch = imported(text, inside=not name.startswith("discreteness.dataset.export."))
            others |= {"torch" for of in torch if of.partition(".")[0] == "torch"}
            yield from (f"{name} imports {other}" for other in sorted(others))
    modules = arrows(texts)
    if found := circle(modules):
        yield f"circle of modules: {' -> '.join(found)}"
    wings = {wing(name): set() for name in texts}
    for name, ends in modules.items():
        wings[wing(name)] |= {wing(end) for end in ends} - {wing(name)}
    if found := circle(wings):
        yield f"circle of wings: {' -> '.join(found)}"


def test_who_imports_whom_is_as_the_folders_say():
    texts = sources()
    assert len(texts) > 100 and {"discreteness.service.driver", "speedrun.model.gpt"} <= texts.keys()
    assert list(broken(texts)) == []


MADE_UP = {
    "discreteness": "def open():\n    import discreteness.dataset.reader",
    "discreteness.dataset": '"""Losses on disk."""',
    "discreteness.dataset.reader": "from discreteness.dataset import storage\n"
    "from discreteness.dataset.by_token import parts",
    "discreteness.dataset.storage": "import pyarrow",
    "discreteness.dataset.by_token": "",
    "discreteness.dataset.by_token.parts": "from discreteness.dataset.storage import Storage",
    "discreteness.dataset.export": "",
    "discreteness.dataset.export.files": "def write():\n    import torch",
    "discreteness.scoring": "",
    "discreteness.scoring.scorer": "import torch\nfrom speedrun.model.gpt import GPT",
    "discreteness.service": "",
    "discreteness.service.driver": "import ray\nfrom discreteness.service.worker import work",
    "discreteness.service.worker": "from discreteness.dataset.reader import Dataset",
    "speedrun": "",
    "speedrun.model": "",
    "speedrun.model.gpt": "from speedrun.tracks import Track",
    "speedrun.tracks": "",
}


@pytest.mark.parametrize(
    ("module", "text", "found"),
    [
        ("discreteness.scoring.scorer", "def score():\n    import ray", "discreteness.scoring.scorer imports Ray"),
        ("speedrun.tracks", "import ray.train", "speedrun.tracks imports Ray"),
        ("discreteness.dataset.storage", "import ray", "discreteness.dataset.storage imports Ray"),
        ("speedrun.tracks", "import discreteness", "speedrun.tracks imports the service"),
        ("discreteness.dataset.storage", "import torch", "discreteness.dataset.storage imports torch"),
        ("discreteness.dataset.storage", "def a():\n    import torch.nn", "discreteness.dataset.storage imports torch"),
        ("discreteness.dataset.export.files", "import torch", "discreteness.dataset.export.files imports torch"),
        (
            "discreteness.dataset.by_token.parts",
            "def a():\n    from speedrun.tracks import Track",
            "discreteness.dataset.by_token.parts imports speedrun.tracks",
        ),
        (
            "discreteness.dataset.storage",
            "from discreteness.scoring import scorer",
            "discreteness.dataset.storage imports discreteness.scoring",
        ),
        ("discreteness.service", "import json", "discreteness.service/__init__.py imports something"),
        (
            "discreteness.service.worker",
            "def work():\n    from discreteness.service import driver",
            "circle of modules: discreteness.service.driver -> discreteness.service.worker -> "
            "discreteness.service.driver",
        ),
        (
            "speedrun.tracks",
            "if TYPE_CHECKING:\n    from speedrun.model.gpt import GPT",
            "circle of modules: speedrun.model.gpt -> speedrun.tracks -> speedrun.model.gpt",
        ),
    ],
)
def test_a_rule_about_folders_notices_what_breaks_it(module, text, found):
    assert module in MADE_UP and list(broken(MADE_UP)) == []
    assert found in list(broken({**MADE_UP, module: text}))


def test_a_circle_of_wings_is_noticed_where_no_module_is_in_one():
    texts = {
        **MADE_UP,
        "discreteness.scoring.evaluator": "from discreteness.service.worker import work",
        "discreteness.service.pool": "from discreteness.scoring import scorer",
    }
    names = "discreteness.scoring -> discreteness.service -> discreteness.scoring"
    assert list(broken(texts)) == [f"circle of wings: {names}"]


def test_the_readmes_folders_name_every_wing():
    plan = (ROOT / "README.md").read_text().partition("## Folders")[2].partition("\n## ")[0]
    folders = {path.parent.name for path in tracked() if path.name == "__init__.py"}
    assert {f"{name}/" for name in folders} <= set(re.findall(r"\w+/", plan))


def test_the_trainer_knows_neither_ray_nor_the_service():
    for path in tracked():
        if path.parts[0] == "modded-nanogpt" and path.suffix == ".py":
            packages = {name.partition(".")[0] for name in imported((ROOT / path).read_text())}
            assert not packages & {"ray", "discreteness"}, path


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
    """What the driver sends is unpickled by the dispatcher and the trainers' actor, and what that sends on by Ray
    Train's state actor. Each would otherwise take seconds and a quarter of a gigabyte more, for every job."""
    send = f"""
import pickle
from functools import partial
from discreteness.cluster import topology
from discreteness.service import dispatcher, driver, evaluator_pool, trainers
from discreteness.service.job import TrainerSpec
from discreteness.cluster.machines import Cluster, Node
from discreteness.experiment.config import RunConfig
from tests.support.job_case import a_job, prepared
experiment = prepared(track="tests.support.quick_track:quick", checkpoints="every:10", seeds="0", val_tokens=0)
place = topology.choose(experiment, RunConfig(), Cluster((Node(2.0, 0.0, None, 10**9),), local=True))
job = a_job(experiment, [0], place)
spec = TrainerSpec(name="t", dispatcher=None, job=job)
sent = {{
    "dispatcher": (dispatcher.Dispatcher, job, evaluator_pool.EvaluatorPool(experiment, 1, 1, 0.0)),
    "trainers": (trainers.Trainers, job),
    "worker": partial(trainers.train, spec),
}}
for name, values in sent.items():
    open({str(tmp_path)!r} + "/" + name, "wb").write(pickle.dumps(values))
"""
    assert imported_by(send, "torch", "ray.train") == ["torch"]  # it chooses, and makes the corpus
    read = "import discreteness, pickle; pickle.load(open({!r}, 'rb'))"
    for name in ("dispatcher", "trainers", "worker"):
        assert imported_by(read.format(f"{tmp_path}/{name}"), "torch", "scipy", "matplotlib") == [], name
    for name in ("dispatcher", "trainers", "worker"):
        assert imported_by(read.format(f"{tmp_path}/{name}"), "ray.train", "ray.data", "pandas") == [], name
    assert imported_by("import discreteness.service.driver", "torch", "ray.train", "pandas") == []


def test_a_typo_is_answered_before_torch_or_ray_is_imported():
    ask = """
import sys
from discreteness.cli import main
sys.argv = ["run_seeds.py", "--seeds", "9-3"]
try:
    main.run_seeds()
except SystemExit as end:
    assert end.code == 2
"""
    assert imported_by(ask, "torch", "ray") == []


def test_training_and_scoring_on_a_cpu_load_no_compiler(tmp_path):
    """It takes a second or two, of each worker and each evaluator, where nothing is compiled."""
    train_and_score = f"""
from pathlib import Path
from discreteness.service.inline import run_inline
from tests.support.job_case import job_config
from tests.support.brief_track import write_shards
write_shards(Path({str(tmp_path)!r}))
Path({str(tmp_path / "texts")!r}).mkdir()
Path({str(tmp_path / "texts/a.txt")!r}).write_text("One line follows the other.")
config = job_config(track="tests.support.brief_track:brief", seeds="0", checkpoints="every:1", data={str(tmp_path)!r},
                   documents={str(tmp_path / "texts")!r}, output={str(tmp_path / "set")!r})
assert run_inline(config) == 0
"""
    assert imported_by(train_and_score, "torch", "torch._dynamo", "torch._inductor", "sympy")[-1:] == ["torch"]


@pytest.mark.parametrize("dependency", ["huggingface-hub"])
def test_dependencies_are_justified_one_by_one(dependency):
    pyproject = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", pyproject, re.S | re.M)[1]
    declared = re.findall(r'"([A-Za-z0-9_\-\[\],]+)>=', block)
    table = (ROOT / "docs/dependencies.md").read_text()
    for name in declared:
        assert f"| {name} |" in table, name
    assert dependency in table
