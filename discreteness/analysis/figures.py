"""analysis -> pictures: the overview, null comparisons, fits of single tokens, the spectrum, what seeds share."""

import io
import os

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from discreteness.analysis.fits import fit
from discreteness.analysis.intervals import Share
from discreteness.analysis.schedule_changes import Change, records_there
from discreteness.analysis.summary import Token, sharpest
from discreteness.analysis.tables import ALL_DOCUMENTS, Analysis, output_storage
from discreteness.analysis.verdicts import judged
from discreteness.dataset.reader import Dataset

COLORS = [matplotlib.colormaps["tab20"](number) for number in range(20)]
SHOWN_SEEDS = 50
"""Lines of one token in a picture: more are one blot."""


def draw(dataset: Dataset, found: Analysis, output: str | os.PathLike[str] | None = None) -> None:
    """Writes overview, nulls, fits, spectrum and seeds, each as .png and .svg, next to the tables. Raises OSError if
    they cannot be written.
    """
    chosen = sharpest(dataset, found, 8)
    storage, prefix = output_storage(dataset.storage, output)
    pictures = {
        "overview": _overview(dataset, found, chosen),
        "nulls": _nulls(found),
        "fits": _fits(dataset, found, _from_sharp_to_smooth(dataset, found)),
        "spectrum": _spectrum(found),
        "seeds": _seeds(dataset, found),
    }
    for name, picture in pictures.items():
        for kind in ("png", "svg"):
            content = io.BytesIO()
            picture.savefig(content, format=kind, dpi=110)
            storage.write(f"{prefix}{name}.{kind}", content.getvalue())


def _overview(dataset: Dataset, found: Analysis, tokens: list[Token]) -> Figure:
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    x = np.array(dataset.steps) + 1  # step 0 has a place on a logarithmic axis
    for number, document in enumerate(dataset.documents):
        curve = dataset.losses(document.name).mean(axis=(0, 2))
        left.plot(x, curve, color=COLORS[number % 20], label=document.name.removesuffix(".txt"))
    left.set_title(f"Mean loss of each document ({len(dataset.seeds)} seeds)")
    left.legend(fontsize=6, ncols=2)
    for number, token in enumerate(tokens):
        for curve in dataset.losses(token.document, token.token)[:SHOWN_SEEDS]:
            middle.plot(x, curve, color=COLORS[number % 20], linewidth=0.8, alpha=0.8)
    middle.set_title("Tokens with the sharpest drops, one line per seed")
    handles = [Line2D([], [], color=COLORS[number % 20]) for number in range(len(tokens))]
    middle.legend(handles, [_name(token) for token in tokens], fontsize=7)
    for number, seed in enumerate(dataset.seeds):
        if (records := records_there(dataset, seed)) is None:
            continue
        runs, color = records.to_pydict(), COLORS[number % 20]
        right.plot(np.array(runs["step"]) + 1, runs["train_loss"], color=color, linewidth=0.8, alpha=0.7)
        validations = zip(runs["step"], runs.get("val_loss", [None] * len(runs["step"])), strict=True)
        points = [(step + 1, value) for step, value in validations if value is not None]
        if points:
            label = f"validation, seed {seed}" if number < 8 else None
            right.plot(*zip(*points, strict=True), "o-", color=color, markersize=4, label=label)
    right.set_title("Training objective (thin) and validation loss")
    if right.get_legend_handles_labels()[0]:
        right.legend(fontsize=7)
    for axes in (left, middle, right):
        _label(axes)
        _mark(axes, found.numbers.changes, named=axes is left)
    _say_how_seeds_differ(figure, dataset)
    return figure


