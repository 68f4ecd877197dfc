"""folder -> the seeds of unigram_pair.py, by the real service on a Ray of its own. Run by test_pair_job.py."""

import sys
from functools import partial
from pathlib import Path

from discreteness.cluster.connection import find_cluster
from discreteness.experiment.config import RunConfig
from discreteness.service.driver import Work, drive, leave
from discreteness.service.log import Log
from tests.support.job_case import ONE_TRAINER
from tests.support.unigram_pair import RECORDING, UnigramPair, open_dataset


def main():
    folder = Path(sys.argv[1])
    with Log("text") as log:
        work = Work(
            experiment=RECORDING,
            pair=UnigramPair(faults={6: "impossible"}),
            run=RunConfig(output=str(folder)),
            topology=ONE_TRAINER,
            open_dataset=partial(open_dataset, folder),
            metadata={},
        )
        code = drive(work, find_cluster(), log)
    leave(code)


if __name__ == "__main__":
    main()
