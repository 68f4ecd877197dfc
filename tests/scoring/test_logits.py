"""Losses from any model's logits: those of transformers, in any batch, without a trace."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from discreteness.experiment.documents import DocumentError
from discreteness.experiment.prompts import documents_with
from discreteness.scoring import logits
from discreteness.scoring.logits import LogitsScorer, LossNotFinite, arguments_of, batches_of, inner
from tests.support.any_model import family

VOCABULARY = 11
THREE = tuple(
    replace(documents_with("gpt2")[0], doc_id=number, name=f"{len(ids)}.txt", token_ids=ids, answers=frozenset())
    for number, ids in enumerate([(1, 2, 3), (4, 5, 6, 7, 8), (9, 10)])
)
"""Two, four and one losses."""


def plain(model, documents):
    """Each document alone, through transformers' own logits in float32."""
    model.eval()
    with torch.no_grad():
        for document in documents:
            ids = torch.tensor([document.token_ids])
            yield cross_entropy(model(ids).logits[0, :-1].float(), ids[0, 1:], reduction="none").numpy()


@pytest.mark.parametrize("bos", [None, True, False])
@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gpt2"])
def test_losses_are_those_of_transformers_in_one_batch_or_many(name, bos):
    tokenizer, model = family(name)
    documents = documents_with(tokenizer, bos=bos)[:6]
    expected = np.concatenate(list(plain(model, documents)))
    for max_tokens in 1, 2_000:
        scorer = LogitsScorer(documents, max_tokens_per_batch=max_tokens, context=1024, device="cpu")
        found = scorer.score(model)
        assert found.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert np.array_equal(scorer.score(model), found)
        padding = sum(int((batch.mask == 0).sum()) for batch in scorer.batches)
        assert (padding > 0) == (max_tokens > 1)


def test_losses_of_slices_are_those_of_all_at_once(monkeypatch):
    tokenizer, model = family("gpt_neox")
    scorer = LogitsScorer(documents_with(tokenizer)[:4], max_tokens_per_batch=10_000)
    at_once = scorer.score(model)
    monkeypatch.setattr(logits, "SLICE_LOGITS", 1)
    assert np.array_equal(scorer.score(model), at_once)
    sizes = []
    monkeypatch.setattr(logits, "SLICE_LOGITS", 7 * model.config.vocab_size)
    monkeypatch.setattr(logits, "cross_entropy", lambda x, *a, **k: sizes.append(x.shape) or cross_entropy(x, *a, **k))
    assert np.array_equal(scorer.score(model), at_once)
    assert len(sizes) > 10 and set(sizes[:-1]) >= {(7, model.config.vocab_size)}
    assert max(size[0] for size in sizes) == 7 and {size[1] for size in sizes} == {model.config.vocab_size}


def table(ids):
    """Logits by hand: of the token after token t, t/2 for token t + 1 and 0 for all others."""
    made = torch.zeros(*ids.shape, VOCABULARY)
    following = (ids + 1).clamp(max=VOCABULARY - 1)
    return made.scatter_(2, following[:, :, None], ids[:, :, None] / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_callable_is_a_model_and_each_loss_is_at_its_place(dtype):
    scorer = LogitsScorer(THREE, max_tokens_per_batch=5)
    assert [tuple(batch.ids.shape) for batch in scorer.batches] == [(1, 5), (1, 3), (1, 2)]
    expected = [np.log(10 + np.exp(t / 2)) - t / 2 for t in (1, 2, 4, 5, 6, 7, 9)]  # each t/2 is exact in bfloat16
    np.testing.assert_allclose(scorer.score(lambda ids: table(ids).to(dtype)), expected, rtol=1e-6)
    one = LogitsScorer(THREE, max_tokens_per_batch=15)
    assert [batch.ids.tolist() for batch in one.batches] == [[[4, 5, 6, 7, 8], [1, 2, 3, 0, 0], [9, 10, 0, 0, 0]]]
    assert one.batches[0].mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    np.testing.assert_allclose(one.score(lambda ids: SimpleNamespace(logits=table(ids))), expected, rtol=1e-6)


def test_a_model_is_given_all_ids_of_a_document_and_a_mask_where_it_takes_one():
    given = []

    class Model(torch.nn.Module):
        def forward(self, ids, attention_mask=None, use_cache=True):
            given.append((ids.tolist(), attention_mask.tolist(), use_cache))
            return table(ids)

    model = Model()
    scorer = LogitsScorer(THREE[:1], max_tokens_per_batch=5)
    for one in model, model.forward:
        scorer.score(one)
    assert given == 2 * [([[1, 2, 3]], [[1, 1, 1]], False)]
    parallel = torch.nn.DataParallel(model)
    for wrapped in parallel, *(torch.compile(one, backend="eager") for one in (model, parallel)):
        assert inner(wrapped) is model
        assert arguments_of(wrapped) == {"ids", "attention_mask", "use_cache"}


class Noisy(torch.nn.Module):
    """Draws random numbers, and raises at its n-th call."""

    def __init__(self, raises_at=None):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Embedding(VOCABULARY, VOCABULARY))
        self.inner[0].eval()  # a part that its owner has frozen
        self.calls, self.raises_at, self.seen = 0, raises_at, []

    def forward(self, ids):
        self.calls += 1
        self.seen.append((self.training, self.inner[1].training, torch.is_grad_enabled()))
        torch.rand(3)
        if self.calls == self.raises_at:
            raise RuntimeError("as told")
        return self.inner[1](ids)


