"""A run to the Hub: one atomic commit on top of a commit that was looked at, or nothing.

Large files go up first, by content, so that a push that was cut goes on where it stopped; the repository changes only with the
commit, which the Hub takes only if nobody else committed meanwhile. What was written is read back and compared.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonsdk.artifact import MANIFEST, Artifact
from leptonsdk.errors import HubError, LeptonError, UsageError
from leptonsdk.gating.verdict import EXIT_CODES
from leptonsdk.hooks import Plugins
from leptonsdk.hub.card import write_card
from leptonsdk.hub.errors import LOGIN, hub_errors
from leptonsdk.hub.layout import CARD, SIGNATURE, RepoFile, plan_files, source_files
from leptonsdk.hub.manifest import choose_artifacts, describe_run, judged, manifest_file, verdict_of
from leptonsdk.hub.source import find_source

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.hf_api import RepoFile as HubFile

    from leptonsdk.hub.signing import Signer


class GateRefusedError(LeptonError):
    """A run that is not pushed because its gate did not pass."""

    def __init__(self, verdict: str) -> None:
        said = "failed" if verdict == "fail" else "is inconclusive"
        super().__init__(
            f"the run's gate {said}, so it is not pushed",
            where="push",
            hint="--allow-failed-gate pushes it nevertheless, and the card says so in its first line",
        )
        self.exit_code = EXIT_CODES[verdict]  # type: ignore[index]


@dataclass(frozen=True)
class Prepared:
    """What a push would send.

    Attributes:
        repo_id: ``owner/name``.
        files: Every file of the commit, manifest and card among them.
        deleted: Files of an earlier push that this one no longer has.
        parent: The commit that it goes on; None for a repository that is not there yet.
        manifest: What ``leptonsdk.json`` says.
    """

    repo_id: str
    files: tuple[RepoFile, ...]
    deleted: tuple[str, ...]
    parent: str | None
    manifest: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Pushed:
    """A push: the commit, its page, and the pull request's page where one was made; all None of one that only was prepared.

    ``unchanged`` says that everything stood there already.
    """

    prepared: Prepared
    commit: str | None = None
    url: str | None = None
    pull_request: str | None = None
    unchanged: bool = False


def prepare(
    folder: Path,
    state: Mapping[str, Any],
    repo_id: str,
    plugins: Plugins,
    api: HfApi,
    *,
    artifacts: Sequence[str] = (),
    allow_failed_gate: bool = False,
    source: str | Path | None = None,
    base_model: str | None = None,
    license: str | None = None,
    signer: Signer | None = None,
) -> Prepared:
    """Everything that a push would send; the Hub is only read. See `leptonsdk.api.push_to_hub` for the arguments.

    Raises:
        GateRefusedError: The gate did not pass.
        UsageError: Artifacts that cannot stand together, or a source that is not the run's.
        HubError: The repository cannot be read.
    """
    if "verdict" not in state:
        raise UsageError("the run is not finished", where=str(folder), hint="`lepton run` with the same --out goes on")
    chosen = {name: Artifact.open(folder / "artifacts" / name) for name in choose_artifacts(state, artifacts)}
    verdict = verdict_of(judged(state, chosen))
    if verdict not in (None, "pass") and not allow_failed_gate:
        raise GateRefusedError(verdict)
    with hub_errors(repo_id, "reading"):
        found = find_source(state["model"], state["recipe"]["model"].get("revision"), source, base_model, api)
        remote = _remote(api, repo_id)
    steps = [entry["name"] for entry in state["steps"]]
    weights = found.folder is not None and not steps
    given = {"base_model": found.base_model} if found.base_model else {}
    manifest = describe_run(state, chosen, "checkpoint" if steps else "source" if weights else "none", given)
    own = [] if found.folder is None else source_files(found.folder, state["model"]["files"], weights=weights)
    own += [] if found.told is None else source_files(found.told, {}, weights=False)
    files = plan_files(folder / "steps" / steps[-1] if steps else None, own, list(chosen.values()))
    if not files:
        raise UsageError(
            "it has neither a compressed checkpoint nor an export", where=str(folder), hint="nothing to push"
        )
    _check_judged(state, folder, files)
    files.append(
        write_card(manifest, files, repo_id, plugins, inherited=found.metadata, license=license, existing=remote.card)
    )
    files.append(manifest_file(manifest, files))
    if signer is not None:
        files.append(RepoFile(SIGNATURE, signer.signature(files)))
    with hub_errors(repo_id, "reading"):
        stale = _left_behind(api, repo_id, remote, files)
    return Prepared(repo_id, tuple(files), stale, remote.head, manifest)


def _check_judged(state: Mapping[str, Any], folder: Path, files: Sequence[RepoFile]) -> None:
    """The files are those that the run scored and judged.

    Raises:
        UsageError: One of them was changed since.
    """
    for file in files:
        if isinstance(file.content, bytes) or not file.content.is_relative_to(folder):
            continue
        kind, name, *_ = file.content.relative_to(folder).parts
        if state["work"][f"{kind}/{name}"]["files"].get(file.path) != file.sha256:
            raise UsageError(
                f"{file.path} is not the file that the run judged",
                where=f"{folder}/{kind}/{name}",
                hint="`lepton run` with the same --out makes it again",
            )


def send(prepared: Prepared, api: HfApi, *, public: bool = False, create_pr: bool = False) -> Pushed:
    """Create the repository if need be, and commit.

    Raises:
        HubError: In the Hub's words, with what to do. The repository is then as it was, or complete.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, get_token

    repo_id, parent = prepared.repo_id, prepared.parent
    if not (api.token or get_token()):
        raise HubError("there is no token", where=f"pushing to {repo_id}", hint=LOGIN)
    if parent is None:
        if create_pr:
            raise HubError("there is no such repository to open a pull request in", where=f"pushing to {repo_id}")
        with hub_errors(repo_id, "creating"):
            api.create_repo(repo_id, private=not public)
            parent = api.model_info(repo_id).sha
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(file.path, file.content if isinstance(file.content, bytes) else str(file.content.resolve()))
        for file in prepared.files
    ]
    operations += [CommitOperationDelete(path) for path in prepared.deleted]
    with hub_errors(repo_id, "pushing to"):
        try:
            info = _commit(api, prepared, operations, parent, create_pr)
        except Exception:
            if create_pr or (head := _arrived(api, prepared, parent)) is None:
                raise
            return Pushed(prepared, head, f"{api.endpoint}/{repo_id}/commit/{head}")
        if missing := _missing(api, prepared, info.pr_revision or info.oid):
            raise HubError(
                f"the commit went through, but {len(missing)} files are not in it: {', '.join(missing[:5])}",
                where=f"pushing to {repo_id}",
                hint="does the repository's .gitignore name them?",
            )
    return Pushed(prepared, info.oid, str(info.commit_url), info.pr_url, unchanged=info.oid == parent)


