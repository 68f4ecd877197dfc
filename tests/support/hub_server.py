"""A Hugging Face hub on loopback, in threads of this process: files whole, by ranges, cut short, slow; listings."""

import hashlib
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def commit_of(branch):
    return hashlib.sha1(branch.encode()).hexdigest()


def listed(path, content):
    """A file of a model in a listing: weights have a SHA-256, as the hub keeps them apart from git."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
    if path.endswith((".safetensors", ".bin")):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


@dataclass
class HubServer:
    """`files`: "owner/name/file" -> bytes. `requests`: (method, file, Range header) of each, in order.

    `send`: of each GET's body so many bytes are sent, then the connection is closed or, with `stall`, kept waiting, or,
    with `dribble`, a thousand more come one by one, each after a hundredth of a second, and then the rest.
    `etags`: file -> ETag, where it is not the SHA-256. `branches`: name -> the commit where it stands; every commit has
    the same files.
    """

    files: dict[str, bytes]
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    send: int | None = None
    stall: bool = False
    dribble: bool = False
    etags: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Repository of a model -> branch -> its files; the commit of a branch is `commit_of`."""
    refusals: list[int] = field(default_factory=list)
    """Statuses that the next requests of models are answered with, in order, before any is answered well."""
    cut: set[str] = field(default_factory=set)
    """Names of files of models of which the server has only the first half, whatever its listing says."""
    elsewhere: bool = False
    """Contents lie at another host name, to which requests are sent on, as the real hub does with large files."""

    def __post_init__(self):
        self.stalled, self.over = threading.Event(), threading.Event()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def fetched(self):
        """Files whose content was asked for, in order. (The client also asks what else a hub has.)"""
        return [name for method, name, _ in self.requests if method == "GET" and (name in self.files or "@" in name)]

    def model_listing(self, repository, what, commit):
        """The branches of a model, or the files of one, as the real hub lists them: small ones by git's blob id."""
        branches = self.models[repository]
        if what == "refs":
            refs = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit_of(name)} for name in branches]
            return {"branches": refs, "converts": [], "tags": []}
        files = next(files for name, files in branches.items() if commit_of(name) == commit)
        return [listed(path, content) for path, content in files.items()]

    def model_file(self, path):
        """(name, content) of "/owner/name/resolve/COMMIT/file", None where there is no such model."""
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found or found[1] not in self.models:
            return None
        for branch, files in self.models[found[1]].items():
            if commit_of(branch) == found[2]:
                content = files.get(found[3])
                whole = content is None or found[3] not in self.cut
                return f"{found[1]}@{branch}/{found[3]}", content if whole else content[: len(content) // 2]
        return None

    def listing(self, repository, what, revision, folder):
        """The commit of a revision, or the files of a repository; of a folder in it, the folders there."""
        if what == "revision":
            return {"id": repository, "sha": self.branches.get(revision, revision)}
        paths = [name.removeprefix(f"{repository}/") for name in self.files if name.startswith(f"{repository}/")]
        if folder:
            inside = {path.removeprefix(f"{folder}/").partition("/")[0] for path in paths if path.startswith(folder)}
            return [{"type": "directory", "path": f"{folder}/{name}", "oid": "0" * 40} for name in sorted(inside)]
        sizes = {path: len(self.files[f"{repository}/{path}"]) for path in paths}
        return [{"type": "file", "path": path, "size": size, "oid": "0" * 40} for path, size in sizes.items()]

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_HEAD(self):
                self.answer(with_body=False)

            def do_GET(self):
                self.answer(with_body=True)

            def answer(self, with_body):
                if listing := re.match(r"/api/kernels/([^/]+/[^/]+)/(tree|revision)/([^/?]+)(?:/([^?]+))?", self.path):
                    self.answer_json(hub.listing(*listing.groups()))
                    return
                asked = re.match(r"/api/models/([^/]+/[^/]+)/(refs|tree)(?:/([^/?]+))?", self.path)
                of_model = hub.model_file(self.path)
                if (asked or of_model) and hub.refusals:
                    self.refuse(hub.refusals.pop(0))
                    return
                if asked and asked[1] not in hub.models:
                    self.refuse(404, "RepoNotFound")
                    return
                if asked:
                    self.answer_json(hub.model_listing(*asked.groups()))
                    return
                path = re.sub(r"^/(datasets|kernels|cdn)/", "", self.path)
                revision = found[1] if (found := re.search(r"/resolve/([^/]+)/", path)) else "main"
                name = path.replace(f"/resolve/{revision}/", "/")
                name, content = of_model or (name, hub.files.get(name))
                hub.requests.append((self.command, name, self.headers.get("Range")))
                if content is None:
                    self.refuse(404, "EntryNotFound")
                    return
                etag = '"' + hub.etags.get(name, hashlib.sha256(content).hexdigest()) + '"'
                if hub.elsewhere and not self.path.startswith("/cdn/"):
                    self.send_response(302)
                    self.send_header("Location", f"{hub.endpoint.replace('127.0.0.1', 'localhost')}/cdn/{name}")
                    self.send_header("X-Linked-ETag", etag)
                    self.send_header("X-Linked-Size", str(len(content)))
                    self.send_header("X-Repo-Commit", hub.branches.get(revision, revision))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
                body = content[start:]
                self.send_response(206 if start else 200)
                self.send_header("ETag", etag)
                self.send_header("X-Repo-Commit", hub.branches.get(revision, revision))
                self.send_header("Content-Length", str(len(body)))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                if not with_body:
                    return
                self.wfile.write(body[: hub.send])
                if hub.send is not None and hub.send < len(body):
                    self.wfile.flush()
                    hub.stalled.set()
                    if hub.stall:
                        hub.over.wait(60)
                    if hub.dribble:
                        self.send_one_by_one(body[hub.send :])
                    self.close_connection = True

            def refuse(self, status, code=None):
                self.send_response(status)
                if code:
                    self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def send_one_by_one(self, rest):
                with suppress(ConnectionError):  # the client has had enough
                    for at in range(min(len(rest), 1000)):
                        if hub.over.wait(0.01):
                            return
                        self.wfile.write(rest[at : at + 1])
                        self.wfile.flush()
                    self.wfile.write(rest[1000:])

            def answer_json(self, value):
                body = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
