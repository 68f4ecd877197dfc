"""The programs as a user meets them: help, input that is wrong, and the commands on a real dataset."""

import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from discreteness.cli import main as main_module
from discreteness.cli.data_commands import DATA_COMMANDS
from discreteness.cli.main import Analyze, Documents, main, run_seeds
from discreteness.cluster.machines import Cluster, Node
from discreteness.cluster.topology import choose
from discreteness.dataset import lock
from discreteness.dataset.attempt_rows import AttemptRows
from discreteness.dataset.paths import LOCK_FILE
from discreteness.dataset.reader import open as open_reader
from discreteness.dataset.status import job_status
from discreteness.experiment.config import JobConfig
from discreteness.service import driver, seeds_job
from discreteness.service.driver import Signals
from discreteness.service.inline import run_inline
from discreteness.service.seeds_job import run as run_service
from tests.support import skips
from tests.support.dataset_case import DOCUMENTS, commit, create, token_bytes
from tests.support.job_case import job_config, prepared
from tests.support.planted_dataset import create_planted, log_plan

QUICK = ["--track", "tests.support.quick_track:quick", "--checkpoints", "every:10"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, private_home):
    """Two seeds of the quick track, inline."""
    from tests.conftest import Program

    folder = tmp_path_factory.mktemp("cli")
    arguments = ["-m", "discreteness", "run", "--inline", *QUICK, "--seeds", "3-4", "--keep-weights", "last"]
    arguments += ["--output", str(folder / "set")]
    run = Program(arguments, folder / "output.txt")
    assert run.wait() == 0, run.output
    return folder / "set"


