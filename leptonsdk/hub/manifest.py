"""The repository's ``leptonsdk.json``: what a run found out about the artifacts that are pushed, and the hash of every file.

It is an artifact's manifest (`leptonsdk.artifact`) with more in it: ``artifact`` is the first export (null where there is none),
and beside the run's recipe, data, versions, ledger and verdict stand its models as ``run.json`` has them, so that the card, a
verification and a reproduction need nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leptonsdk.artifact import MANIFEST, MANIFEST_SCHEMA, Artifact, manifest_bytes
from leptonsdk.errors import UsageError, did_you_mean
from leptonsdk.gating.verdict import overall
from leptonsdk.hub.layout import RepoFile
from leptonsdk.report.models import public

# Of ``run.json``: the rest is the run folder's own business (its work, keys, local files).
_KEPT = ("task", "metrics", "data", "recipe", "seed", "threads", "versions", "hardware", "baseline", "steps")
_LOCAL = ("folder", "scores", "key", "state")


def choose_artifacts(state: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The artifacts to push, by name: those that were asked for, or all."""
    known = [str(entry["name"]) for entry in state["artifacts"]]
    for name in names:
        if name not in known:
            raise UsageError(f"the run has no artifact '{name}'", where="--artifact", hint=did_you_mean(name, known))
    return [name for name in known if not names or name in names]


def judged(state: Mapping[str, Any], artifacts: Iterable[str]) -> list[dict[str, Any]]:
    """The gate's conditions on some artifacts (on the last step, where there are none)."""
    subjects = [*artifacts] or [entry["name"] for entry in state["steps"]][-1:]
    return [condition for condition in state["conditions"] if condition["subject"] in subjects]


def verdict_of(conditions: Sequence[Mapping[str, Any]]) -> str | None:
    """Their verdict; None where there are none."""
    return overall(condition["verdict"] for condition in conditions) if conditions else None


def describe_run(
    state: Mapping[str, Any], artifacts: Mapping[str, Artifact], root: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest without its hashes.

    Args:
        state: ``run.json`` as data.
        artifacts: Those that are pushed, by their name in the run.
        root: What stands at the root: ``checkpoint`` (the last step's), ``source`` (the source's own weights) or ``none``.
        given: What was given for the push, such as ``base_model``.
    """
    conditions = judged(state, artifacts)
    entries = [_entry(entry) for entry in state["artifacts"] if entry["name"] in artifacts]
    for entry in entries:
        artifact = artifacts[entry["name"]]
        entry |= {"task": artifact.task, "entry": artifact.entry, "files": list(artifact.files)}
    left_out = {entry["name"] for entry in state["artifacts"]} - artifacts.keys()
    first = next(iter(artifacts.values()), None)
    described = {
        "schema": MANIFEST_SCHEMA,
        "artifact": None if first is None else first.describe(),
        "root": root,
        **{key: state.get(key) for key in _KEPT},
        "baseline": _entry(state["baseline"]),
        "steps": [_entry(entry) for entry in state["steps"]],
        "artifacts": entries,
        "source": {**state["model"], **given},
        "ledger": [row for row in state["ledger"] if row["name"] not in left_out],
        "conditions": conditions,
        "verdict": verdict_of(conditions),
    }
    answer: dict[str, Any] = public(described)
    return answer


def manifest_file(described: Mapping[str, Any], files: Sequence[RepoFile]) -> RepoFile:
    """The manifest as a file, with the hash of every other one."""
    hashes = {file.path: file.sha256 for file in files}
    return RepoFile(MANIFEST, manifest_bytes({**described, "sha256": hashes}))


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in _LOCAL}
