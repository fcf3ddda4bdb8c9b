"""Numbers and names as people read them. Strings only: nothing is ever judged by what is returned here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

NONE: Final = "-"  # for what was not measured
_ACRONYMS: Final = frozenset(
    {"auc", "bleu", "cer", "em", "f1", "iou", "kl", "map", "mrr", "mse", "ndcg", "rmse", "rouge", "wer"}
)
_MOST_DECIMALS: Final = 12
NOISE: Final = 1e-9  # a change below it is a sum's rounding, not a change


@dataclass(frozen=True)
class Scale:
    """A unit to show numbers in: ``shown = value * factor``, then ``suffix``."""

    factor: float = 1.0
    suffix: str = ""


PLAIN: Final = Scale()
PERCENT: Final = Scale(100.0, "%")
TIMES: Final = Scale(1.0, "x")
MILLISECONDS: Final = Scale(1.0, " ms")


def bytes_scale(*values: float) -> Scale:
    """The decimal unit in which the largest of some byte counts is read."""
    largest = max((abs(v) for v in values), default=0.0)
    for power, unit in ((9, " GB"), (6, " MB"), (3, " kB")):
        if largest >= 10**power:
            return Scale(10.0**-power, unit)
    return Scale(1.0, " B")


def known(value: float | None) -> bool:
    """Whether there is a number to show."""
    return value is not None and math.isfinite(value)


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals; never a negative zero."""
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def decimals_of(value: float, digits: int) -> int:
    """How many decimals show so many significant digits."""
    if value == 0 or not math.isfinite(value):
        return 0
    return min(_MOST_DECIMALS, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def size(value: float | None) -> str:
    """Bytes, in the decimal unit that fits: ``22.9 MB``."""
    if value is None or not known(value):
        return NONE
    scale = bytes_scale(value)
    shown = value * scale.factor
    return fixed(shown, 0 if scale.factor == 1 or abs(shown) >= 1000 else min(2, decimals_of(shown, 3))) + scale.suffix


def duration(milliseconds: float | None) -> str:
    """A latency: ``3.42 ms``, ``148 ms``, ``12.1 s``."""
    if milliseconds is None or not known(milliseconds):
        return NONE
    if abs(milliseconds) >= 10_000:
        return fixed(milliseconds / 1e3, 1) + " s"
    return fixed(milliseconds, min(3, decimals_of(milliseconds, 3))) + " ms"


def seconds(value: float | None) -> str:
    """How long a piece of work took: ``0.4 s``, ``12 s``, ``3 min 20 s``."""
    if value is None or not known(value):
        return NONE
    if value < 60:
        return fixed(value, 1 if value < 10 else 0) + " s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def ratio(value: float | None) -> str:
    """A factor: ``3.9x``, ``0.97x``."""
    if value is None or not known(value):
        return NONE
    return fixed(value, 2 if abs(value) < 2 else 1 if abs(value) < 100 else 0) + "x"


def compared(before: float | None, after: float | None, less: str, more: str) -> str | None:
    """Two amounts in words: ``3.9x smaller``, ``1.10x larger``, ``as before``, ``about as before`` (where a ratio would
    read 1.00x); None when either is not known."""
    if before is None or after is None or not (known(before) and known(after)) or before <= 0 or after <= 0:
        return None
    if before == after:
        return "as before"
    if ratio(before / after) == "1.00x" or ratio(after / before) == "1.00x":
        return "about as before"
    return f"{ratio(before / after)} {less}" if after < before else f"{ratio(after / before)} {more}"


def share(value: float | None) -> str:
    """A share as per cent: ``62.5%``."""
    if value is None or not known(value):
        return NONE
    if 0 < value < 0.0005:
        return "<0.1%"
    return f"{fixed(value * 100, 0 if value in (0.0, 1.0) else 1)}%"


def count(value: float | None) -> str:
    """A large count: ``22.7 M``."""
    if value is None or not known(value):
        return NONE
    for power, unit in ((9, " B"), (6, " M"), (3, " k")):
        if value >= 10**power:
            return fixed(value / 10**power, 1) + unit
    return fixed(value, 0)


def _metric_decimals(value: float) -> int:
    if value == 0:
        return 0
    return 4 if 0.01 <= abs(value) < 10 else decimals_of(value, 3 if abs(value) < 0.01 else 5)


def metric(value: float | None) -> str:
    """A metric's value: ``0.9312``, ``23.451``, ``0.00312``."""
    if value is None or not known(value):
        return NONE
    if 0 < abs(value) < 1e-6 or abs(value) >= 1e7:
        return f"{value:.2e}"
    return fixed(value, _metric_decimals(value))


def change(value: float | None, beside: float | None = None) -> str:
    """A signed change, with the decimals of the value it stands beside, or more where those would show none of it."""
    if value is None or not known(value):
        return NONE
    if abs(value) < NOISE:
        return "0"
    if abs(value) < 1e-6:
        return f"{value:+.1e}"
    least = _metric_decimals(value if beside is None or beside == 0 else beside)
    decimals = least if abs(value) * 10**least >= 0.5 else decimals_of(value, 1)
    return signed(value, decimals)


def signed(value: float, decimals: int) -> str:
    """A number with its sign, zero without one."""
    text = fixed(value, decimals)
    return f"+{text}" if float(text) > 0 else text


def measured(
    value: float, low: float, high: float, limit: float, scale: Scale = PLAIN, *, sign: bool = False
) -> tuple[str, str, str]:
    """A value, its interval and the limit it is held against, all with the same, sufficient decimals.

    Decimals follow the interval's width (two significant digits of its half, one for a factor), and grow until every shown number stands on
    the same side of the shown limit as the true one does, so that no reader doubts the verdict.

    Args:
        value: The estimate.
        low: The interval's lower end.
        high: Its upper end; equal to ``low`` for what is counted, and no interval is shown then.
        limit: What it is held against.
        scale: The unit.
        sign: Whether a plus is written (for changes).

    Returns:
        The value, the interval in the same unit (or an empty string), and the limit.
    """
    numbers = [number * scale.factor for number in (value, low, high)]
    bound = limit * scale.factor
    width = (numbers[2] - numbers[1]) / 2
    least = (2 if abs(numbers[0]) < 2 else 1) if scale is TIMES else 0
    if width > 0:  # a very narrow interval still gets no more than five digits of its value
        wanted = min(decimals_of(width, 1 if scale is TIMES else 2), max(decimals_of(max(map(abs, numbers)), 5), 1))
        decimals = max(wanted, least)
    else:
        decimals = least or decimals_of(numbers[0], 3)
    limit_decimals = next((d for d in range(_MOST_DECIMALS) if math.isclose(float(fixed(bound, d)), bound)), 6)
    while decimals < _MOST_DECIMALS and not _apart(numbers, bound, decimals):
        decimals += 1

    def show(number: float, places: int) -> str:
        return signed(number, places) if sign else fixed(number, places)

    unit = scale.suffix
    ends = "" if low == high else f"[{show(numbers[1], decimals)}, {show(numbers[2], decimals)}]"
    return show(numbers[0], decimals) + unit, ends, show(bound, limit_decimals) + unit


def _apart(numbers: Sequence[float], bound: float, decimals: int) -> bool:
    def side(number: float) -> int:
        return 0 if math.isclose(number, bound, rel_tol=1e-12) else (number > bound) - (number < bound)

    return all(side(number) == side(float(fixed(number, decimals))) for number in numbers)


def metric_name(name: str) -> str:
    """A metric as people write it in a sentence: ``MRR@10``, ``log loss``, ``accuracy (evaluate)``."""
    if name.startswith("evaluate:"):
        return f"{metric_name(name.removeprefix('evaluate:').rstrip('/').rpartition('/')[2])} (evaluate)"
    head, at, rest = name.replace("_", " ").partition("@")
    words = [word.upper() if word.lower() in _ACRONYMS else word for word in head.split(" ")]
    return " ".join(words) + at + rest


def title(text: str) -> str:
    """With a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def setting(batch_size: int | None, sequence_length: int | None) -> str:
    """A shape that was timed: ``batch 32, 128 tokens``."""
    words = [f"batch {batch_size}"] if batch_size is not None else []
    if sequence_length is not None:
        words.append(f"{sequence_length} tokens")
    return ", ".join(words) or "one call"


def joined(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
