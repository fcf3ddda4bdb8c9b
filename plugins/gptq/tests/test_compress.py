"""The compressor on six architectures: calibrated in step, nothing left behind, reloaded elsewhere, resumed."""

import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from leptonsdk_gptq import GPTQ, GPTQConfig, calibrate
from leptonsdk_gptq.calibrate_streams import find_groups

from leptonsdk.calibration import calibration_inputs
from leptonsdk.checkpoint import load_checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.quantization import RoundToNearest, RoundToNearestConfig, layers_to_quantize, weight_of

ARCHITECTURES = ["bert", "gpt2", "llama", "t5", "vit", "whisper"]


def outputs(tiny: Any, checkpoint: Any, name: str) -> torch.Tensor:
    held_out = tiny.inputs(name, count=6, seed=99)
    model = checkpoint.model
    batches = calibration_inputs(model, tiny.context(Path(), held_out), 6)
    with torch.no_grad():
        (batch,) = list(batches)
        return model(**batch).logits.float()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_outputs_stay_closer_than_by_round_to_nearest(tiny: Any, name: str, tmp_path: Path) -> None:
    source = tiny.build(name)
    before = {key: value.clone() for key, value in source.model.state_dict().items()}
    expected = outputs(tiny, source, name)
    config = GPTQConfig(bit_width=3, group_size=16, compute_dtype="float32")
    made = GPTQ(config).compress(source, tiny.context(tmp_path, tiny.inputs(name, count=48)))
    plain = RoundToNearest(RoundToNearestConfig(bit_width=3, group_size=16)).compress(
        source, tiny.context(tmp_path, None)
    )
    assert made.quantized.keys() == plain.quantized.keys()
    error, nearest = ((outputs(tiny, x, name) - expected).square().mean() for x in (made, plain))
    assert float(error) < 0.75 * float(nearest)
    for key, value in source.model.state_dict().items():
        assert torch.equal(value, before[key])
    for module in (*source.model.modules(), *made.model.modules()):
        assert "forward" not in vars(module)
        assert not module._forward_pre_hooks
    for key, tensor in made.quantized.items():
        assert torch.equal(weight_of(made.model.get_submodule(key)), tensor.dequantize())


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "whisper"])
def test_a_saved_folder_gives_the_same_logits_without_us(tiny: Any, name: str, tmp_path: Path) -> None:
    made = GPTQ(GPTQConfig(bit_width=4, group_size=16)).compress(
        tiny.build(name), tiny.context(tmp_path, tiny.inputs(name))
    )
    made.save(tmp_path / "saved")
    held_out = tiny.inputs(name, count=2, seed=5)
    feed = {key: torch.cat([row[key] for row in held_out]) for key in held_out[0]}
    with torch.no_grad():
        torch.save({"feed": feed, "logits": made.model(**feed).logits}, tmp_path / "expected.pt")
    code = f"""
        import sys, torch, transformers
        torch.set_num_threads({torch.get_num_threads()})  # sums come in the same order
        stored = torch.load({str(tmp_path / "expected.pt")!r}, weights_only=True)
        model = transformers.{type(made.model).__name__}.from_pretrained({str(tmp_path / "saved")!r}).eval()
        with torch.no_grad():
            logits = model(**stored["feed"]).logits
        assert "leptonsdk" not in sys.modules
        assert torch.equal(logits, stored["logits"]), (logits - stored["logits"]).abs().max()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    config = (tmp_path / "saved" / "config.json").read_text()
    assert "calibration" not in config
    again = load_checkpoint(tmp_path / "saved", task=made.task)
    assert again.quantized.keys() == made.quantized.keys()
    for key, tensor in made.quantized.items():
        assert torch.equal(again.quantized[key].integers, tensor.integers)


def test_layers_with_one_input_are_solved_together(tiny: Any) -> None:
    for name, expected in {
        "llama": ["q_proj k_proj v_proj", "o_proj", "gate_proj up_proj", "down_proj"],
        "bert": ["query key value", "dense", "dense", "dense"],
    }.items():
        source = tiny.build(name)
        config = GPTQConfig(bit_width=4, group_size=16)
        layers = {
            layer.name: layer.module
            for layer in layers_to_quantize(source.model, config.resolve(), config.targets, config.ignore)
        }
        groups = find_groups(source.model, layers, tiny.inputs(name)[0])
        found = [" ".join(part.rpartition(".")[2] for part in group.names) for group in groups]
        assert found[:4] == found[4:8] == expected
        assert sorted(part for group in groups for part in group.names) == sorted(layers)


def test_each_layer_sees_what_earlier_ones_became(tiny: Any, tmp_path: Path) -> None:
    """In step or one by one: a layer's Hessian is that of the model quantized up to it."""
    source = tiny.build("llama")
    rows = tiny.inputs("llama", count=8)
    made = GPTQ(GPTQConfig(bit_width=3, group_size=16, correction=0, compute_dtype="float32", batch_size=3)).compress(
        source, tiny.context(tmp_path, rows)
    )
    last = "model.layers.1.mlp.down_proj"
    hybrid = tiny.build("llama").model
    for name, tensor in made.quantized.items():
        if name != last:
            hybrid.get_submodule(name).weight.data.copy_(tensor.dequantize())
    seen = []
    hybrid.get_submodule(last).register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        for row in rows:
            hybrid(**row)
    x = torch.cat([value[row["attention_mask"].bool()] for value, row in zip(seen, rows, strict=True)])
    from leptonsdk_gptq.solve import solve

    alone = solve(
        weight_of(source.model.get_submodule(last)).detach(),
        x.t() @ x / len(x),
        GPTQConfig(bit_width=3, group_size=16).resolve(),
    )
    same = (alone.tensor.integers == made.quantized[last].integers).float().mean()
    assert float(same) > 0.99


