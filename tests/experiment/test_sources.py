"""The hash of the sources: what changes a result changes it, and nothing that decides a loss is left out."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import discreteness
from discreteness.experiment.sources import identity_sources, recorder_sources, series_sources, sources_hash

SOURCE = '''"""A module."""
import math

class Track:
    """A track."""
    rate: float = 0.5
    """Of learning."""

def step(x, *, scale=2):
    """Doubles."""
    return x * scale if x is not None else math.pi
'''
LEFT_OUT = {
    "dataset/names": "names of seeds",
    "series/stored": "names and hashes of files, which are checked against what is read",
    "series/download": "brings files, and checks their hashes",
    "series/hub": "lists files, whose hashes are checked",
    "series/folder": "lists files",
    "series/names": "names of models",
    "series/step_names": "the steps, which are in the identity",
    "series/steps": "the steps, which are in the identity",
    "series/patience": "how long a hub is waited for",
    "__init__": "the version and names that are imported when asked for",
    "experiment/config": "what it holds is in the identity where it decides a loss",
    "experiment/checkpoint_steps": "its steps are in the identity",
    "experiment/seeds": "a seed is trained from its own number, whichever others are asked for",
    "experiment/recording": "plain values, which the identity has where they decide a loss",
    "experiment/prepare": "makes the identity out of what it reads",
    "experiment/sources": "makes this hash",
    "shards/report": "names shards: the identity has what it found",
    "dataset/identity": "the identity itself",
    "experiment/documents": "the identity has the hash of names and token ids",
    "experiment/prompts": "the identity has the hash of names and token ids",
    "experiment/tokenizers": "the identity has the hash of names and token ids",
    "experiment/validation_documents": "the identity has the hash of names and token ids",
    "dataset/vary": "words for people; the identity has the value",
    "dataset/mismatch": "words of a refusal",
    "dataset/manifest": "names, token ids and steps, whose hashes each seed carries",
    "scoring/comparison": "compares two scores of the same weights, and changes neither",
    "allowance": "how many cores and how much memory there are",
    "cluster/estimate": "plans",
    "cluster/times": "plans",
    "cluster/flops": "for plans and metrics",
    "cluster/hardware": "tables for plans and for what people read",
    "cluster/topology": "plans",
    "cluster/connection": "joins Ray or starts it",
    "cluster/machines": "finds machines",
    "cluster/rays_folder": "where Ray keeps its files",
    "cluster/rays_words": "errors as text",
    "dataset/hub": "errors of a network, by another class",
    "service/trainers": "starts processes",
    "service/dispatcher": "hands on references and rows by attempt and step, and never looks into one",
    "service/evaluator_pool": "hands on references and losses, and never looks into one",
    "dataset/paths": "names of files",
    "dataset/event_log": "what happened, for people; no loss is in it",
    "dataset/storage": "moves bytes",
    "dataset/lock": "one driver at a time",
    "service/job": "what processes are told: what of it decides a loss is in the identity",
    "service/contract": "counts steps, bytes and losses: it refuses, and changes none",
    "service/speedrun_pair": "makes the source and the scorer, and adds nothing to either",
    "service/ledger": "who holds which seed",
    "service/messages": "what processes tell each other",
    "service/timeouts": "how long somebody waits",
    "service/log": "what people read",
    "service/others_output": "what people read",
    "recording/ranks": "who writes",
    "recording/experiment": "makes the identity",
    "checkpoint/safetensors_file": "the format of kept weights, which are no losses",
}
"""Modules that are loaded where a loss is computed and stored, and why a change of them changes none."""
OURS = Path(discreteness.__file__).parent


def test_a_change_anywhere_below_the_trainer_changes_its_hash(tmp_path):
    """In a folder below it too."""
    trainer, *_ = identity_sources()
    shutil.copytree(trainer, tmp_path / trainer.name, ignore=shutil.ignore_patterns("__pycache__"))
    seen = {sources_hash([tmp_path / trainer.name])}
    assert seen == {sources_hash([trainer])}
    for name in "kernels/new.py", "optim/optimizers.py", "data/tiny_vocabulary.txt":
        with (tmp_path / trainer.name / name).open("a") as file:
            file.write("\nx = 1\n")
        seen.add(sources_hash([tmp_path / trainer.name]))
    assert len(seen) == 4


def test_sources_hash_sees_content_and_names_but_not_the_place(tmp_path):
    for place in "one", "two":
        (tmp_path / place / "package" / "inner").mkdir(parents=True)
        (tmp_path / place / "package" / "__init__.py").write_text("a = 1\n")
        (tmp_path / place / "package" / "inner" / "b.py").write_text("b = 2\n")
        (tmp_path / place / "package" / "inner" / "vocabulary.txt").write_text("the\n")
        (tmp_path / place / "package" / "notes.md").write_text(place)
    one, two = tmp_path / "one" / "package", tmp_path / "two" / "package"
    first = sources_hash([one])
    assert sources_hash([two]) == first
    (two / "inner" / "b.py").write_text("b = 3\n")
    changed = sources_hash([two])
    (two / "inner" / "b.py").rename(two / "inner" / "c.py")
    renamed = sources_hash([two])
    (two / "inner" / "vocabulary.txt").write_text("a\n")
    assert len({first, changed, renamed, sources_hash([two]), sources_hash([one / "__init__.py"])}) == 5


def test_what_python_caches_is_not_a_source(tmp_path):
    (tmp_path / "a.py").write_text("a = 1\n")
    first = sources_hash([tmp_path])
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"\0")
    assert sources_hash([tmp_path]) == first


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import math", "import math  # for pi"),
        ('"""Doubles."""', '"""Multiplies by `scale`."""'),
        ('    """Of learning."""\n', ""),
        ('"""A module."""', '"""A module.\n\nWith more words.\n"""\n'),
        ("x * scale if x is not None else math.pi", "(\n        x * scale if x is not None else math.pi\n    )"),
        ("class Track", "\n\nclass Track"),
    ],
)
def test_words_and_line_breaks_are_not_part_of_the_sources(tmp_path, old, new):
    assert SOURCE.count(old) == 1
    assert hash_of(tmp_path, SOURCE.replace(old, new)) == hash_of(tmp_path, SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.25"),
        ("scale=2", "scale=2.0"),
        ("scale=2", "scale=True"),
        ("scale=2", "scale=None"),
        ("*, scale", "scale"),
        ("x * scale", "x + scale"),
        ("is not None", "is None"),
        ("math.pi", "math.e"),
        ("def step", "async def step"),
        ("import math", "import cmath as math"),
        ("return x", "x"),
    ],
)
def test_what_changes_a_result_changes_the_hash(tmp_path, old, new):
    assert SOURCE.count(old) >= 1
    assert hash_of(tmp_path, SOURCE.replace(old, new)) != hash_of(tmp_path, SOURCE)


def hash_of(folder, source):
    (folder / "module.py").write_text(source)
    return sources_hash([folder / "module.py"])


@pytest.mark.parametrize("root", ["empty", "notes.txt", "broken.py"])
def test_sources_hash_refuses_what_is_not_python(tmp_path, root):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match=root):
        sources_hash([tmp_path / root])


def imported_by(path):
    """Modules of the service that a file imports, inside its functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
        for package, *rest in (name.split(".") for name in names if name):
            if package == "discreteness" and (file := OURS.joinpath(*rest).with_suffix(".py")).is_file():
                yield file


