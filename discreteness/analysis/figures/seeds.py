"""What seeds agree on: when each token is learned, what that varies with, in how many seeds, and the final loss."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from discreteness.analysis.figures.style import BLUE, GREY, PALE, VERMILION, WIDTH, updates_axis
from discreteness.analysis.fits import octaves
from discreteness.analysis.tables import Analysis
from discreteness.dataset.reader import Dataset


def seeds(dataset: Dataset, found: Analysis) -> Figure:
    figure = Figure(figsize=(WIDTH, 4.6))
    (first, second), (third, fourth) = figure.subplots(2, 2)
    _one_against_another(first, dataset, found)
    _components(second, found)
    _how_many(third, found)
    _spread(fourth, found)
    figure.suptitle(f"{len(found.seeds)} seeds: {dataset.seeds_differ}", fontsize=7, x=0.01, ha="left")
    return figure


def _one_against_another(axes: Axes, dataset: Dataset, found: Analysis) -> None:
    """Tokens with a drop in both of the first two seeds, with standard errors."""
    axes.set_title("update of the main drop")
    if len(found.seeds) < 2:
        axes.text(0.5, 0.5, "one seed", transform=axes.transAxes, ha="center", color=GREY)
        return

    def of_seed(place: int) -> tuple[np.ndarray, ...]:
        mine = found.fits.filter(np.equal(found.fits["seed"].to_numpy(), found.seeds[place]))
        return tuple(np.array(mine[name].to_pylist(), np.float64) for name in ("is_drop", "time", "time_error"))

    (is_drop, time, error), (other_drop, other_time, other_error) = of_seed(0), of_seed(1)
    both = (is_drop > 0) & (other_drop > 0)
    x, y = time[both] + 1, other_time[both] + 1
    bars = [
        np.stack([at - at * 2**-wide, at * 2**wide - at]) for at, wide in ((x, error[both]), (y, other_error[both]))
    ]
    for bar in axes.errorbar(x, y, bars[1], bars[0], fmt="none", ecolor=PALE, elinewidth=0.4)[2]:
        bar.set_rasterized(True)
    axes.plot(x, y, ".", color=VERMILION, markersize=1.5, rasterized=True)
    axes.axline((1, 1), slope=1, color=GREY, linewidth=0.5, zorder=0)
    updates_axis(axes, dataset.steps[-1])
    ticks = axes.get_xticks()
    axes.set_yscale("log")
    axes.set_ylim(axes.get_xlim())
    axes.set_yticks(ticks, [f"{tick - 1:,.0f}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"update, seed {found.seeds[0]}")
    axes.set_ylabel(f"update, seed {found.seeds[1]}")
    if both.sum() > 2:
        correlation = np.corrcoef(octaves(time[both]), octaves(other_time[both]))[0, 1]
        said = f"{both.sum()} tokens, correlation {correlation:.2f}"
        axes.text(0.03, 0.97, said, transform=axes.transAxes, va="top", fontsize=6)


def _components(axes: Axes, found: Analysis) -> None:
    """Standard deviations of the learning times of matched drops, with intervals over documents."""
    numbers = found.numbers.across_seeds
    axes.set_title(f"what the times of {numbers.matched_tokens} matched drops vary with")
    axes.set_xlabel("standard deviation (octaves)")
    rows = {
        "documents": numbers.document_sd,
        "tokens of a document": numbers.token_sd,
        "seeds": numbers.seed_sd,
        "a token in a seed, beyond": numbers.residual_sd,
        "the fits' error": numbers.fit_error_sd,
    }
    values = np.array([[one.value, one.low, one.high] for one in rows.values()]).T
    if np.isnan(values[0]).all():
        axes.text(0.5, 0.5, "too few drops that seeds share", transform=axes.transAxes, ha="center", color=GREY)
        return
    bars = np.nan_to_num(np.abs(values[1:] - values[0]))
    colors = [BLUE] * 4 + [PALE]
    axes.barh(list(rows), np.nan_to_num(values[0]), xerr=bars, color=colors, height=0.6, error_kw={"linewidth": 0.7})
    axes.invert_yaxis()


def _how_many(axes: Axes, found: Analysis) -> None:
    """One pair of bars per possible number of seeds, or per tenth of them."""
    num_seeds = len(found.seeds)
    bins = np.arange(num_seeds + 2) - 0.5 if num_seeds <= 12 else np.linspace(-0.5, num_seeds + 0.5, 12)
    counts = [np.round(found.tokens[name].to_numpy() * num_seeds) for name in ("drop_share", "learned_share")]
    labels = ["with a drop", "learned: final loss below ln 2"]
    axes.hist(counts, bins=bins.tolist(), color=[VERMILION, BLUE], label=labels)
    axes.set_xlabel("seeds")
    axes.set_ylabel("tokens")
    axes.set_title("in how many seeds a token is learned")
    low, high = axes.get_ylim()
    axes.set_ylim(low, 1.3 * high)
    axes.legend(loc="upper right", frameon=False, fontsize=6)


def _spread(axes: Axes, found: Analysis) -> None:
    spread = np.array(found.tokens["final_spread"].to_pylist(), np.float64)
    axes.hist(spread[np.isfinite(spread)], bins=40, color=BLUE)
    axes.set_yscale("symlog", linthresh=1)  # a bin of no token has a place
    axes.set_xlabel("standard deviation over seeds (nats)")
    axes.set_ylabel("tokens")
    axes.set_title("how much the final loss differs")
