"""shards -> a trained medium model, its log and its losses: train_gpt.py with another default track.

torchrun --standalone --nproc_per_node=8 train_gpt_medium.py --seed 0
"""

import sys

from train_gpt import main

if __name__ == "__main__":
    sys.exit(main("medium"))
