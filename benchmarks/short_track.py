"""the small track -> the same model and stages in fewer steps, on any shards."""

from argparse import ArgumentParser, Namespace
from dataclasses import replace

from speedrun.tracks import Track, small


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", default=".", help="folder that holds data/")
    parser.add_argument("--train-glob", default=small.data.train_glob)
    parser.add_argument("--val-glob", default=small.data.val_glob)


def short_track(arguments: Namespace, scheduled_steps: int, extension_steps: int, val_tokens: int = 1048576) -> Track:
    """All stages of `small` in `scheduled_steps` + `extension_steps` updates, batches of full size."""
    share = scheduled_steps / small.schedule.scheduled_steps
    schedule = replace(
        small.schedule,
        scheduled_steps=scheduled_steps,
        extension_steps=extension_steps,
        momentum_warmup_steps=round(share * small.schedule.momentum_warmup_steps),
        momentum_cooldown_steps=round(share * small.schedule.momentum_cooldown_steps),
        mtp_steps=scheduled_steps,
    )
    data = replace(
        small.data,
        train_glob=arguments.train_glob,
        val_glob=arguments.val_glob,
        val_tokens=val_tokens,
        val_chunk_tokens=131072,
    )
    validate_every = max(1, scheduled_steps // 3)
    return replace(small, name="short", schedule=schedule, data=data, validate_every=validate_every)


sixty_ms = replace(
    small,
    name="sixty_ms",
    schedule=replace(small.schedule, scheduled_steps=1960, batch_tokens=(40960, 40960, 40960), mtp_steps=1960),
    data=replace(small.data, val_tokens=1048576, val_chunk_tokens=131072),
)
"""`small` with 40,960 tokens an update, one pass: about 60 ms on one H200, as a step of eight GPUs takes."""

one_gpu = short_track(Namespace(train_glob=small.data.train_glob, val_glob=small.data.val_glob), 90, 10)
"""About 40 s a seed for one GPU."""
eight_gpus = short_track(Namespace(train_glob=small.data.train_glob, val_glob=small.data.val_glob), 600, 20)
"""About 40 s a seed for eight."""
