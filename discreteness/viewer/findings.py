"""The analysis of a dataset -> what the page says of it: its paragraphs and its numbers."""

from typing import Any

from discreteness.analysis.words import sections
from discreteness.viewer.drop_finder import DropFinder
from discreteness.viewer.growing import Growing


def findings(growing: Growing, finder: DropFinder) -> dict[str, Any]:
    """- `problem`: why an analysis that is there cannot be read, None if it can.
    - `paragraphs`: the words that `discreteness analyze` prints, each paragraph in its parts; `numbers`: those of its
      --json; `seeds`: how many were analysed. All None without an analysis.
    """
    dataset = growing.snapshot.dataset
    analysis, problem = finder.analysis()
    return {
        "problem": problem,
        "paragraphs": analysis and sections(analysis.numbers, dataset.vary),
        "numbers": analysis and analysis.numbers.as_json(),
        "seeds": analysis and len(analysis.seeds),
    }