def reached_from(ours, *modules):
    """Files of the project that are loaded with these modules, or imported inside functions of `ours`."""
    code = f"import sys, {', '.join(modules)}\n"
    code += "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('discreteness', 'speedrun')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return {Path(path) for path in done.stdout.split()} | {other for path in ours for other in imported_by(path)}


def check_that_all_count(reached, ours):
    """Each is hashed or left out with a reason, and none for nothing."""
    neither = {path for path in reached if path not in ours}
    wings = {path for path in neither if path.name == "__init__.py" and path.parent != OURS}  # which import nothing
    names = {path.relative_to(OURS).with_suffix("").as_posix() for path in neither - wings}
    assert names <= LEFT_OUT.keys(), f"hash it, or say why not: {sorted(names - LEFT_OUT.keys())}"
    assert not {path.relative_to(OURS).with_suffix("").as_posix() for path in ours} & LEFT_OUT.keys()
    assert set(ours) <= reached, "it is no longer used where losses are computed"


def test_every_module_between_weights_and_a_stored_loss_is_in_the_identity():
    trainer, *ours = identity_sources()
    service = "discreteness.service.trainer_worker", "discreteness.service.inline"
    pair = "discreteness.service.speedrun_source", "discreteness.scoring.speedrun_scorer"
    reached = reached_from(ours, *service, *pair, "discreteness.scoring.evaluator", "discreteness.scoring.scorer")
    assert {path.name for path in reached} >= {
        "trainer_worker.py",
        "evaluator.py",
        "scorer.py",
        "training.py",
        "gpt.py",
    }
    check_that_all_count({path for path in reached if not path.is_relative_to(trainer)}, ours)


def test_every_module_between_anybodys_model_and_a_stored_loss_is_in_the_identity():
    trainer, *_ = identity_sources()
    reached = reached_from(recorder_sources(), "discreteness.recording.recorder")
    assert {path.name for path in reached} >= {"logits.py", "recorder.py", "writer.py"}
    tokenizer = {path for path in reached if path.is_relative_to(trainer)}
    assert {path.relative_to(trainer).as_posix() for path in tokenizer} == {
        "__init__.py",
        "data/__init__.py",
        "data/tokenizer.py",
    }
    check_that_all_count(reached - tokenizer, recorder_sources())


def test_every_module_between_files_of_weights_and_a_stored_loss_is_in_the_identity():
    """Those that the scorer and the source import inside their functions too, but not what lists and plans a series."""
    trainer, *_ = identity_sources()
    scored_by = "discreteness.series.ahead", "discreteness.series.loading", "discreteness.series.download"
    reached = reached_from(series_sources(), *scored_by, "discreteness.dataset.attempt_rows")  # of dispatcher or run
    assert {path.name for path in reached} >= {"loading.py", "weights_files.py", "logits.py", "seam.py"}
    check_that_all_count({path for path in reached if not path.is_relative_to(trainer)}, series_sources())
