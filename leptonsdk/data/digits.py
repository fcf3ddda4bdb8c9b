"""``digits``: 1,797 real 8x8 images of handwritten digits, which scikit-learn carries (Alpaydin and Kaynak, 1998)."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from leptonsdk.errors import DataError
from leptonsdk.hooks import DatasetProvider

if TYPE_CHECKING:
    from datasets import Dataset


class Digits(DatasetProvider):
    """Splits ``train`` (two thirds) and ``test`` (every third row); columns ``image`` (RGB, 8x8) and ``label``."""

    name = "digits"
    description = "Image classification: handwritten digits 0 to 9, 8x8 pixels (needs scikit-learn and Pillow)."

    def load(self, split: str | None) -> Dataset:
        try:
            from PIL import Image as Pillow
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DataError(str(error), where=self.name, hint='pip install "leptonsdk[vision]"') from error
        from datasets import ClassLabel, Dataset, Features, Image

        if split not in (None, "train", "test"):
            raise DataError(f"no split '{split}'", where=self.name, hint="splits: train, test")
        digits = load_digits()
        rows = [i for i in range(len(digits.target)) if (i % 3 == 2) == ((split or "test") == "test")]
        pixels = (digits.images * (255 / 16)).round().astype("uint8")
        return Dataset.from_dict(
            {
                "image": [Pillow.fromarray(pixels[i]).convert("RGB") for i in rows],
                "label": [int(digits.target[i]) for i in rows],
            },
            features=Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])}),
        )

    def version(self) -> str:
        try:
            return f"scikit-learn {importlib.metadata.version('scikit-learn')}"
        except importlib.metadata.PackageNotFoundError:
            return "scikit-learn is not installed"
