"""What a recipe says of a dataset, as data."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

# Ending -> the builder of `datasets` that reads it.
FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".tokens": "text",
}
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
AUDIO = frozenset({".wav", ".flac", ".mp3", ".ogg", ".m4a", ".opus"})


class DataSpec(BaseModel):
    """A dataset: where it is, which rows of it, and which column plays which role."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="Hub id, local file or folder, or a name that a plugin provides.")
    name: str | None = Field(None, description="Configuration of a Hub dataset (`sst2` of `glue`).")
    split: str | None = Field(None, description="Split; the only one when left out.")
    revision: str | None = Field(None, description="Revision of a Hub dataset.")
    columns: dict[str, str] = Field(default_factory=dict, description="Role to column, such as {text: sentence}.")
    limit: int | None = Field(None, gt=0, description="Use this many rows at most, drawn with the seed.")
    first: int | None = Field(None, gt=0, description="Use only the first rows, before `limit` draws.")


def file_format(path: Path) -> str | None:
    """The `datasets` builder for a local file or folder, or None when its kind is not known."""
    if path.is_file():
        return FORMATS.get(path.suffix.lower())
    for inner in sorted(path.rglob("*")):
        suffix = inner.suffix.lower()
        if suffix in IMAGES:
            return "imagefolder"
        if suffix in AUDIO:
            return "audiofolder"
        if suffix in FORMATS and inner.name not in {"metadata.csv", "metadata.jsonl"}:
            return FORMATS[suffix]
    return None
