"""A Hub on loopback for the tests: as much of its HTTP API as huggingface_hub uses to push and to read a model.

Faults are injected by rules: the first one that fits a request is carried out instead of the answer, and used up.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from storage import Blob, Commit, Repository, Storage, is_large

MULTIPART = 20_000  # bytes of a part; files that are larger come in several
_NAME = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Fault:
    """What goes wrong, when a request comes that fits.

    Attributes:
        method: Of the request.
        path: A regular expression, searched in the path.
        status: The answer's status; 0: the connection is cut instead, when ``after`` bytes of the body are read; -1: it is cut
            when everything was done, so that only the answer is lost; -2: nothing but ``then``.
        headers: Of the answer.
        message: Its words.
        times: How often; -1: always.
        then: Called when it happens.
    """

    method: str
    path: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "fault"
    times: int = 1
    after: int = 0
    then: Callable[[], None] | None = None


class Hub(ThreadingHTTPServer):
    """The server. Use it as a context manager; ``url`` is what HF_ENDPOINT names."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.storage = Storage()
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)

    def __enter__(self) -> Hub:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was cut off is no news."""

    def repository(self, name: str) -> Repository:
        return self.storage.repositories[name]

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and re.search(fault.path, path) and fault.times != 0:
                fault.times -= 1
                return fault
        return None


class _CutError(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        path = unquote(parts.path)
        self.server.seen.append(f"{self.command} {path}")
        self.lost = False
        try:
            with self.server.storage.lock:
                fault = self.server.fault(self.command, path)
            if fault is not None:
                if fault.status == 0:
                    self.rfile.read(fault.after)
                    raise _CutError
                if fault.then is not None:
                    fault.then()
                if fault.status > 0:
                    self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    self.answer(fault.status, {"error": fault.message}, fault.headers)
                    return
                self.lost = fault.status == -1
            self.body = self._read()
            with self.server.storage.lock:
                self._route(path)
        except _CutError:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _route(self, path: str) -> None:
        for method, pattern, action in _ROUTES:
            if (found := re.fullmatch(pattern, path)) and self.command in method:
                named = found.groupdict()
                if (name := named.pop("repo", None)) is None:
                    action(self, **named)
                elif (repository := self._allowed(name)) is not None:
                    action(self, repository, **named)
                return
        self.refuse(404, "no such page")

    # ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def answer(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        if self.lost:
            raise _CutError
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str | None = None) -> None:
        self.answer(
            status, {"error": message}, {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        )

    # ── who asks ────────────────────────────────────────────────────────────────────────────────────────────────────

    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return self.server.storage.tokens.get(token)

    def _allowed(self, name: str) -> Repository | None:
        """The repository, if it is there and the user may do this with it; else it is refused."""
        user, given = self.user(), self.headers.get("Authorization")
        repository = self.server.storage.repositories.get(name)
        if given and user is None:
            self.refuse(401, "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and user != name.split("/")[0]):
            self.refuse(404 if user else 401, "Repository not found", "RepoNotFound")
        elif repository.gated and user != name.split("/")[0]:
            self.refuse(403, "Access to this model is restricted", "GatedRepo")
        elif self.command == "POST" and user != name.split("/")[0] and not self._proposes():
            self.refuse(403, "You don't have the rights to write to this repository")
        else:
            return repository
        return None

    def _proposes(self) -> bool:
        """Whether a request is part of a pull request, which anybody may open; a batch of files for one names no branch."""
        return bool(self.query.get("create_pr")) or (
            self.path.endswith("/batch") and "ref" not in json.loads(self.body)
        )

    # ── the pages ───────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self) -> None:
        asked, user = json.loads(self.body), self.user()
        owner = asked.get("organization") or user
        if user is None:
            self.refuse(401, "Invalid credentials in Authorization header")
        elif owner != user:
            self.refuse(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        elif (name := f"{owner}/{asked['name']}") in self.server.storage.repositories:
            self.refuse(409, "You already created this model repo")
        else:
            self.server.storage.create(name, private=asked.get("visibility") == "private")
            self.answer(200, {"url": f"{self.server.url}/{name}", "name": name})

    def validate(self) -> None:
        errors = card_errors(json.loads(self.body)["content"])
        self.answer(400 if errors else 200, {"errors": [{"message": e} for e in errors], "warnings": []})

    def info(self, repository: Repository, revision: str = "main") -> None:
        if (commit := self._commit(repository, revision)) is not None:
            siblings = [{"rfilename": path} for path in commit.files]
            about = {"id": repository.name, "sha": commit.sha, "private": repository.private, "siblings": siblings}
            self.answer(200, {**about, "modelId": repository.name, "tags": [], "downloads": 0})

    def _commit(self, repository: Repository, revision: str) -> Commit | None:
        if (commit := repository.at(revision)) is None:
            self.refuse(404, "Invalid rev id", "RevisionNotFound")
        return commit

    def tree(self, repository: Repository, revision: str) -> None:
        if (commit := self._commit(repository, revision)) is None:
            return
        entries = []
        for path, blob in sorted(commit.files.items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.git_id}
            if blob.large:
                entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
            entries.append(entry)
        self.answer(200, entries)

    def resolve(self, repository: Repository, revision: str, file: str) -> None:
        if (commit := self._commit(repository, revision)) is None:
            return
        if (blob := commit.files.get(file)) is None:
            self.refuse(404, "Entry not found", "EntryNotFound")
            return
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if blob.large:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(asked[1]), int(asked[2] or len(blob.content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(blob.content)}"
            self.answer(206, blob.content[start : end + 1], headers)
        else:
            self.answer(200, blob.content, headers)

    def preupload(self, repository: Repository, revision: str) -> None:
        if (commit := self._commit(repository, revision)) is None:
            return
        files = []
        for asked in json.loads(self.body)["files"]:
            mode = "lfs" if is_large(asked["path"], asked["size"]) else "regular"
            known = commit.files.get(asked["path"])
            oid = None if known is None else known.etag
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": files})

    def batch(self, repository: Repository) -> None:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            oid, size = asked["oid"], asked["size"]
            described: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.server.storage.large:
                place = f"{self.server.url}/large/{oid}"
                header = {}
                if size > MULTIPART:
                    count = -(-size // MULTIPART)
                    header = {"chunk_size": str(MULTIPART), **{str(n): f"{place}/{n}" for n in range(1, count + 1)}}
                upload = {"href": f"{place}/complete" if header else place, "header": header}
                described["actions"] = {"upload": upload}
            objects.append(described)
        self.answer(200, {"transfer": "multipart", "objects": objects})

    def upload(self, oid: str) -> None:
        good = self.server.storage.receive(oid, self.body)
        self.answer(200 if good else 400, {})

    def upload_part(self, oid: str, number: str) -> None:
        self.server.storage.parts[oid, int(number)] = self.body
        self.answer(200, b"", {"ETag": f'"{number}"'})

    def complete(self, oid: str) -> None:
        numbers = [part["partNumber"] for part in json.loads(self.body)["parts"]]
        content = b"".join(self.server.storage.parts[oid, number] for number in numbers)
        self.answer(200 if self.server.storage.receive(oid, content) else 400, {})

    def commit(self, repository: Repository, revision: str) -> None:
        if (head := self._commit(repository, revision)) is None:
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        parent = header.get("parentCommit")
        create_pr = bool(self.query.get("create_pr"))
        if parent is not None and not create_pr and parent != head.sha:
            self.refuse(412, "A commit has happened since. Please refresh and try again.")
            return
        files = dict((repository.at(parent) or head).files if parent else head.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = Blob(self.server.storage.large[value["oid"]], True)
            else:
                files.pop(value["path"], None)
        number = sum(ref.startswith("refs/pr/") for ref in repository.refs) + 1
        made = repository.commit(header["summary"], files, head.sha, f"refs/pr/{number}" if create_pr else "main")
        page = f"{self.server.url}/{repository.name}"
        answer = {"commitUrl": f"{page}/commit/{made.sha}", "commitOid": made.sha, "success": True}
        self.answer(200, answer | ({"pullRequestUrl": f"{page}/discussions/{number}"} if create_pr else {}))


def card_errors(content: str) -> list[str]:
    """What the Hub's validation of a card's metadata would say, of the keys that are written here."""
    found = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
    data = yaml.safe_load(found[1]) if found else {}
    if not isinstance(data, dict):
        return ['"metadata" must be of type object']
    errors = [
        f'"{key}" must be a string'
        for key in ("license", "pipeline_tag", "library_name")
        if not isinstance(data.get(key, ""), str)
    ]
    if data.get("base_model_relation", "quantized") not in ("finetune", "adapter", "merge", "quantized"):
        errors.append('"base_model_relation" must be one of [finetune, adapter, merge, quantized]')
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        errors.append('"tags" must be an array of strings')
    for model in data.get("model-index", []):
        for result in model["results"]:
            if not {"task", "metrics"} <= result.keys() or not all(
                "type" in m and "value" in m for m in result["metrics"]
            ):
                errors.append('"model-index[0].results[0]" is incomplete')
            if "dataset" in result and not {"type", "name"} <= result["dataset"].keys():
                errors.append('"model-index[0].results[0].dataset.type" is required')
    return errors


_REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
_ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.validate),
    (("GET",), f"/api/models/{_NAME}", _Handler.info),
    (("GET",), f"/api/models/{_NAME}/revision/{_REVISION}", _Handler.info),
    (("GET",), f"/api/models/{_NAME}/tree/{_REVISION}", _Handler.tree),
    (("POST",), f"/api/models/{_NAME}/preupload/{_REVISION}", _Handler.preupload),
    (("POST",), f"/api/models/{_NAME}/commit/{_REVISION}", _Handler.commit),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (("GET", "HEAD"), f"/{_NAME}/resolve/{_REVISION}/(?P<file>.+)", _Handler.resolve),
    (("PUT",), r"/large/(?P<oid>\w+)", _Handler.upload),
    (("PUT",), r"/large/(?P<oid>\w+)/(?P<number>\d+)", _Handler.upload_part),
    (("POST",), r"/large/(?P<oid>\w+)/complete", _Handler.complete),
]
