"""A Hugging Face hub on loopback that keeps datasets: uploads as LFS objects, commits, listings, ranges, tokens."""

import base64
import hashlib
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import huggingface_hub
from huggingface_hub import constants

TOKEN = "hf_of_a_test_and_of_no_account"
LARGE = (".parquet", ".png", ".svg", ".safetensors")


@dataclass
class DatasetHub:
    """`commits`: one tree per commit, path -> bytes; the last is main. `objects`: what was uploaded, by SHA-256.

    `disturb` says of a request ("PUT /lfs/...") what happens to it: "" nothing, "busy" 429, "cut" the connection ends
    before or within the answer. `private`: needs the token. `requests`: with the Range header, if there is one.
    """

    commits: list[dict[str, bytes]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    private: bool = False
    created: bool = False
    damage: bool = False
    """What is uploaded is kept with one byte changed."""

    def disturb(self, request):
        return ""

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def sha(self, number):
        return f"{number:040x}"

    def known(self, revision):
        """The commit of a revision."""
        return self.sha(len(self.commits) - 1) if revision == "main" else revision

    def tree(self, revision):
        return self.commits[-1 if revision == "main" else int(revision, 16)]

    def entries(self, revision, inside, recursive):
        """What a folder of the repository holds, folders too; with `recursive`, also what these hold."""
        inside, folders = f"{inside}/" if inside else "", set()
        for path, content in self.tree(revision).items():
            if not path.startswith(inside):
                continue
            first, deeper, _ = path.removeprefix(inside).partition("/")
            if deeper:
                parents = [str(parent) for parent in Path(path).parents]
                folders |= {parent for parent in parents if parent.startswith(inside + first)}
                if not recursive:
                    folders = {folder for folder in folders if "/" not in folder.removeprefix(inside)}
                    continue
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
            if path.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
            yield entry
        yield from ({"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders))

    def commit(self, lines):
        tree = dict(self.commits[-1])
        for line in map(json.loads, lines):
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                tree[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
        self.commits.append(tree)
        sha = self.sha(len(self.commits) - 1)
        return {"commitUrl": f"{self.endpoint}/datasets/me/name/commit/{sha}", "commitOid": sha}

    def batch(self, asked):
        def action(one):
            there = one["oid"] in self.objects
            upload = {"upload": {"href": f"{self.endpoint}/lfs/{one['oid']}"}}
            return {**one} if there else {**one, "actions": upload}

        return {"transfer": "basic", "objects": [action(one) for one in asked["objects"]]}

    def answer(self, path, recursive, body):
        """(status, JSON) of everything but files."""
        if path == "/api/repos/create":
            self.commits, existed, self.created = self.commits or [{".gitattributes": b""}], self.created, True
            return (409 if existed else 200), {"url": f"{self.endpoint}/datasets/me/name"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/lfs/"):
            content = bytes([body[0] ^ 1]) + body[1:] if self.damage else body
            self.objects[path.removeprefix("/lfs/")] = content
            return 200, {}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, self.batch(json.loads(body))
        if not (asked := re.fullmatch(r"/api/datasets/me/name/(revision|tree|preupload|commit)/(\w+)(?:/(.+))?", path)):
            return 404, {"error": "this hub does not have it"}
        kind, revision, inside = asked.groups()
        if kind == "revision":
            return 200, {
                "id": "me/name",
                "sha": self.known(revision),
                "private": self.private,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        if kind == "tree":
            return 200, list(self.entries(revision, inside, recursive))
        if kind == "preupload":
            modes = (
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular"}
                for one in json.loads(body)["files"]
            )
            return 200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]}
        return 200, self.commit(body.splitlines())

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def handle_one_request(self):
                with suppress(ConnectionError):
                    super().handle_one_request()

            def do_GET(self):
                path, query = unquote(urlparse(self.path).path), urlparse(self.path).query
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = self.headers.get("Range")
                request = f"{self.command} {path}" + (f" {asked}" if asked else "")
                hub.requests.append(request)
                how = hub.disturb(request)
                if how == "busy":
                    self.send(429, b"", {"Retry-After": "0"})
                elif how == "cut":
                    self.close_connection = True
                elif hub.private and f"Bearer {TOKEN}" != self.headers.get("Authorization") and "/lfs/" not in path:
                    self.send(401, b"", {"X-Error-Code": "RepoNotFound"})
                elif not hub.created and path != "/api/repos/create":
                    self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
                elif found := re.fullmatch(r"/datasets/me/name/resolve/(\w+)/(.+)", path):
                    self.send_file(hub.tree(found[1]).get(found[2]), found[1], asked, how == "half")
                else:
                    status, value = hub.answer(path, "recursive=true" in query.lower(), body)
                    self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

            do_HEAD = do_POST = do_PUT = do_GET

            def send_file(self, content, revision, asked, half):
                if content is None:
                    self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
                    return
                begin, end = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "bytes=0-").groups()
                part = content[int(begin) : int(end) + 1 if end else None]
                about = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": hub.known(revision)}
                if asked:
                    about["Content-Range"] = f"bytes {begin}-{int(begin) + len(part) - 1}/{len(content)}"
                self.send(206 if asked else 200, part, about, len(part) // 2 if half else None)

            def send(self, status, body, headers, most=None):
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body[:most])
                self.close_connection = most is not None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        huggingface_hub.close_session()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def use(self, monkeypatch, folder):
        """Makes it the hub of this process, with a cache of its own and no token."""
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")[2]
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{self.endpoint}/{{repo_id}}{template}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(folder / "assets"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
