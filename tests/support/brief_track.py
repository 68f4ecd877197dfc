"""A track of five updates of 64 tokens on shards of random ones, for tests that want the real trainer soon."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from speedrun.data.shards import BOS, write_shard

from tests.support.quick_track import quick

brief = replace(
    quick,
    name="brief",
    model=replace(quick.model, window_block=2),  # windows of 6 to 40 tokens, in documents of 41
    schedule=replace(
        quick.schedule,
        scheduled_steps=4,
        extension_steps=1,
        batch_tokens=(64, 64, 64),
        momentum_warmup_steps=1,
        momentum_cooldown_steps=1,
        mtp_steps=4,
    ),
    data=replace(quick.data, val_tokens=256, val_chunk_tokens=64, made_on_first_use=False),
    validate_every=2,
)


def write_shards(root: Path) -> Path:
    """Fills a data root; returns it."""
    folder = root / "data/tiny"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    tokens = np.concatenate([np.concatenate([[BOS], random.integers(0, 300, 40)]) for _ in range(40)])
    for name in ("train_000001", "val_000000"):
        write_shard(folder / f"tiny_{name}.bin", tokens)
    return root
