"""hf://datasets/OWNER/NAME -> storage that is read: one commit of a repository on the Hugging Face hub.

- The commit is looked up once, so all that is read is of one moment, whatever is published in the meantime.
- A file that is opened is fetched whole into the hub client's own cache, which goes on with a fetch that was cut.
- Ranges, such as the end of a file or the pages of one token, are fetched alone and kept beside it, under the hash of
  the file's content.
- The token of a private repository comes from the hub client's own places (`hf auth login`, HF_TOKEN).
"""

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSystem, FileType

from discreteness.dataset.hub import with_errors_of_a_disk
from discreteness.dataset.storage import READS_AT_ONCE, Storage

ADDRESS = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/@]+))?(?:/([^@]+?))?/*")
LOG_IN = "check the name, and for a private repository log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class HubFile:
    """`content`: a hash of its bytes, of whichever kind the hub keeps."""

    size: int
    content: str


class HubStorage(Storage):
    """A dataset of the hub at one commit. Writing raises OSError."""

    def __init__(self, uri: str):
        """Raises ValueError if this is not the address of a dataset's repository, FileNotFoundError if there is none
        for this user, and OSError if the hub cannot be reached."""
        if not (found := ADDRESS.fullmatch(uri)):
            raise ValueError(f"{uri} is not a dataset of the hub; give hf://datasets/OWNER/NAME, or with @REVISION")
        self.repository, self.revision, self.folder = found[1], found[2] or "main", found[3] or ""
        self.commit = reach(lambda: _api().dataset_info(self.repository, revision=self.revision).sha, uri)
        filesystem, _ = FileSystem.from_uri("hf://datasets")
        root = f"datasets/{self.repository}@{self.commit}" + (f"/{self.folder}" if self.folder else "")
        super().__init__(with_errors_of_a_disk(filesystem), root, renames=False, uri=uri.rstrip("/"))
        self.files = reach(lambda: self._list_all(), uri)

    def _list_all(self) -> dict[str, HubFile]:
        tree = _api().list_repo_tree(self.repository, repo_type="dataset", revision=self.commit, recursive=True)
        inside = f"{self.folder}/" if self.folder else ""
        return {
            entry.path.removeprefix(inside): HubFile(entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in tree
            if hasattr(entry, "blob_id") and entry.path.startswith(inside)
        }

    def open(self, name: str) -> pa.NativeFile:
        return pa.OSFile(str(self._whole(name)))

    def read_tail(self, name: str, num_bytes: int) -> bytes:
        size = self._file(name).size
        return self._range(name, max(0, size - num_bytes), size)

    def _read_remote(self, name: str, pieces: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, memoryview]]:
        size = self._file(name).size
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            ends = [(piece[0], min(piece[1], size)) for piece in pieces]
            contents = pool.map(lambda ends: self._range(name, *ends) if ends[0] < ends[1] else b"", ends)
            for (begin, end), content in zip(pieces, contents, strict=True):
                yield begin, end, memoryview(content)

    def exists(self, name: str) -> bool:
        self.path(name)
        return name in self.files

    def size(self, name: str) -> int:
        return self.files[name].size if self.exists(name) else 0

    def list(self, folder: str = "", recursive: bool = False) -> list[FileInfo]:
        inside = f"{folder}/" if folder else ""
        found: dict[str, FileInfo] = {}
        for name, file in self.files.items():
            if not name.startswith(inside):
                continue
            first, deeper, _ = name.removeprefix(inside).partition("/")
            if deeper and not recursive:
                path = self.path(inside + first)
                found[path] = FileInfo(path, FileType.Directory)
            else:
                path = self.path(name)
                found[path] = FileInfo(path, FileType.File, size=file.size)
        return [found[path] for path in sorted(found)]

    def write(self, name: str, content: bytes | pa.Buffer, durable: bool = True) -> NoReturn:
        self._refuse()

    def delete(self, name: str) -> NoReturn:
        self._refuse()

    def check_writable(self) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise PermissionError(
            f"{self.uri} is on the hub, where `discreteness publish` alone writes; give --output a folder of this "
            "machine"
        )

    def _file(self, name: str) -> HubFile:
        if not self.exists(name):
            raise FileNotFoundError(f"{self.path(name)} is not there")
        return self.files[name]

    def _in_repository(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name

    def _whole(self, name: str) -> Path:
        """Where the file lies on this machine."""
        from huggingface_hub import constants, hf_hub_download

        self._file(name)

        def fetch() -> str:
            where = self._in_repository(name)
            return hf_hub_download(
                self.repository, where, repo_type="dataset", revision=self.commit, endpoint=constants.ENDPOINT
            )

        return Path(reach(fetch, self.uri))

    def _range(self, name: str, begin: int, end: int) -> bytes:
        """Bytes of a file, from this machine where it has them."""
        from huggingface_hub import cached_assets_path, constants, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

        where, content = self._in_repository(name), self._file(name).content
        whole = try_to_load_from_cache(self.repository, where, revision=self.commit, repo_type="dataset")
        folder = cached_assets_path("discreteness", "ranges", content, assets_dir=constants.HF_ASSETS_CACHE)
        kept = folder / f"{begin}-{end}"
        if isinstance(whole, str) and Path(whole).exists():
            with pa.OSFile(whole) as file:
                return file.read_at(end - begin, begin)
        if kept.exists():
            return kept.read_bytes()
        url = hf_hub_url(self.repository, where, repo_type="dataset", revision=self.commit, endpoint=constants.ENDPOINT)

        def fetch() -> bytes:
            response = http_backoff(
                "GET",
                url,
                headers={**build_hf_headers(), "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"},
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            )
            hf_raise_for_status(response)
            return response.content if response.status_code == 206 else response.content[begin:end]

        found = reach(fetch, self.uri)
        if len(found) != end - begin:
            raise OSError(f"{url} gave {len(found)} bytes where {end - begin} were asked for; try again")
        staged = folder / f".{uuid.uuid4().hex}"
        staged.write_bytes(found)
        staged.replace(kept)
        return found


def _api() -> Any:
    from huggingface_hub import HfApi, constants

    return HfApi(endpoint=constants.ENDPOINT)


def reach(call: Callable[[], Any], uri: str) -> Any:
    """What `call`, which asks the hub, returns. Its errors are those of a disk, with what to do: FileNotFoundError for
    a repository that is not there or not for this user, PermissionError, OSError."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return _without_wrapping(call)
    except RevisionNotFoundError:
        raise FileNotFoundError(f"{uri}: the hub has no such revision; give the name of a branch or a commit") from None
    except RepositoryNotFoundError:
        raise FileNotFoundError(f"{uri}: the hub has no such repository for you; {LOG_IN}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(f"{uri}: the hub refuses ({status}); {LOG_IN}") from None
        raise OSError(f"{uri}: the hub answers {status}; try again later, the same call goes on") from error
    except (HTTPError, LocalEntryNotFoundError) as error:
        reason = error.__cause__ or error
        raise OSError(
            f"the hub cannot be reached ({reason or type(reason).__name__}): this machine needs the network, or "
            "HF_ENDPOINT the address of a mirror; a folder of this machine needs neither"
        ) from error


def _without_wrapping(call: Callable[[], Any]) -> Any:
    """The client's uploads say which file failed and hide why in the cause."""
    from huggingface_hub.errors import HTTPError

    try:
        return call()
    except RuntimeError as error:
        if isinstance(error.__cause__, HTTPError):
            raise error.__cause__ from error
        raise
