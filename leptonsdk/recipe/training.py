"""The step ``train``: a Trainer run with compressors inside. It is the core's own; what acts in it are plugins."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from leptonsdk.errors import did_you_mean
from leptonsdk.hooks import PluginConfig
from leptonsdk.recipe.schema import named_entries

TRAIN = "train"
# What the run itself decides: where things are written, what is drawn, how progress is shown.
_OWN = frozenset(
    {"output_dir", "seed", "data_seed", "resume_from_checkpoint", "disable_tqdm", "report_to", "push_to_hub"}
    | {"remove_unused_columns", "eval_strategy", "load_best_model_at_end", "do_train", "do_eval"}
)


class TrainConfig(PluginConfig):
    """A training run over ``data.train``."""

    model_config = ConfigDict(populate_by_name=True)

    args: dict[str, Any] = Field(
        default_factory=dict, description="Fields of transformers.TrainingArguments, such as {num_train_epochs: 3}."
    )
    compressors: list[dict[str, dict[str, Any]]] = Field(
        default_factory=list,
        alias="with",
        description="Compressors that act inside the run, in order; none: fine-tuning.",
    )

    keep_zeros: bool | None = Field(
        None,
        description="Weights that are zero when the training begins stay zero. Default: where an earlier step prunes.",
    )

    @field_validator("compressors", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return named_entries(value)

    @field_validator("args")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        known = argument_names() - _OWN
        for name in value:
            if name in _OWN:
                raise ValueError(f"'{name}' is for the run to decide")
            if known and name not in known:
                raise ValueError(f"transformers.TrainingArguments has no '{name}'. {did_you_mean(name, known)}")
        return value


@cache
def argument_names() -> frozenset[str]:
    """The fields of the installed `transformers.TrainingArguments`, read from its source: importing it takes seconds."""
    found = importlib.util.find_spec("transformers")
    path = Path(found.origin).with_name("training_args.py") if found is not None and found.origin else None
    if path is None or not path.is_file():
        return frozenset()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments":
            fields = (item.target for item in node.body if isinstance(item, ast.AnnAssign))
            return frozenset(target.id for target in fields if isinstance(target, ast.Name))
    return frozenset()