def _commit(
    api: HfApi, prepared: Prepared, operations: Sequence[Any], parent: str | None, create_pr: bool
) -> CommitInfo:
    name = prepared.manifest["source"].get("base_model") or prepared.manifest["source"]["id"]
    made = [entry["name"] for entry in (*prepared.manifest["steps"], *prepared.manifest["artifacts"])]
    return api.create_commit(
        prepared.repo_id,
        operations,
        commit_message=f"{name}: {', '.join(made)}"[:200],
        commit_description=f"Pushed by leptonsdk {prepared.manifest['versions'].get('leptonsdk', '')}; see {MANIFEST}.",
        parent_commit=parent,
        create_pr=create_pr,
    )


def _arrived(api: HfApi, prepared: Prepared, parent: str | None) -> str | None:
    """The commit that holds all of the push although its answer was lost on the way; None where there is none."""
    try:
        head = api.model_info(prepared.repo_id).sha
        return head if head is not None and head != parent and not _missing(api, prepared, head) else None
    except Exception:
        return None  # the first error is the one to tell


def _missing(api: HfApi, prepared: Prepared, revision: str) -> list[str]:
    """Files of a push that a revision does not hold as they were sent."""
    there = _tree(api, prepared.repo_id, revision)
    return [file.path for file in prepared.files if not _is(file, there.get(file.path))]


def _is(file: RepoFile, entry: HubFile | None) -> bool:
    if entry is None:
        return False
    return bool(entry.lfs.sha256 == file.sha256 if entry.lfs else entry.blob_id == file.git_id)


def _tree(api: HfApi, repo_id: str, revision: str | None) -> dict[str, HubFile]:
    from huggingface_hub.hf_api import RepoFile as HubFile

    entries = api.list_repo_tree(repo_id, recursive=True, revision=revision)
    return {entry.path: entry for entry in entries if isinstance(entry, HubFile)}


@dataclass(frozen=True)
class _Remote:
    """What stands in the repository: its head, its card, and the manifest of an earlier push."""

    head: str | None = None
    card: str | None = None
    manifest: bytes | None = None


def _remote(api: HfApi, repo_id: str) -> _Remote:
    from huggingface_hub import get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        head = api.model_info(repo_id).sha
    except RepositoryNotFoundError as error:
        # Who is not logged in is told 401 of what is not there.
        if error.response.status_code == 404 or not (api.token or get_token()):
            return _Remote()
        raise
    card = _fetch(api, repo_id, head, CARD)
    return _Remote(head, None if card is None else card.decode(), _fetch(api, repo_id, head, MANIFEST))


def _fetch(api: HfApi, repo_id: str, revision: str | None, name: str) -> bytes | None:
    """A file of the repository, past the cache, or None where there is none."""
    from huggingface_hub.errors import EntryNotFoundError

    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(api.hf_hub_download(repo_id, name, revision=revision, local_dir=folder)).read_bytes()
        except EntryNotFoundError:
            return None


def _left_behind(api: HfApi, repo_id: str, remote: _Remote, files: Sequence[RepoFile]) -> tuple[str, ...]:
    """Files of an earlier push that this one no longer has, as long as nobody has changed them since; a signature anyway."""
    if remote.head is None or remote.manifest is None:
        return ()
    try:
        hashes = dict(json.loads(remote.manifest)["sha256"])
    except (ValueError, TypeError, KeyError):
        return ()  # not one of ours
    there = _tree(api, repo_id, remote.head)

    def digest(name: str) -> str:
        large = there[name].lfs
        return large.sha256 if large else hashlib.sha256(_fetch(api, repo_id, remote.head, name) or b"").hexdigest()

    gone = there.keys() - {file.path for file in files}
    return tuple(
        sorted(name for name in gone if name == SIGNATURE or (name in hashes and hashes[name] == digest(name)))
    )
