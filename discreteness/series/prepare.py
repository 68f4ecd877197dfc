"""command line of a series -> what is scored: checkpoints, documents, plan, and the identity they make together.

The identity has what decides a loss and is the same for all models: steps, documents, tokenizer, dtype, batches,
sources. What is of one model, its name and each checkpoint's commit and hash, is kept with its seed, so that further
models can be added.
"""

from dataclasses import dataclass
from typing import Any

from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.documents import Document, texts_hash
from discreteness.experiment.sources import series_sources, sources_hash
from discreteness.experiment.tokenizers import Tokenizer
from discreteness.series.config import SeriesConfig
from discreteness.series.listing import Series, series_of
from discreteness.series.pair import SeriesPair
from discreteness.series.tokenizing import tokenized


@dataclass(frozen=True, kw_only=True)
class SeriesExperiment:
    series: Series
    tokenizer: Tokenizer
    documents: tuple[Document, ...]
    pair: SeriesPair
    identity: dict[str, Any]
    plan_text: str

    @property
    def names(self) -> dict[int, str]:
        """Seed -> the model that it is."""
        return dict(enumerate(self.series.models))

    @property
    def num_losses(self) -> int:
        return sum(len(document.token_ids) - 1 for document in self.documents)

    def dataset(self, config: SeriesConfig) -> DatasetWriter:
        """The dataset, made or continued; with --dry-run only checked. Raises as `DatasetWriter.create_or_open`."""
        return DatasetWriter.create_or_open(
            config.output,
            self.identity,
            self.documents,
            token_bytes=self.tokenizer.token_bytes,
            in_vocabulary=None,
            steps=self.series.plan,
            plan=self.plan_text,
            allow_code_change=config.allow_code_change,
            dry_run=config.dry_run,
            names=self.names,
        )


def prepare_series(config: SeriesConfig) -> SeriesExperiment:
    """Lists the checkpoints, reads tokenizer and documents, and checks them against each other. Raises ValueError that
    names what is wrong, OSError if the hub cannot be reached."""
    config.check()
    series = series_of(config)
    read = tokenized(config, series)
    identity = {
        "vary": "model",
        "checkpoints": list(series.plan),
        "left_out": {str(step): why for step, why in series.left_out.items()},
        "documents": texts_hash(read.documents),
        "tokenizer": read.tokenizer.fingerprint,
        "dtype": config.dtype,
        "score_tokens": config.score_tokens,
        "sources": sources_hash(series_sources()),
    }
    pair = SeriesPair(
        models=series.checkpoints, documents=read.documents, score_tokens=config.score_tokens, dtype=config.dtype
    )
    return SeriesExperiment(
        series=series,
        tokenizer=read.tokenizer,
        documents=read.documents,
        pair=pair,
        identity=identity,
        plan_text=config.steps or "",
    )
