"""tables of an analysis -> what they say, in words and as the sharpest tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow.compute as pc

from discreteness.analysis.across_seeds import (
    LEARNED_LOSS,
    MIN_SEEDS_FOR_DIP,
    TOGETHER_OCTAVES,
    learned_together,
    shuffled,
    steepness,
)
from discreteness.analysis.main_drops import MainDrops
from discreteness.analysis.spectrum import rebuilt_share
from discreteness.analysis.tables import ALL_DOCUMENTS, Analysis, count_losses
from discreteness.dataset.reader import Dataset


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token and where it is."""

    document: str
    token: int
    text: str

    @classmethod
    def at(cls, dataset: Dataset, doc_id: int, token: int) -> Self:
        text = dataset.tokens(doc_id)["token_text"][token].as_py()
        return cls(document=dataset.document(doc_id).name, token=token, text=text)


def sharpest(dataset: Dataset, found: Analysis, count: int) -> list[Token]:
    """Tokens with a drop in most seeds, those of the steepest fall first."""
    rows = _sharpest_rows(found, count)
    return [Token.at(dataset, row["doc_id"], row["token_index"]) for row in rows]


def _sharpest_rows(found: Analysis, count: int) -> list[dict[str, Any]]:
    rows = [row for row in found.tokens.to_pylist() if row["drop_share"] >= 0.5]
    rows.sort(key=lambda row: -steepness(row["drop_share"], row["fall"], row["width"]))
    return rows[:count]


def summary(dataset: Dataset, found: Analysis, num_tokens: int = 12) -> str:
    """What was found, for a terminal."""
    num_losses, num_seeds = count_losses(dataset), len(found.seeds)
    rows = num_seeds * len(dataset.steps) * len(dataset.documents)
    lines = [
        f"{num_seeds} seeds x {len(dataset.steps)} checkpoints x {len(dataset.documents)} documents "
        f"= {rows} rows, {num_seeds * len(dataset.steps) * num_losses} losses",
        f"seeds: {dataset.seeds_differ}",
        "",
        f"{'document':<32}{'curves':>8}{'drops':>8}{'last loss':>11}{'learned':>9}{'rebuilt':>9}"
        f"{'by times':>10}{'by drops':>10}",
    ]
    names = {document.doc_id: document.name for document in dataset.documents}
    doc_ids = found.fits["doc_id"].to_numpy()
    final, is_drop = found.fits["final_loss"].to_numpy(), found.fits["is_drop"].to_numpy()
    for doc_id, name in [*names.items(), (None, ALL_DOCUMENTS)]:
        mine = np.full(len(doc_ids), True) if doc_id is None else doc_ids == doc_id
        accounts = "".join(
            f"{share:>{width}.2f}" for share, width in zip(rebuilt_shares(found, name), (9, 10, 10), strict=True)
        )
        lines.append(
            f"{name or 'all':<32}{mine.sum():>8}{is_drop[mine].mean():>8.0%}{final[mine].mean():>11.3f}"
            f"{(final[mine] < LEARNED_LOSS).mean():>9.0%}{accounts}"
        )
    lines += [
        "(drops: curves with a drop; learned: final loss below ln 2; rebuilt: R^2 of the mean loss's derivative, from",
        " all fitted terms, from their learning times alone, from the drops alone)",
        "",
        f"{'sharpest drops':<44}{'seeds':>7}{'time':>8}{'+- octaves':>12}{'width':>7}{'fall':>7}",
    ]
    for row in _sharpest_rows(found, num_tokens):
        token = Token.at(dataset, row["doc_id"], row["token_index"])
        spread = "-" if row["time_spread"] is None else f"{row['time_spread']:.2f}"
        name = f"{token.text!r} ({token.document}, token {token.token})"
        lines.append(
            f"{name:<44}{row['drop_share']:>7.0%}{row['time']:>8.0f}{spread:>12}{row['width']:>7.2f}{row['fall']:>7.2f}"
        )
    return "\n".join([*lines, "", *_words_across_seeds(found)])


def _words_across_seeds(found: Analysis) -> Iterator[str]:
    shares = found.tokens["drop_share"].to_numpy()
    num_tokens = len(shares)
    yield (
        f"{(shares == 1).sum()} of {num_tokens} tokens have a drop in every seed, {(shares == 0).sum()} in none, "
        f"{((shares > 0) & (shares < 1)).sum()} in some"
    )
    spreads = found.tokens["time_spread"].drop_null().to_numpy()
    if len(spreads):
        yield f"spread of a drop's time over seeds: median {np.median(spreads):.2f} octaves"
    q = found.tokens["dip_q"].drop_null().to_numpy()
    if len(q):
        yield f"{(q < 0.05).sum()} tokens end in two groups of seeds (dip test, 5 % false discoveries)"
    elif len(found.seeds) < MIN_SEEDS_FOR_DIP:
        yield f"two groups of final losses: not tested, it takes {MIN_SEEDS_FOR_DIP} seeds"
    else:
        yield (
            "two groups of final losses: not tested, which takes diptest; "
            "run: pip install 'discreteness[dip]', then analyze again"
        )
    clusters = found.tokens["cluster"].drop_null().to_numpy()
    times = MainDrops.of_table(found.fits, len(found.seeds)).times
    chance = learned_together(shuffled(times, np.random.default_rng(0)))
    yield (
        f"{len(clusters)} tokens in {len(np.unique(clusters))} clusters learned together in all seeds "
        f"(to {TOGETHER_OCTAVES} octaves); with each token's seeds shuffled {(chance >= 0).sum()} in "
        f"{len(np.unique(chance[chance >= 0]))}"
    )


def rebuilt_shares(found: Analysis, document: str) -> tuple[float, float, float]:
    """R^2 of the derivative of a document's mean loss, or of all: by all terms, their times alone, the drops alone."""
    rows = found.spectrum.filter(pc.equal(found.spectrum["document"], document))
    measured, *accounts = (rows[name].to_numpy() for name in ("measured", "rebuilt", "at_times", "by_drops"))
    first, second, third = (rebuilt_share(measured, account) for account in accounts)
    return first, second, third
