"""The callback of docs/any_model.md in a real Trainer of transformers: what it records, and resumed."""

import re
import warnings

import numpy as np
import pytest
import torch

import discreteness
from discreteness import Recorder
from tests.conftest import ROOT
from tests.support.any_model import family
from tests.support.own_loop import texts

LAST_STEP = 6


def callback_class():
    """As it is printed."""
    (block,) = re.findall(r"```python\n(import json.*?)```", (ROOT / "docs/any_model.md").read_text(), re.S)
    names = {}
    exec(block, names)
    return names["Recording"]


class Windows(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        ids = torch.arange(index, index + 12) % 500
        return {"input_ids": ids, "labels": ids}


def train(folder, resume=False, raises_at=None):
    """A recorder and the Trainer that it looked into."""
    import transformers

    tokenizer, _ = family("gpt2")
    torch.manual_seed(1)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=512, **ends)
    model = transformers.GPT2LMHeadModel(config)
    documents = texts(folder / "texts")
    recorder = Recorder(
        folder / "set", documents=documents, tokenizer=tokenizer, checkpoints="every:1", last_step=LAST_STEP
    )

    class Crash(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == raises_at:
                raise InterruptedError

    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "out"),
        max_steps=LAST_STEP,
        save_steps=2,
        per_device_train_batch_size=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    callbacks = [callback_class()(recorder), Crash()]
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Windows(), callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return recorder, trainer


def test_the_printed_callback_records_a_trainer_and_goes_on_with_it(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers and accelerate: none is ours
        for name in "whole", "killed":
            (tmp_path / name).mkdir()
        recorder, trainer = train(tmp_path / "whole")
        recorder.commit()
        with pytest.raises(InterruptedError):
            train(tmp_path / "killed", raises_at=5)
        resumed, _ = train(tmp_path / "killed", resume=True)
        resumed.commit()
    whole, killed = (discreteness.open(tmp_path / name / "set") for name in ("whole", "killed"))
    assert list(whole.steps) == list(range(LAST_STEP + 1))
    assert np.array_equal(whole.seed(0), killed.seed(0))
    assert (np.diff(whole.seed(0), axis=0) != 0).all(axis=1).any(), "it has learned"
    model, document = trainer.model.eval(), recorder.documents[0]
    with torch.no_grad():
        logits = model(torch.tensor([document.token_ids])).logits[0, :-1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(document.token_ids[1:]), reduction="none")
    np.testing.assert_allclose(whole.losses(document.name, seeds=0, steps=LAST_STEP), expected, rtol=0, atol=1e-5)
