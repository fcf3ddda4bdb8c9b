"""What a runner returns."""

from __future__ import annotations

from typing import Any


class Outputs(dict[str, Any]):
    """A model's outputs by name, as attributes, and by position: what transformers' `ModelOutput` offers."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the model has no output '{name}', only {', '.join(self)}") from None

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, (int, slice)) else super().__getitem__(key)
