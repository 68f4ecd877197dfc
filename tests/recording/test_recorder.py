"""A recorder in somebody's own loop: what it keeps, what it leaves as it was, resumes, refusals."""

import csv
import signal

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import discreteness
from discreteness.dataset.export.files import export
from discreteness.dataset.mismatch import IdentityMismatch
from discreteness.dataset.status import status
from discreteness.dataset.verify import verify
from discreteness.experiment.documents import DocumentError
from discreteness.experiment.tokenizers import adapted
from discreteness.recording import recorder as recorder_module
from discreteness.scoring.logits import LossNotFinite
from discreteness.viewer.growing import Growing
from tests.support import own_loop
from tests.support.any_model import END, byte_level_bpe
from tests.support.own_loop import LAST_STEP, PLAN, SAVED_AT, recorder, restore, start, train

TOKENS = adapted(byte_level_bpe())


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(folder, seed=0):
    """A whole training with a recorder. The recorder, committed."""
    rows = recorder(folder, seed=seed)
    train(*start(seed), rows)
    rows.commit()
    return rows


def committed(folder, seed=0):
    return discreteness.open(folder / "set").seed(seed)


def alone(model, document):
    """Losses of one document, by itself, through the plain formula."""
    model.eval()
    ids = torch.tensor([document.token_ids])
    with torch.no_grad():
        return cross_entropy(model(ids)[0, :-1], ids[0, 1:], reduction="none").numpy()


def test_the_dataset_has_the_losses_of_the_model_at_each_planned_step(tmp_path):
    rows = recorder(tmp_path)
    model, optimizer = start()
    seen = {}

    def look(step):
        if step in PLAN:
            seen[step] = [alone(model, document) for document in rows.documents]
            model.train()

    with torch.random.fork_rng():
        losses = train(model, optimizer, rows, before_update=look)
    rows.commit()
    dataset = discreteness.open(tmp_path / "set")
    assert (dataset.seeds, list(dataset.steps)) == ([0], PLAN)
    for number, document in enumerate(dataset.documents):
        expected = np.stack([seen[step][number] for step in PLAN])
        np.testing.assert_allclose(dataset.losses(document.name, seeds=0), expected, rtol=0, atol=1e-5)
    table = dataset.tokens("b.txt").to_pylist()
    assert [row["token_id"] for row in table] == list(
        TOKENS.encode("3 + 4 = 7\n", bos=byte_level_bpe().token_to_id(END))
    )
    assert b"".join(row["token_bytes"] for row in table) == b"<|endoftext|>3 + 4 = 7\n"
    assert b"".join(row["token_bytes"] for row in table if row["answer"]) == b" 7"
    runs = dataset.runs(0).to_pylist()
    assert [row["step"] for row in runs] == PLAN
    assert [row["train_loss"] for row in runs] == [None, *(losses[step - 1] for step in PLAN[1:])]


def test_training_with_a_recorder_is_training_without_to_the_bit(tmp_path):
    results = []
    for rows in None, recorder(tmp_path):
        model, optimizer = start()
        losses = train(model, optimizer, rows)
        results.append((losses, torch.get_rng_state(), *model.state_dict().values()))
        assert model.training
    for without, with_one in zip(*results, strict=True):
        assert without == with_one if isinstance(without, list) else torch.equal(without, with_one)


def test_what_reads_datasets_reads_this_one(tmp_path):
    for seed in range(2):
        trained(tmp_path, seed)
    folder = tmp_path / "set"
    assert verify(folder) == []
    assert [seed.seed for seed in status(folder).committed] == [0, 1]
    found = discreteness.open(folder).find(" sea")
    assert [match.document for match in found] == 20 * ["c_long.txt"]
    export(folder, "csv", tmp_path / "losses.csv")
    with (tmp_path / "losses.csv").open(newline="") as file:
        exported = [float(row["loss"]) for row in csv.DictReader(file)]
    assert sorted(np.float32(exported)) == sorted(
        np.concatenate([committed(tmp_path, seed).ravel() for seed in (0, 1)])
    )
    assert not list((folder / "_recorded").iterdir()), "rows of committed seeds"


def test_the_page_follows_a_seed_that_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "SHOWING_SHARE", 1e9)  # each time
    rows, shown = recorder(tmp_path), []
    assert not (tmp_path / "set").exists()

    def look(step):
        if step in PLAN:
            growing = Growing(discreteness.open(tmp_path / "set").storage)
            document = growing.snapshot.dataset.documents[1]
            shown.append(int(np.isfinite(growing.curves(document, 2).losses).sum()))

    train(*start(), rows, before_update=look)
    assert shown == [1, 2, 3, 4, 5, 6]
    rows.commit()
    assert not Growing(discreteness.open(tmp_path / "set").storage).snapshot.running


