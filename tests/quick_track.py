"""The tiny track made shorter, for tests: `--track tests.quick_track:quick`."""

from dataclasses import replace

from speedrun.tracks import tiny

quick = replace(
    tiny,
    name="quick",
    schedule=replace(
        tiny.schedule,
        scheduled_steps=18,
        extension_steps=2,
        batch_tokens=(256, 512, 768),
        momentum_warmup_steps=4,
        momentum_cooldown_steps=2,
        mtp_steps=18,
    ),
    data=replace(tiny.data, val_tokens=2048, val_chunk_tokens=512),
    validate_every=10,
)

# Its weights overflow within a few updates: every attempt of every seed fails, the same way.
poisoned = replace(quick, name="poisoned", optimizer=replace(quick.optimizer, normuon_lr=1e30))