@pytest.fixture
def refused(monkeypatch, capsys):
    """What `python jobs/run_seeds.py ARGUMENTS` prints as it ends with 2; in this process, which has torch already."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["run_seeds.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_seeds()
        printed = capsys.readouterr()
        text = printed.out + printed.err
        assert end.value.code == 2, text
        return text

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["verfy", "x"],
            "discreteness has no command 'verfy': did you mean verify? `discreteness --help` explains each",
        ),
        (["documnets"], "did you mean documents?"),
        (["valid", "x"], "did you mean validate?"),
        (["frobnicate"], "'frobnicate': there are run, status, watch, verify, doctor"),
        (["data", "inf", "x"], "discreteness data has no command 'inf': did you mean info?"),
        (["data", "x"], "there are make, info, verify; `discreteness data --help` explains each"),
    ],
)
def test_a_mistyped_command_is_one_line_that_says_what_was_meant(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", ["discreteness", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    assert end.value.code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and said in printed.err


def test_the_names_of_data_commands_are_all_of_them():
    help_of_data = subprocess.run(
        [sys.executable, "-m", "discreteness", "data", "--help"], capture_output=True, text=True
    )
    assert f"{{{','.join(DATA_COMMANDS)}}}" in help_of_data.stdout


PIPED = {
    "help": ["--help"],
    "wrong option": ["status", "--nothing"],
    "version": ["--version"],
    "documents": ["documents"],
    "one document": ["documents", "--show", "planets_order.txt"],
    "status": ["status", "{set}"],
    "status as JSON": ["status", "{set}", "--json"],
    "verify": ["verify", "{set}"],
    "compact": ["compact", "{set}"],
    "analyze": ["analyze", "{planted}", "--output", "{folder}/out", "--figure", "{folder}/one.png"],
    "export": ["export", "{planted}", "--format", "csv", "--output", "{folder}/losses.csv"],
    "plan": ["run", "--inline", "--dry-run", *QUICK, "--output", "{folder}/new"],
    "score": ["score", "One text.", "--checkpoint", "{weights}", "--track", QUICK[1]],
}


@pytest.mark.parametrize(("name", "unbuffered"), [*((name, "") for name in PIPED), ("status", "1"), ("documents", "1")])
def test_a_closed_pipe_ends_every_command_without_a_word(dataset, tmp_path, name, unbuffered):
    """Closed from the beginning, as `| head` closes it after ten lines."""
    planted = tmp_path / "planted"
    create_planted(planted, DOCUMENTS, token_bytes, log_plan(12, 300), range(2))
    weights = next((dataset / "weights").rglob("*.safetensors"))
    places = {"set": dataset, "planted": planted, "folder": tmp_path, "weights": weights}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "discreteness", *(word.format(**places) for word in PIPED[name])],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writing)
    if name == "wrong option":  # it is told on stderr
        assert done.returncode == 2 and "Traceback" not in done.stderr
    else:
        assert (done.stderr, done.returncode) == ("", 141)


def test_a_run_whose_reader_leaves_goes_on_and_says_so_once(tmp_path):
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "discreteness", "run", "--inline", *QUICK, "--seeds", "5"]
    with subprocess.Popen(
        [*command, "--output", tmp_path / "set"], stdout=writing, stderr=subprocess.PIPE, text=True
    ) as run:
        os.close(writing)
        with os.fdopen(reading) as lines:
            assert lines.readline() == "track quick: 1 seeds of 20 updates\n"
        told = run.stderr.read()
    assert (run.returncode, [one.seed for one in job_status(tmp_path / "set").status.committed]) == (0, [5])
    assert told.startswith("note: stdout cannot be written any more") and told.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_a_letter_shows_its_number(tmp_path, encoding):
    """The second text has no name that such a terminal can show; errors, on stderr, neither."""
    (tmp_path / "prix_水.txt").write_text("L'été coûte ⟦ 3 €⟧.\n")
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}

    def run(*arguments):
        command = [sys.executable, "-m", "discreteness", "documents", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, env=environment)

    shown = run("--show", "prix_水.txt")
    assert shown.returncode == 0, shown.stderr
    assert b"\\u20ac' " in shown.stdout
    listed, refused = run(), run("--show", "été.txt")
    assert listed.returncode == 0 and b"prix_\\u6c34.txt" in listed.stdout
    assert refused.returncode == 2 and b"Traceback" not in refused.stderr


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch, capfd):
    def lose_the_connection():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(SystemExit) as end:
        main_module._finish(lose_the_connection)
    assert end.value.code == 2 and capfd.readouterr().err == "error: [Errno 32] Broken pipe\n"


def test_help_is_instant_because_it_imports_nothing_heavy():
    code = "import sys; sys.argv = ['x', '--help']\nfrom discreteness.cli import main\n"
    code += "try: main.run_seeds()\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'ray', 'pyarrow', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr
    assert "--workers-per-trainer" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named", "way_on"),
    [
        (["--track", "large"], "'large'", "tiny, small"),
        (["--track", "tests.support.quick_track:slow"], "slow", "package.module:name"),
        (["--seeds", "9-3"], "'9-3'", "3-9"),
        (["--checkpoints", "sometimes"], "'sometimes'", "every:N"),
        (["--workers-per-trainer", "3"], "3", "8, 4, 2 or 1"),
        (["--workers-per-trainer", "8"], "8", "4, 2, 1"),
        (["--track", "small"], "fineweb_train", "data folder"),
        (["--documents", "does/not/exist"], "does/not/exist", "folder"),
        (["--max-in-flight", "0"], "0", "at least 1"),
        (["--max-in-flight", "99999999"], "99999999", "smaller bound"),
        (["--evaluator-gpus", "2"], "2", "at most 1"),
        (["--val-tokens", "7"], "7", "multiple of 512"),
        (["--keep-weights", "7"], "'7'", "not in --checkpoints"),
        (["--output", "/proc/nowhere"], "/proc/nowhere", "output"),
        (["--gpu-type", "H100"], "H100", "leave it out"),
    ],
)
def test_bad_input_is_one_line_that_names_the_value_and_the_way_on(refused, tmp_path, arguments, named, way_on):
    output = tmp_path / "set"
    text = refused(*QUICK, "--output", output, *arguments)
    (line,) = [line for line in text.splitlines() if "rror" in line]
    assert line.startswith("error: ")
    assert named in line
    assert way_on in line
    assert "Traceback" not in text
    assert not output.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"", "no text"), (b"\xff\xfe", "not UTF-8"), (b"word " * 2100, "2101"), (None, "no .txt file")],
)
def test_documents_that_cannot_be_scored_are_refused_by_name(refused, tmp_path, content, named):
    folder = tmp_path / "documents"
    folder.mkdir()
    if content is not None:
        (folder / "mine.txt").write_bytes(content)
    text = refused(*QUICK, "--output", tmp_path / "set", "--documents", folder)
    assert named in text
    assert str(folder) in text
    assert not (tmp_path / "set").exists()


def test_another_experiments_directory_is_refused_with_the_fields_named(program, dataset):
    before = sorted(path.name for path in dataset.rglob("*"))
    other = ["--track", "tests.support.quick_track:quick", "--checkpoints", "every:5", "--packing", "reference"]
    run = program("jobs/run_seeds.py", *other, "--output", dataset)
    assert run.wait() == 2, run.output
    for field in ("checkpoints", "packing", "--output"):
        assert field in run.output
    assert sorted(path.name for path in dataset.rglob("*")) == before


def test_a_directory_of_other_files_is_refused(program, tmp_path):
    (tmp_path / "thesis.tex").write_text("\\documentclass{article}")
    run = program("jobs/run_seeds.py", *QUICK, "--output", tmp_path)
    assert run.wait() == 2, run.output
    assert "thesis.tex" in run.output or str(tmp_path) in run.output


def test_a_locked_dataset_is_refused_and_taken_over_on_request(program, dataset):
    content = {
        "token": "x",
        "host": "elsewhere",
        "pid_namespace": "",
        "pid": 1,
        "process_start": "",
        "job": "j",
        "since": "2026",
    }
    (dataset / "_lock.json").write_text(json.dumps(content))
    arguments = ["jobs/run_seeds.py", *QUICK, "--seeds", "3-4", "--output", dataset]
    refused = program(*arguments)
    assert refused.wait() == 2, refused.output
    assert "elsewhere" in refused.output
    assert "--take-over" in refused.output
    taken = program(*arguments, "--take-over")
    assert taken.wait() == 0, taken.output
    assert "nothing to do" in taken.output
    assert not (dataset / "_lock.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason=skips.NOT_ROOT)
def test_an_unwritable_output_is_refused(program, tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    run = program("jobs/run_seeds.py", *QUICK, "--output", tmp_path / "set")
    assert run.wait() == 2, run.output


def test_dry_run_prints_the_plan_and_writes_nothing(program, tmp_path):
    run = program("jobs/run_seeds.py", *QUICK, "--seeds", "0-9", "--dry-run", "--output", tmp_path / "set")
    assert run.wait() == 0, run.output
    for word in ("trainers:", "evaluators:", "MB/s", "rows", "minutes"):
        assert word in run.output
    assert f"dataset: {10 * 3 * 27} rows" in run.output
    assert not (tmp_path / "set").exists()


def test_a_dry_run_counts_what_is_left_and_refuses_what_a_run_would(dataset, capsys):
    settings = {"track": QUICK[1], "checkpoints": QUICK[3], "output": str(dataset), "dry_run": True}
    assert run_service(job_config(**settings, seeds="3-6")) == 0  # 3 and 4 are there
    assert f"dataset: {2 * 3 * 27} rows" in capsys.readouterr().out
    assert run_service(job_config(**settings, seeds="3-4")) == 0
    assert "all 2 seeds are committed" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds another experiment"):
        run_service(job_config(**settings | {"checkpoints": "every:1"}, seeds="3-6"))
    with pytest.raises(ValueError, match="leave --inline or --assume out"):
        run_inline(job_config(**settings, assume="8xH100"))


@pytest.mark.parametrize("keep", ["last", "none"])
def test_the_plan_counts_rows_exactly_and_bytes_within_a_fifth(dataset, keep):
    """What a job would print beside what the same job left: losses, runs, log, documents; with and without weights."""
    arguments = {"track": QUICK[1], "checkpoints": QUICK[3], "seeds": "3-4", "keep_weights": keep}
    config = job_config(**arguments, output="elsewhere")
    node = Node(cpus=2, gpus=0, gpu_type=None, object_store_bytes=10**9)
    planned = choose(prepared(**arguments), config.run, Cluster((node,), local=True))
    sizes = {path.relative_to(dataset): path.stat().st_size for path in dataset.rglob("*") if path.is_file()}
    without = ("tokens",) if keep == "last" else ("tokens", "weights")
    there = sum(size for path, size in sizes.items() if path.parts[0] not in without)
    assert planned.rows == job_status(dataset).status.rows
    assert 0.8 < planned.dataset_bytes / there < 1.2
    assert f"dataset: {planned.rows} rows" in " ".join(planned.report)


def test_status_verify_and_documents_tell_what_is_there(program, dataset):
    state = program("-m", "discreteness", "status", dataset)
    assert state.wait() == 0, state.output
    assert "committed: 2 seeds: 3-4" in state.output
    assert f"rows {2 * 3 * 27}" in state.output
    seconds = sum(np.nanmax(open_reader(str(dataset)).runs(seed)["train_s"].to_numpy()) for seed in (3, 4))
    assert f"trained: {seconds / 3600:,.2f} core-hours" in state.output
    checked = program("-m", "discreteness", "verify", dataset)
    assert checked.wait() == 0, checked.output
    assert "complete and correct" in checked.output
    listed = program("-m", "discreteness", "documents")
    assert listed.wait() == 0
    assert len(listed.output.splitlines()) == 27
    shown = program("-m", "discreteness", "documents", "--show", "planets_order.txt")
    assert shown.wait() == 0
    assert "answer" in shown.output


def test_a_document_is_shown_by_its_name_with_or_without_txt(capsys, tmp_path):
    assert Documents(show="planets_order.txt")() == 0
    expected = capsys.readouterr().out
    assert Documents(show="planets_order")() == 0
    assert capsys.readouterr().out == expected
    (tmp_path / "own.jsonl").write_text('{"name": "sum", "prompt": "1 + 1 =", "answer": " 2"}')
    assert Documents(str(tmp_path / "own.jsonl"), show="sum")() == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["5", "362", "'", "2'", "answer"]


def test_analyze_refuses_a_plan_that_is_too_coarse(program, dataset):
    run = program("-m", "discreteness", "analyze", dataset)
    assert run.wait() == 2, run.output
    assert "3 checkpoints, too few" in run.output
    assert "--checkpoints" in run.output


def test_groups_are_checked_before_the_fits_and_annotations_looked_at_for_groups_alone(tmp_path):
    commit(create(tmp_path), 0)
    (tmp_path / "annotations.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"annotations\.parquet is damaged .*; run: discreteness annotate"):
        Analyze(str(tmp_path), by=("category",))()
    with pytest.raises(ValueError, match="4 checkpoints, too few"):
        Analyze(str(tmp_path))()
    (tmp_path / "annotations.parquet").unlink()
    with pytest.raises(ValueError, match="--by colour: there is no such column"):
        Analyze(str(tmp_path), by=("colour",))()
    with pytest.raises(ValueError, match="--by category: groups are of one dataset"):
        Analyze(str(tmp_path), ("other",), output="here", by=("category",))()


def test_compact_says_what_is_compacted(program, dataset):
    before = open_reader(dataset).losses(0)
    run = program("-m", "discreteness", "compact", dataset)
    assert run.wait() == 0, run.output
    assert "compacted: 2 seeds, parts: 1" in run.output
    assert np.array_equal(open_reader(dataset).losses(0), before)


def test_export_and_the_reader_agree(program, dataset, tmp_path):
    import torch

    run = program("-m", "discreteness", "export", dataset, "--format", "pt", "--output", tmp_path / "all.pt")
    assert run.wait() == 0, run.output
    exported = torch.load(tmp_path / "all.pt", weights_only=True)
    reader = open_reader(str(dataset))
    assert exported["seeds"] == reader.seeds == [3, 4]
    for number, name in enumerate(exported["doc_names"]):
        theirs = exported["results"][4]["results"][20][number].numpy()
        assert np.array_equal(theirs, reader.losses(name, seeds=[4], steps=[20])[0, 0].astype(np.float16))


def test_a_dataset_that_is_not_there_is_one_line(program, tmp_path):
    run = program("-m", "discreteness", "status", tmp_path / "none")
    assert run.wait() == 2, run.output
    assert "none" in run.output
    assert "Traceback" not in run.output


def test_a_failed_seed_of_an_inline_run_is_said(program, tmp_path):
    arguments = [
        "run",
        "--inline",
        "--track",
        "tests.support.quick_track:poisoned",
        "--seeds",
        "0",
        "--checkpoints",
        "every:5",
    ]
    run = program("-m", "discreteness", *arguments, "--output", tmp_path / "set")
    assert run.wait() == 1, run.output
    assert "seed 0 FAILED: the training loss is" in run.output
    seen = job_status(tmp_path / "set")
    assert seen.settled and seen.failed[0].startswith("the training loss is")


def test_an_inline_dry_run_prints_the_plan_and_trains_nothing(program, tmp_path):
    run = program("-m", "discreteness", "run", "--inline", *QUICK, "--dry-run", "--output", tmp_path / "set")
    assert run.wait(120) == 0, run.output
    for words in (
        "track quick: 4 seeds of 20 updates",
        "inline: 1 process,",
        f"dataset: {4 * 3 * 27} rows",
        "core-hours",
    ):
        assert words in run.output
    assert not (tmp_path / "set").exists()


def test_an_inline_run_whose_dataset_is_taken_over_stops_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.01)
    other = lock.DatasetLock(tmp_path / "set", job="another", take_over=True)
    came, add_losses = [], AttemptRows.add_losses

    def come(rows, step, losses):
        add_losses(rows, step, losses)
        if not came:
            came.append(other.__enter__())

    monkeypatch.setattr(AttemptRows, "add_losses", come)
    config = job_config(track=QUICK[1], checkpoints="every:1", seeds="0-29", output=str(tmp_path / "set"))
    assert run_inline(config) == 1
    assert f"{tmp_path / 'set'} was taken over by pid" in capsys.readouterr().out
    assert json.loads((tmp_path / "set" / LOCK_FILE).read_text())["job"] == "another"
    assert len(job_status(tmp_path / "set").status.committed) < 30
    other.__exit__()


def test_signals_and_a_lost_dataset_end_a_driver_where_it_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.01)
    signals = Signals()
    with lock.DatasetLock(tmp_path) as signals.lock:
        signals.check()
        with (
            lock.DatasetLock(tmp_path, job="another", take_over=True),
            pytest.raises(lock.LockLost, match="job another"),
        ):
            while True:
                signals.check(wait_s=0.01)


@pytest.mark.parametrize(("address", "flag"), [("", "0"), ("10.0.0.1:6379", None)])
def test_a_ray_of_our_own_is_sent_no_upload_under_uv_run(monkeypatch, address, flag):
    """Ray reads the flag when it is imported: what the driver finds is what counts."""
    found = []
    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(seeds_job, "run", lambda config: found.append(os.environ.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV")))
    monkeypatch.setattr(driver, "leave", lambda code: None)
    main_module._service(JobConfig())
    assert found == [flag]
    os.environ.pop("RAY_ENABLE_UV_RUN_RUNTIME_ENV", None)
