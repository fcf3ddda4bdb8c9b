from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.hooks.classes import StepContext
from leptonsdk.quantization import (
    CodebookScheme,
    RoundToNearest,
    RoundToNearestConfig,
    Scheme,
    layers_to_quantize,
    round_to_nearest,
    save_compressed,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def llama(**options: Any) -> Checkpoint:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    options = {"tie_word_embeddings": True, **options}
    return Checkpoint.of(
        transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=97, **sizes, **options)).eval()
    )


def run(checkpoint: Checkpoint, folder: Path, **config: Any) -> Any:
    return RoundToNearest(RoundToNearestConfig(**config)).compress(checkpoint, StepContext(seed=0, folder=folder))


def test_the_given_checkpoint_stays_as_it_was(tmp_path: Path) -> None:
    source = llama()
    before = {k: v.clone() for k, v in source.model.state_dict().items()}
    result = run(source, tmp_path, bit_width=4, group_size=32)
    assert result.model is not source.model
    assert source.quantized == {}
    assert all(torch.equal(before[k], v) for k, v in source.model.state_dict().items())
    assert result.task == source.task
    assert not result.model.training


def test_the_new_model_computes_with_the_integers(tmp_path: Path) -> None:
    result = run(llama(), tmp_path, scheme="W8A16")
    assert len(result.quantized) == 7
    for name, tensor in result.quantized.items():
        assert torch.equal(result.model.get_submodule(name).weight, tensor.dequantize())
    assert result.model.lm_head.weight is result.model.model.embed_tokens.weight


def test_zeros_and_dtypes_stay(tmp_path: Path) -> None:
    source = llama()
    source.model.to(torch.bfloat16)
    weight = source.model.model.layers[0].mlp.up_proj.weight
    weight.data[::2] = 0
    result = run(source, tmp_path, bit_width=3, group_size=16, symmetric=False)
    new = result.model.model.layers[0].mlp.up_proj.weight
    assert new.dtype == torch.bfloat16
    assert bool((new[::2] == 0).all())
    assert result.quantized["model.layers.0.mlp.up_proj"].scale.dtype == torch.bfloat16


def test_an_output_embedding_is_quantized_only_when_it_is_nobody_elses(tmp_path: Path) -> None:
    tied = run(llama(), tmp_path, scheme="W8A16", ignore=[])
    assert "lm_head" not in tied.quantized
    untied = run(llama(tie_word_embeddings=False), tmp_path, scheme="W8A16", ignore=[])
    assert "lm_head" in untied.quantized
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 1, "num_attention_heads": 4}
    masked = Checkpoint.of(transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=97, **sizes)))
    result = run(masked, tmp_path, scheme="W8A16")
    assert "cls.predictions.decoder" not in result.quantized
    assert "cls.predictions.transform.dense" in result.quantized


def test_two_steps_make_a_mixed_scheme(tmp_path: Path) -> None:
    first = run(llama(), tmp_path, scheme="W8A16", targets=["down_proj"])
    second = run(first, tmp_path, bit_width=4, group_size=32)
    assert list(first.quantized) == ["model.layers.0.mlp.down_proj"]
    assert second.quantized["model.layers.0.mlp.down_proj"] is first.quantized["model.layers.0.mlp.down_proj"]
    assert second.quantized["model.layers.0.mlp.up_proj"].scheme.num_bits == 4
    save_compressed(second.model, second.quantized, tmp_path)
    with pytest.raises(UsageError, match="quantized already"):
        run(second, tmp_path, scheme="W8A16")