def _nulls(found: Analysis) -> Figure:
    """Drops of single tokens beside those of means, and beside chance; where they lie; how well they hold."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    numbers = found.numbers
    for number, (label, shares) in enumerate(
        {
            "tokens of one document": numbers.drop_share_by_average,
            "of any documents": numbers.drop_share_by_average_across_documents,
        }.items()
    ):
        values = np.array([[one.value, one.low, one.high] for one in shares.values()]).T
        # Slightly apart, so that one does not hide the other.
        at = np.array(list(shares)) * 1.04**number
        bars = np.nan_to_num(np.abs(values[1:] - values[0]))
        left.errorbar(at, values[0], bars, fmt="o-", color=COLORS[2 * number], label=label, capsize=3)
    chance = numbers.expected_false_share
    left.axhline(chance.value, color="0.3", linestyle="--", label="smooth curves with this noise")
    left.axhspan(*numbers.false_share_range, color="0.3", alpha=0.12, label="95 % of their resamples", linewidth=0)
    left.set_xscale("log", base=2)
    left.set_ylim(bottom=0)
    left.set_xlabel("tokens averaged")
    left.set_ylabel("share with a drop")
    left.set_title("If tokens drop one by one, means of many do not")
    left.legend(fontsize=8)
    dropped = found.fits.filter(found.fits["is_drop"])
    times = dropped["time"].to_numpy()
    common = np.array([bool(value) for value in dropped["common"].to_pylist()], bool)
    edges = 2 ** np.linspace(0, np.log2(found.spectrum["to_step"].to_numpy().max() + 1), 60)
    middle.hist(
        [times[~common] + 1, times[common] + 1],
        bins=edges,
        stacked=True,
        color=[COLORS[6], COLORS[14]],
        label=["a token's own", "common: gone without what all share"],
    )
    middle.set_xscale("log", base=2)
    middle.set_xlabel("updates + 1")
    middle.set_ylabel("curves")
    middle.set_title("When curves have their main drop")
    middle.legend(fontsize=8, loc="upper left")
    middle.set_ylim(top=1.3 * middle.get_ylim()[1])  # names of changes stand above the bars
    _mark(middle, numbers.changes, named=True)
    rows: dict[str, Share] = {
        "stable: in even and odd checkpoints": numbers.stable_share,
        "common: gone without what all share": numbers.common_share,
        "where the schedule changes": numbers.schedule_change_share,
        "ends above 4 nats": numbers.unlearned_share,
        "fall that lies in drops": numbers.fall_share_in_drops,
        "the same after the onset": numbers.after_onset_fall_share_in_drops,
        "noise that all seeds share": numbers.shared_residual_share,
    }
    values = np.array([[one.value, one.low, one.high] for one in rows.values()]).T
    bars = np.nan_to_num(np.abs(values[1:] - values[0]))
    right.barh(list(rows), np.nan_to_num(values[0]), xerr=bars, color=COLORS[1], capsize=3)
    right.invert_yaxis()
    right.set_xlim(0, 1)
    right.set_xlabel("share")
    right.set_title("Of curves with a drop, of the fall, of the noise")
    return figure


def _fits(dataset: Dataset, found: Analysis, tokens: list[Token]) -> Figure:
    """One panel per token, from the sharpest drop to no drop: losses of one seed, its fit, its drops."""
    figure = Figure(figsize=(15, 9), layout="constrained")
    panels = figure.subplots(3, 4).flat
    steps = np.array(dataset.steps)
    dense = np.unique(np.geomspace(1, steps[-1] + 1, 400)) - 1
    for axes in panels:
        axes.set_axis_off()
    for axes, token in zip(figure.axes, tokens, strict=False):
        axes.set_axis_on()
        losses = dataset.losses(token.document, token.token)
        fits = judged(fit(losses, steps), found.numbers.evidence)
        axes.plot(steps + 1, losses[:SHOWN_SEEDS].T, color="0.75", linewidth=0.7)
        axes.plot(steps + 1, losses[0], ".", color="0.3", markersize=4)
        axes.plot(dense + 1, fits.curve(dense)[0], color=COLORS[0])
        _mark(axes, found.numbers.changes, named=False)
        for time in fits.times[0][fits.drops[0]]:
            axes.axvline(time + 1, color=COLORS[6], linewidth=0.8)
        said = f"{'no' if not fits.is_drop[0] else fits.num_drops[0]} drop{'' if fits.num_drops[0] == 1 else 's'}, "
        axes.set_title(f"{_name(token)}\n{said}evidence {fits.delta_bic[0]:.0f}, $R^2$ {fits.r2[0]:.3f}", fontsize=8)
        _label(axes)
    figure.suptitle(
        f"Losses, the fit of seed {dataset.seeds[0]}, its drops in red; other seeds and changes of schedule in grey"
    )
    return figure


def _spectrum(found: Analysis) -> Figure:
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = found.spectrum.filter(np.equal(found.spectrum["document"].to_pylist(), ALL_DOCUMENTS)).to_pydict()
    edges = np.array([*rows["from_step"], rows["to_step"][-1]]) + 1
    for name, label, style in (
        ("measured", "the mean loss itself", {"color": "0.2", "linewidth": 3}),
        ("rebuilt", "all fitted terms", {"color": COLORS[0]}),
        ("at_times", "their learning times alone", {"color": COLORS[4]}),
        ("by_drops", "drops only", {"color": COLORS[6]}),
    ):
        left.stairs(rows[name], edges, label=label, baseline=None, **style)
    left.set_title("Fall of the mean loss, nats per octave of steps")
    left.legend(fontsize=8)
    right.stairs(np.array(rows["drops"]) / rows["curves"][0], edges, fill=True, color=COLORS[6])
    right.set_title("Drops per curve, by their time")
    right.set_ylim(top=1.3 * right.get_ylim()[1])  # names of changes stand above the bars
    for axes in (left, right):
        _mark(axes, found.numbers.changes, named=True)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("updates + 1")
        axes.grid(alpha=0.2)
    return figure


def _seeds(dataset: Dataset, found: Analysis) -> Figure:
    figure = Figure(figsize=(15, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    tokens = {
        name: np.array(found.tokens[name].to_pylist(), np.float64) for name in ("time", "time_spread", "drop_share")
    }
    dots = left.scatter(tokens["time"] + 1, tokens["time_spread"], c=tokens["drop_share"], s=6, vmin=0, vmax=1)
    figure.colorbar(dots, ax=left, label="share of seeds with a drop")
    left.set_xscale("log", base=2)
    left.set_xlabel("updates + 1 at the drop, median over seeds")
    left.set_ylabel("standard deviation over seeds (octaves)")
    left.set_title("When a token is learned, and how alike in all seeds")
    edges = (np.arange(len(dataset.seeds) + 2) - 0.5) / len(dataset.seeds)
    shares = [found.tokens[name].to_numpy() for name in ("drop_share", "learned_share")]
    middle.hist(shares, bins=edges if len(edges) < 12 else 10, label=["with a drop", "with a final loss below ln 2"])
    middle.set_xlabel("share of seeds")
    middle.set_ylabel("tokens")
    middle.set_title("In how many seeds a token is learned")
    middle.legend(fontsize=8)
    spread = np.array(found.tokens["final_spread"].to_pylist(), np.float64)
    right.hist(np.nan_to_num(spread), bins=40, color=COLORS[0])
    right.set_yscale("log")
    right.set_xlabel("standard deviation of the final loss over seeds (nats)")
    right.set_ylabel("tokens")
    right.set_title("How much seeds differ in the end")
    _say_how_seeds_differ(figure, dataset)
    return figure


def _from_sharp_to_smooth(dataset: Dataset, found: Analysis) -> list[Token]:
    """Twelve tokens evenly over the evidence of the first seed, of those that fall by a nat or more."""
    first = found.fits.filter(np.equal(found.fits["seed"].to_numpy(), found.seeds[0]))
    order = np.argsort(-first["delta_bic"].to_numpy(), kind="stable")
    order = order[(first["high"].to_numpy() - first["low"].to_numpy())[order] >= 1]
    rows = order[np.linspace(0, len(order) - 1, 12).round().astype(int)] if len(order) else order
    rows = list(dict.fromkeys(rows.tolist()))
    return [
        Token.at(dataset, int(first["doc_id"][row].as_py()), int(first["token_index"][row].as_py())) for row in rows
    ]


def _say_how_seeds_differ(figure: Figure, dataset: Dataset) -> None:
    figure.suptitle(f"seeds: {dataset.seeds_differ}", fontsize=9)


def _name(token: Token) -> str:
    """A dollar sign would begin mathematics."""
    return f"{token.text!r} in {token.document.removesuffix('.txt')}:{token.token}".replace("$", r"\$")


def _mark(axes: Axes, changes: tuple[Change, ...], named: bool) -> None:
    """A dotted line where the schedule changes, with what changes there, and the cooldown shaded."""
    at: dict[int, list[str]] = {}
    for change in changes:
        # What changes within an update or two is one event.
        step = next((step for step in at if abs(step - change.step) <= 2), change.step)
        at.setdefault(step, []).append(change.what)
    for step, what in at.items():
        axes.axvline(step + 1, color="0.5", linewidth=0.8, linestyle=":", zorder=0)
        if named:
            said = ", ".join(dict.fromkeys(what))
            axes.annotate(
                said,
                (step + 1, 1),
                xycoords=("data", "axes fraction"),
                rotation=90,
                fontsize=6,
                color="0.4",
                ha="right",
                va="top",
                xytext=(-1, -2),
                textcoords="offset points",
            )
    begins = [change.step for change in changes if change.what == "cooldown"]
    if begins:
        axes.axvspan(begins[-1] + 1, axes.get_xlim()[1], color="0.5", alpha=0.08, linewidth=0, zorder=0)


def _label(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("updates + 1")
    axes.set_ylabel("loss (nats)")
    axes.grid(alpha=0.2)
