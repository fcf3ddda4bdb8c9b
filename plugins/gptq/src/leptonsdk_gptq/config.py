"""What a user can choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from leptonsdk.quantization import QuantizerConfig

PresetName = Literal["fast", "default", "best"]


@dataclass(frozen=True)
class Preset:
    """How much work is done."""

    calibration_tokens: int
    correction: float
    tuning_epochs: int


PRESETS: dict[str, Preset] = {
    "fast": Preset(2_048, 0.0, 0),
    "default": Preset(8_192, 0.5, 0),
    "best": Preset(32_768, 0.5, 1),
}


class GPTQConfig(QuantizerConfig):
    """Config of GPTQ."""

    preset: PresetName = Field(
        "default",
        description="fast: fewest calibration inputs; default: also corrects the drift of earlier layers; best: most inputs, "
        "then scales tuned end to end",
    )
    calibration_tokens: int | None = Field(
        None,
        gt=0,
        description="Positions (tokens, patches, frames) to calibrate with, fewer if the data ends. Default: by preset "
        f"({', '.join(f'{name} {preset.calibration_tokens:,}' for name, preset in PRESETS.items())})",
    )
    batch_size: int = Field(4, gt=0, description="Calibration examples per forward")
    damping: float = Field(0.01, ge=0, description="Added to the Hessian's diagonal, as a share of its mean")
    actorder: Literal["weight"] | None = Field(
        "weight",
        description="Order of the columns: largest activations first (weight; storage keeps its order), or as they are (null)",
    )
    correction: float | None = Field(
        None,
        ge=0,
        le=1,
        description="How far weights move to make good what earlier layers lost, 0 to 1. Default: by preset "
        f"({', '.join(f'{name} {preset.correction}' for name, preset in PRESETS.items())})",
    )
    tuning_epochs: int | None = Field(
        None,
        ge=0,
        description="Passes over the calibration inputs that tune the scales against the source's outputs. Default: by preset "
        f"({', '.join(f'{name} {preset.tuning_epochs}' for name, preset in PRESETS.items())})",
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of the calibration forwards' products; auto: bfloat16 where the processor multiplies it fast",
    )

    @property
    def resolved_tokens(self) -> int:
        return self.calibration_tokens or PRESETS[self.preset].calibration_tokens

    @property
    def resolved_correction(self) -> float:
        return PRESETS[self.preset].correction if self.correction is None else self.correction

    @property
    def resolved_epochs(self) -> int:
        return PRESETS[self.preset].tuning_epochs if self.tuning_epochs is None else self.tuning_epochs