def test_progress_counts_the_layers(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    context = StepContext(seed=0, folder=tmp_path, progress=lambda done, total, what: seen.append((done, total, what)))
    RoundToNearest(RoundToNearestConfig(scheme="W8A16")).compress(llama(), context)  # type: ignore[arg-type]
    assert seen[0] == (0, 7, "model.layers.0.self_attn.q_proj")
    assert seen[-1][:2] == (7, 7)


def test_conv1d_layers_are_quantized_along_their_inputs(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2)
    source = Checkpoint.of(transformers.GPT2LMHeadModel(config))
    result = run(source, tmp_path, scheme="W8A16")
    assert "transformer.h.0.mlp.c_fc" in result.quantized
    assert "lm_head" not in result.quantized
    for name, tensor in result.quantized.items():
        weight = result.model.get_submodule(name).weight
        assert tensor.shape == (weight.shape[1], weight.shape[0])
        assert torch.equal(weight.t(), tensor.dequantize())


def test_layers_of_other_kinds_are_named_as_what_cannot_be_stored(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(image_size=8, patch_size=4, **sizes)
    source = Checkpoint.of(transformers.ViTForImageClassification(config))
    with pytest.raises(UsageError, match=r"these layers cannot.*projection \(Conv2d\)"):
        run(source, tmp_path, scheme="W8A16", targets=["Conv2d"])
    with pytest.raises(UsageError, match=r"by `rtn`, embeddings.*model\.embed_tokens \(Embedding\)"):
        layers_to_quantize(llama().model, Scheme(num_bits=8), ["Embedding"])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scheme", [{"bit_width": 8}, {"bit_width": 4, "group_size": 16}])
def test_an_embedding_is_quantized_by_its_rows_and_ties_hold(tmp_path: Path, tied: bool, scheme: dict) -> None:
    source = llama(tie_word_embeddings=tied)
    result = run(source, tmp_path, targets=["Linear", "Embedding"], ignore=[] if tied else ["lm_head"], **scheme)
    assert len(result.quantized) == 8  # a table that is shared stands there once
    table, weight = result.quantized["model.embed_tokens"], result.model.model.embed_tokens.weight
    alone = round_to_nearest(source.model.model.embed_tokens.weight, Scheme.resolve(**scheme))
    assert torch.equal(table.integers, alone.integers)
    assert torch.equal(table.scale, alone.scale)
    assert torch.equal(weight, table.dequantize())
    assert (result.model.lm_head.weight is weight) == tied
    if not tied:
        assert torch.equal(result.model.lm_head.weight, source.model.lm_head.weight)


def test_a_table_that_an_ignored_layer_shares_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"'model\.embed_tokens' is the weight of lm_head too, which `ignore`"
    ) as caught:
        run(llama(), tmp_path, scheme="W8A16", targets=["Embedding"])
    assert "`ignore: []`" in str(caught.value)
    left = run(llama(), tmp_path, scheme="W8A16", targets=["Linear", "Embedding"], ignore=["Embedding"])
    assert len(left.quantized) == 7


def test_a_plan_says_it_too() -> None:
    with torch.device("meta"):
        skeleton = llama().model
    step = RoundToNearest(RoundToNearestConfig(scheme="W8A16", targets=("Embedding",)))
    assert step.checks_model()
    with pytest.raises(UsageError, match="lm_head too"):
        step.check(skeleton, ())
    assert not RoundToNearest(RoundToNearestConfig(scheme="W8A16")).checks_model()


def test_one_table_of_several_embeddings_has_one_name(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    source = Checkpoint.of(
        transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=97, **sizes)).eval()
    )
    targets = ["decoder.embed_tokens"]
    result = run(source, tmp_path, bit_width=8, targets=targets, ignore=[])
    assert list(result.quantized) == ["shared"]
    assert result.model.lm_head.weight is result.model.encoder.embed_tokens.weight
    with pytest.raises(UsageError, match="quantized already: shared"):
        run(result, tmp_path, bit_width=8, targets=["encoder.embed_tokens"], ignore=[])


def test_groups_that_do_not_fit_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="group_size 16 or 32 fits all layers"):
        run(llama(), tmp_path, scheme="W4A16")


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    source = llama()
    source.model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(UsageError, match=r"up_proj.*NaN"):
        run(source, tmp_path, scheme="W8A16")


@pytest.mark.parametrize(
    "config, message",
    [
        ({"scheme": "W4A61"}, "Did you mean"),
        ({"scheme": "W4A16", "bit_width": 4}, "besides"),
        ({}, "neither a scheme nor a bit_width"),
        ({"bit_width": 1}, "num_bits"),
        ({"scheme": "KMEENS4"}, "Did you mean 'KMEANS4'"),
        ({"scheme": "NF4", "symmetric": True}, "besides"),
        ({"scheme": "NF4", "observer": "minmax"}, "not to codebooks"),
        ({"scheme": {"codebook": "nf4", "num_bits": 3}}, r"1 validation error(?s:.*)nf4 has 4 bits"),
        ({"scheme": {"num_bits": 9}}, r"1 validation error(?s:.*)less than or equal to 8"),
        ({"scheme": 4}, "neither a scheme's name nor its fields"),
        ({"bit_width": 4, "groupsize": 64}, "groupsize"),
    ],
)
def test_a_wrong_config_is_refused_when_it_is_made(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RoundToNearestConfig(**config)


def test_a_scheme_may_stand_inline() -> None:
    config = RoundToNearestConfig.model_validate({"scheme": {"num_bits": 6, "strategy": "tensor"}})
    assert config.resolve() == Scheme(num_bits=6, strategy="tensor")
    config = RoundToNearestConfig.model_validate({"scheme": {"codebook": "kmeans", "num_bits": 3}})
    assert config.resolve() == CodebookScheme(codebook="kmeans", num_bits=3)


def test_codebooks_and_integers_stand_side_by_side(tmp_path: Path) -> None:
    source = llama()
    source.model.model.layers[0].mlp.down_proj.weight.data[:, ::3] = 0
    first = run(source, tmp_path, scheme="KMEANS3", targets=["down_proj"])
    second = run(first, tmp_path, scheme="W8A16")
    kinds = {name.rpartition(".")[2]: type(tensor).__name__ for name, tensor in second.quantized.items()}
    assert kinds["down_proj"] == "CodebookTensor"
    assert kinds["up_proj"] == "QuantizedTensor"
    weight = second.model.model.layers[0].mlp.down_proj.weight
    assert torch.equal(weight, second.quantized["model.layers.0.mlp.down_proj"].dequantize())
    assert bool((weight[:, ::3] == 0).all())


def test_every_field_is_described() -> None:
    assert all(field.description for field in RoundToNearestConfig.model_fields.values())
