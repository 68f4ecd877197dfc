"""The scoring function: packing, neighbours, padding, and the trainer's own arithmetic."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from speedrun.data.vocabulary import Vocabulary, vocabulary_of
from speedrun.model.gpt import GPT
from speedrun.schedules import forward_state
from speedrun.tracks import tiny

from discreteness.experiment import documents as documents_module
from discreteness.experiment.documents import Document
from discreteness.scoring import cuda_graphs
from discreteness.scoring.comparison import first_difference
from discreteness.scoring.scorer import Scorer, pack_documents
from tests.support import skips
from tests.support.golden_case import golden, golden_config, golden_track, golden_weights, init_weights

DOCUMENTS = documents_module.built_in()[:5]
LENGTHS = [len(document.token_ids) - 1 for document in DOCUMENTS]


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    model = GPT(tiny.model, torch.float32, "cpu")
    init_weights(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # trained-like: at initialisation the output projections are zero and nothing matters
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def losses(model, documents, packing="isolated", score_tokens=16_384, step=200):
    scorer = Scorer(model, documents, vocabulary_of(tiny), packing=packing, score_tokens=score_tokens)
    return scorer.score(forward_state(tiny, step))


def test_documents_are_packed_whole_and_in_order():
    vocabulary = vocabulary_of(tiny)
    limit = max(LENGTHS) + 10
    batches = pack_documents(DOCUMENTS, vocabulary, "isolated", limit)
    assert sum(batch.num_losses for batch in batches) == sum(LENGTHS)
    ids = np.concatenate([batch.packed.ids[: batch.num_losses].numpy() for batch in batches])
    expected = np.concatenate([vocabulary.rows(np.array(document.token_ids[:-1])) for document in DOCUMENTS])
    assert np.array_equal(ids, expected)
    for batch in batches:
        assert len(batch.packed.ids) % 16 == 0
        assert batch.num_losses <= limit
        borders = batch.packed.cu_seqlens.numpy()
        starts = np.flatnonzero(batch.packed.starts.numpy())
        assert np.array_equal(starts, borders[:-1])
        assert (batch.packed.positions.numpy()[starts] == 0).all()
        assert batch.packed.max_seqlen == np.diff(borders).max()


def test_a_batch_takes_documents_while_they_fit_and_one_that_never_fits_stands_alone():
    short = dataclasses.replace(DOCUMENTS[0], token_ids=tuple(range(11)))
    long = dataclasses.replace(short, token_ids=tuple(range(51)))
    for documents, limit, expected in (
        ([short] * 5, 30, [30, 20]),
        ([short] * 5, 29, [20, 20, 10]),
        ([long, short, short, long, short], 20, [50, 20, 50, 10]),
        ([short] * 4, 10, [10] * 4),
    ):
        batches = pack_documents(documents, vocabulary_of(tiny), "isolated", limit)
        assert [batch.num_losses for batch in batches] == expected


def test_the_longest_sequence_of_a_batch_may_be_any_of_its_documents_or_its_padding():
    for lengths, longest in (([9, 7], 9), ([7, 9], 9), ([2, 5], 9)):
        documents = [dataclasses.replace(DOCUMENTS[0], token_ids=tuple(range(length + 1))) for length in lengths]
        (batch,) = pack_documents(documents, vocabulary_of(tiny), "isolated", 100)
        assert batch.packed.max_seqlen == longest


def test_an_experiments_scorer_packs_as_the_experiment_says(model):
    experiment = SimpleNamespace(track=tiny, documents=DOCUMENTS, packing="reference", score_tokens=16)
    assert len(Scorer.for_experiment(experiment, model).batches) == 1
    experiment.packing = "isolated"
    assert len(Scorer.for_experiment(experiment, model).batches) == len(DOCUMENTS)


def test_reference_packing_is_one_sequence_that_smear_runs_through():
    (batch,) = pack_documents(DOCUMENTS, vocabulary_of(tiny), "reference", 16)
    packed = batch.packed
    assert packed.starts.sum() == 1
    assert np.array_equal(packed.positions.numpy(), np.arange(len(packed.ids)))
    padding = -sum(LENGTHS) % 16
    assert np.diff(packed.cu_seqlens.numpy()).tolist() == LENGTHS + ([padding] if padding else [])


def test_isolated_losses_do_not_depend_on_the_neighbours(model):
    together = losses(model, DOCUMENTS)
    reversed_order = losses(model, DOCUMENTS[::-1])
    start = 0
    for number, document in enumerate(DOCUMENTS):
        alone = losses(model, [document])
        ours = together[start : start + LENGTHS[number]]
        behind = sum(LENGTHS[number + 1 :])
        theirs = reversed_order[behind : behind + LENGTHS[number]]
        np.testing.assert_allclose(ours, alone, rtol=0, atol=1e-5)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        start += LENGTHS[number]


def test_reference_losses_do_depend_on_the_neighbours(model):
    together = losses(model, DOCUMENTS, packing="reference")
    alone = losses(model, DOCUMENTS[1:2], packing="reference")
    second = together[LENGTHS[0] : LENGTHS[0] + LENGTHS[1]]
    assert np.abs(second - alone).max() > 1e-4
    first = losses(model, DOCUMENTS[:1], packing="isolated")
    np.testing.assert_allclose(together[: LENGTHS[0]], first, rtol=0, atol=1e-5)


def test_the_batch_size_changes_no_loss_by_more_than_rounding(model):
    np.testing.assert_allclose(
        losses(model, DOCUMENTS), losses(model, DOCUMENTS, score_tokens=max(LENGTHS)), rtol=0, atol=1e-5
    )


def test_scoring_twice_is_bitwise_equal_and_leaves_no_trace(model):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    first = losses(model, DOCUMENTS)
    assert first_difference(first, losses(model, DOCUMENTS), DOCUMENTS) is None
    assert first.dtype == np.float32
    assert first.shape == (sum(LENGTHS),)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_recording_is_asked_for_in_vain_on_a_cpu(model):
    recorded = Scorer(model, DOCUMENTS, vocabulary_of(tiny), recorded=True)
    ours = [recorded.score(forward_state(tiny, 200)) for _ in range(2)]
    assert all(first_difference(one, losses(model, DOCUMENTS), DOCUMENTS) is None for one in ours)


@pytest.mark.skipif(not torch.cuda.is_available(), reason=skips.GPU)
def test_recorded_launches_give_the_same_bits_for_other_weights_and_states(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_CUDA_GRAPHS", 2)  # the third state replaces the first
    model = GPT(tiny.model, torch.bfloat16, "cuda")
    eager, recorded = (Scorer(model, DOCUMENTS, vocabulary_of(tiny), recorded=flag) for flag in (False, True))
    generator = torch.Generator("cuda").manual_seed(0)
    for step in (0, 0, 200, 0, 360, 360, 200, 0):
        for buffer in model.buffers_by_dtype.values():
            buffer.normal_(0, 0.02, generator=generator)
        state = forward_state(tiny, step)
        assert first_difference(recorded.score(state), eager.score(state), DOCUMENTS) is None


def test_schedule_state_matters(model):
    assert np.abs(losses(model, DOCUMENTS, step=0) - losses(model, DOCUMENTS, step=360)).max() > 1e-3


def test_the_first_difference_is_named_by_document_and_token():
    ours = np.zeros(sum(LENGTHS), np.float32)
    theirs = ours.copy()
    theirs[LENGTHS[0] + 4] = 0.5
    theirs[-1] = 1
    text = first_difference(ours, theirs, DOCUMENTS)
    assert f"document {DOCUMENTS[1].name} token 5" in text
    assert "0.0" in text
    assert "0.5" in text
    assert "2 of" in text


def test_equal_is_bitwise_equal():
    """No tolerance, and the sign of a zero counts; what is not a number equals itself."""
    ours = np.full(sum(LENGTHS), np.nan, np.float32)
    assert first_difference(ours, ours.copy(), DOCUMENTS) is None
    last_of_the_first = LENGTHS[0] - 1
    for value, other in ((1.0, np.nextafter(np.float32(1), np.float32(2))), (0.0, -0.0), (np.nan, 1.0)):
        theirs = ours.copy()
        ours[last_of_the_first], theirs[last_of_the_first] = value, other
        text = first_difference(ours, theirs, DOCUMENTS)
        assert f"document {DOCUMENTS[0].name} token {LENGTHS[0]}:" in text
        assert f"1 of {sum(LENGTHS)} losses differ" in text


def test_ids_without_a_row_share_one():
    vocabulary = vocabulary_of(tiny)
    foreign = next(i for i in range(50_257) if not vocabulary.contains(np.array([i])))
    document = dataclasses.replace(DOCUMENTS[0], token_ids=(50_256, foreign, *DOCUMENTS[0].token_ids[1:]))
    (batch,) = pack_documents([document], vocabulary, "isolated", 16_384)
    assert batch.packed.ids[0] == 0
    assert batch.packed.ids[1] == vocabulary.shared_row == 1


@pytest.mark.parametrize("packing", ["reference", "isolated"])
def test_golden_packing_and_losses(packing):
    """The arrays of SPEEDRUN's tracker, and its losses document by document, through our own packing and scorer."""
    file = golden("packing")
    documents = [
        Document(doc_id=i, name=f"{i}.txt", category="", text="", token_ids=tuple(ids), answers=frozenset())
        for i, ids in enumerate(file["documents"])
    ]
    (batch,) = pack_documents(documents, Vocabulary.identity(), packing, 16_384)
    assert batch.packed.ids.tolist() == file["inputs"]
    assert batch.packed.targets.squeeze(1).tolist() == file["targets"]
    assert batch.packed.cu_seqlens.tolist() == file["offsets"]
    assert batch.num_losses == file["unpadded"]
    toy = GPT(golden_config(), torch.float64, "cpu")
    golden_weights(toy)
    toy.tie()
    scorer = Scorer(toy, documents, Vocabulary.identity(), packing=packing)
    expected = np.concatenate(file["losses"]["stage_A_tied"][f"{packing}_mode"])
    np.testing.assert_allclose(scorer.score(forward_state(golden_track(), 0)), expected, rtol=1e-6)
