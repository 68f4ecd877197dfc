"""Part of a dataset: some of its documents and checkpoints, with all seeds. It answers as if it had no more."""

from collections.abc import Sequence

from discreteness.dataset.manifest import DocumentInfo
from discreteness.dataset.reader import Dataset
from discreteness.dataset.storage import Storage


class Part(Dataset):
    """`lacks_steps`: some of its checkpoints are left out, so that an analysis of all of them has another noise."""

    def __init__(self, storage: Storage, documents: Sequence[DocumentInfo], steps: Sequence[int]):
        """Raises what discreteness.open raises. Both are of this dataset, in its order."""
        super().__init__(storage)
        self.lacks_steps = len(steps) < len(self.steps)
        self.documents, self.steps = list(documents), list(steps)
