"""Short tracks for tests: the tiny one, and the medium one on its data. `--track tests.support.quick_track:quick`."""

from dataclasses import replace

from speedrun.tracks import medium, tiny

# A third of the processor time of twenty steps of `tiny` itself, in the same layers, stages and roles.
quick = replace(
    tiny,
    name="quick",
    model=replace(tiny.model, head_dim=16),
    schedule=replace(
        tiny.schedule,
        scheduled_steps=18,
        extension_steps=2,
        batch_tokens=(128, 256, 384),
        momentum_warmup_steps=4,
        momentum_cooldown_steps=2,
        mtp_steps=18,
    ),
    data=replace(tiny.data, num_slots=4, val_tokens=2048, val_chunk_tokens=512),
    validate_every=10,
)

# Eight workers may share it.
wide = replace(quick, name="wide", data=replace(quick.data, num_slots=8, val_chunk_tokens=256))

# Its weights overflow within a few updates: every attempt of every seed fails, the same way.
poisoned = replace(quick, name="poisoned", optimizer=replace(quick.optimizer, normuon_lr=1e30))

# All that sets `medium` apart, in bfloat16 as there: twelve stages of two steps, untied after the update of step 5.
quick_medium = replace(
    medium,
    name="quick_medium",
    model=replace(medium.model, vocab_size=tiny.model.vocab_size, num_heads=2, head_dim=16, window_block=8),
    schedule=replace(
        medium.schedule,
        scheduled_steps=24,
        extension_steps=4,
        batch_tokens=(64, 128, 192, *[256] * 9),
        momentum_warmup_steps=4,
        momentum_cooldown_steps=5,
        mtp_steps=6,
    ),
    optimizer=replace(medium.optimizer, adam_lr=3 * medium.optimizer.adam_lr),  # so few updates of so narrow a model
    data=quick.data,
    needs_gpu=False,
    validate_every=14,
)
