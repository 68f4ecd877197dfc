"""Generation: the same probabilities as scoring, the rules of sampling by hand, where it ends, what it never says."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from speedrun.data.shards import BOS
from speedrun.data.tokenizer import decode_bytes, encode

from discreteness.cli.model_commands import Generate, Weights
from discreteness.inference import load as load_module
from discreteness.inference.generate import distribution, generate, next_logits, text_of
from discreteness.inference.load import load_trained
from discreteness.inference.sampling import Sampling
from discreteness.inference.score import documents_of, score
from discreteness.scoring.scorer import Scorer
from tests.support.trained_case import TRACK, state_dict

PLAIN = Sampling(repetition_penalty=1, temperature=1, top_k=None)
GREEDY = dataclasses.replace(PLAIN, temperature=0)
PROMPT = "The sun comes up. one two"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    torch.save({"step": 20, "model": state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def trained(weights):
    return load_trained(weights, track_name=TRACK)


def test_probabilities_are_those_that_scoring_finds(trained):
    (document,) = documents_of(PROMPT)
    (scored,) = score(trained, [document])
    for index in (1, 4, len(document.token_ids) - 1):
        logits = next_logits(trained, list(document.token_ids[:index]))
        assert logits.shape == (50257,)
        own = logits[np.flatnonzero(trained.vocabulary.row_of_id != trained.vocabulary.shared_row)]
        assert int((own > logits[document.token_ids[index]]).sum()) + 1 <= scored.ranks[index - 1]
        # Scoring's softmax also holds the shared row, which is never drawn.
        hidden_share = 1 - float((own.double() - _total(trained, document, index)).exp().sum())
        assert 0 <= hidden_share < 0.01
        loss = _total(trained, document, index) - float(logits[document.token_ids[index]])
        assert loss == pytest.approx(float(scored.losses[index - 1]), abs=1e-4)


def test_the_vocabulary_is_made_once_and_not_for_every_token(weights, monkeypatch):
    made, make = [], load_module.vocabulary_of
    monkeypatch.setattr(load_module, "vocabulary_of", lambda track: made.append(make(track)) or made[-1])
    trained = load_trained(weights, track_name=TRACK)
    assert len(list(generate(trained, PROMPT, 4, GREEDY, 0))) == 4
    assert len(made) == 1 and trained.vocabulary is made[0]


def _total(trained, document, index):
    """Log of the sum of all rows' exponentials at a position."""
    scorer = Scorer(trained.model, [document], trained.vocabulary)
    with torch.no_grad():
        stage = trained.model.stage(trained.state, scorer.num_positions)
        hidden = trained.model.hidden(scorer.batches[0].packed, stage)[index - 1]
        z = trained.model.lm_head.weight.double() @ hidden.double()
    return float((23 * torch.sigmoid((z + 5) / 7.5)).logsumexp(0))


def test_greedy_tokens_are_the_ones_that_scoring_ranks_first(trained):
    tokens = list(generate(trained, PROMPT, 12, GREEDY, seed=0))
    assert len(tokens) == 12
    (document,) = documents_of(PROMPT)
    (scored,) = score(trained, [dataclasses.replace(document, token_ids=(*document.token_ids, *tokens))])
    assert scored.ranks[-12:].tolist() == [1] * 12


def test_a_seed_repeats_and_another_differs(trained):
    first, again, other = (list(generate(trained, PROMPT, 15, PLAIN, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_it_ends_before_bos_and_never_says_what_has_no_row(trained, monkeypatch):
    said = {}

    def planned(trained, ids):
        logits = torch.full((50257,), -5.0)
        logits[BOS if len(ids) == 6 else 262] = 50.0
        said[len(ids)] = ids
        return logits

    monkeypatch.setattr("discreteness.inference.generate.next_logits", planned)
    assert list(generate(trained, "one two", 10, PLAIN, 0)) == [262] * 3
    assert said[6] == [BOS, *encode("one two"), 262, 262, 262]


def test_padding_and_shared_rows_are_never_drawn(trained):
    logits = next_logits(trained, [BOS, *encode(PROMPT)])
    assert len(logits) == 50257, "ids from 50257 on do not exist"
    foreign = trained.vocabulary.row_of_id == trained.vocabulary.shared_row
    assert np.array_equal(np.isneginf(logits.numpy()), foreign)
    hot = Sampling(repetition_penalty=1, temperature=50.0, top_k=None)
    probabilities = distribution(logits, [], hot)
    assert not probabilities[torch.from_numpy(foreign)].any()
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)


LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0])
EXP = [math.exp(value) for value in LOGITS.tolist()]


