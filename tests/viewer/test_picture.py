"""The chart as SVG and PNG: what is drawn where, against NumPy; size, title and legend."""

import re
import struct
import xml.etree.ElementTree as ElementTree

import matplotlib.image
import numpy as np
import pytest

import discreteness
from discreteness.analysis.fits import fit
from tests.support.chromium import until
from tests.support.planted_dataset import create_planted, log_plan, text_documents

pytest_plugins = ["tests.support.browsing"]

PLAN = log_plan(24, 2000)
TEXTS = {"<one>.txt": "a bee sees two", "two.txt": "the sea"}
SVG = "{http://www.w3.org/2000/svg}"


def saved(page, button):
    with page.expect_download() as download:
        page.click(button)
    return download.value.path()


def points(path):
    return np.array([[float(n) for n in point.split()] for point in re.split("[ML]", path.get("d").strip("Z"))[1:]])


def parts(root, name):
    return [one for one in root.iter() if one.get("data-part") == name]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_the_chart_show_its_numbers(new_page, serve_here, tmp_path, scheme):
    create_planted(tmp_path / "d", *text_documents(TEXTS), PLAN, range(4))
    address = serve_here(tmp_path / "d")
    page = new_page(f"{address}?document=%3Cone%3E.txt&token=2&compare=1.3&seed=1&fits=1", color_scheme=scheme)
    until(page, "document.querySelector('#chart').dataset.fits === '4'")
    root = ElementTree.parse(saved(page, "#svg")).getroot()
    dataset = discreteness.open(tmp_path / "d")
    curves = np.concatenate([dataset.losses(0, 2), dataset.losses(1, 3)])

    # Ticks say where a loss is, and powers of ten where a step is.
    ticks = parts(root, "loss")
    heights = np.polyfit([float(t.text) for t in ticks], [float(t.get("y")) - 4 for t in ticks], 1)
    steps = [t for t in root.iter(f"{SVG}text") if (t.text or "").replace(",", "") in ("1", "10", "100", "1000")]
    places = np.polyfit(
        [np.log10(float(t.text.replace(",", ""))) for t in steps], [float(t.get("x")) for t in steps], 1
    )
    x = np.polyval(places, np.log10(np.array(PLAN) + 1))
    lines = parts(root, "seed")
    assert [line.get("data-seed") for line in lines] == ["0", "1", "2", "3"] * 2
    means = [curves[:4].mean(axis=0), curves[4:].mean(axis=0)]
    for drawn, losses in zip(
        lines + parts(root, "mean") + parts(root, "forward"), [*curves, *means, curves[1], curves[5]], strict=True
    ):
        np.testing.assert_allclose(points(drawn), np.stack([x, np.polyval(heights, losses)], axis=1), atol=0.1)
    for band, losses in zip(parts(root, "band"), (curves[:4], curves[4:]), strict=True):
        low, high = np.quantile(losses, [0.1, 0.9], axis=0)
        border = np.polyval(heights, np.concatenate([high, low[::-1]]))
        np.testing.assert_allclose(points(band)[:, 1], border, atol=0.1)
    fits = [fit(curves[:4], PLAN), fit(curves[4:], PLAN)]
    marks = [np.polyval(places, np.log10(one.time[one.is_drop] + 1)) for one in fits]
    found = [float(mark.get("x1")) for mark in parts(root, "drop")]
    np.testing.assert_allclose(found, np.concatenate(marks), atol=0.1)
    fitted = [one.curve(PLAN)[1] for one in fits]
    for drawn, losses in zip(parts(root, "fit"), fitted, strict=True):
        np.testing.assert_allclose(points(drawn)[:, 1], np.polyval(heights, losses), atol=0.1)

    # Words.
    said = [text.text for text in root.iter(f"{SVG}text")]
    token = dataset.texts(0, [2])[0].replace(" ", "·")
    assert said[0] == "d: loss of tokens" == root.find(f"{SVG}title").text
    assert said[1] == f"{token}  <one>.txt:2, 4 seeds, their mean, and 80 % of them"
    assert "seed 1" in said and "loss (nats)" in said and "updates + 1" in said

    # The PNG is the same, twice as large.
    file = saved(page, "#png")
    size = struct.unpack(">II", file.read_bytes()[16:24])
    assert size == (2 * float(root.get("width")), 2 * float(root.get("height")))
    pixels = matplotlib.image.imread(file, format="png")[:, :, :3]
    assert (pixels[0, 0].mean() > 0.5) == (scheme == "light")
    mean = parts(root, "mean")[1].get("stroke").lstrip("#")
    color = np.array([int(mean[at : at + 2], 16) for at in (0, 2, 4)]) / 255
    assert (np.abs(pixels - color).max(axis=2) < 0.02).sum() > 500
