"""a data set of the Hugging Face hub -> its shards in a folder, each one checked before it gets its name.

What the scripts beside it share. HF_ENDPOINT names another hub or a mirror. No token is sent: the data are public.
"""

import argparse
import hashlib
import os
import re
import sys
from pathlib import Path

from filelock import FileLock
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HTTPError  # of whichever HTTP library this version of the hub's client uses
from huggingface_hub.file_download import http_get

sys.path.append(str(Path(__file__).parents[1]))  # speedrun, where it is not installed
from speedrun.data.shards import ShardError, open_shard
from speedrun.least_rate import demand_least_rate

HERE = Path(__file__).parent
constants.DOWNLOAD_CHUNK_SIZE = 1 << 16
"""Bytes that the hub's client gathers before it writes them, and loses when a download ends early: not ten MiB."""


def main(repository: str, folder: str, prefix: str, num_shards: int) -> None:
    """The command line of one data set: fetches the validation shard and the first N training shards."""
    parser = argparse.ArgumentParser(description=f"Fetch shards of {repository}: one for validation, N for training.")
    parser.add_argument(
        "shards", nargs="?", type=int, default=num_shards, metavar="N", help=f"1 to {num_shards}, the default: all"
    )
    default = Path(os.environ["DATA_PATH"], "data") if os.environ.get("DATA_PATH") else HERE
    parser.add_argument("--folder", type=Path, default=default / folder, help="where they go (default: %(default)s)")
    arguments = parser.parse_args()
    if not 1 <= arguments.shards <= num_shards:
        parser.error(f"{repository} has 1 to {num_shards} training shards, not {arguments.shards}")
    names = [f"{prefix}_val_000000.bin", *(f"{prefix}_train_{n:06d}.bin" for n in range(1, arguments.shards + 1))]
    try:
        for number, name in enumerate(names, 1):
            tokens = fetch(repository, name, arguments.folder)
            print(f"{number}/{len(names)} {name}: {tokens} tokens", flush=True)
    except (HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        sys.exit(f"error: {name}: {reason}; the same command goes on from here")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    print(f"all in {arguments.folder.resolve()}")


def fetch(repository: str, name: str, folder: Path) -> int:
    """Tokens of shard `name`, which lies in `folder` afterwards. A good one is left as it is, without network.

    What came before an interruption lies beside it as NAME.<version>.part and is gone on with; a second process waits
    for the first. ShardError: what came is no shard. OSError: it is not what the hub says it is, or the disk is full.
    TooSlow: it came below the least rate.
    HTTPError: the hub cannot be reached, or lacks it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with FileLock(folder / f".{name}.lock"):
        if path.exists():
            try:
                return len(open_shard(path))
            except ShardError as error:
                print(f"{error}: now", file=sys.stderr)
        url = hf_hub_url(repository, name, repo_type="dataset")
        about = get_hf_file_metadata(url, token=False)
        version = re.sub(r"\W", "", about.etag or "")
        if about.size is None or not version:
            raise OSError(f"{url} has no length or no ETag: HF_ENDPOINT is not a hub")
        part = folder / f"{name}.{version}.part"
        demand_least_rate()
        with part.open("ab") as file:
            http_get(url, file, resume_size=file.tell(), expected_size=about.size, displayed_filename=name)
        try:
            tokens = len(open_shard(part))
            _check_hash(part, version)
        except (ShardError, OSError):
            part.unlink()  # going on with it would never help
            raise
        part.replace(path)
    return tokens


def _check_hash(part: Path, version: str) -> None:
    """The hub's ETag of a large file is its SHA-256; of a small one it is something else, and says nothing here."""
    if re.fullmatch(r"[0-9a-f]{64}", version):
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != version:
            raise OSError(f"its SHA-256 is {found}, the hub says {version}: it was damaged on the way")
