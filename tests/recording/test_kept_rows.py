"""Rows of a training that goes on: what is written is read, and which rows a chain stands for."""

import numpy as np
import pytest

from discreteness.dataset.storage import open_storage
from discreteness.recording.kept_rows import NOTHING, KeptRows, Row, chained, forget


def row(step, *losses):
    return Row(step, np.array(losses, np.float32), {"train_loss": 2.5}, {"logits": "float32"})


def test_what_is_written_is_read(tmp_path):
    kept = KeptRows(open_storage(tmp_path), 3, "one")
    for step in 7, 0, 1_000_000:
        kept.write(row(step, 1.5, step))
    assert kept.steps() == [0, 7, 1_000_000]
    found = kept.read(7)
    assert (found.step, found.record, found.dtypes) == (7, {"train_loss": 2.5}, {"logits": "float32"})
    assert found.losses.dtype == np.float32 and found.losses.tolist() == [1.5, 7.0]
    kept.drop_after(7)
    assert kept.steps() == [0, 7]
    with pytest.raises(ValueError, match=r"step=1000000\.npz is gone, so the curve of seed 3 cannot go on"):
        kept.read(1_000_000)


def test_a_chain_stands_for_all_rows_and_their_order():
    chains = {
        chained(chained(start, first), last)
        for start in (NOTHING, "x")
        for first in (row(0, 1.0, 2.0), row(0, 1.0, 3.0), row(1, 1.0, 2.0))
        for last in (row(2, 5.0), row(2, 6.0), row(3, 5.0))
    }
    assert len(chains) == 18
    assert chained(NOTHING, row(0, 1.0)) == chained(NOTHING, row(0, 1.0))


def test_only_a_committed_seeds_rows_are_forgotten(tmp_path):
    storage = open_storage(tmp_path)
    for seed, attempt in ((1, "a"), (1, "b"), (10, "a")):
        KeptRows(storage, seed, attempt).write(row(0, 1.0))
    strange = tmp_path / "_recorded/seed=00001-b/notes.txt"
    strange.write_text("somebody's own")
    forget(storage, 1)
    assert [str(path.relative_to(tmp_path)) for path in sorted((tmp_path / "_recorded").rglob("*.*"))] == [
        "_recorded/seed=00001-b/notes.txt",
        "_recorded/seed=00010-a/step=000000.npz",
    ]
    assert not (tmp_path / "_recorded/seed=00001-a").exists()
