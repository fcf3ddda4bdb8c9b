"""Recordings as models hear them: one channel, floats in [-1, 1], at the sampling rate of the feature extractor."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonsdk.errors import DataError, first_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_CONTAINERS = (b"RIFF", b"RIFX", b"RF64")  # how a wav file begins


def waveform(value: Any, rate: int) -> NDArray[Any]:
    """A recording as float32 samples ``[n]``.

    Args:
        value: A path, ``{"path", "bytes"}`` (bytes win), ``{"array", "sampling_rate"}``, or samples that are at ``rate``
            already. An array has its samples on the first axis, and its channels, if any, on the second.
        rate: Hz of the result.

    Raises:
        DataError: It is no readable wav file, or it is empty.
    """
    import numpy as np

    where, own_rate = "a recording", rate
    if isinstance(value, (str, Path)):
        value = {"path": str(value)}
    if not isinstance(value, Mapping):
        samples = np.asarray(value)
    elif value.get("array") is not None:
        samples, own_rate = np.asarray(value["array"]), int(value.get("sampling_rate") or rate)
    else:
        where = Path(value.get("path") or where).name
        own_rate, samples = _read_wav(value.get("path"), value.get("bytes"), where)
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise DataError(f"it has no samples, or no shape of a recording: {samples.shape}", where=where)
    mono = _scaled(samples)
    if mono.ndim == 2:
        mono = mono.mean(axis=1)
    return _resampled(mono, own_rate, rate).astype(np.float32)


def features(extractor: Any, audio: Sequence[Any], where: str) -> tuple[dict[str, Tensor], list[int]]:
    """A feature extractor's model inputs for some recordings, and their lengths in samples.

    Raises:
        DataError: A recording is not readable, or longer than the model hears.
    """
    rate = extractor.sampling_rate
    waves = [waveform(recording, rate) for recording in audio]
    lengths = [len(wave) for wave in waves]
    window = getattr(extractor, "n_samples", None)  # Whisper's; it would cut what is longer, and not say so
    if window is not None and max(lengths) > window:
        raise DataError(
            f"a recording lasts {max(lengths) / rate:.1f} s, the model hears {window / rate:.0f} s",
            where=where,
            hint="cut it into parts",
        )
    padding = {} if window is not None else {"padding": True}
    return dict(extractor(waves, sampling_rate=rate, return_tensors="pt", **padding)), lengths


def _read_wav(path: str | None, content: bytes | None, where: str) -> tuple[int, NDArray[Any]]:
    from scipy.io import wavfile

    try:
        content = Path(path or "").read_bytes() if content is None else content
    except OSError as error:
        raise DataError(f"it cannot be read: {first_line(error)}", where=where) from error
    if not content.startswith(_CONTAINERS):
        raise DataError("it is no wav file", where=where, hint="convert it: ffmpeg -i FILE -ar 16000 -ac 1 FILE.wav")
    try:
        rate, samples = wavfile.read(io.BytesIO(content))
    except Exception as error:  # scipy lets struct.error and the like through for a file that is cut
        raise DataError(f"it is no wav file that scipy reads: {first_line(error)}", where=where) from error
    return int(rate), samples


def _scaled(samples: NDArray[Any]) -> NDArray[Any]:
    """Integers as fractions of their full scale; 8-bit wav is unsigned, 24-bit comes from scipy as the top of 32."""
    import numpy as np

    if samples.dtype == np.uint8:
        return (samples.astype(np.float64) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        return samples / -float(np.iinfo(samples.dtype).min)
    return samples.astype(np.float64)


def _resampled(samples: NDArray[Any], own: int, wanted: int) -> NDArray[Any]:
    if own == wanted:
        return samples
    from scipy.signal import resample_poly

    common = math.gcd(own, wanted)
    resampled: NDArray[Any] = resample_poly(samples, wanted // common, own // common)
    return resampled