def test_a_killed_training_goes_on_from_its_checkpoint_and_loses_nothing(tmp_path, program):
    for folder in "killed", "whole":
        (tmp_path / folder).mkdir()
    trained(tmp_path / "whole")
    killed = program("-m", "tests.support.own_loop", tmp_path / "killed", 9)
    assert killed.wait() == -signal.SIGKILL, killed.output
    (attempt,) = (tmp_path / "killed/set/_recorded").iterdir()
    there = {int(path.stem.removeprefix("step=")): path.stat().st_mtime_ns for path in attempt.iterdir()}
    assert list(sorted(there)) == [0, 1, 2, 4, 7]

    rows, (model, optimizer) = recorder(tmp_path / "killed"), start(seed=77)
    step = restore(tmp_path / "killed/checkpoint.pt", model, optimizer, rows)
    left = {int(path.stem.removeprefix("step=")): path.stat().st_mtime_ns for path in attempt.iterdir()}
    assert left == {number: there[number] for number in (0, 1, 2, 4)}, "step 7 is of the lost part"
    assert [number for number in range(LAST_STEP + 1) if number in rows] == [7, 12]
    assert rows.state_dict()["step"] == 4 and step == SAVED_AT
    train(model, optimizer, rows, first=step)
    rows.commit()
    assert np.array_equal(committed(tmp_path / "killed"), committed(tmp_path / "whole"))
    assert discreteness.open(tmp_path / "killed/set").runs(0)["attempt"][0].as_py() == attempt.name.partition("-")[2]
    assert not attempt.exists() and not list((tmp_path / "killed/set/_running").iterdir())


def test_without_a_state_a_new_attempt_begins(tmp_path):
    rows = recorder(tmp_path)
    model, _ = start()
    for step in PLAN[:3]:
        rows.record(step, model)
    again = recorder(tmp_path)
    assert 0 in again and 12 in again
    with pytest.raises(ValueError, match=r"step 2 comes before steps 0, 1, which are planned: .*load_state_dict first"):
        again.record(2, model)
    train(*start(3), again)
    again.commit()
    other = tmp_path / "other"
    other.mkdir()
    undisturbed = recorder(other)
    train(*start(3), undisturbed)
    undisturbed.commit()
    assert np.array_equal(committed(tmp_path), committed(other))
    with pytest.raises(ValueError, match="planned and not recorded"):
        rows.commit()


def test_a_saved_state_goes_on_only_with_its_own_rows(tmp_path):
    rows, (model, optimizer) = recorder(tmp_path), start()
    for step in PLAN[:2]:
        rows.record(step, model)
    early = rows.state_dict()
    rows.record(2, model)
    late = rows.state_dict()
    again = recorder(tmp_path)
    again.load_state_dict(early)
    own_loop.update(model, optimizer)
    again.record(2, model)  # of another continuation
    third = recorder(tmp_path)
    with pytest.raises(
        ValueError, match=r"rows of seed 0 at steps 0, 1, 2 are of another continuation of its training"
    ):
        third.load_state_dict(late)
    third.load_state_dict(again.state_dict())
    (row,) = (tmp_path / "set/_recorded").glob("*/step=000001.npz")
    content = row.read_bytes()
    row.write_bytes(content[:-40])
    with pytest.raises(ValueError, match=r"step=000001.npz is damaged .*: train the seed again from its beginning"):
        third.load_state_dict(early)
    row.unlink()
    with pytest.raises(ValueError, match=r"step=000001.npz is gone, so the curve of seed 0 cannot go on"):
        third.load_state_dict(early)
    third.load_state_dict(recorder(tmp_path).state_dict())
    assert third.state_dict()["step"] == -1


def test_a_state_of_another_recorder_is_refused(tmp_path):
    state = recorder(tmp_path).state_dict()
    for wrong, said in (
        (state | {"seed": 3}, "this state is that of seed 3; give seed 0 its own"),
        (state | {"experiment": "x"}, "this state is that of seed 0 of another experiment; give seed 0 its own"),
        ({"step": 1}, "this state is none of a recorder; give seed 0 its own"),
    ):
        with pytest.raises(ValueError, match=said):
            recorder(tmp_path).load_state_dict(wrong)


