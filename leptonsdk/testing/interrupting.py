"""Errors on purpose, in the middle of a plugin's work: at a call of a torch function, in a model, in data, in a runner."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from leptonsdk.hooks import Runner, TrainingCompressor


class Interrupted(Exception):  # noqa: N818
    """What the kit raises in the middle of a plugin's work."""


class Interrupting(TorchFunctionMode):
    """Notes the calls of torch's functions, and raises at one of them.

    Args:
        at: The call to raise at, from 1 on; None: at none.
        methods: Codes of methods by name: only calls from inside of these are noted, by name. None: all are.
    """

    def __init__(self, at: int | None = None, methods: Mapping[Any, str] | None = None) -> None:
        super().__init__()
        self.calls: list[str] = []
        self._at, self._methods = at, methods

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        caller = "" if self._methods is None else self._caller(self._methods)
        if caller is not None:
            self.calls.append(caller)
            if len(self.calls) == self._at:
                raise Interrupted
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _caller(methods: Mapping[Any, str]) -> str | None:
        frame = sys._getframe(2)
        while frame is not None and frame.f_code not in methods:
            frame = frame.f_back  # type: ignore[assignment]
        return None if frame is None else methods[frame.f_code]


def training_methods(plugin: type[Any]) -> dict[Any, str]:
    """The codes of what a Trainer calls of a training compressor, by name."""
    names = [name for name in vars(TrainingCompressor) if inspect.isfunction(getattr(TrainingCompressor, name))]
    return {inspect.unwrap(getattr(plugin, name)).__code__: name for name in names if not name.startswith("_")}


class Breaking:
    """Something that raises where it is used, and notes that it was."""

    def __init__(self) -> None:
        self.used = False

    def hook(self, module: Any, inputs: Any) -> None:
        """A forward pre-hook."""
        self._use()

    def batches(self, batch_size: int) -> Iterator[Mapping[str, Tensor]]:
        """Data that cannot be read; that is known when it is read only, as of real data."""
        yield from iter(self._use, {})

    def _use(self) -> Mapping[str, Tensor]:
        self.used = True
        raise Interrupted


class BreakingRunner:
    """A runner that counts how often it is run, and breaks at one of these times; at None, never."""

    def __init__(self, runner: Runner, at: int | None = None) -> None:
        self._runner, self._at, self.runs = runner, at, 0
        self.runtime, self.input_names = runner.runtime, runner.input_names

    def __call__(self, **inputs: Tensor) -> Any:
        self._count()
        return self._runner(**inputs)

    def __getattr__(self, name: str) -> Any:
        own = getattr(self._runner, name)
        if not inspect.ismethod(own):
            return own

        def call(*args: Any, **kwargs: Any) -> Any:
            self._count()
            return own(*args, **kwargs)

        return call

    def _count(self) -> None:
        self.runs += 1
        if self.runs == self._at:
            raise Interrupted
