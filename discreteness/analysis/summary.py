"""tables and numbers of an analysis -> what a terminal shows: the paragraphs, documents, and the sharpest tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from discreteness.analysis.across_seeds import learned, steepness
from discreteness.analysis.seed_drops import SeedDrops
from discreteness.analysis.seed_numbers import SHARED_EVENT
from discreteness.analysis.tables import Analysis, count_losses
from discreteness.analysis.words import paragraphs
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
    """What was found, for a terminal; what matters most comes first."""
    num_losses, num_seeds = count_losses(dataset), len(found.seeds)
    rows = num_seeds * len(dataset.steps) * len(dataset.documents)
    return "\n".join(
        [
            paragraphs(found.numbers, dataset.vary),
            "",
            f"{num_seeds} seeds x {len(dataset.steps)} checkpoints x {len(dataset.documents)} documents "
            f"= {rows} rows, {num_seeds * len(dataset.steps) * num_losses} losses",
            f"seeds: {dataset.seeds_differ}",
            "",
            *_documents(dataset, found),
            "",
            *_sharpest(dataset, found, num_tokens),
            "",
            *_words_across_seeds(found),
        ]
    )


def _documents(dataset: Dataset, found: Analysis) -> Iterator[str]:
    yield (
        f"{'document':<32}{'curves':>8}{'drops':>8}{'stable':>8}{'common':>8}{'schedule':>10}{'onset':>7}"
        f"{'in drops':>10}{'last loss':>11}{'learned':>9}"
    )
    fits = found.fits
    doc_ids = fits["doc_id"].to_numpy()
    final, is_drop = fits["final_loss"].to_numpy(), fits["is_drop"].to_numpy()
    num_seeds = len(found.seeds)
    known = learned(final.reshape(-1, num_seeds), SeedDrops.of_table(fits, num_seeds)).reshape(-1)
    fall, in_drops = fits["fall"].to_numpy(), fits["fall_in_drops"].to_numpy()
    of_drops = {name: np.array(fits[name].to_pylist(), np.float64) for name in ("stable", "common", "onset")}
    of_drops["schedule"] = np.array([np.nan if said is None else said != "" for said in fits["schedule"].to_pylist()])
    names = {document.doc_id: document.name for document in dataset.documents}
    for doc_id, name in [*names.items(), (None, "all")]:
        mine = np.full(len(doc_ids), True) if doc_id is None else doc_ids == doc_id
        shares = {what: _percent(values[mine]) for what, values in of_drops.items()}
        yield (
            f"{name:<32}{mine.sum():>8}{is_drop[mine].mean():>8.0%}{shares['stable']:>8}{shares['common']:>8}"
            f"{shares['schedule']:>10}{shares['onset']:>7}{in_drops[mine].sum() / max(fall[mine].sum(), 1e-9):>10.0%}"
            f"{final[mine].mean():>11.3f}{known[mine].mean():>9.0%}"
        )
    yield "(drops: curves with a drop; of these, stable: also in even and odd checkpoints alone, common: gone without"
    yield " what all tokens share, schedule: where it changes, onset: above the loss of token frequencies; in drops: of"
    yield " the nats that curves fall; learned: final loss below ln 2, and below what it was before the drop)"


def _percent(values: np.ndarray) -> str:
    """Of those that are known."""
    known = values[np.isfinite(values)]
    return f"{known.mean():.0%}" if len(known) else "-"


def _sharpest(dataset: Dataset, found: Analysis, num_tokens: int) -> Iterator[str]:
    yield (
        f"{'sharpest drops':<44}{'seeds':>7}{'stable':>8}{'common':>8}{'time':>8}{'+- octaves':>12}"
        f"{'width':>7}{'fall':>7}"
    )
    for row in _sharpest_rows(found, num_tokens):
        token = Token.at(dataset, row["doc_id"], row["token_index"])
        name = f"{token.text!r} ({token.document}, token {token.token})"
        stable, common = (
            "-" if share is None else f"{share:.0%}" for share in (row["stable_share"], row["common_share"])
        )
        spread = "-" if row["time_spread"] is None else f"{row['time_spread']:.2f}"
        yield (
            f"{name:<44}{row['drop_share']:>7.0%}{stable:>8}{common:>8}{row['time']:>8.0f}{spread:>12}"
            f"{row['width']:>7.2f}{row['fall']:>7.2f}"
        )


def _words_across_seeds(found: Analysis) -> Iterator[str]:
    shares = found.tokens["drop_share"].to_numpy()
    num_tokens = len(shares)
    yield (
        f"{(shares == 1).sum()} of {num_tokens} tokens have a drop in every seed, {(shares == 0).sum()} in none, "
        f"{((shares > 0) & (shares < 1)).sum()} in some"
    )
    rows = [row for row in found.tokens.to_pylist() if row["event_share"] >= SHARED_EVENT]
    spreads = [row["time_spread"] for row in rows if row["time_spread"] is not None]
    if spreads:
        yield f"spread of a drop's time over seeds, without the fits' error: median {np.median(spreads):.2f} octaves"
