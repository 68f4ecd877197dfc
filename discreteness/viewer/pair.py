"""two datasets -> what can be laid over each other: documents of one name and the same tokens, checkpoints at one step.

Both are then shown as if they had these alone. What one of them lacks is said, and refused where nothing is left.
"""

from collections.abc import Callable
from dataclasses import dataclass

from discreteness.dataset.manifest import DocumentInfo, listed
from discreteness.dataset.reader import Dataset
from discreteness.dataset.storage import Storage
from discreteness.viewer.part import Part


@dataclass(frozen=True, kw_only=True)
class Pair:
    """`documents`: of the first and of the second dataset, in the order of the first. `left_out`: what is not compared,
    in words.
    """

    documents: list[tuple[DocumentInfo, DocumentInfo]]
    steps: list[int]
    left_out: list[str]

    @classmethod
    def of(cls, first: Dataset, second: Dataset) -> "Pair":
        """Raises ValueError if they have no document or fewer than two steps in common."""
        names = {document.name: document for document in second.documents}
        documents, missing, others = [], [], []
        for document in first.documents:
            match = names.get(document.name)
            if match is None:
                missing.append(document.name)
            elif _tokens(first, document) != _tokens(second, match):
                others.append(document.name)
            else:
                documents.append((document, match))
        where = f"{first.storage.uri} and {second.storage.uri}"
        if not documents:
            found = f"; with other tokens in the second: {listed(others)}" if others else ""
            raise ValueError(f"{where} have no document in common, by name and tokens{found}")
        steps = sorted(set(first.steps) & set(second.steps))
        if len(steps) < 2:
            raise ValueError(
                f"{where} have {len(steps)} checkpoints at the same step: {listed(first.steps)}, and "
                f"{listed(second.steps)}; give datasets with at least two"
            )
        left_out = [
            f"{count} checkpoints of the {which}"
            for which, count in (("first", len(first.steps) - len(steps)), ("second", len(second.steps) - len(steps)))
            if count
        ]
        left_out += [
            f"{words}: {listed(some)}"
            for words, some in (
                ("documents that the second does not have", missing),
                ("documents with other tokens there", others),
            )
            if some
        ]
        return cls(documents=documents, steps=steps, left_out=left_out)

    def opened(self, which: int) -> Callable[[Storage], Part]:
        """What opens the first (0) or the second (1) of them with these documents and checkpoints alone."""
        return lambda storage: Part(storage, [both[which] for both in self.documents], self.steps)


def _tokens(dataset: Dataset, document: DocumentInfo) -> list[bytes]:
    return dataset.tokens(document.doc_id)["token_bytes"].to_pylist()
