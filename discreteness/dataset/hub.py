"""hf://... through pyarrow, whose errors of the network are OSErrors, as those of a disk and of other stores are."""

from typing import Any

from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem


def with_errors_of_a_disk(filesystem: PyFileSystem) -> FileSystem:
    """The hub's file system, as pyarrow opens it."""
    return PyFileSystem(FSSpecHandler(_Reached(filesystem.handler.fs)))


class _Reached:
    """An object of the hub's client. Its calls, and those of files that it opens, raise OSError where the hub is not
    reached."""

    def __init__(self, inner: Any):
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            from huggingface_hub.errors import HTTPError  # of whichever HTTP library its client uses

            try:
                answer = found(*arguments, **options)
            except HTTPError as error:
                if isinstance(error, OSError):  # the hub's own answer
                    raise
                raise OSError(
                    f"the hub cannot be reached ({error or type(error).__name__}): this machine needs the network, or "
                    "HF_ENDPOINT the address of a mirror; a folder of this machine needs neither"
                ) from error
            return _Reached(answer) if name == "open" else answer

        return call
