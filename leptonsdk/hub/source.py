"""The model that a run started from: where its files are, and what its own card says that its children inherit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leptonsdk.errors import UsageError
from leptonsdk.hub.layout import CARD
from leptonsdk.references import package_folder

# What a compressed model has from its source, by the card's keys.
INHERITED = ("license", "license_name", "license_link", "language")


@dataclass(frozen=True)
class SourceModel:
    """Attributes:
    folder: Its files, where they are at hand.
    weights: Whether its weights may go to the root: they were given, or can be had from nowhere on the Hub.
    base_model: Its Hub id, or None where it has none.
    metadata: `INHERITED` keys of its card.
    """

    folder: Path | None
    weights: bool
    base_model: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def find_source(
    model: Mapping[str, Any], revision: str | None, given: str | Path | None, base_model: str | None, api: Any
) -> SourceModel:
    """The source of a run.

    Args:
        model: ``run.json``'s ``model``: kind and id.
        revision: Of a Hub model.
        given: The folder of its files, as a user names it.
        base_model: Its Hub id, as a user names it.
        api: A `huggingface_hub.HfApi`, asked for a Hub model's card.
    """
    kind, name = model["kind"], str(model["id"])
    folder = _given(given)
    if kind == "hub":
        return SourceModel(folder, folder is not None, base_model or name, _hub_metadata(name, revision, api))
    if folder is None and kind == "package":
        folder = package_folder(name)
    metadata = {} if folder is None else _metadata(folder / CARD)
    return SourceModel(folder, folder is not None, base_model, metadata)


def _given(given: str | Path | None) -> Path | None:
    if given is None:
        return None
    if not Path(given).is_dir():
        raise UsageError("there is no such folder", where=f"--source {given}")
    return Path(given)


def _hub_metadata(name: str, revision: str | None, api: Any) -> dict[str, Any]:
    """A Hub model's; empty where the Hub cannot tell. A push goes on without, and its card says that it does not know."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled

    try:
        return _metadata(Path(api.hf_hub_download(name, CARD, revision=revision)))
    except (EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return {}


def _metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    import yaml
    from huggingface_hub import ModelCard

    try:
        data = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except (ValueError, yaml.YAMLError):
        return {}
    return {key: value for key in INHERITED if (value := data.get(key)) is not None}
