"""A Hub on loopback for the tests: as much of its HTTP API as huggingface_hub uses to push and to read a model.

Faults are injected by rules: the first one that fits a request is carried out instead of the answer, and used up.
"""

from __future__ import annotations

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

from pages import ROUTES, Pages
from storage import Repository, Storage


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


class _Handler(Pages, BaseHTTPRequestHandler):
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
        for method, pattern, action in ROUTES:
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
