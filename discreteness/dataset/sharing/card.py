"""dataset -> its card, README.md of a repository on the hub: what was asked, how it was made, how to open and cite it.

The block at its head tells the library `datasets` which files are tables: `losses` has one loss per row.
"""

import json
from dataclasses import dataclass
from typing import Any

from discreteness.dataset.by_token.token_file import TOKENS
from discreteness.dataset.manifest import DOCUMENTS
from discreteness.dataset.reader import Dataset
from discreteness.dataset.runs_file import RUNS
from discreteness.dataset.seed_file import LOSSES
from discreteness.dataset.status import JobStatus, ranges

QUESTION = (
    "Does a language model learn each thing suddenly, in one drop of its loss, and do other training runs learn it at "
    "the same moment?"
)
OF_THE_SPEEDRUN = (
    "The training recipe is that of [modded-nanogpt](https://github.com/KellerJordan/modded-nanogpt) by Keller Jordan "
    "and contributors."
)
FIGURE = "analysis/overview.png"
TABLES = {
    "losses": ("tokens/*/*[0-9].parquet", TOKENS, "one row per loss, in nats; `token_index` 1 is the first token"),
    "seeds": ("losses/*.parquet", LOSSES, "one row per document and step, with the losses of all its tokens"),
    "documents": ("documents.parquet", DOCUMENTS, "one row per token of the documents; token 0 has no loss"),
    "training": ("runs/*.parquet", RUNS, "one row per step of training: objective, rate, validation loss"),
}
"""Name of a table -> its files, columns, and what a row is. Files of means, `*.means.parquet`, are in none."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the card says and the dataset does not know. `licence`: an identifier of the hub, such as cc-by-4.0."""

    licence: str
    question: str = QUESTION
    hardware: str = ""


def card(dataset: Dataset, seen: JobStatus, repository: str, words: Words, with_figure: bool) -> str:
    """Markdown. `seen`: what `job_status` says of the same dataset."""
    name = repository.partition("/")[2]
    figure = [f"![Curves of documents, of single tokens, and of training]({FIGURE})", ""] if with_figure else []
    document = dataset.documents[0].name
    return "\n".join(
        [
            *_head(name, words),
            f"# {name}",
            "",
            words.question,
            "",
            f"The loss of every token of {len(dataset.documents)} documents ({seen.status.losses_per_step} losses) at "
            f"{len(dataset.steps)} checkpoints of {len(dataset.seeds)} training runs. Recorded by discreteness: "
            "float32, as it was computed.",
            "",
            *figure,
            "## How to open it",
            "",
            "```python",
            "import discreteness",
            "",
            f'dataset = discreteness.open("hf://datasets/{repository}")',
            f"dataset.losses({document!r}, token=1)  # float32 [seeds, steps]; only this token's losses are read",
            "```",
            "",
            "```python",
            "from datasets import load_dataset",
            "",
            f'load_dataset("{repository}", "losses", split="train")  # one loss per row',
            "```",
            "",
            "## How it was made",
            "",
            *_recipe(dataset, seen, words),
            "",
            "## Tables",
            "",
            *_tables(),
            "## How to cite",
            "",
            *_citation(repository, words),
            *([OF_THE_SPEEDRUN] if _track(dataset) else []),
            "",
        ]
    )


def _head(name: str, words: Words) -> list[str]:
    """The block of YAML. Strings are written as JSON, which YAML contains."""
    lines = ["---", f"license: {json.dumps(words.licence)}", f"pretty_name: {json.dumps(name)}", "tags:"]
    lines += ["- training-dynamics", "- learning-curves", "- loss-per-token", "- discreteness", "configs:"]
    for table, (files, _, _) in TABLES.items():
        lines += [f"- config_name: {table}", f"  data_files: {json.dumps(files)}"]
        lines += ["  default: true"] if table == "losses" else []
    return [*lines, "---", ""]


def _recipe(dataset: Dataset, seen: JobStatus, words: Words) -> list[str]:
    identity, track = dataset.experiment["identity"], _track(dataset)
    devices = f"{identity['world_size']} {seen.device}s per training run" if "world_size" in identity else ""
    hours = f"{seen.device_hours:,.2f} {seen.device}-hours of updates" if seen.device_hours is not None else ""
    shards = identity.get("data")
    facts: dict[str, Any] = {
        "track": f"{track}, all of whose numbers are in `experiment.json`" if track else "",
        "seeds": f"{ranges(dataset.seeds)}: {dataset.seeds_differ}",
        **{f"seed {seed}": name for seed, name in dataset.names.items()},
        "steps": f"{len(dataset.steps)} of {dataset.steps[0]} to {dataset.steps[-1]}",
        "packing of documents": identity.get("packing"),
        "training data": f"{len(shards)} shards, whose names and hashes are in `experiment.json`" if shards else "",
        "hardware": ", ".join(filter(None, [words.hardware or devices, hours])),
        "identity": f"`{seen.status.identity_hash}`",
    }
    return ["| | |", "|---|---|", *(f"| {fact} | {value} |" for fact, value in facts.items() if value)]


def _track(dataset: Dataset) -> str:
    """Name of the recipe; "" where the models are not the speedrun's."""
    track = dataset.experiment["identity"].get("track")
    return str(track.get("name", "") if isinstance(track, dict) else track or "")


def _tables() -> list[str]:
    lines = []
    for table, (files, schema, row) in TABLES.items():
        lines += [f"**{table}** (`{files}`): {row}.", "", "| column | type |", "|---|---|"]
        lines += [f"| {field.name} | {field.type} |" for field in schema] + [""]
    return lines


def _citation(repository: str, words: Words) -> list[str]:
    owner, _, name = repository.partition("/")
    return [
        "```bibtex",
        f"@misc{{{name.replace('.', '-')},",
        f"  title = {{{name}: the loss of every token of many training runs}},",
        f"  author = {{{owner}}},",
        "  howpublished = {Hugging Face hub},",
        f"  url = {{https://huggingface.co/datasets/{repository}}},",
        f"  note = {{licence: {words.licence}}}",
        "}",
        "```",
        "",
    ]
