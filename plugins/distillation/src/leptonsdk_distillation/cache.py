"""The teacher's logits by row: a row that comes again, in whatever batch and order, needs no teacher."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from leptonsdk.errors import UsageError
from leptonsdk_distillation.items import IGNORED
from leptonsdk_distillation.teacher import tensor_bytes

Row = Mapping[str, Tensor]

_FLUSH_BYTES = 64 * 1024**2
_FLUSH_SECONDS = 20.0


class LogitsCache:
    """Rows in memory, and in files of a folder, each written aside and renamed, that hold what an interrupted run had made.

    Args:
        folder: Made if need be. Files of another fingerprint in it are not read.
        fingerprint: Of the teacher and all that its logits depend on.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.asked = self.served = 0
        self._rows: dict[str, Row] = {}
        self._pending: dict[str, Row] = {}
        self._pending_bytes = 0
        self._flushed = time.monotonic()
        self._seen: set[Path] = set()
        self._read_new()

    def get(self, keys: Sequence[str]) -> list[Row] | None:
        """The rows under these keys, or None when any is missing."""
        self.asked += len(keys)
        if any(key not in self._rows for key in keys):
            return None
        self.served += len(keys)
        if self._pending:  # a whole batch that is known begins the second epoch
            self.flush()
        return [self._rows[key] for key in keys]

    def put(self, keys: Sequence[str], rows: Sequence[Row]) -> None:
        """Keep rows; they are written by and by, and by `flush`."""
        for key, row in zip(keys, rows, strict=True):
            if key not in self._rows:
                self._rows[key] = self._pending[key] = row
                self._pending_bytes += sum(tensor.nbytes for tensor in row.values())
        if self._pending_bytes > _FLUSH_BYTES or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet on disk, and read what other processes of the run have written."""
        self._flushed = time.monotonic()
        self._read_new()
        if not self._pending:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        content = hashlib.sha256("".join(sorted(self._pending)).encode()).hexdigest()[:16]
        path = self.folder / f"{self.fingerprint[:16]}-{content}.safetensors"
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        tensors = {f"{key}.{part}": t for key, row in self._pending.items() for part, t in row.items()}
        save_file(tensors, aside, metadata={"fingerprint": self.fingerprint})
        aside.replace(path)
        self._seen.add(path)
        self._pending, self._pending_bytes = {}, 0

    def _read_new(self) -> None:
        for path in sorted(self.folder.glob(f"{self.fingerprint[:16]}-*.safetensors")):
            if path not in self._seen:
                self._seen.add(path)
                self._read(path)

    def _read(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("fingerprint") != self.fingerprint:
                    return
                rows: dict[str, dict[str, Tensor]] = {}
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    key, _, part = name.partition(".")
                    rows.setdefault(key, {})[part] = file.get_tensor(name)
        except (OSError, SafetensorError):  # a file that cannot be read is made again
            return
        self._rows.update(rows)


def row_keys(inputs: Mapping[str, Any], labels: Tensor | None, rows: int) -> list[str]:
    """A hash per row of what the teacher reads of it, padding on the right cut off.

    Args:
        inputs: What the teacher reads: tensors ``[rows, ...]``, and plain values, which belong to every row.
        labels: The batch's, whose -100 at the end tell a decoder's padding where it has no mask.
        rows: How many.

    Raises:
        UsageError: A tensor does not go by rows.
    """
    digests = [hashlib.sha256() for _ in range(rows)]
    mask, decoder_mask = inputs.get("attention_mask"), inputs.get("decoder_attention_mask")
    if decoder_mask is None and labels is not None:
        decoder_mask = labels != IGNORED
    for name, value in sorted(inputs.items()):
        if not isinstance(value, Tensor):
            for digest in digests:
                digest.update(f"{name}={value!r};".encode())
            continue
        if value.ndim == 0 or value.shape[0] != rows:
            raise UsageError(
                f"'{name}' {list(value.shape)} does not go by {rows} rows, so that logits cannot be cached by row",
                where="distillation",
                hint="set cache: false",
            )
        own = decoder_mask if name == "labels" or name.startswith("decoder_") else mask
        cut = isinstance(own, Tensor) and own.ndim == 2 and value.shape[:2] == own.shape
        lengths = row_lengths(own) if cut and isinstance(own, Tensor) else None
        value = value.detach().cpu()
        for i, digest in enumerate(digests):
            row = value[i] if lengths is None else value[i, : lengths[i]]
            digest.update(f"{name}:{row.dtype}:{tuple(row.shape)};".encode())
            digest.update(tensor_bytes(row))
    return [digest.hexdigest() for digest in digests]


def row_lengths(mask: Tensor) -> list[int]:
    """Up to which position each row of ``[rows, positions]`` counts."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths: list[int] = ((mask != 0) * places).amax(dim=1).tolist()
    return lengths


def split(parts: Row, lengths: Sequence[int] | None) -> list[Row]:
    """The rows of batched tensors, cut to their lengths, on the CPU."""
    batch = {name: tensor.detach().cpu() for name, tensor in parts.items()}
    rows = len(next(iter(batch.values())))
    return [
        {name: (t[i] if lengths is None else t[i, : lengths[i]]).clone() for name, t in batch.items()}
        for i in range(rows)
    ]


def join(rows: Sequence[Row], positions: int | None, device: torch.device) -> dict[str, Tensor]:
    """Rows as batched tensors again, zeros where a row has no more positions (``positions``: the batch's; None: it has none)."""
    joined = {}
    for name, first in rows[0].items():
        if positions is None:
            joined[name] = torch.stack([row[name] for row in rows]).to(device)
            continue
        joined[name] = first.new_zeros(len(rows), positions, *first.shape[1:])
        for i, row in enumerate(rows):
            joined[name][i, : len(row[name])] = row[name]
        joined[name] = joined[name].to(device)
    return joined
