"""Opening a dataset: its rows under the names of a task's roles, each with a fingerprint."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Audio, Dataset, DatasetDict, Image, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from leptonsdk.data.audio import open_audio_folder
from leptonsdk.data.spec import AUDIO, FORMATS, IMAGES, DataSpec, file_format
from leptonsdk.errors import DataError, did_you_mean, first_line
from leptonsdk.hooks import Evaluator, Plugins, errors_named
from leptonsdk.references import find_local


@dataclass(frozen=True)
class Data:
    """Rows ready for a task.

    Attributes:
        rows: The dataset, its columns named after the task's roles.
        ids: One fingerprint per row, made of everything in it.
        label: How people call it.
    """

    rows: Dataset
    ids: tuple[str, ...]
    label: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all rows in their order."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)


def load_data(
    spec: DataSpec,
    evaluator: type[Evaluator],
    plugins: Plugins,
    *,
    base: Path | None = None,
    seed: int = 0,
    scored: bool = True,
) -> Data:
    """Open a dataset for a task.

    Args:
        spec: Where it is, which rows, which columns.
        evaluator: The task; its roles name the columns of the result.
        plugins: For datasets that a plugin provides.
        base: The folder that relative paths start from.
        seed: Which rows ``spec.limit`` draws.
        scored: Off for data that only makes inputs (calibration): labels, and what else a score needs, may be missing.

    Raises:
        DataError: It cannot be found or read, or lacks a column that the task needs.
    """
    rows = open_dataset(spec, plugins, base)
    if spec.first is not None:
        rows = rows.select(range(min(spec.first, len(rows))))
    if spec.limit is not None and spec.limit < len(rows):
        drawn = np.random.default_rng(seed).permutation(len(rows))[: spec.limit]
        rows = rows.select(sorted(drawn.tolist()))
    label = "/".join(part for part in (_name(spec.path), spec.name, spec.split) if part)
    if len(rows) == 0:
        raise DataError("it has no rows", where=f"data '{label}'")
    rows = undecoded(map_columns(rows, spec, evaluator, scored), evaluator, _folder(spec, base), label)
    return Data(rows, fingerprint_rows(rows), label)


def to_data(
    value: Any,
    evaluator: type[Evaluator],
    plugins: Plugins,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    scored: bool = True,
) -> Data:
    """Data from whatever a caller has: `Data`, a `DataSpec` or its mapping, a name or path, a `datasets.Dataset`, a list
    of rows, or a list of texts. ``scored`` as of `load_data`."""
    if isinstance(value, Data):
        return value
    if isinstance(value, (str, Path)):
        value = DataSpec(path=str(value))
    elif isinstance(value, Mapping):
        value = DataSpec.model_validate(value)
    if isinstance(value, DataSpec):
        changes = {"columns": {**value.columns, **(columns or {})}, "limit": limit or value.limit}
        return load_data(value.model_copy(update=changes), evaluator, plugins, seed=seed, scored=scored)
    if not isinstance(value, Dataset):
        rows = list(value) if isinstance(value, Iterable) else [value]
        if not rows:
            raise DataError("it has no rows", where="data")
        if strange := [row for row in rows if not isinstance(row, (str, Mapping))]:
            raise DataError(f"a {type(strange[0]).__name__} is no row", where="data", hint="give mappings or texts")
        role = next(iter(evaluator.columns))
        value = Dataset.from_list([{role: row} if isinstance(row, str) else dict(row) for row in rows])
    if limit is not None and limit < len(value):
        value = value.select(sorted(np.random.default_rng(seed).permutation(len(value))[:limit].tolist()))
    rows = map_columns(value, DataSpec(path="data", columns=dict(columns or {})), evaluator, scored)
    rows = undecoded(rows, evaluator, Path.cwd(), "data")
    return Data(rows, fingerprint_rows(rows), "data")


def open_dataset(spec: DataSpec, plugins: Plugins, base: Path | None = None) -> Dataset:
    """The rows as they are, under their own column names."""
    if spec.path in plugins.names("dataset"):
        provider = plugins.get("dataset", spec.path)
        with errors_named(provider):
            rows: Dataset = provider().load(spec.split)
        return rows
    path = find_local(spec.path, base)
    if path is not None:
        return _open_local(path, spec)
    if spec.path.startswith((".", "/", "~")) or Path(spec.path).suffix.lower() in {*FORMATS, *IMAGES, *AUDIO}:
        raise DataError("there is no such file or folder", where=f"data '{spec.path}'")
    try:
        loaded = load_dataset(spec.path, spec.name, split=spec.split, revision=spec.revision)
    except Exception as error:
        known = did_you_mean(spec.path, plugins.names("dataset"))
        raise DataError(
            f"cannot be loaded from the Hub: {first_line(error)}",
            where=f"data '{spec.path}'",
            hint=f"names that need no network: {known}",
        ) from error
    return _one_split(loaded, spec)


def _open_local(path: Path, spec: DataSpec) -> Dataset:
    builder = file_format(path)
    where = f"data '{path.name}'"
    if builder is None:
        raise DataError(
            "its kind is not known", where=where, hint=f"known: {', '.join(sorted(FORMATS))}, image and audio folders"
        )
    if builder == "audiofolder":
        return open_audio_folder(path, spec.split)
    options: dict[str, Any] = {}
    if path.is_file():
        options["data_files"] = str(path)
    else:
        options["data_dir"] = str(path)
    if builder == "csv":
        # A cell that says "null" or "NA" is text, not a missing value; a tsv has no quoting.
        options["keep_default_na"] = False
        sample = path if path.is_file() else next(iter(sorted(path.rglob("*.[ct]sv"))))
        if sample.suffix.lower() == ".tsv":
            options |= {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    elif builder == "text":
        options["sample_by"] = "document"
    try:
        loaded = load_dataset(builder, **options)
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise DataError(f"cannot be read as {builder}: {error.__cause__ or error}", where=where) from error
    return _one_split(loaded, spec)


def _one_split(loaded: Dataset | DatasetDict, spec: DataSpec) -> Dataset:
    if not isinstance(loaded, DatasetDict):
        return loaded
    if spec.split is not None:
        if spec.split not in loaded:
            raise DataError(
                f"no split '{spec.split}'", where=f"data '{spec.path}'", hint=did_you_mean(spec.split, loaded)
            )
        return loaded[spec.split]
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    raise DataError("it has several splits", where=f"data '{spec.path}'", hint=f"name one: {', '.join(loaded)}")


def map_columns(rows: Dataset, spec: DataSpec, evaluator: type[Evaluator], scored: bool = True) -> Dataset:
    """Rename columns to the task's roles; columns of no role are dropped. ``scored`` as of `load_data`."""
    where = f"data '{_name(spec.path)}' for {evaluator.name}"
    chosen: dict[str, str] = {}
    for role, column in spec.columns.items():
        if role not in evaluator.columns:
            raise DataError(f"the task has no role '{role}'", where=where, hint=did_you_mean(role, evaluator.columns))
        if column not in rows.column_names:
            raise DataError(f"no column '{column}'", where=where, hint=did_you_mean(column, rows.column_names))
        chosen[role] = column
    for role, usual in evaluator.columns.items():
        free = [name for name in (role, *usual) if name in rows.column_names and name not in chosen.values()]
        if role not in chosen and free:
            chosen[role] = free[0]
    if not chosen or (scored and not any(needed <= chosen.keys() for needed in evaluator.required)):
        options = " or ".join("{" + ", ".join(sorted(needed)) + "}" for needed in evaluator.required)
        raise DataError(
            f"it needs the columns {options}; the data has {', '.join(rows.column_names)}",
            where=where,
            hint="map them: columns: {role: column}",
        )
    return rows.select_columns(list(chosen.values())).rename_columns(
        {column: role for role, column in chosen.items() if role != column}
    )


