"""docs/analysis.md: its example of a fit is run, and finds what the comments beside it say."""

import re

import numpy as np
import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def found():
    """Names that the page's only block of Python defines."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/analysis.md").read_text(), re.S)
    names = {}
    exec(compile(block, "docs/analysis.md", "exec"), names)
    return names


def test_the_example_finds_the_drop_and_none_in_the_smooth_curve(found):
    fits = found["fits"]
    assert fits.is_drop.tolist() == [True, False]
    assert fits.time[0] == pytest.approx(100, rel=0.05)
    assert fits.width[0] == pytest.approx(1, abs=0.2)
    assert fits.high[0] - fits.low[0] == pytest.approx(7, abs=0.3)


def test_the_fitted_curve_is_the_true_one_within_its_noise(found):
    curves = found["fits"].curve(found["steps"])
    truth = np.stack([found["sudden"], found["smooth"]])
    assert curves.dtype == np.float64 and curves.shape == truth.shape
    assert np.abs(curves - truth).mean() < 0.05
