"""What a manifest must say, so that whatever reads one further can rely on it; more may stand in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from leptonsdk.artifact import MANIFEST
from leptonsdk.errors import CheckpointError

_MOST = 5  # problems that are told


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Artifact(_Part):
    backend: str
    precision: str
    task: str
    entry: str
    files: list[str]


class _OfAnArtifact(_Part):
    """The manifest that an export writes."""

    artifact: _Artifact | None


class _Named(_Part):
    name: str


class _Export(_Artifact):
    name: str
    bytes: int


class _Data(_Part):
    label: str
    examples: int
    fingerprint: str


class _Source(_Part):
    id: str
    kind: Literal["hub", "folder", "package"]
    files: dict[str, str]
    base_model: str | None = None
    revision: str | None = None


class _Row(_Part):
    name: str
    kind: str
    values: dict[str, float]


class _Condition(_Part):
    subject: str
    metric: str
    kind: str
    drop: float
    interval: list[float]
    limit: float
    verdict: Literal["pass", "fail", "inconclusive"]


class _OfARepository(_OfAnArtifact):
    """The manifest that a push writes."""

    root: Literal["checkpoint", "source", "none"]
    task: str
    recipe: dict[str, Any]
    data: _Data
    versions: dict[str, str]
    hardware: dict[str, Any]
    source: _Source
    steps: list[_Named]
    artifacts: list[_Export]
    ledger: list[_Row]
    conditions: list[_Condition]
    verdict: Literal["pass", "fail", "inconclusive"] | None


def check_manifest(manifest: Mapping[str, Any], name: str) -> None:
    """Whether it has what a manifest of its kind says, each of its type.

    Raises:
        CheckpointError: It has not, with the places.
    """
    try:
        (_OfARepository if "root" in manifest else _OfAnArtifact).model_validate(manifest)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:_MOST]]
        raise CheckpointError(f"its manifest is none: {'; '.join(found)}", where=f"{name}/{MANIFEST}") from error
