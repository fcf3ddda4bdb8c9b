"""Students with fewer blocks: their folders load with plain transformers and compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from leptonsdk_distillation import Distillation, make_student
from leptonsdk_distillation.students import kept_blocks

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