@pytest.mark.parametrize(
    ("change", "text", "expected"),
    [
        ({}, [], [value / sum(EXP) for value in EXP]),
        ({"temperature": 0.5}, [], [v * v / sum(e * e for e in EXP) for v in EXP]),
        ({"temperature": 0}, [], [0, 1, 0, 0]),
        ({"top_k": 2}, [], [0, EXP[1] / (EXP[1] + EXP[2]), EXP[2] / (EXP[1] + EXP[2]), 0]),
        ({"top_k": 9}, [], [value / sum(EXP) for value in EXP]),
        ({"top_p": 0.01}, [], [0, 1, 0, 0]),
        # shares 0.66, 0.24, 0.09, 0.01: two have 0.90, so 0.9 takes the third as well
        ({"top_p": 0.85}, [], [0, EXP[1] / (EXP[1] + EXP[2]), EXP[2] / (EXP[1] + EXP[2]), 0]),
        ({"top_p": 1.0}, [], [value / sum(EXP) for value in EXP]),
        # 3 / 2 = 1.5 and -1 * 2 = -2; a token counts once, however often it stands there
        ({"repetition_penalty": 2.0, "top_k": 1}, [1, 1, 3], [0, 0, 1, 0]),
        ({"repetition_penalty": 2.0, "temperature": 0}, [1, 2], [0, 1, 0, 0]),
    ],
)
def test_the_rules_of_sampling_by_hand(change, text, expected):
    found = distribution(LOGITS, text, dataclasses.replace(PLAIN, **change))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert LOGITS.tolist() == [1.0, 3.0, 2.0, -1.0], "the logits given are left alone"


def test_the_penalty_divides_what_is_positive_and_multiplies_what_is_not():
    found = distribution(LOGITS, [1, 3, 3], dataclasses.replace(PLAIN, repetition_penalty=2.0))
    exps = [math.exp(value) for value in (1.0, 1.5, 2.0, -2.0)]
    np.testing.assert_allclose(found, [value / sum(exps) for value in exps], atol=1e-6)


@given(
    st.lists(st.integers(-200, 230).map(lambda n: n / 10), min_size=3, max_size=40),
    st.floats(0.1, 3),
    st.integers(1, 50),
    st.floats(0.05, 1),
)
def test_what_is_kept_is_the_likeliest_and_enough_of_it(logits, temperature, top_k, top_p):
    logits = torch.tensor(logits)
    sampling = dataclasses.replace(PLAIN, temperature=temperature, top_k=top_k, top_p=top_p)
    found = distribution(logits, [], sampling)
    kept = found > 0
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    assert 1 <= kept.sum() <= top_k
    assert (logits[~kept] <= logits[kept].min()).all()


def test_text_comes_in_whole_characters_and_controls_are_written_out():
    ids = encode("東京\x1b[2J\u202e ok\n")
    assert any("\ufffd" in decode_bytes(token).decode(errors="replace") for token in ids), "cut characters"
    assert "".join(text_of(iter(ids))) == "東京⟨U+001B⟩[2J⟨U+202E⟩ ok\n"
    assert "".join(text_of(iter(encode("東")[:1]))) == "\ufffd"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(max_tokens=0), "--max-tokens 0: .* at most 512"),
        (dict(max_tokens=600), "--max-tokens 600: .* give 1 to"),
        (dict(sampling=Sampling(temperature=-1)), "--temperature -1"),
        (dict(sampling=Sampling(temperature=float("nan"))), "--temperature nan"),
        (dict(sampling=Sampling(top_k=0)), "--top-k 0"),
        (dict(sampling=Sampling(top_p=0.0)), "--top-p 0.0"),
        (dict(sampling=Sampling(top_p=1.5)), "--top-p 1.5"),
        (dict(sampling=Sampling(repetition_penalty=0)), "--repetition-penalty 0"),
    ],
)
def test_values_that_cannot_be_are_named(trained, arguments, words):
    with pytest.raises(ValueError, match=words):
        generate(trained, PROMPT, **(dict(max_tokens=3, sampling=PLAIN, seed=0) | arguments))


def test_weights_that_are_no_numbers_are_said(tmp_path, capsys):
    weights = state_dict()
    weights["lm_head.weight"][:] = float("nan")
    torch.save({"step": 20, "model": weights}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="its weights are damaged"):
        Generate(PROMPT, Weights(checkpoint=str(tmp_path / "w.pt"), track=TRACK))()
    assert capsys.readouterr().out == ""


def test_the_prompt_is_shown_when_all_is_checked(weights, capsys):
    with pytest.raises(ValueError, match="--max-tokens 600"):
        Generate(PROMPT, Weights(checkpoint=str(weights), track=TRACK), max_tokens=600)()
    assert capsys.readouterr().out == ""


def test_the_command_says_what_the_library_draws(weights, trained, capsys):
    assert Generate(PROMPT, Weights(checkpoint=str(weights), track=TRACK), max_tokens=6)() == 0
    expected = "".join(text_of(generate(trained, PROMPT, 6, Sampling(), 0)))
    assert capsys.readouterr().out == f"{PROMPT}{expected}\n"
