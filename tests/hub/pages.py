"""The pages of the tests' Hub: what each address of its HTTP API answers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from typing import TYPE_CHECKING, Any

import yaml
from storage import Blob, Commit, Repository, is_large
from xet import shard_files, xorb_chunks

if TYPE_CHECKING:
    from collections.abc import Callable

    from server import Hub

MULTIPART = 20_000  # bytes of a part; files that are larger come in several
_NAME = r"(?P<repo>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"


class Pages:
    """The handler's part that knows the API."""

    server: Hub
    body: bytes
    query: dict[str, str]
    headers: Any
    answer: Callable[..., None]
    refuse: Callable[..., None]
    user: Callable[[], str | None]

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

    def xet_token(self, repository: Repository, revision: str = "main") -> None:
        self.answer(200, {"casUrl": f"{self.server.url}/cas", "accessToken": "xet", "exp": int(time.time()) + 3600})

    def xorb(self, name: str) -> None:
        self.server.storage.xorbs[name] = xorb_chunks(self.body)
        self.answer(200, {"was_inserted": True})

    def shard(self) -> None:
        for segments in shard_files(self.body):
            chunks = [self.server.storage.xorbs[name][first:end] for name, first, end in segments]
            content = b"".join(chunk for piece in chunks for chunk in piece)
            self.server.storage.receive(hashlib.sha256(content).hexdigest(), content)
        self.answer(200, {"result": 1})

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


ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
    (("POST",), "/api/repos/create", Pages.create),
    (("POST",), "/api/validate-yaml", Pages.validate),
    (("GET",), f"/api/models/{_NAME}", Pages.info),
    (("GET",), f"/api/models/{_NAME}/revision/{_REVISION}", Pages.info),
    (("GET",), f"/api/models/{_NAME}/tree/{_REVISION}", Pages.tree),
    (("POST",), f"/api/models/{_NAME}/preupload/{_REVISION}", Pages.preupload),
    (("POST",), f"/api/models/{_NAME}/commit/{_REVISION}", Pages.commit),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", Pages.batch),
    (("GET", "HEAD"), f"/{_NAME}/resolve/{_REVISION}/(?P<file>.+)", Pages.resolve),
    (("PUT",), r"/large/(?P<oid>\w+)", Pages.upload),
    (("PUT",), r"/large/(?P<oid>\w+)/(?P<number>\d+)", Pages.upload_part),
    (("POST",), r"/large/(?P<oid>\w+)/complete", Pages.complete),
    (("GET",), f"/api/models/{_NAME}/xet-write-token(/{_REVISION})?", Pages.xet_token),
    (("POST",), r"/cas/v1/xorbs/default/(?P<name>\w+)", Pages.xorb),
    (("POST",), r"/cas(/v1)?/shards", Pages.shard),
]
