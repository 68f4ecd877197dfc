"""configuration -> the experiment: track, documents, plan, data, and the identity they make together."""

import os
import re
import socket
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from speedrun.data import tokenizer
from speedrun.data.shards import find_shards
from speedrun.data.supply import Supply, measure
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus
from speedrun.data.vocabulary import Vocabulary
from speedrun.execution import Execution
from speedrun.schedules import validation_steps
from speedrun.tracks import Track, track
from speedrun.vary import Vary, shuffles

from discreteness.dataset.writer import DatasetWriter
from discreteness.experiment.checkpoint_steps import parse_checkpoints
from discreteness.experiment.config import ExperimentConfig, Packing, RunConfig
from discreteness.experiment.documents import Document, built_in, texts_hash
from discreteness.experiment.prompts import documents_at
from discreteness.experiment.recording import Recording
from discreteness.experiment.seeds import parse_seeds
from discreteness.experiment.sources import identity_sources, sources_hash
from discreteness.experiment.validation_documents import asked_count, validation_documents
from discreteness.shards.report import data_identity


@dataclass(frozen=True, kw_only=True)
class Experiment(Recording):
    """Of the speedrun: all that decides a loss, and the seeds asked for. Plain values, ready to travel."""

    track: Track
    data_root: str
    vary: Vary
    packing: Packing
    score_tokens: int
    world_size: int
    execution: Execution
    val_tokens: int
    epochs: int = 1
    """Passes over the training shards that a seed may take."""
    supply: Supply | None = None
    """What the shards give to a seed's training; None where nothing is trained."""

    @property
    def num_validation_chunks(self) -> int:
        return self.val_tokens // self.track.data.val_chunk_tokens


def prepare(config: ExperimentConfig, run: RunConfig, track_name: str) -> Experiment:
    """Reads documents and shards and checks everything against everything. ValueError names what is wrong.

    `track_name` replaces the configuration's "auto".
    """
    config.check()
    run.check()
    recipe = track(track_name)
    world_size = config.workers_per_trainer
    if recipe.data.num_slots % world_size:
        raise ValueError(
            f"--workers-per-trainer {world_size}: track {recipe.name} has {recipe.data.num_slots} slots a step; "
            f"use {', '.join(str(n) for n in (8, 4, 2, 1) if recipe.data.num_slots % n == 0)}"
        )

    # What is recorded.
    documents = tuple(load_documents(config.documents, config.data, recipe))
    plan = parse_checkpoints(config.checkpoints, recipe.schedule.last_step)
    val_tokens = recipe.data.val_tokens if run.val_tokens is None else run.val_tokens
    if val_tokens % recipe.data.val_chunk_tokens:
        raise ValueError(f"--val-tokens {val_tokens}: use a multiple of {recipe.data.val_chunk_tokens}, or 0")
    validated = validation_steps(recipe) if val_tokens else frozenset()
    kept_steps = _kept_steps(run.keep_weights, plan)
    seeds = parse_seeds(run.seeds)

    # What it is trained on.
    data_root = str(data_folder(config.data, recipe))
    if recipe.data.made_on_first_use:
        ensure_tiny_corpus(data_root)
    training = find_shards(data_root, recipe.data.train_glob)
    data = data_identity(training + find_shards(data_root, recipe.data.val_glob))
    supply = measure(training, recipe, world_size, shuffled=shuffles(config.vary), seeds=seeds, epochs=config.epochs)
    if shortage := supply.shortage(config.epochs):
        raise ValueError(f"--data {data_root}: {shortage}")

    # How it is computed.
    wishes = Execution(
        attention=config.attention,
        fp8_head=config.fp8,
        deterministic=config.deterministic,
        micro_batch_tokens=config.micro_batch_tokens,
    )
    execution = wishes.resolved(recipe, "cuda" if recipe.needs_gpu else "cpu")

    identity = {
        "track": asdict(recipe),
        "checkpoints": list(plan),
        "documents": texts_hash(documents),
        "vary": config.vary,
        "packing": config.packing,
        "score_tokens": config.score_tokens,
        "data": data,
        "epochs": _passes_of_identity(config, supply),
        "world_size": world_size,
        "execution": asdict(execution),
        "sources": sources_hash(identity_sources()),
    }
    return Experiment(
        track=recipe,
        data_root=data_root,
        documents=documents,
        vary=config.vary,
        packing=config.packing,
        score_tokens=config.score_tokens,
        world_size=world_size,
        execution=execution,
        plan=plan,
        validation_steps=validated,
        val_tokens=val_tokens,
        kept_steps=kept_steps,
        seeds=seeds,
        identity=identity,
        plan_text=config.checkpoints,
        epochs=config.epochs,
        supply=supply,
    )


