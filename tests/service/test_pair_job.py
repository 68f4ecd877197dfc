"""A pair without track and model, on real Ray: the driver starts, leases and commits whatever the pair gives."""

import numpy as np
import pytest

from discreteness.dataset.reader import open as open_reader
from discreteness.dataset.verify import verify
from tests.conftest import with_ray
from tests.support.unigram_pair import DOCUMENTS, truth

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_service_runs_a_pair_that_it_does_not_know(tmp_path):
    job = with_ray(["-m", "tests.support.pair_job", tmp_path / "set"], tmp_path / "log")
    assert job.wait() == 1, job.output  # a seed is impossible
    assert "seed 6 FAILED: its weights are no weights" in job.output
    assert "seeds committed 2/3 (30 rows); checkpoints scored" in job.output, job.output
    assert verify(tmp_path / "set") == []
    reader = open_reader(tmp_path / "set")
    assert reader.seeds == [5, 7]
    for seed in reader.seeds:
        losses = np.concatenate([reader.losses(text.name, seeds=[seed])[0] for text in DOCUMENTS], axis=1)
        assert losses.tobytes() == truth(seed).tobytes()
