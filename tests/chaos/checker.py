"""two datasets -> what is wrong with the first. Reads Parquet and JSON by itself and shares no code with the project.

`python -m tests.chaos.checker DATASET --seeds 0-9 [--truth DATASET]`: every planned (seed, step, document) is there
exactly once, a seed's rows come from one attempt, and each loss has the bits that it has in the faultless dataset.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def rows(dataset):
    """(seed, step, doc_id), attempt, losses of every row of every file that an Arrow reader would take."""
    for path in sorted(Path(dataset, "losses").iterdir()):
        if path.name.startswith(("_", ".")):
            continue
        table = pq.ParquetFile(path).read()
        columns = [table[name].to_pylist() for name in ("seed", "step", "doc_id", "attempt")]
        values = np.asarray(table["losses"].combine_chunks().flatten(), np.float32)
        ends = np.cumsum(np.asarray(table["losses"].combine_chunks().value_lengths()))
        for seed, step, doc, attempt, end, begin in zip(*columns, ends, [0, *ends[:-1]], strict=True):
            yield (seed, step, doc), attempt, values[begin:end]


def check(dataset, seeds, truth=None):
    """The problems as lines; none if the dataset is complete, of one attempt a seed and equal to `truth`."""
    plan = json.loads(Path(dataset, "experiment.json").read_text())
    steps = plan["steps"]
    tokens = Counter(pq.read_table(Path(dataset, "documents.parquet"))["doc_id"].to_pylist())
    planned = {(seed, step, doc) for seed in seeds for step in steps for doc in tokens}
    seen, attempts, problems = Counter(), defaultdict(set), []
    expected = {key: losses for key, _, losses in rows(truth)} if truth else {}
    for key, attempt, losses in rows(dataset):
        seen[key] += 1
        attempts[key[0]].add(attempt)
        if len(losses) != tokens[key[2]] - 1:
            problems.append(f"{key} has {len(losses)} losses of {tokens[key[2]] - 1}")
        elif not np.isfinite(losses).all():
            problems.append(f"{key} has a loss that is not finite")
        elif truth and key not in expected:
            problems.append(f"{key} is not in the faultless run")
        elif truth and losses.tobytes() != expected[key].tobytes():
            problems.append(f"{key} differs from the faultless run")
    problems += [f"{key} is missing" for key in sorted(planned - set(seen))]
    problems += [f"{key} is not planned" for key in sorted(set(seen) - planned)]
    problems += [f"{key} is there {count} times" for key, count in sorted(seen.items()) if count > 1]
    problems += [f"seed {seed} mixes attempts {sorted(names)}" for seed, names in attempts.items() if len(names) > 1]
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("--seeds", required=True, help="first-last")
    parser.add_argument("--truth")
    arguments = parser.parse_args()
    first, last = map(int, arguments.seeds.split("-"))
    problems = check(arguments.dataset, range(first, last + 1), arguments.truth)
    for problem in problems[:20]:
        print(problem)
    print(f"{len(problems)} problems" if problems else "every planned row once, one attempt a seed, nothing else")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
