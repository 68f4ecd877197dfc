"""dataset -> a first look: a summary in words and one picture. The full analysis reads the same arrays."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from discreteness.reading import Experiment
from discreteness.reading import open as open_dataset

MIN_FALL = 1.0
"""Nats that a token's loss must fall before its sharpness says anything."""
WINDOW = 5
"""Planned checkpoints over which the steepest part of a fall is measured."""


@dataclass(frozen=True, kw_only=True)
class TokenFall:
    """How one token's loss falls, averaged over seeds."""

    document: str
    token: int
    text: str
    fall: float
    """Nats from the first checkpoint to the mean of the last few."""
    sharpness: float
    """Share of the fall that happens within the steepest WINDOW of checkpoints; above 1 where the loss rises before."""
    spread: float
    """Standard deviation over seeds of log2 of the step at the middle of the steepest window."""


def sharpest_falls(losses: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 [seeds, steps, tokens] -> fall, sharpness, spread, each [tokens]; nan where a token hardly falls."""
    end = losses[:, -3:].mean(axis=1)
    fall = (losses[:, 0] - end).mean(axis=0)
    width = min(WINDOW, losses.shape[1] - 1)
    drops = losses[:, :-width] - losses[:, width:]
    where = drops.argmax(axis=1)
    steepest = drops.max(axis=1).mean(axis=0)
    middle = np.log2(1 + steps[where + width // 2])
    learned = fall > MIN_FALL
    sharpness = np.where(learned, steepest / np.where(learned, fall, 1), np.nan)
    return fall, sharpness, np.where(learned, middle.std(axis=0), np.nan)


def draw_overview(path: str, figure_path: str | None = None, num_tokens: int = 8) -> str:
    """Writes the picture and returns the summary. ValueError where no seed is committed yet."""
    experiment = open_dataset(path)
    if not experiment.seeds:
        raise ValueError(f"no seed is committed in {path} yet: there is nothing to draw")
    target = Path(figure_path or Path(path.rstrip("/")).name + ".png")
    steps = np.array(experiment.steps)
    means, falls = {}, []
    for document in experiment.documents:
        losses = experiment.losses(document.name)
        means[document.name] = losses.mean(axis=2)
        texts = experiment.tokens(document.name).column("token_text").to_pylist()
        for token, (fall, sharpness, spread) in enumerate(zip(*sharpest_falls(losses, steps), strict=True)):
            if np.isfinite(sharpness):
                falls.append(
                    TokenFall(
                        document=document.name,
                        token=token + 1,
                        text=texts[token + 1],
                        fall=float(fall),
                        sharpness=float(sharpness),
                        spread=float(spread),
                    )
                )
    # Sharp and large. A share above all of the fall (the loss had risen before) counts no more than all of it.
    falls.sort(key=lambda entry: -min(entry.sharpness, 1) * entry.fall)
    _draw(experiment, steps, means, falls[:num_tokens], target)
    return _summary(experiment, means, falls[:num_tokens], target)


def _draw(
    experiment: Experiment, steps: np.ndarray, means: dict[str, np.ndarray], falls: list[TokenFall], target: Path
) -> None:
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    x = steps + 1  # step 0 has a place on a logarithmic axis
    colors = [matplotlib.colormaps["tab20"](number) for number in range(20)]
    for number, (name, curves) in enumerate(means.items()):
        left.plot(x, curves.mean(axis=0), color=colors[number % 20], label=name.removesuffix(".txt"))
    left.set_title(f"Mean loss of each document ({len(experiment.seeds)} seeds)")
    left.legend(fontsize=6, ncols=2)
    for number, entry in enumerate(falls):
        curves = experiment.losses(entry.document, entry.token)
        for curve in curves:
            middle.plot(x, curve, color=colors[number % 20], linewidth=0.8, alpha=0.8)
    middle.set_title("Tokens that fall most abruptly, a line a seed")
    handles = [Line2D([], [], color=colors[number % 20]) for number in range(len(falls))]
    names = [f"{entry.text!r} in {entry.document.removesuffix('.txt')}:{entry.token}" for entry in falls]
    middle.legend(handles, [name.replace("$", r"\$") for name in names], fontsize=7)
    for number, seed in enumerate(experiment.seeds):
        runs, color = experiment.runs(seed).to_pydict(), colors[number % 20]
        right.plot(np.array(runs["step"]) + 1, runs["train_loss"], color=color, linewidth=0.8, alpha=0.7)
        points = [(s + 1, v) for s, v in zip(runs["step"], runs["val_loss"], strict=True) if v is not None]
        if points:
            right.plot(*zip(*points, strict=True), "o-", color=color, markersize=4, label=f"validation, seed {seed}")
    right.set_title("Training objective (thin) and validation loss")
    right.legend(fontsize=7)
    for axes in (left, middle, right):
        axes.set_xscale("log")
        axes.set_xlabel("updates + 1")
        axes.set_ylabel("loss (nats)")
        axes.grid(alpha=0.2)
    figure.savefig(target, dpi=110)


def _summary(experiment: Experiment, means: dict[str, np.ndarray], falls: list[TokenFall], target: Path) -> str:
    num_losses = sum(document.num_losses for document in experiment.documents)
    rows = len(experiment.seeds) * len(experiment.steps) * len(experiment.documents)
    lines = [
        f"{len(experiment.seeds)} seeds x {len(experiment.steps)} checkpoints x {len(experiment.documents)} documents "
        f"= {rows} rows, {len(experiment.seeds) * len(experiment.steps) * num_losses} losses",
        "",
        f"{'document':<32}{'first':>8}{'last':>8}{'+- seeds':>10}",
    ]
    for name, curves in means.items():
        spread = f"{curves[:, -1].std(ddof=1):>10.3f}" if len(curves) > 1 else f"{'-':>10}"
        lines.append(f"{name:<32}{curves[:, 0].mean():>8.3f}{curves[:, -1].mean():>8.3f}{spread}")
    lines += ["", f"{'most abrupt tokens':<48}{'fall':>6}{'share':>7}{'log2 step +-':>14}"]
    for entry in falls:
        name = f"{entry.text!r} ({entry.document}, token {entry.token})"
        lines.append(f"{name:<48}{entry.fall:>6.2f}{entry.sharpness:>7.0%}{entry.spread:>14.2f}")
    lines += [
        f"(share: of a token's fall, within its steepest {WINDOW} checkpoints)",
        "",
        f"picture: {target.absolute()}",
    ]
    return "\n".join(lines)
