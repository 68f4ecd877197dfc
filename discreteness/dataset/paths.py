"""seed, attempt, step -> the names of a dataset's files and folders; docs/dataset.md has all of them."""

import re

EXPERIMENT_FILE = "experiment.json"
DOCUMENTS_FILE = "documents.parquet"
LOCK_FILE = "_lock.json"
MERGE_FILE = "_merge.json"
"""What an unfinished merge is of; it is there while experiment.json is not."""
PARTS_FILE = "tokens/parts.json"

LOSSES_FOLDER, RUNS_FOLDER, LOG_FOLDER = "losses", "runs", "log"
TOKENS_FOLDER, WEIGHTS_FOLDER = "tokens", "weights"
STAGING, RUNNING, REJECTED, RECORDED = "_staging", "_running", "_rejected", "_recorded"
"""Folders of files that do not belong to the dataset: on their way, of seeds in training, damaged ones kept aside, and
steps of trainings that a `Recorder` can go on with."""

SEED_FILE = re.compile(r"seed=(\d{5,})\.parquet")
ATTEMPT = re.compile(r"[A-Za-z0-9_-]{1,80}")
"""It becomes part of file names."""
WEIGHTS_FILE = re.compile(r"weights/seed=(\d{5,})-([A-Za-z0-9_-]+)/step=(\d{6,})\.safetensors")
RECORDED_STEP = re.compile(r"step=(\d{6,})\.npz")
PART_NAME = re.compile(r"[0-9a-f]{16}")


def seed_path(seed: int) -> str:
    return f"{LOSSES_FOLDER}/seed={seed:05d}.parquet"


def runs_path(seed: int, attempt: str) -> str:
    return f"{RUNS_FOLDER}/seed={seed:05d}-{attempt}.parquet"


def running_path(seed: int) -> str:
    """Rows so far of a seed in training."""
    return f"{RUNNING}/seed={seed:05d}.parquet"


def weights_path(seed: int, attempt: str, step: int) -> str:
    return f"{weights_folder(seed, attempt)}/step={step:06d}.safetensors"


def weights_folder(seed: int, attempt: str) -> str:
    return f"{WEIGHTS_FOLDER}/seed={seed:05d}-{attempt}"


def recorded_path(seed: int, attempt: str, step: int) -> str:
    """One recorded step of a training that goes on."""
    return f"{recorded_folder(seed, attempt)}/step={step:06d}.npz"


def recorded_folder(seed: int, attempt: str) -> str:
    return f"{RECORDED}/seed={seed:05d}-{attempt}"
