"""track + step -> settings of the update, and state of the forward pass in training and in validation.

These are pure functions: any step can be asked for at any time, and nothing has to be rewound for the next seed.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass

from speedrun.tracks import ScheduleConfig, Track

ATTENTION_SCALE = 0.1
NUM_TARGETS = 3  # the most that multi-token prediction asks for


@dataclass(frozen=True)
class StepSettings:
    """What one update needs to know."""

    step: int
    batch_tokens: int
    """Over all slots and ranks."""
    lr_multiplier: float
    """One factor for both optimizers."""
    momentum: float
    """NorMuon's."""
    mtp_weights: tuple[float, ...]
    """Weight of the loss of predicting the next token, the one after it, ..."""
    adam_steps: bool
    tied: bool
    """Head and input embedding are one table in this update."""
    untie_after: bool
    """After this update the head is copied into the input embedding."""


@dataclass(frozen=True)
class ForwardState:
    """The schedule state of a checkpoint: what the forward pass needs besides the weights. Plain data."""

    short_window: int
    long_window: int
    """Tokens w before the query: w + 1 keys."""
    attention_scale: float
    frequencies: tuple[float, ...]
    """Radians per position of the rotating quarter of the head's dimension pairs, fastest first."""
    tied: bool
    """Tokens are looked up in the head; afterwards in `embed`."""


def step_settings(schedule: ScheduleConfig, step: int) -> StepSettings:
    """Settings of the update of `step`; those of the last step, which trains no more, can be asked for as well.

    Raises ValueError if there is no such step.
    """
    _check(schedule, step)
    return StepSettings(
        step=step,
        batch_tokens=schedule.batch_tokens[_stage(schedule, step, len(schedule.batch_tokens))],
        lr_multiplier=lr_multiplier(schedule, step),
        momentum=momentum(schedule, step),
        mtp_weights=mtp_weights(schedule, step),
        adam_steps=step % 2 == 1,
        tied=step <= schedule.untie_step,
        untie_after=step == schedule.untie_step,
    )


def lr_multiplier(schedule: ScheduleConfig, step: int) -> float:
    """Peak of the window stage, then a line to the floor; a peak that rises inside the cooldown is a jump."""
    if step > schedule.scheduled_steps:
        return schedule.lr_floor
    # Strictly past the start of the stage, so that the peak never rises in the very step the windows change.
    past = (len(schedule.long_window_blocks) * step - 1) // schedule.scheduled_steps
    peak = schedule.lr_peaks[min(max(past, 0), len(schedule.lr_peaks) - 1)]
    remaining = (1 - step / schedule.scheduled_steps) / schedule.lr_cooldown
    if remaining >= 1:
        return peak
    return peak * remaining + schedule.lr_floor * (1 - remaining)


def momentum(schedule: ScheduleConfig, step: int) -> float:
    """Linear warm-up and linear cooldown."""
    low, high = schedule.momentum
    cooldown_start = schedule.last_step - schedule.momentum_cooldown_steps
    if step < schedule.momentum_warmup_steps:
        return low + (high - low) * step / schedule.momentum_warmup_steps
    if step > cooldown_start:
        return high - (high - low) * (step - cooldown_start) / schedule.momentum_cooldown_steps
    return high


def mtp_weights(schedule: ScheduleConfig, step: int) -> tuple[float, ...]:
    """Multi-token prediction (SPEEDRUN record #178): the furthest target fades out over each third."""
    thirds = 3 * step / schedule.mtp_steps
    if 3 * step < schedule.mtp_steps:
        return (1.0, 0.5, 0.25 * (1 - thirds))
    if 3 * step < 2 * schedule.mtp_steps:
        return (1.0, 0.5 * (2 - thirds))
    return (1.0,)


def forward_state(track: Track, step: int) -> ForwardState:
    """State of the forward pass after `step` updates and before update `step`. Raises ValueError if there is no such
    step."""
    schedule, model = track.schedule, track.model
    _check(schedule, step)
    stages = schedule.long_window_blocks
    long_windows = stages[: _stage(schedule, step, len(stages)) + 1]
    if step >= schedule.scheduled_steps:
        long_windows = (*stages, schedule.extension_window_blocks)
    num_rotating = model.head_dim // 4
    frequencies = tuple(model.rope_base ** (-m / (num_rotating - 1)) for m in range(num_rotating))
    scale = ATTENTION_SCALE
    for old, new in itertools.pairwise(w for w in long_windows if w <= schedule.yarn_until_blocks):
        frequencies, scale = widen(frequencies, scale, model.window_block * old, model.window_block * new)
    return ForwardState(
        short_window=model.window_block * (long_windows[-1] // 2),
        long_window=model.window_block * long_windows[-1],
        attention_scale=scale,
        frequencies=frequencies,
        tied=step <= schedule.untie_step,
    )


def validation_steps(track: Track) -> frozenset[int]:
    """Steps at which weights are validated: every `validate_every`, and the last."""
    last = track.schedule.last_step
    return frozenset(range(0, last + 1, track.validate_every)) | {last}


def validation_state(track: Track, step: int, state: ForwardState) -> ForwardState:
    """State in which weights of `step` updates are validated, whose own is `state`.

    It is their own, except at the last step: there the long window is wider than any in training, with no YaRN update.
    """
    if step < track.schedule.last_step:
        return state
    window = track.model.window_block * track.schedule.final_validation_window_blocks
    return dataclasses.replace(state, long_window=window)


def widen(
    frequencies: tuple[float, ...], scale: float, old_window: int, new_window: int
) -> tuple[tuple[float, ...], float]:
    """YaRN (Peng et al. 2023, arXiv 2309.00071) when the long window grows from one number of tokens to another.

    Frequencies that turn often within the old window stay, slow ones are interpolated; the scale grows.
    """
    ratio = old_window / new_window
    stretched = []
    for frequency in frequencies:
        rotations = old_window * frequency / (2 * math.pi)
        keep = min(max((rotations - 1) / 31, 0.0), 1.0)
        stretched.append(frequency * (ratio + keep * (1 - ratio)))
    return tuple(stretched), scale * (1 + 0.2 * math.log(new_window / old_window))


def _stage(schedule: ScheduleConfig, step: int, num_stages: int) -> int:
    """Which equal share of the scheduled steps holds `step`; the extension belongs to the last."""
    return min(num_stages * step // schedule.scheduled_steps, num_stages - 1)


def _check(schedule: ScheduleConfig, step: int) -> None:
    if not 0 <= step <= schedule.last_step:
        raise ValueError(f"there is no step {step}; this track has steps 0 to {schedule.last_step}")
