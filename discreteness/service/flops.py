"""a model, its attention windows and tokens -> floating-point operations; and what a GPU could do in a second.

Counted is what the model needs: 6 operations a matrix parameter and token (forward and backward, the head among them),
and attention over whole windows, which is an upper bound at the start of documents. Norms, gates, further targets and
the optimizer are not counted, so a utilisation made from this is on the low side.
"""

from collections.abc import Collection

from speedrun.tracks import ModelConfig

PEAK_FLOP_S = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "GH200": 989e12, "B200": 2250e12}
"""Ray's name of a GPU type -> dense bfloat16 operations a second of its SXM form, from NVIDIA's data sheets."""


def flop_per_token(model: ModelConfig, short_window: int, long_window: int) -> float:
    """Operations of one token's update. Windows: tokens before it that a layer of that kind sees."""
    width = model.model_dim
    matrices = 4 * width * width * len(model.attention_layers) + 8 * width * width * model.num_layers
    seen = sum(
        (long_window if layer in model.long_window_layers else short_window) + 1 for layer in model.attention_layers
    )
    return 6.0 * (matrices + model.vocab_size * width) + 12.0 * width * seen


def peak_flop_s(gpu_types: Collection[str | None]) -> float | None:
    """Of one GPU of these types; None where they are of several kinds, of none, or of one that is not known here."""
    peaks = {PEAK_FLOP_S.get(gpu_type or "") for gpu_type in gpu_types}
    return peaks.pop() if len(peaks) == 1 else None
