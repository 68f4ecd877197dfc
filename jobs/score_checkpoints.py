"""models and texts -> the loss of every token at every checkpoint: series that others have trained.

python jobs/score_checkpoints.py --inline --models 'runs/hf/seed-*' --checkpoints 'checkpoint-*' --documents texts
python jobs/score_checkpoints.py --inline --models 'EleutherAI/pythia-160m-seed{1..9}' --checkpoints 'step*'
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from discreteness.cli.main import score_checkpoints

if __name__ == "__main__":
    score_checkpoints()