def undecoded(rows: Dataset, evaluator: type[Evaluator], folder: Path, label: str) -> Dataset:
    """The rows with their audio files as ``{"path", "bytes"}``: what `datasets` decodes itself takes torchcodec and ffmpeg.

    A path in a table starts from ``folder``, the table's own; a file that is not there is a `DataError`.
    """
    for role in sorted(evaluator.files & set(rows.column_names)):
        feature = rows.features[role]
        if isinstance(feature, Value) and feature.dtype in ("string", "large_string"):
            paths = [str(folder / Path(path).expanduser()) for path in rows[role]]
            if missing := [path for path in paths if not Path(path).is_file()]:
                message = f"{len(missing)} of {len(paths)} files are not there: {missing[0]}"
                raise DataError(message, where=f"data '{label}', {role}")
            rows = rows.remove_columns(role).add_column(role, paths)
            feature = Audio()
        if isinstance(feature, Audio):
            rows = rows.cast_column(role, Audio(decode=False))
    return rows


def _folder(spec: DataSpec, base: Path | None) -> Path:
    path = find_local(spec.path, base)
    if path is None:
        return base or Path.cwd()
    return path.parent if path.is_file() else path


def fingerprint_rows(rows: Dataset) -> tuple[str, ...]:
    """One hash per row, over its columns in sorted order: the same row gives the same hash on every machine."""
    names = sorted(rows.column_names)
    raw = rows
    for name, feature in rows.features.items():
        if isinstance(feature, (Image, Audio)):
            raw = raw.cast_column(name, type(feature)(decode=False))
    return tuple(hashlib.sha256(b"\x1f".join(_canonical(row[name]) for name in names)).hexdigest()[:32] for row in raw)


def _canonical(value: Any) -> bytes:
    if isinstance(value, Mapping):
        if "bytes" in value and "path" in value:  # an undecoded image or audio file: its content, not where it stands
            content: bytes = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
            return content
        return repr([(key, _canonical(value[key])) for key in sorted(value)]).encode()
    if isinstance(value, np.ndarray):
        return str(value.dtype).encode() + value.tobytes()
    if hasattr(value, "save") and hasattr(value, "mode"):  # a PIL image
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return buffer.getvalue()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return b"\x1e".join(_canonical(item) for item in value)
    return f"{type(value).__name__}:{value}".encode()


def _name(path: str) -> str:
    return Path(path).name if Path(path).expanduser().exists() else path
