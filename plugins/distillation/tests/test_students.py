"""Students with fewer blocks, heads and neurons: their folders load with plain transformers and compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from leptonsdk_distillation import Distillation, make_student
from leptonsdk_distillation.students import kept_blocks

import leptonsdk as lepton
from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError


@pytest.mark.parametrize("layers", [2, [0, 3]])
@pytest.mark.parametrize("name", ["classifier", "distilbert", "llama", "vit", "t5", "whisper", "ctc"])
def test_a_saved_student_is_the_same_for_everyone(tiny: Any, tmp_path: Path, name: str, layers: Any) -> None:
    teacher = tiny.build(name, layers=4).eval()
    student = make_student(teacher, layers)
    student.save_pretrained(tmp_path)
    again = type(teacher).from_pretrained(tmp_path).eval()
    inputs = tiny.batch(name)
    ours = student(**inputs).logits
    torch.testing.assert_close(again(**inputs).logits, ours)
    assert not torch.allclose(ours, teacher(**inputs).logits)
    assert student.num_parameters() < teacher.num_parameters()
    last = [
        [p for key, p in model.named_parameters() if f".{i}." in key][-1] for model, i in ((teacher, 3), (student, 1))
    ]
    assert torch.equal(*last), "the fourth block is the second now"


@pytest.mark.parametrize("name", ["llama", "t5", "whisper"])
def test_generation_with_a_cache_is_generation_without(tiny: Any, name: str) -> None:
    student = make_student(tiny.build(name, layers=4).eval(), [0, 2])
    inputs = {key: value[-1:] for key, value in tiny.batch(name, labels=False).items()}
    length = {"max_new_tokens": 6, "do_sample": False, "min_new_tokens": 6}
    with_cache, without = (student.generate(**inputs, **length, use_cache=use) for use in (True, False))
    assert torch.equal(with_cache, without)


def test_layer_types_follow_their_blocks(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    config = transformers.Qwen2Config(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        use_sliding_window=True,
        sliding_window=4,
        layer_types=kinds,
    )
    student = make_student(transformers.Qwen2ForCausalLM(config).eval(), [0, 1, 3])
    assert student.config.layer_types == [kinds[0], kinds[1], kinds[3]]
    student.save_pretrained(tmp_path)
    again = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(12)[None]
    torch.testing.assert_close(again(ids).logits, student(ids).logits)


def test_encoder_and_decoder_can_be_cut_apart(tiny: Any) -> None:
    student = make_student(tiny.build("whisper", layers=4), None, decoder_layers=2)
    assert (student.config.encoder_layers, student.config.decoder_layers) == (4, 2)
    assert (len(student.model.encoder.layers), len(student.model.decoder.layers)) == (4, 2)
    student = make_student(tiny.build("t5", layers=4), 3, decoder_layers=[0, 2])
    assert (student.config.num_layers, student.config.num_decoder_layers) == (3, 2)


def test_blocks_are_chosen_as_distilbert_did() -> None:
    assert kept_blocks(6, 12) == [0, 2, 4, 7, 9, 11]
    assert kept_blocks(1, 12) == [0]
    assert kept_blocks([1, 5], 12) == [1, 5]


def test_what_cannot_be_cut(tiny: Any) -> None:
    model = tiny.build("t5", layers=4)
    for layers in (0, 5, [], [2, 1], [4]):
        with pytest.raises(UsageError, match="blocks"):
            make_student(model, layers)
    with pytest.raises(UsageError, match="block 0 holds.*relative_attention_bias"):
        make_student(model, [1, 2])
    with pytest.raises(UsageError, match="no decoder"):
        make_student(tiny.build("classifier"), 1, decoder_layers=1)
    with pytest.raises(UsageError, match="no stack"):
        make_student(torch.nn.Linear(2, 2), 1)


def test_a_recipe_makes_the_student_of_its_model_and_its_teacher(tiny: Any, tmp_path: Path) -> None:
    model = tiny.build("classifier", layers=4)
    distillation = Distillation(student_layers=2, alpha=1.0)
    student = distillation.student(model).eval()
    assert student.config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == 4
    run = tiny.ByHand(distillation, student, tmp_path)
    assert run.value(tiny.batch("classifier")) > 0
    assert Distillation(model).student(model) is model


def layers_of(model: Any, name: str) -> list[tuple[Any, ...]]:
    """Query, key, value, output, the layers up, and down, by block."""
    if name == "llama":
        blocks = [(b.self_attn, b.mlp) for b in model.model.layers]
        return [(a.q_proj, a.k_proj, a.v_proj, a.o_proj, (m.gate_proj, m.up_proj), m.down_proj) for a, m in blocks]
    return [
        (b.attention.self.query, b.attention.self.key, b.attention.self.value, b.attention.output.dense)
        + ((b.intermediate.dense,), b.output.dense)
        for b in model.bert.encoder.layer
    ]


def by_head(layer: Any, *, columns: bool = False) -> torch.Tensor:
    """The weight by heads of size 8: ``[heads, 8, hidden]``."""
    weight = layer.weight.detach()
    return (weight.t() if columns else weight).unflatten(0, (-1, 8))


@pytest.mark.parametrize(("name", "heads", "groups"), [("classifier", 4, 4), ("llama", 4, 2)])
def test_a_narrow_student_has_its_teachers_largest_heads_and_neurons(
    tiny: Any, tmp_path: Path, name: str, heads: int, groups: int
) -> None:
    teacher = tiny.build(name, layers=3).eval()
    student = make_student(teacher, 2, heads=2, intermediate_size=20)
    share = heads // groups
    for kept, whole in zip(layers_of(student, name), layers_of(make_student(teacher, 2), name), strict=True):
        sizes = [
            float(by_head(whole[2])[g].norm())
            * sum(float(by_head(whole[3], columns=True)[h].norm()) ** 2 for h in range(g * share, (g + 1) * share))
            ** 0.5
            for g in range(groups)
        ]
        chosen = sorted(sorted(range(groups), key=lambda g: -sizes[g])[: 2 // share])
        chosen_heads = [g * share + i for g in chosen for i in range(share)]
        assert torch.equal(by_head(kept[0]), by_head(whole[0])[chosen_heads])
        assert torch.equal(by_head(kept[1]), by_head(whole[1])[chosen])
        assert torch.equal(by_head(kept[2]), by_head(whole[2])[chosen])
        assert torch.equal(by_head(kept[3], columns=True), by_head(whole[3], columns=True)[chosen_heads])
        product = torch.stack(
            [whole[5].weight.detach().norm(dim=0), *(up.weight.detach().norm(dim=1) for up in whole[4])]
        ).prod(0)
        neurons = sorted(sorted(range(48), key=lambda n: -float(product[n]))[:20])
        assert torch.equal(kept[5].weight, whole[5].weight[:, neurons])
        assert all(torch.equal(new.weight, old.weight[neurons]) for new, old in zip(kept[4], whole[4], strict=True))
    assert teacher.config.intermediate_size == 48
    inputs = tiny.batch(name)
    ours = student(**inputs).logits
    if name == "llama":  # BERT's config has no word for fewer heads of the same size
        student.save_pretrained(tmp_path)
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert (again.config.num_attention_heads, again.config.num_key_value_heads) == (2, 1)
    else:
        Checkpoint.of(student).save(tmp_path)
        again = lepton.load_model(tmp_path).model
    torch.testing.assert_close(again(**inputs).logits, ours)


@pytest.mark.parametrize("name", ["classifier", "vit", "whisper"])
def test_a_narrow_students_folder_is_for_everyone(tiny: Any, tmp_path: Path, name: str) -> None:
    teacher = tiny.build(name).eval()
    student = make_student(teacher, heads=2 if name == "vit" else None, intermediate_size=16)
    student.save_pretrained(tmp_path)
    again = type(teacher).from_pretrained(tmp_path).eval()
    inputs = tiny.batch(name)
    torch.testing.assert_close(again(**inputs).logits, student(**inputs).logits)
    assert student.num_parameters() < teacher.num_parameters()


def test_what_cannot_be_narrowed(tiny: Any) -> None:
    llama = tiny.build("llama")
    with pytest.raises(UsageError, match="self_attn: 3 of 4 heads cannot be kept: 2 query heads share.*multiple of 2"):
        make_student(llama, heads=3)
    with pytest.raises(UsageError, match="self_attn: 6 of 4 heads cannot be kept"):
        make_student(llama, heads=6)
    with pytest.raises(UsageError, match="mlp: 0 of 48 neurons cannot be kept"):
        make_student(llama, intermediate_size=0)
    with pytest.raises(UsageError, match="block 0 shows no heads that could be removed"):
        make_student(tiny.build("t5"), heads=2)


def test_a_recipe_narrows_its_student(tiny: Any, tmp_path: Path) -> None:
    model = tiny.build("classifier")
    distillation = Distillation(student_heads=1, student_intermediate_size=16, hidden=1.0, attention=1.0)
    student = distillation.student(model).eval()
    assert [layer[0].out_features for layer in layers_of(student, "classifier")] == [8, 8]
    assert student.config.intermediate_size == 16
    assert tiny.ByHand(distillation, student, tmp_path).value(tiny.batch("classifier")) > 0
    with pytest.raises(UsageError, match="student_heads.*greater than 0"):
        Distillation(student_heads=0)
