"""a model and its attention windows -> floating-point operations of one token's update.

Counted is what the model needs: 6 operations per matrix parameter and token (forward and backward, the head among
them), and attention over whole windows, which is an upper bound at the start of documents. Norms, gates, further
targets and the optimizer are not counted, so a utilisation made from this is on the low side.
"""

from speedrun.tracks import ModelConfig


def flop_per_token(model: ModelConfig, short_window: int, long_window: int) -> float:
    """Operations of one token's update. Windows: tokens before it that a layer of that kind sees."""
    width = model.model_dim
    matrices = 4 * width * width * len(model.attention_layers) + 8 * width * width * model.num_layers
    seen = sum(
        (long_window if layer in model.long_window_layers else short_window) + 1 for layer in model.attention_layers
    )
    return 6.0 * (matrices + model.vocab_size * width) + 12.0 * width * seen
