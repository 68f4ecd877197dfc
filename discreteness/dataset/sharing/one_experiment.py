"""datasets -> the one experiment that they are all of, or an error that names what differs."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from discreteness.dataset.identity import differing_fields, only_sources
from discreteness.dataset.manifest import Manifest, read_documents
from discreteness.dataset.mismatch import content_of, joined, mismatch
from discreteness.dataset.storage import Storage


def one_experiment(datasets: Sequence[tuple[Storage, Manifest]], allow_code_change: bool = False) -> Manifest:
    """The first manifest, with the sources that any of them has accepted.

    Sources may differ if two datasets have accepted one in common, since somebody said then that the change between
    them cannot change losses, or with `allow_code_change`. Raises ValueError with the differing fields.
    """
    (storage, manifest), *others = datasets
    for other_storage, other in others:
        differing = differing_fields(other.identity, manifest.identity)
        in_common = any(sources in manifest.accepted_sources for sources in other.accepted_sources)
        if only_sources(differing) and (allow_code_change or in_common):
            differing = []
        if differing or differing_fields(content_of(other), content_of(manifest)):
            raise _another(other_storage, other, storage, manifest)
        new = [sources for sources in other.accepted_sources if sources not in manifest.accepted_sources]
        manifest = replace(manifest, accepted_sources=(*manifest.accepted_sources, *new))
    return manifest


def _another(storage: Storage, there: Manifest, first_storage: Storage, first: Manifest) -> ValueError:
    """`there` is what the message calls there, `first` is what it calls here."""
    words_there = None
    with suppress(ValueError, OSError):  # damaged or gone: the error says less of the documents
        words_there = read_documents(storage, there)
    fields = differing_fields(there.identity, first.identity)
    error = mismatch(storage.uri, fields, there, first, words_there, read_documents(first_storage, first))
    ways = "leave one of them out"
    if error.sources_alone:
        ways += ", or give --allow-code-change if the change cannot change losses"
    return ValueError(
        f"{storage.uri} (there) is of another experiment than {first_storage.uri} (here): {joined(error.differing)}; "
        f"{ways}"
    )
