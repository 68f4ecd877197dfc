"""this machine -> what a token of `tiny` takes of one core in training and in scoring, beside what `--dry-run` assumes.

python benchmarks/plan_costs.py

Processor time of one process with one thread, so other work on the machine hardly counts. All stages of `tiny` in 30
updates; scoring of the built-in documents, once and five times as many.
"""

import time
from dataclasses import replace

import torch
from speedrun.data.tiny_corpus import default_data_root, ensure_tiny_corpus
from speedrun.data.vocabulary import vocabulary_of
from speedrun.schedules import forward_state, step_settings
from speedrun.tracks import tiny
from speedrun.training import Trainer

from discreteness.cluster.hardware import worker_cost
from discreteness.experiment.documents import built_in
from discreteness.scoring.scorer import Scorer

SHORT = replace(tiny, schedule=replace(tiny.schedule, scheduled_steps=27, extension_steps=3, mtp_steps=27))


def main() -> None:
    torch.set_num_threads(1)
    root = default_data_root().absolute()
    ensure_tiny_corpus(str(root))
    trainer = Trainer(SHORT, str(root), "cpu", None)
    last = SHORT.schedule.last_step
    list(trainer.train(0, {0, last}))  # what is done once, such as tables of positions
    began_s = time.process_time()
    list(trainer.train(1, {0, last}))
    tokens = sum(step_settings(SHORT.schedule, step).batch_tokens for step in range(last))
    assumed = worker_cost(tiny)
    show("training", tokens, time.process_time() - began_s, assumed.s_per_token)
    for copies in (1, 5):
        documents = [replace(document, doc_id=number) for number, document in enumerate(copies * built_in())]
        scorer = Scorer(trainer.model, documents, vocabulary_of(tiny))
        scorer.score(forward_state(tiny, 0))
        began_s = time.process_time()
        scorer.score(forward_state(tiny, tiny.schedule.last_step))
        tokens = sum(len(document.token_ids) - 1 for document in documents)
        show("scoring", tokens, time.process_time() - began_s, assumed.s_per_scored_token)


def show(what: str, tokens: int, core_s: float, assumed_s: float) -> None:
    took_s = core_s / tokens
    print(f"{what}: {tokens} tokens in {core_s:.2f} s of a core, {1e6 * took_s:.0f} us per token; ", end="")
    print(f"--dry-run assumes {1e6 * assumed_s:.0f} ({assumed_s / took_s:.2f} of it)", flush=True)


if __name__ == "__main__":
    main()