def test_steps_that_would_not_make_a_curve_are_refused(tmp_path):
    rows, (model, _) = recorder(tmp_path), start()
    with pytest.raises(ValueError, match="step 3 is not planned: record only where `step in recorder`"):
        rows.record(3, model)
    with pytest.raises(ValueError, match="step 1 comes before steps 0, which are planned"):
        rows.record(1, model)
    rows.record(np.int64(0), model)
    rows.record(1, model)
    for step in 0, 1:
        with pytest.raises(ValueError, match=rf"step {step} is recorded already, the last was 1"):
            rows.record(step, model)
    with pytest.raises(ValueError, match="seed 0 is not complete: steps 2, 4, 7, 12 are planned and not recorded"):
        rows.commit()
    with pytest.raises(
        ValueError, match=r"records has 'accuracy', which has no column in runs/; give any of train_loss"
    ):
        rows.record(2, model, {"accuracy": 1.0})
    for step in PLAN[2:]:
        rows.record(step, model)
    rows.commit()
    for action in (rows.commit, lambda: rows.record(12, model), lambda: rows.load_state_dict(rows.state_dict())):
        with pytest.raises(ValueError, match="seed 0 is committed; another training needs another Recorder"):
            action()
    with pytest.raises(ValueError, match=r"seed 0 is committed in .*set already: give another seed"):
        recorder(tmp_path)
    recorder(tmp_path, seed=1)


def test_a_step_that_failed_may_be_tried_again(tmp_path):
    rows, (model, _) = recorder(tmp_path), start()
    with torch.no_grad():
        model.head.bias[7] = float("nan")
    with pytest.raises(LossNotFinite, match=r"document 'a\.txt', token 1, is nan"):
        rows.record(0, model)
    assert not (tmp_path / "set").exists()
    with torch.no_grad():
        model.head.bias[7] = 0.0
    rows.record(0, model)
    assert rows.state_dict()["step"] == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"bos": False}, "documents: with other text or answers a.txt, b.txt, c_long.txt"),
        ({"checkpoints": "log:4"}, "checkpoints: .* 0 to 12.* there, log:4 .* here"),
        ({"identity": {"lr": 0.1}}, "own.lr: absent there, 0.1 here"),
        ({"max_tokens_per_batch": 65}, "max_tokens_per_batch: 64 there, 65 here"),
    ],
)
def test_another_experiment_is_refused_by_field_before_anything_is_trained(tmp_path, changes, field):
    recorder(tmp_path).record(0, start()[0])
    with pytest.raises(IdentityMismatch, match=field):
        recorder(tmp_path, **changes)


def test_another_tokenizer_or_arithmetic_is_refused(tmp_path):
    rows, (model, _) = recorder(tmp_path), start()
    rows.record(0, model)
    more = type(byte_level_bpe()).from_str(byte_level_bpe().to_str())
    more.add_special_tokens(["<pad>"])
    with pytest.raises(IdentityMismatch, match=r"tokenizer: \w{12}\.\.\. there, \w{12}\.\.\. here"):
        recorder(tmp_path, tokenizer=more)
    other = recorder(tmp_path, seed=1)
    with pytest.raises(IdentityMismatch, match=r"dtypes.logits: 'float32' there, 'bfloat16' here"):
        other.record(0, model.bfloat16())
    with pytest.raises(ValueError, match=r"computes in .*bfloat16.* at step 1, and in .*float32.* before"):
        rows.record(1, model)


def test_documents_and_arguments_are_checked_before_anything_is_trained(tmp_path):
    with pytest.raises(DocumentError, match=r"document 'c_long\.txt' has \d+ tokens, the model takes 30"):
        recorder(tmp_path, context=30)
    for changes, said in (
        ({"seed": -1}, "seed is -1"),
        ({"last_step": 0}, "last_step is 0"),
        ({"checkpoints": "often"}, "'often' is not a plan"),
        ({"checkpoints": [3, 99]}, "step 99 is past the last step 12"),
        ({"bos": 10**6}, "no token of id 1000000"),
    ):
        with pytest.raises(ValueError, match=said):
            recorder(tmp_path, **changes)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/notes.txt").write_text("x")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt and is not a dataset"):
        recorder(tmp_path)


def test_the_context_that_a_model_states_is_kept_to(tmp_path):
    model, _ = start()
    model.config = type("Config", (), {"max_position_embeddings": 30})
    with pytest.raises(DocumentError, match=r"document 'c_long\.txt' has \d+ tokens, the model takes 30"):
        recorder(tmp_path).record(0, model)
    recorder(tmp_path, context=512).record(0, model)
