"""a planted dataset + headless Chromium -> milliseconds from the click on a token to the drawn curves of all its seeds.

python -m benchmarks.viewer [--seeds 300] [--steps 1841] [--clicks 30]

The time runs from the click event's time stamp to after a pixel of the chart is read back, which waits for everything
that was drawn. Baselines of the same run: the same chart of one seed, and what drawing every point costs where minimum
and maximum per column of pixels are drawn otherwise.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright
from speedrun.data.tokenizer import decode_bytes

from discreteness.experiment.documents import built_in
from tests.support.chromium import CHROMIUM, until
from tests.support.planted_dataset import create_planted, log_plan

DOCUMENT = "capitals_countries.txt"
STOPWATCH = """
addEventListener("click", (event) => { window.clicked = event.timeStamp; }, true);
window.drawn = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.name !== "click-to-drawn") continue;
    document.querySelector("#chart canvas").getContext("2d").getImageData(0, 0, 1, 1);
    window.drawn.push(performance.now() - window.clicked);
  }
}).observe({ type: "measure" });
"""
EVERY_POINT = """import("/page/curves.js").then(({ CurvesChart }) => {
  CurvesChart.prototype.columns = function (plot) {
    const places = Array.from(this.xs, (x) => plot.valToPos(x, "x", true));
    return { runs: places.flatMap((_, at) => [at, at + 1]), places };
  };
})"""


def clicks(page: Page, tokens: range) -> list[float]:
    """Milliseconds per click, for a click on each token."""
    page.evaluate("window.drawn = []")
    for count, token in enumerate(tokens, 1):
        page.click(f'[data-token="{token}"]')
        until(page, f"window.drawn.length === {count}")
    return page.evaluate("window.drawn")


def measured(address: str, num_clicks: int, every_point: bool = False) -> tuple[float, list[float]]:
    """Seconds until the document's text is colored, and the clicks."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.add_init_script(STOPWATCH)
        start_s = time.perf_counter()
        page.goto(f"{address}?document={DOCUMENT}")
        until(page, "document.querySelector('[data-token=\"1\"]')?.style.backgroundColor > ''")
        open_s = time.perf_counter() - start_s
        if every_point:
            page.evaluate(EVERY_POINT)
        times = clicks(page, range(1, num_clicks + 1))
        browser.close()
        return open_s, times


def row(name: str, open_s: float, times: list[float]) -> None:
    print(
        f"| {name} | {open_s:.1f} s | {times[0]:.0f} | {np.median(times[1:]):.0f} | {np.quantile(times, 0.95):.0f} | "
        f"{max(times):.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--steps", type=int, default=1841)
    parser.add_argument("--clicks", type=int, default=30)
    arguments = parser.parse_args()
    documents = [document for document in built_in() if document.name == DOCUMENT]
    plan = log_plan(arguments.steps, 1840)
    with tempfile.TemporaryDirectory() as folder:
        for name, seeds in ("all", arguments.seeds), ("one", 1):
            create_planted(Path(folder, name), documents, decode_bytes, plan, range(seeds))
        print(
            "| shown | document open | first click, ms | median of the others | 95 % below | slowest |\n"
            "|---|---|---|---|---|---|"
        )
        for name, label in (
            ("all", f"{arguments.seeds} seeds x {len(plan)} steps"),
            ("one", f"1 seed x {len(plan)} steps"),
        ):
            server = subprocess.Popen(
                [sys.executable, "-m", "discreteness", "view", str(Path(folder, name)), "--port", "0"],
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                assert server.stdout is not None
                address = next(word for word in server.stdout.readline().split() if word.startswith("http"))
                row(f"{label}, server just started", *measured(address, arguments.clicks))
                row(f"{label}, document in memory", *measured(address, arguments.clicks))
                if name == "all":
                    row(f"{label}, every point drawn", *measured(address, arguments.clicks, every_point=True))
            finally:
                server.terminate()
                server.wait()


if __name__ == "__main__":
    main()
