"""trained model + prompt -> more text, one token at a time.

Every token takes a whole forward pass by the code that scores, without a cache of keys: a token's probability here is
what scoring says it is.
"""

import codecs
import unicodedata
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from speedrun.data.shards import BOS
from speedrun.data.tokenizer import decode_bytes, encode
from speedrun.kernels.softcap import SOFTCAP, softcap_gate
from torch import Tensor

from discreteness.experiment.documents import Document
from discreteness.inference.load import Trained
from discreteness.inference.sampling import Sampling
from discreteness.scoring.scorer import Scorer


def generate(trained: Trained, prompt: str, max_tokens: int, sampling: Sampling, seed: int) -> Iterator[int]:
    """GPT-2 ids that continue the prompt, at most `max_tokens`; it ends before BOS, which ends a document.

    The same seed draws the same tokens from the same logits. Raises ValueError if prompt and tokens are longer than
    what the track trains on, or if a value of `sampling` is impossible.
    """
    sampling.check()
    text = encode(prompt)
    longest = trained.track.data.max_document_tokens
    if max_tokens < 1 or 1 + len(text) + max_tokens > longest:
        raise ValueError(
            f"--max-tokens {max_tokens}: with BOS and {len(text)} tokens of prompt the text may have at most {longest} "
            f"tokens, as track {trained.track.name} saw in training; give 1 to {max(longest - 1 - len(text), 1)}"
        )
    return _draw(trained, text, max_tokens, sampling, torch.Generator().manual_seed(seed))


def _draw(
    trained: Trained, text: list[int], max_tokens: int, sampling: Sampling, random: torch.Generator
) -> Iterator[int]:
    for _ in range(max_tokens):
        probabilities = distribution(next_logits(trained, [BOS, *text]), text, sampling)
        if not probabilities.isfinite().all():
            raise ValueError(
                f"the model gives no number as a probability after {len(text)} tokens: its weights are damaged"
            )
        token = int(torch.multinomial(probabilities, 1, generator=random))
        if token == BOS:
            return
        text.append(token)
        yield token


@torch.no_grad()
def next_logits(trained: Trained, ids: list[int]) -> Tensor:
    """Ids (n,) -> logits of what follows, float32 (50257,) on the CPU; -inf for ids without their own row.

    Padding rows of the head, ids from 50257 on, are not among them: nothing decodes them.
    """
    model, vocabulary = trained.model, trained.vocabulary
    document = Document(doc_id=0, name="", category="", text="", token_ids=(*ids, BOS), answers=frozenset())
    scorer = Scorer(model, [document], vocabulary)
    (batch,) = scorer.batches
    stage = model.stage(trained.state, scorer.num_positions)
    hidden = model.hidden(batch.packed, stage, wide_stream=True)[len(ids) - 1]
    by_row = SOFTCAP * softcap_gate(F.linear(hidden, model.lm_head.weight)).cpu()
    logits = by_row[torch.from_numpy(vocabulary.row_of_id).long()]
    if vocabulary.shared_row is not None:
        logits[torch.from_numpy(vocabulary.row_of_id == vocabulary.shared_row)] = -torch.inf
    return logits


def distribution(logits: Tensor, text: list[int], sampling: Sampling) -> Tensor:
    """Probabilities (n,) of the next token, from its logits (n,) and the ids of the text so far, BOS left out."""
    logits = logits.clone()
    seen = torch.tensor(sorted(set(text)), dtype=torch.int64)
    values = logits[seen]
    logits[seen] = torch.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty)
    if sampling.temperature == 0:
        return F.one_hot(logits.argmax(), len(logits)).float()
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        # Not topk, which among equal logits keeps any.
        kept = logits.sort(descending=True, stable=True).indices[: sampling.top_k]
        logits = torch.full_like(logits, -torch.inf).index_copy(0, kept, logits[kept])
    probabilities = logits.softmax(0)
    if sampling.top_p is not None:
        ordered, order = probabilities.sort(descending=True, stable=True)
        before = ordered.cumsum(0) - ordered
        probabilities[order[before >= sampling.top_p]] = 0
    return probabilities / probabilities.sum()


def text_of(tokens: Iterator[int]) -> Iterator[str]:
    """Text as it comes, in whole characters. Control characters, which a terminal would obey, are written out."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        yield _harmless(decoder.decode(decode_bytes(token)))
    yield _harmless(decoder.decode(b"", final=True))


def _harmless(text: str) -> str:
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t" else c for c in text
    )
