"""analysis -> its figures, as .png and .svg next to the tables."""

import io
import os
from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from discreteness.analysis.figures.categories import categories
from discreteness.analysis.figures.curves import curves
from discreteness.analysis.figures.joined import joined
from discreteness.analysis.figures.nulls import nulls
from discreteness.analysis.figures.overview import overview
from discreteness.analysis.figures.raster import raster
from discreteness.analysis.figures.seeds import seeds
from discreteness.analysis.figures.spectrum import learning_times
from discreteness.analysis.figures.style import DPI, STYLE
from discreteness.analysis.joined import FIGURE, Joined
from discreteness.analysis.tables import Analysis, output_storage
from discreteness.dataset.reader import Dataset
from discreteness.dataset.storage import Storage, open_storage

FIGURES: dict[str, Callable[[Dataset, Analysis], Figure | None]] = {
    "overview": overview,
    "curves": curves,
    "nulls": nulls,
    "raster": raster,
    "seeds": seeds,
    "spectrum": learning_times,
    "categories": categories,
}
"""None: there is nothing to draw."""


def draw(dataset: Dataset, found: Analysis, output: str | os.PathLike[str] | None = None) -> None:
    """Writes FIGURES, each as .png and .svg, next to the tables. Raises OSError if they cannot be written."""
    storage, prefix = output_storage(dataset.storage, output)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        for name, figure_of in FIGURES.items():
            if figure := figure_of(dataset, found):
                _write(storage, f"{prefix}{name}", figure)


def draw_joined(found: Joined, output: str | os.PathLike[str]) -> None:
    """Writes FIGURE as .png and .svg to the folder `output`. Raises OSError if they cannot be written."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        _write(open_storage(output), FIGURE, joined(found))


def _write(storage: Storage, name: str, figure: Figure) -> None:
    for kind in ("png", "svg"):
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=DPI)
        figure.set_layout_engine("none")  # it is laid out, and stays
        storage.write(f"{name}.{kind}", content.getvalue())