def test_padding_does_not_count(tiny: Any, tmp_path: Path) -> None:
    config = GPTQConfig(bit_width=3, group_size=16, compute_dtype="float32", batch_size=1)
    rows = tiny.inputs("bert")
    longer = [{key: torch.nn.functional.pad(value, (0, 8)) for key, value in row.items()} for row in rows]
    short = GPTQ(config).compress(tiny.build("bert"), tiny.context(tmp_path / "a", rows))
    padded = GPTQ(config).compress(tiny.build("bert"), tiny.context(tmp_path / "b", longer))
    for name, tensor in short.quantized.items():
        if "pooler" not in name and "classifier" not in name:
            assert float((tensor.integers == padded.quantized[name].integers).float().mean()) > 0.98, name


def test_zeros_stay_zero(tiny: Any, tmp_path: Path) -> None:
    source = tiny.build("llama")
    masks = {}
    with torch.no_grad():
        for name, module in source.model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                masks[name] = torch.rand_like(module.weight) < 0.5
                module.weight.masked_fill_(masks[name], 0)
    for symmetric in (True, False):
        config = GPTQConfig(bit_width=4, group_size=16, symmetric=symmetric)
        made = GPTQ(config).compress(source, tiny.context(tmp_path / str(symmetric), tiny.inputs("llama")))
        for name, mask in masks.items():
            assert bool((made.model.get_submodule(name).weight[mask] == 0).all())


