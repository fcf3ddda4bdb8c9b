"""A folder of recordings, laid out as `datasets` has it for ``audiofolder``, whose own reader needs torchcodec and ffmpeg."""

from __future__ import annotations

from pathlib import Path

from datasets import ClassLabel, Dataset, load_dataset

from leptonsdk.data.spec import AUDIO
from leptonsdk.errors import DataError, did_you_mean

_SPLITS = frozenset({"train", "validation", "valid", "dev", "test"})
_TABLES = {"metadata.csv": "csv", "metadata.jsonl": "json"}


def open_audio_folder(folder: Path, split: str | None = None) -> Dataset:
    """The files' paths in a column ``audio``, in order of their names; of a split, those in the folder of its name.

    With a ``metadata.csv`` or ``.jsonl`` the rows are the table's, whose column ``file_name`` starts from the folder; without one a
    column ``label`` has the name of each file's own folder, where there are several.

    Raises:
        DataError: The table has no column ``file_name``; the split is not there, or it has several and none is named.
    """
    splits = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name in _SPLITS)
    if split is not None:
        if not (folder / split).is_dir():
            raise DataError(f"no split '{split}'", where=f"data '{folder.name}'", hint=did_you_mean(split, splits))
        folder = folder / split
    elif len(splits) > 1:
        raise DataError("it has several splits", where=f"data '{folder.name}'", hint=f"name one: {', '.join(splits)}")
    for name, builder in _TABLES.items():
        if (folder / name).is_file():
            rows = load_dataset(builder, data_files=str(folder / name), split="train")
            if "file_name" not in rows.column_names:
                raise DataError("it has no column 'file_name'", where=f"data '{folder.name}/{name}'")
            paths = [str(folder / path) for path in rows["file_name"]]
            return rows.remove_columns("file_name").add_column("audio", paths)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO)
    rows = Dataset.from_dict({"audio": [str(path) for path in files]})
    names = sorted({path.parent.name for path in files})
    if len(names) < 2:
        return rows
    labels = [names.index(path.parent.name) for path in files]
    return rows.add_column("label", labels).cast_column("label", ClassLabel(names=names))
