"""seeds and flags -> a complete dataset: the one entry for a laptop and for a cluster.

python jobs/run_seeds.py --seeds 0-3
ray job submit --working-dir . -- python jobs/run_seeds.py --seeds 0-299 --track small --output s3://bucket/run
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from discreteness.cli.main import run_seeds

if __name__ == "__main__":
    run_seeds()
