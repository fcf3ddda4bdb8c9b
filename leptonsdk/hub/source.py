"""The model that a run started from: where its files are, and what its own card says that its children inherit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leptonsdk.errors import UsageError
from leptonsdk.hub.layout import CARD, LICENSES
from leptonsdk.references import package_folder

# What a compressed model has from its source, by the card's keys.
INHERITED = ("license", "license_name", "license_link", "language")


@dataclass(frozen=True)
class SourceModel:
    """Attributes:
    folder: Its files, where they are at hand. Its weights may then go to the root: they were given, or can be had from
        nowhere on the Hub.
    told: Of a Hub model, a folder with the card and licence that stand there now.
    base_model: Its Hub id, or None where it has none.
    metadata: `INHERITED` keys of its card.
    """

    folder: Path | None
    told: Path | None
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
    folder, told = _given(given), None
    if folder is None and kind == "package":
        folder = package_folder(name)
    if kind == "hub":
        base_model = base_model or name
        if folder is None or not (folder / CARD).is_file():
            told = _told_by_hub(name, revision, api)
    card = told or folder
    return SourceModel(folder, told, base_model, {} if card is None else _metadata(card / CARD))


def _given(given: str | Path | None) -> Path | None:
    if given is None:
        return None
    if not Path(given).is_dir():
        raise UsageError("there is no such folder", where=f"--source {given}")
    return Path(given)


def _told_by_hub(name: str, revision: str | None, api: Any) -> Path | None:
    """A Hub model's card and licence in the cache, or None: a push goes on without, and its card says that it does not know."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return Path(api.snapshot_download(name, revision=revision, allow_patterns=[CARD, *LICENSES]))
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return None


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