def load_documents(source: str | None, data: str | None, recipe: Track) -> list[Document]:
    """The built-in documents, those of a folder or a .jsonl file, or for `val:COUNT` so many of the track's validation
    shards.

    Raises DocumentError and ShardError as those who read them do.
    """
    count = asked_count(source)
    if count is not None:
        root = data_folder(data, recipe)
        if recipe.data.made_on_first_use:
            ensure_tiny_corpus(root)
        return validation_documents(find_shards(root, recipe.data.val_glob), count)
    return documents_at(source) if source else built_in()


def open_dataset(experiment: Experiment, run: RunConfig) -> DatasetWriter:
    """The dataset of this experiment, made or continued, or with --dry-run only checked. Refuses another experiment's
    directory by field."""
    vocabulary = Vocabulary.load(experiment.track.data.vocabulary)
    return DatasetWriter.create_or_open(
        run.output,
        experiment.identity,
        experiment.documents,
        token_bytes=tokenizer.decode_bytes,
        in_vocabulary=vocabulary.contains,
        steps=experiment.plan,
        plan=experiment.plan_text,
        allow_code_change=run.allow_code_change,
        dry_run=run.dry_run,
    )


def still_to_train(experiment: Experiment, run: RunConfig) -> Experiment:
    """The experiment with those of its seeds that are not committed. For --dry-run: errors as `open_dataset`."""
    committed = open_dataset(experiment, run).committed()
    return replace(experiment, seeds=tuple(seed for seed in experiment.seeds if seed not in committed))


def shared_row_warning(experiment: Experiment) -> str | None:
    """What a user should know of documents whose tokens have no row of their own in a small vocabulary."""
    vocabulary = Vocabulary.load(experiment.track.data.vocabulary)
    ids = [token for document in experiment.documents for token in document.token_ids]
    foreign = {token for token in ids if not vocabulary.contains(token)}
    if not foreign:
        return None
    count = sum(token in foreign for token in ids)
    return (
        f"{count} of {len(ids)} document tokens ({len(foreign)} ids) share one row of track "
        f"{experiment.track.name}'s vocabulary: their losses mean little (in_vocabulary in documents.parquet)"
    )


def check_shards(experiment: Experiment, *globs: str) -> None:
    """ValueError where this machine's shards of these globs are not those that the experiment was begun with.

    Every process asks it before it uses them: a trainer before it leases a seed, so that a seed is never trained on
    other tokens than the identity names.
    """
    names = [Path(glob).name for glob in globs]
    there = {s["name"]: s for s in experiment.identity["data"] if any(fnmatch(s["name"], name) for name in names)}
    shards = (path for glob in globs for path in find_shards(experiment.data_root, glob))
    here = {shard["name"]: shard for shard in data_identity(shards)}
    for name in sorted(there | here):
        if there.get(name) != here.get(name):
            what = "is not there" if name not in here else "should not be there" if name not in there else "differs"
            raise ValueError(
                f"shard {name} under {experiment.data_root} on {socket.gethostname()} {what}, compared with where the "
                "job was started: copy the shards from there; `discreteness doctor` compares all nodes"
            )


def data_folder(data: str | None, recipe: Track) -> Path:
    """Where the track's shards are: what was asked, DATA_PATH, or for tiny the user's cache."""
    if data:
        return Path(data).absolute()
    if recipe.data.made_on_first_use:
        return default_data_root().absolute()
    return Path(os.environ.get("DATA_PATH", ".")).absolute()


def _passes_of_identity(config: ExperimentConfig, supply: Supply) -> int:
    """The passes that training takes, not those that it may take: --epochs alone changes nothing. Of seeds in orders
    of their own some may need one more than others; then it is what they may take, whichever seeds are asked for."""
    if shuffles(config.vary):
        return 1 if supply.any_order else config.epochs
    return supply.passes


def _kept_steps(text: str, plan: tuple[int, ...]) -> frozenset[int]:
    if text == "none":
        return frozenset()
    if text == "last":
        return frozenset(plan[-1:])
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text, re.ASCII):
        raise ValueError(f"--keep-weights {text!r}: use none, last, or steps such as 0,100")
    steps = frozenset(int(part) for part in text.split(","))
    if missing := sorted(steps - set(plan)):
        raise ValueError(f"--keep-weights {text!r}: step {missing[0]} is not in --checkpoints")
    return steps
