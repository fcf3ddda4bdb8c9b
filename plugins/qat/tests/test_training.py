"""Quantization-aware training in a Trainer: what is trained is what is saved, on every kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from leptonsdk_movement_pruning import MovementPruning
from leptonsdk_qat import QuantizationAwareTraining
from leptonsdk_qat.quantizers import InputQuantizer
from pydantic import ValidationError

import leptonsdk as lepton
from leptonsdk.errors import UsageError
from leptonsdk.quantization import fit_codebook, resolve_scheme, weight_of
from leptonsdk.training import CompressionTrainer

NAMES = ["bert", "roberta", "distilbert", "vit", "llama", "whisper"]


def run(tiny: Any, name: str, folder: Path, *compression: Any, **more: Any) -> CompressionTrainer:
    trainer = CompressionTrainer(
        tiny.build(name), tiny.arguments(folder, **more), train_dataset=tiny.rows(name), compression=compression
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", NAMES)
def test_the_finished_model_is_the_trained_one_and_loads_again(tiny: Any, name: str, tmp_path: Path) -> None:
    trainer = run(tiny, name, tmp_path, QuantizationAwareTraining(activation_bits=None, weight_scales="learned"))
    trained = tiny.outputs(name, trainer.model)
    checkpoint = trainer.checkpoint()
    assert torch.allclose(tiny.outputs(name, checkpoint.model), trained, atol=1e-5)
    assert all(type(m) in (torch.nn.Linear,) for m in checkpoint.model.modules() if isinstance(m, torch.nn.Linear))
    folder = lepton.save_model(checkpoint, tmp_path / "saved")
    again = lepton.load_model(folder, task=checkpoint.task)
    assert again.quantized.keys() == checkpoint.quantized.keys()
    assert torch.allclose(tiny.outputs(name, again.model), trained, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_quantized_and_their_scales_saved(tiny: Any, name: str, tmp_path: Path) -> None:
    trainer = run(tiny, name, tmp_path, QuantizationAwareTraining())
    quantizers = [m for m in trainer.model.modules() if isinstance(m, InputQuantizer)]
    quantized = tiny.outputs(name, trainer.model)
    for quantizer in quantizers:
        quantizer.active = False
    assert not torch.equal(tiny.outputs(name, trainer.model), quantized)
    checkpoint = trainer.checkpoint()
    scales = {module: tensor.input_scale for module, tensor in checkpoint.quantized.items()}
    assert None not in scales.values()
    # Layers that read one tensor share its quantizer: query, key and value at least.
    assert len(set(scales.values())) == len(quantizers) <= len(scales) - 4
    folder = lepton.save_model(checkpoint, tmp_path / "saved")
    again = lepton.load_model(folder, task=checkpoint.task)
    for module, tensor in again.quantized.items():
        assert torch.equal(tensor.integers, checkpoint.quantized[module].integers)
        assert tensor.input_scale.zero_point == scales[module].zero_point
        assert tensor.input_scale.scale == pytest.approx(scales[module].scale)
    plain = type(checkpoint.model).from_pretrained(folder)
    assert torch.allclose(tiny.outputs(name, plain), tiny.outputs(name, checkpoint.model), atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("options", [{}, {"bit_width": 4, "group_size": -1}])
def test_masks_act_first_and_what_they_remove_is_gone(tiny: Any, name: str, options: Any, tmp_path: Path) -> None:
    pruning = MovementPruning(final_sparsity=0.5, round_to=8)
    trainer = run(tiny, name, tmp_path, pruning, QuantizationAwareTraining(activation_bits=None, **options))
    trained = tiny.outputs(name, trainer.model)
    checkpoint = trainer.checkpoint()
    assert torch.allclose(tiny.outputs(name, checkpoint.model), trained, atol=1e-5)
    widths = {tensor.shape for tensor in checkpoint.quantized.values()}
    assert (32, 32) in widths
    assert (32, 64) not in widths
    with pytest.raises(UsageError, match="'movement_pruning' may not follow 'qat'"):
        CompressionTrainer(
            tiny.build(name),
            tiny.arguments(tmp_path),
            train_dataset=tiny.rows(name),
            compression=[QuantizationAwareTraining(), pruning],
        )


@pytest.mark.parametrize("ranges", ["learned", "observed"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(tiny: Any, ranges: str, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 8}

    def qat() -> QuantizationAwareTraining:
        return QuantizationAwareTraining(bit_width=4, group_size=8, activation_ranges=ranges, start=0.3)

    whole = run(tiny, "bert", tmp_path, qat(), **options).checkpoint()
    again = CompressionTrainer(
        tiny.build("bert", seed=7),
        tiny.arguments(tmp_path, **options),
        train_dataset=tiny.rows("bert"),
        compression=[qat()],
    )
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    resumed = again.checkpoint()
    for module, tensor in resumed.quantized.items():
        assert torch.equal(tensor.integers, whole.quantized[module].integers)
        assert tensor.input_scale == whole.quantized[module].input_scale


def test_training_recovers_what_rounding_lost(tiny: Any, tmp_path: Path) -> None:
    """Two bits: by rounding the outputs are far off, and training on the model's own answers brings them back."""
    from leptonsdk_distillation import Distillation

    model = tiny.build("bert")
    wanted = tiny.outputs("bert", model)
    rounded = lepton.quantize_model(model, bit_width=2, group_size=8)

    def error(found: Any) -> float:
        return float((tiny.outputs("bert", found).softmax(-1) - wanted.softmax(-1)).square().mean())

    with pytest.raises(UsageError, match=r"cannot be trained as floats.*qat"):
        CompressionTrainer(rounded.model, tiny.arguments(tmp_path), quantized=rounded.quantized)
    trainer = CompressionTrainer(
        rounded.model,
        tiny.arguments(tmp_path, num_train_epochs=20),
        train_dataset=tiny.rows("bert"),
        quantized=rounded.quantized,
        compression=[
            Distillation(model, alpha=1.0),
            QuantizationAwareTraining(activation_bits=None, start=0.0),
        ],
    )
    before = error(rounded.model)
    trainer.train()
    recovered = trainer.checkpoint()
    assert error(recovered.model) < 0.3 * before
    assert {tensor.scheme for tensor in recovered.quantized.values()} == {t.scheme for t in rounded.quantized.values()}


