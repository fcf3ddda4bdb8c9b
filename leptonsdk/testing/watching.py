"""What a plugin must leave as it was in the process: random states, torch's settings, the environment, the network."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """The states of the global generators of Python, NumPy and torch."""
    return {
        "random": random.getstate(),
        "numpy.random": repr(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
    }


def stir() -> None:
    """Move all of these generators on."""
    random.random()
    np.random.random()
    torch.rand(1)


def settings() -> dict[str, Any]:
    """What torch and the process are set to."""
    return {
        "torch's threads": torch.get_num_threads(),
        "torch's default dtype": torch.get_default_dtype(),
        "whether gradients are computed": torch.is_grad_enabled(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch's precision of float32 products": torch.get_float32_matmul_precision(),
        "the working folder": str(Path.cwd()),
        "the environment's variables": dict(os.environ),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what is not as it was."""
    return [name for name in before if before[name] != after[name]]


@contextmanager
def restored() -> Iterator[None]:
    """Whatever happens inside, the next check finds random states and settings as they were."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    before, environment = settings(), dict(os.environ)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)
        torch.set_num_threads(before["torch's threads"])
        torch.set_default_dtype(before["torch's default dtype"])
        torch.set_grad_enabled(before["whether gradients are computed"])
        torch.use_deterministic_algorithms(before["torch's deterministic algorithms"])
        torch.set_float32_matmul_precision(before["torch's precision of float32 products"])
        os.chdir(before["the working folder"])
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)


@contextmanager
def no_network() -> Iterator[list[str]]:
    """Refuses every connection and name look-up, and lists those that were tried."""
    tried: list[str] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        tried.append(str(next((a for a in args if not isinstance(a, socket.socket)), "?")))
        raise OSError("the conformance kit lets nothing out")

    def refuse_remote(real: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: socket.socket, address: Any) -> Any:
            return real(self, address) if self.family == socket.AF_UNIX else refuse(address)

        return connect

    kept = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
    look_up = socket.getaddrinfo
    for name, real in kept.items():
        setattr(socket.socket, name, refuse_remote(real))
    socket.getaddrinfo = refuse
    try:
        yield tried
    finally:
        for name in kept:  # what stood there was the base class's
            delattr(socket.socket, name)
        socket.getaddrinfo = look_up