@pytest.mark.parametrize("raises_at", [None, 2])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_call_leaves_no_trace(raises_at, gradients):
    model = Noisy(raises_at).train()
    model.inner[0].eval()
    scorer = LogitsScorer(THREE, max_tokens_per_batch=5)
    state, weights = torch.get_rng_state(), {name: one.clone() for name, one in model.state_dict().items()}
    with torch.set_grad_enabled(gradients):
        if raises_at:
            with pytest.raises(RuntimeError, match="as told"):
                scorer.score(model)
        else:
            scorer.score(model)
        assert torch.is_grad_enabled() == gradients
    assert model.seen == (raises_at or 3) * [(False, False, False)]
    assert [one.training for one in model.modules()] == [True, True, False, True]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, weights[name]) for name, one in model.state_dict().items())
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "nan"), (float("inf"), "nan"), (-float("inf"), "inf")])
def test_a_loss_that_is_not_finite_is_an_error_that_names_its_token(value, said):
    def model(ids):
        made = table(ids)
        made[ids == 6, 7] = value
        return made

    with pytest.raises(LossNotFinite, match=rf"document '5.txt', token 3, is {said} \(1 of 7 losses are not finite\)"):
        LogitsScorer(THREE, max_tokens_per_batch=15).score(model)


def test_documents_longer_than_the_context_are_refused_by_name():
    LogitsScorer(THREE, max_tokens_per_batch=5, context=5)
    with pytest.raises(DocumentError, match=r"document '5\.txt' has 5 tokens, the model takes 4: split it in parts"):
        LogitsScorer(THREE, max_tokens_per_batch=5, context=4)
    with pytest.raises(ValueError, match="max_tokens_per_batch is 0"):
        LogitsScorer(THREE, max_tokens_per_batch=0)


def test_what_a_model_returns_is_checked():
    scorer = LogitsScorer(THREE, max_tokens_per_batch=5)
    with pytest.raises(TypeError, match=r"the model returned a tuple; it has to return logits"):
        scorer.score(lambda ids: (table(ids),))
    with pytest.raises(ValueError, match=r"returned torch.float32 \(1, 1, 11\) for ids \(1, 5\); expected logits"):
        scorer.score(lambda ids: table(ids)[:, -1:])
    with pytest.raises(ValueError, match=r"document '2\.txt' has the token 10, but the model knows 10, from 0 on"):
        scorer.score(lambda ids: table(ids)[:, :, :10])
    small = SimpleNamespace(num_embeddings=10)

    class Small(Noisy):
        def get_input_embeddings(self):
            return small

    model = Small()
    with pytest.raises(ValueError, match="the model knows 10, from 0 on: give the tokenizer of this model"):
        scorer.score(model)
    assert not model.calls, "a GPU would have been lost"


def test_the_longest_documents_come_first_and_none_is_left_out():
    documents = [replace(THREE[0], token_ids=tuple(range(n))) for n in (3, 9, 2, 9, 4)]
    batches = batches_of(documents, 20)
    assert [tuple(batch.mask.sum(dim=1).tolist()) for batch in batches] == [(9, 9), (4, 3, 2)]
    places = torch.cat([batch.places for batch in batches]).tolist()
    assert sorted(places) == list(range(sum(n - 1 for n in (3, 9, 2, 9, 4))))