def test_quantized_tables_stay_as_they_are_and_the_rest_is_trained(tiny: Any, tmp_path: Path) -> None:
    rounded = lepton.quantize_model(
        tiny.build("llama"), bit_width=4, group_size=8, targets=["Linear", "Embedding"], ignore=[]
    )
    trainer = CompressionTrainer(
        rounded.model,
        tiny.arguments(tmp_path),
        train_dataset=tiny.rows("llama"),
        quantized=rounded.quantized,
        compression=[QuantizationAwareTraining(activation_bits=None, start=0.0)],
    )
    trainer.train()
    trained = trainer.checkpoint()
    table = "model.embed_tokens"
    assert torch.equal(trained.quantized[table].integers, rounded.quantized[table].integers)
    layer = "model.layers.0.mlp.up_proj"
    assert not torch.equal(trained.quantized[layer].dequantize(), rounded.quantized[layer].dequantize())
    assert trained.model.lm_head.weight.requires_grad
    again = lepton.load_model(lepton.save_model(trained, tmp_path / "saved"))
    assert again.quantized.keys() == rounded.quantized.keys()


def test_conv1d_is_quantized_too(tmp_path: Path, tiny: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=4, n_positions=16, bos_token_id=1, eos_token_id=2)
    model = GPT2LMHeadModel(config)
    trainer = CompressionTrainer(
        model, tiny.arguments(tmp_path), train_dataset=tiny.rows("llama"), compression=[QuantizationAwareTraining()]
    )
    trainer.train()
    checkpoint = trainer.checkpoint()
    for name, tensor in checkpoint.quantized.items():
        assert torch.allclose(weight_of(checkpoint.model.get_submodule(name)), tensor.dequantize())
    folder = lepton.save_model(checkpoint, tmp_path / "saved")
    again = lepton.load_model(folder, task="text-generation").quantized
    assert {n: t.input_scale for n, t in again.items()} == {n: t.input_scale for n, t in checkpoint.quantized.items()}


def test_bad_choices_are_named(tiny: Any) -> None:
    with pytest.raises(ValidationError, match="must come after start"):
        QuantizationAwareTraining(start=0.5, freeze=0.4)
    model = tiny.build("bert")
    weight = model.classifier.weight.detach()
    book = fit_codebook(weight, resolve_scheme("KMEANS4"))
    context = type("Context", (), {"quantized": {"classifier": book}})()
    with pytest.raises(UsageError, match="codebooks cannot be trained: classifier"):
        QuantizationAwareTraining().prepare(model, context)


def test_a_pruned_and_quantized_model_loads_again(tiny: Any, tmp_path: Path) -> None:
    """BERT's config cannot say that heads are gone: shapes stand beside integers."""
    pruning = MovementPruning(structure=("heads", "ffn"), final_sparsity={"heads": 0.5, "ffn": 0.75})
    checkpoint = run(tiny, "bert", tmp_path, pruning, QuantizationAwareTraining()).checkpoint()
    again = lepton.load_model(lepton.save_model(checkpoint, tmp_path / "saved"))
    assert again.input_scales.keys() == checkpoint.input_scales.keys()
    assert torch.allclose(tiny.outputs("bert", again.model), tiny.outputs("bert", checkpoint.model), atol=1e-5)
