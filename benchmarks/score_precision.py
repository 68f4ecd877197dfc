"""one GPU + shards -> how far scores lie from float32, and what they cost, beside scores with everything in bfloat16.

python benchmarks/score_precision.py --data DIR [--steps 100]

Random weights, and weights trained for some updates through all stages of the track. The same bfloat16 weights are
scored three ways: as the service scores; with the stream between the products in bfloat16 too, as training has it; and
in float32 throughout, with the plain attention, which the distances are from. Times are medians of one CUDA graph each.
"""

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from short_track import add_arguments, short_track
from speedrun.data.vocabulary import vocabulary_of
from speedrun.model import head
from speedrun.model.gpt import GPT, PackedTokens, Stage
from speedrun.schedules import ForwardState, forward_state
from speedrun.tracks import Track
from speedrun.training import Trainer
from torch import Tensor

from discreteness.experiment import documents
from discreteness.scoring.scorer import Scorer

REPEATS = 200


class NarrowGPT(GPT):
    """The stream and the logits in the model's dtype, as in training."""

    @torch.no_grad()
    def token_losses(self, packed: PackedTokens, stage: Stage, slice_tokens: int = 2048) -> Tensor:
        return head.token_losses(self.hidden(packed, stage), self.lm_head.weight, packed.targets[:, 0], slice_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    track = short_track(arguments, arguments.steps - 4, 4)
    models = {
        "as scored": GPT(track.model, torch.bfloat16, "cuda"),
        "bfloat16": NarrowGPT(track.model, torch.bfloat16, "cuda"),
    }
    float32 = GPT(track.model, torch.float32, "cuda")
    print(f"{'weights':10} {'way':12} {'rms, nats':>10} {'largest':>9} {'mean':>10} {'ms':>7} {'GiB':>6}")
    for weights, state, source in (random_weights(track), trained_weights(track, arguments.data)):
        copy(source, float32)
        right = scorer(float32, track).score(state)
        for way, model in models.items():
            copy(source, model)
            torch.cuda.reset_peak_memory_stats()
            recorded = scorer(model, track)
            gaps = recorded.score(state).astype(np.float64) - right
            ms = median_ms(lambda recorded=recorded, state=state: recorded.score(state))
            peak = torch.cuda.max_memory_allocated() / 2**30
            rms, most = float(np.sqrt(np.mean(gaps**2))), float(np.abs(gaps).max())
            print(f"{weights:10} {way:12} {rms:10.5f} {most:9.4f} {gaps.mean():10.6f} {ms:7.2f} {peak:6.2f}")


def scorer(model: GPT, track: Track) -> Scorer:
    return Scorer(model, documents.built_in(), vocabulary_of(track), recorded=True)


def random_weights(track: Track) -> tuple[str, ForwardState, GPT]:
    """Normal matrices of variance 1 / columns, the head four times as large; scalars as training begins with them."""
    model = GPT(track.model, torch.bfloat16, "cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    with torch.no_grad():
        model.scalars.fill_(1.0)
        model.x0_lambdas.fill_(0.1)
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, p.shape[-1] ** -0.5, generator=generator)
        model.lm_head.weight.mul_(4)
        model.tie()
    return "random", forward_state(track, 0), model


def trained_weights(track: Track, data: str) -> tuple[str, ForwardState, GPT]:
    trainer = Trainer(track, data, "cuda")
    for checkpoint in trainer.train(0, {track.schedule.last_step}):
        state = checkpoint.state
    return "trained", state, trainer.model


@torch.no_grad()
def copy(source: GPT, target: GPT) -> None:
    for name, p in source.named_parameters():
        target.get_parameter(name).copy_(p)


def median_ms(score: Callable[[], object]) -> float:
    """Until the losses are on the host."""
    for _ in range(5):
        score()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        score()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


if __name__ == "__main__":
    main()