def test_interrupted_work_goes_on_where_it_stopped(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, rows = GPTQConfig(bit_width=4, group_size=16), tiny.inputs("llama")
    whole = GPTQ(config).compress(tiny.build("llama"), tiny.context(tmp_path / "whole", rows))
    solved: list[str] = []
    original = calibrate._solve

    def stop_at(limit: int) -> None:
        def solve(lockstep: object, group: object, *rest: object) -> object:
            if len(solved) == limit:
                raise KeyboardInterrupt
            solved.append(group.names[0])  # type: ignore[attr-defined]
            return original(lockstep, group, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(calibrate, "_solve", solve)

    source = tiny.build("llama")
    stop_at(5)
    with pytest.raises(KeyboardInterrupt):
        GPTQ(config).compress(source, tiny.context(tmp_path / "parts", rows))
    assert all("forward" not in vars(module) for module in source.model.modules())
    first = list(solved)
    solved.clear()
    stop_at(100)
    made = GPTQ(config).compress(source, tiny.context(tmp_path / "parts", rows))
    assert len(first) == 5
    assert not set(first) & set(solved)
    assert all(torch.equal(tensor.integers, whole.quantized[name].integers) for name, tensor in made.quantized.items())
    solved.clear()
    GPTQ(config.model_copy(update={"damping": 0.02})).compress(source, tiny.context(tmp_path / "parts", rows))
    assert len(solved) == 8  # another config is other work


def test_a_layer_without_calibration_inputs_is_still_quantized(tiny: Any, tmp_path: Path) -> None:
    source = tiny.build("bert")
    source.model.unused = torch.nn.Linear(32, 8)
    made = GPTQ(GPTQConfig(bit_width=4, group_size=16)).compress(source, tiny.context(tmp_path, tiny.inputs("bert")))
    assert "unused" in made.quantized


def test_tuning_brings_outputs_closer_and_keeps_the_integers(tiny: Any, tmp_path: Path) -> None:
    source, rows = tiny.build("llama"), tiny.inputs("llama", count=64)
    options = {"bit_width": 2, "group_size": 16, "compute_dtype": "float32", "correction": 0.5}
    plain = GPTQ(GPTQConfig(**options)).compress(source, tiny.context(tmp_path / "a", rows))
    tuned = GPTQ(GPTQConfig(**options, tuning_epochs=12)).compress(source, tiny.context(tmp_path / "b", rows))
    expected = torch.log_softmax(outputs(tiny, source, "llama"), -1)

    def divergence(checkpoint: Any) -> float:
        found = torch.log_softmax(outputs(tiny, checkpoint, "llama"), -1)
        return float((expected.exp() * (expected - found)).sum(-1).mean())

    assert divergence(tuned) < divergence(plain)
    for name, tensor in tuned.quantized.items():
        assert torch.equal(tensor.integers, plain.quantized[name].integers)
    assert any(not torch.equal(t.scale, plain.quantized[n].scale) for n, t in tuned.quantized.items())


def test_the_same_input_gives_the_same_integers(tiny: Any, tmp_path: Path) -> None:
    config = GPTQConfig(bit_width=3, group_size=16)
    first = GPTQ(config).compress(tiny.build("vit"), tiny.context(tmp_path / "a", tiny.inputs("vit")))
    torch.manual_seed(123)
    second = GPTQ(config).compress(tiny.build("vit"), tiny.context(tmp_path / "b", tiny.inputs("vit")))
    assert all(torch.equal(t.integers, second.quantized[n].integers) for n, t in first.quantized.items())


def test_a_speech_model_writes_its_own_text_to_calibrate_with(tiny: Any, tmp_path: Path) -> None:
    rows = [{"input_features": row["input_features"]} for row in tiny.inputs("whisper")]
    made = GPTQ(GPTQConfig(bit_width=4, group_size=16)).compress(tiny.build("whisper"), tiny.context(tmp_path, rows))
    assert any("decoder" in name and "encoder_attn" in name for name in made.quantized)


def test_the_budget_counts_what_a_decoder_sees(tiny: Any, tmp_path: Path) -> None:
    """20 frames a row for each of its tokens: 320 positions are 16 rows of frames, but the decoder needs 20 tokens."""
    rows = [{**row, "decoder_input_ids": row["decoder_input_ids"][:, :1]} for row in tiny.inputs("whisper", count=40)]
    context = tiny.context(tmp_path, rows)
    taken: list[int] = []

    def counted(size: int) -> Any:
        for batch in context.batches(size):
            taken.append(len(taken))
            yield batch

    config = GPTQConfig(bit_width=4, group_size=16, calibration_tokens=320, batch_size=1)
    GPTQ(config).compress(tiny.build("whisper"), dataclasses.replace(context, batches=counted))
    assert len(taken) == 20


def test_what_cannot_be_done_is_said_first(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="calibration data is needed"):
        GPTQ(GPTQConfig(bit_width=4, group_size=16)).compress(tiny.build("llama"), tiny.context(tmp_path, None))
    with pytest.raises(UsageError, match="calibration data is empty"):
        GPTQ(GPTQConfig(bit_width=4, group_size=16)).compress(tiny.build("llama"), tiny.context(tmp_path, []))
    with pytest.raises(UsageError, match="group_size 24 does not divide"):
        GPTQ(GPTQConfig(bit_width=4, group_size=24)).compress(
            tiny.build("llama"), tiny.context(tmp_path, tiny.inputs("llama"))
        )
