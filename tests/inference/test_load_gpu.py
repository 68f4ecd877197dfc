"""A model of the small track on a GPU: near its float32 on a CPU, the same bits twice, the trainer's own loss."""

import dataclasses

import numpy as np
import pytest
import torch
from speedrun.data.shards import BOS, write_shard
from speedrun.tracks import small
from speedrun.validation import Validator

from discreteness.experiment.documents import built_in
from discreteness.inference.generate import generate
from discreteness.inference.load import load_trained
from discreteness.inference.sampling import Sampling
from discreteness.inference.score import score
from discreteness.inference.validate import shards_of, validate
from tests.support import skips
from tests.support.trained_case import perturbed_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason=skips.GPU)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    torch.save({"step": 1840, "model": perturbed_model(torch.bfloat16, small.model).state_dict_reference(8)}, path)
    return path


@pytest.fixture(scope="module")
def trained(weights):
    return load_trained(weights)


def test_it_is_in_bfloat16_there_and_near_float32_here(trained, weights):
    plain = load_trained(weights, device="cpu")
    assert (trained.model.dtype, trained.model.scalars.device.type) == (torch.bfloat16, "cuda")
    assert plain.model.dtype == torch.float32
    for ours, again, theirs in zip(*(score(one, built_in()[:4]) for one in (trained, trained, plain)), strict=True):
        assert np.array_equal(ours.losses.view(np.uint32), again.losses.view(np.uint32))
        assert np.abs(ours.losses - theirs.losses).mean() < 0.1
        assert np.corrcoef(ours.ranks, theirs.ranks)[0, 1] > 0.9


def test_greedy_tokens_rank_first(trained):
    greedy = Sampling(repetition_penalty=1, temperature=0, top_k=None)
    tokens = list(generate(trained, "The capital of France is", 8, greedy, seed=0))
    document = dataclasses.replace(built_in()[0], token_ids=(BOS, 464, 3139, 286, 4881, 318, *tokens))
    (scored,) = score(trained, [document])
    assert (scored.ranks[-len(tokens) :] <= 3).all()  # other lengths round differently, and bfloat16 ties


def test_the_validation_loss_is_the_trainers(trained, tmp_path):
    tokens = np.random.default_rng(0).integers(0, BOS, 2 * 262144 + 1)
    tokens[::700] = BOS
    folder = tmp_path / "data" / "fineweb10B"
    folder.mkdir(parents=True)
    write_shard(folder / "fineweb_val_000000.bin", tokens)
    found = validate(trained, shards_of([], trained, tmp_path), 2 * 262144)
    validator = Validator(trained.model, small, tmp_path, 2 * 262144)
    assert found.loss == np.mean([validator.chunk_loss(i, trained.validation_state) for i in range(2)])
