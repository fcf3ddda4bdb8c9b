"""Two processes that share a model's parts (FSDP2) end with the weights of one, in a plain model."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from leptonsdk.errors import UsageError
from leptonsdk.hooks import Capabilities
from leptonsdk.training import CompressionTrainer
from leptonsdk.training.sharding import check_sharding

CASES = {
    "classifier": "BertLayer",
    "language": "LlamaDecoderLayer",  # batches differ in their items, and embeddings are tied
    "resumed": "BertLayer",
    "recomputed": "BertLayer",
    "parallel": None,
}


def _kit() -> Any:
    spec = importlib.util.spec_from_file_location("kit", Path(__file__).parent / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(case: str, folder: Path, processes: int, **options: Any) -> dict[str, Any]:
    """What the finished model is made of."""
    kit, language = _kit(), case == "language"
    options = {"optim": "sgd", "learning_rate": 0.1, "per_device_train_batch_size": 8 // processes, **options}
    if case == "resumed":
        options |= {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "learning_rate": 0.01}
    if case == "recomputed" and processes == 2:
        options["fsdp_config"] = {**options["fsdp_config"], "activation_checkpointing": True}

    def trainer() -> CompressionTrainer:
        return CompressionTrainer(
            kit.language_model(tie_word_embeddings=True) if language else kit.classifier(),
            kit.arguments(folder, **options),
            train_dataset=kit.rows(language=language),
            compression=[kit.Shrinker(penalty=0.0 if language else 0.1, decay=0.05)],
        )

    made = trainer()
    made.train()
    if case == "resumed":
        made.accelerator.wait_for_everyone()
        made = trainer()
        made.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    if processes == 2:
        assert made.accelerator.num_processes == 2
        sharded = any(hasattr(parameter, "full_tensor") for parameter in made.model.parameters())
        assert sharded == (case != "parallel")
    made.save_model(str(folder / "trained"))
    model = made.finalize()
    made.save_model(str(folder / "saved"))
    model = copy.deepcopy(model)
    ids = torch.arange(3, 11)[None]
    if language:
        assert model.lm_head.weight is model.model.embed_tokens.weight
        model.generate(ids, max_new_tokens=2, pad_token_id=0)
    made.accelerator.wait_for_everyone()  # for the first process's files
    loaded = type(model).from_pretrained(folder / "saved")
    return {
        "weights": dict(model.state_dict()),
        "saved": dict(loaded.state_dict()),
        "logits": model.eval()(input_ids=ids).logits.detach(),
        "log": [entry["gate"] for entry in made.state.log_history if "gate" in entry],
        # Whatever sharding adds to a module would stand among these.
        "modules": {name: (str(type(m)), *_attributes(m)) for name, m in model.named_modules()},
    }


def _attributes(module: nn.Module) -> list[str]:
    return sorted(
        f"{name}: {len(value) if '_hooks' in name else ''}"
        for name, value in vars(module).items()
        if name != "_is_accelerate_prepared"
    )


@pytest.fixture(scope="module")
def trained(two_processes: Callable[[str], dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return two_processes(__file__)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_like_one(case: str, trained: dict[str, list[Any]], tmp_path: Path) -> None:
    one = train(case, tmp_path, 1)
    for two in trained[case]:
        assert two["modules"] == one["modules"]
        torch.testing.assert_close(two["weights"], one["weights"], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(two["logits"], one["logits"], atol=1e-5, rtol=1e-5)
        assert two["log"] == pytest.approx(one["log"], abs=1e-6)
        torch.testing.assert_close(two["saved"], two["weights"], atol=0, rtol=0)


def _state(zero: int | None = None, fsdp: int | None = None, first_only: bool = False) -> Any:
    sharding = fsdp and SimpleNamespace(
        fsdp_version=fsdp, cpu_ram_efficient_loading=first_only, activation_checkpointing=False, state_dict_type=""
    )
    deepspeed = zero and SimpleNamespace(zero_stage=zero)
    return SimpleNamespace(state=SimpleNamespace(fsdp_plugin=sharding, deepspeed_plugin=deepspeed))


def test_what_cannot_be_sharded_is_refused(kit: Any) -> None:
    model, shrinker, teacher = kit.classifier(), kit.Shrinker(), kit.Shrinker()
    teacher.capabilities = Capabilities(effects=frozenset({"distills"}))
    for state, kind in ((_state(zero=3), "ZeRO-3"), (_state(fsdp=1), "FSDP1")):
        check_sharding(state, model, [teacher])
        check_sharding(state, model, [])
        with pytest.raises(UsageError, match=f"'shrinker' changes weights, which .*{kind}.*FSDP2"):
            check_sharding(state, model, [teacher, shrinker])
    for state in (_state(), _state(zero=2), _state(fsdp=2)):
        check_sharding(state, model, [shrinker])
    with pytest.raises(UsageError, match="cpu_ram_efficient_loading"):
        check_sharding(_state(fsdp=2, first_only=True), model, [teacher])


def test_the_trainer_checks_how_it_shards(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    monkeypatch.setattr(
        accelerate.state.AcceleratorState, "fsdp_plugin", _state(fsdp=1).state.fsdp_plugin, raising=False
    )
    with pytest.raises(UsageError, match="FSDP1"):
        CompressionTrainer(
            kit.classifier(), kit.arguments(tmp_path), train_dataset=kit.rows(), compression=[kit.Shrinker()]
        )
