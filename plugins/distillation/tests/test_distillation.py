"""The compressor on models of many architectures: its terms, what counts, what it checks, what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from leptonsdk_distillation import Distillation, DistillationConfig
from leptonsdk_distillation.agreement import label_order
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from leptonsdk.checkpoint import Checkpoint, Source
from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext

EVERYTHING = {"hidden": 1.0, "attention": 1.0}
ARCHITECTURES = ["classifier", "tagger", "span", "masked", "distilbert", "llama", "vit", "t5", "whisper", "ctc"]


def terms(run: Any, inputs: dict[str, Any]) -> dict[str, float]:
    """The teacher's part of what is logged for a batch."""
    run(inputs)
    return {name: value for name, value in run.distillation.logs().items() if name not in ("task_loss", "temperature")}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(tiny: Any, tmp_path: Path, name: str) -> None:
    student, teacher = tiny.build(name).eval(), tiny.build(name)
    run = tiny.ByHand(Distillation(teacher, alpha=1.0, embeddings=1.0, **EVERYTHING), student, tmp_path)
    found = terms(run, tiny.batch(name))
    assert found.keys() == {"distillation_loss", "hidden_loss", "attention_loss", "embeddings_loss"}
    assert found == pytest.approx(dict.fromkeys(found, 0.0), abs=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_smaller_student_learns_and_its_teacher_does_not(tiny: Any, tmp_path: Path, name: str) -> None:
    student, teacher = tiny.build(name, layers=2, width=16), tiny.build(name, seed=1, layers=4)
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    run = tiny.ByHand(Distillation(teacher, embeddings=0.5, **EVERYTHING), student, tmp_path)
    student.train()
    loss = run(tiny.batch(name))
    loss.backward()
    assert all(value > 0 for value in run.distillation.logs().values())
    unused = {"masked_spec_embed", "pooler"}
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for key, p in student.named_parameters()
        if p.requires_grad and not any(part in key for part in unused)
    )
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())


def test_the_loss_is_shared_as_alpha_says(tiny: Any, tmp_path: Path) -> None:
    student, teacher = tiny.build("classifier").eval(), tiny.build("classifier", seed=1)
    inputs = tiny.batch("classifier")
    task = student(**inputs).loss.item()
    teacher.eval()
    log_student, log_teacher = (m(**inputs).logits.div(3).log_softmax(-1) for m in (student, teacher))
    kl = (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean().item() * 9
    run = tiny.ByHand(Distillation(teacher, temperature=3.0, alpha=0.3), student, tmp_path)
    assert run.value(inputs) == pytest.approx(0.7 * task + 0.3 * kl, rel=1e-5)
    logged = {"task_loss": task, "distillation_loss": kl, "temperature": 3.0}
    assert run.distillation.logs() == pytest.approx(logged, rel=1e-5)
    assert run.distillation.logs() == {}, "logged once"


@pytest.mark.parametrize("name", ["classifier", "tagger", "span", "masked", "llama", "encoder"])
def test_padding_does_not_count(tiny: Any, tmp_path: Path, name: str) -> None:
    student, teacher = tiny.build(name).eval(), tiny.build(name, seed=1)
    weights = {"embeddings": 1.0, **EVERYTHING}
    run = tiny.ByHand(Distillation(teacher, alpha=1.0, **weights), student, tmp_path)
    inputs = tiny.batch(name)
    found = terms(run, inputs)
    ids = torch.nn.functional.pad(inputs["input_ids"], (0, 5), value=7)
    longer = {**inputs, "input_ids": ids, "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 5))}
    if (labels := inputs.get("labels")) is not None and labels.ndim == 2:
        longer["labels"] = torch.nn.functional.pad(labels, (0, 5), value=1)  # a label of padding does not count either
    assert terms(run, longer) == pytest.approx(found, rel=1e-4)


def test_a_decoder_counts_the_positions_whose_next_token_is_a_label(tiny: Any, tmp_path: Path) -> None:
    student, teacher = tiny.build("llama").eval(), tiny.build("llama", seed=1).eval()
    inputs = tiny.batch("llama", rows=1)
    inputs["labels"][:, :5] = -100  # a prompt
    log_student, log_teacher = (m(**inputs).logits[:, 4:-1].log_softmax(-1) for m in (student, teacher))
    kl = (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean()
    run = tiny.ByHand(Distillation(teacher, alpha=1.0, temperature=1.0), student, tmp_path)
    assert run.value(inputs) == pytest.approx(kl.item(), rel=1e-5)
    whole = tiny.batch("llama", rows=1, labels=False)
    log_student, log_teacher = (m(**whole).logits.log_softmax(-1) for m in (student, teacher))
    kl = (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean()
    assert run.value(whole) == pytest.approx(kl.item(), rel=1e-5), "without labels and a task's loss"


def test_a_sentence_encoder_learns_embeddings_without_a_task(tiny: Any, tmp_path: Path) -> None:
    student, teacher = tiny.build("encoder", width=16), tiny.build("encoder", seed=1)
    with pytest.raises(UsageError, match="no logits.*embeddings"):
        tiny.ByHand(Distillation(teacher), student, tmp_path)(tiny.batch("encoder"))
    run = tiny.ByHand(Distillation(teacher, embeddings=2.0), student, tmp_path)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        loss = run(tiny.batch("encoder"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert run.distillation.logs()["embeddings_loss"] == pytest.approx(sum(losses) / 20 / 2, rel=1e-4)


def test_regression_and_yes_or_no_labels(tiny: Any, tmp_path: Path) -> None:
    student, teacher = (tiny.build("classifier", seed=seed, num_labels=1).eval() for seed in (0, 1))
    inputs = tiny.batch("classifier", labels=False)
    run = tiny.ByHand(Distillation(teacher, alpha=1.0, temperature=5.0), student, tmp_path)
    wanted = (student(**inputs).logits - teacher(**inputs).logits).square().mean()
    assert run.value(inputs) == pytest.approx(wanted.item(), rel=1e-5)
    several = {"num_labels": 3, "problem_type": "multi_label_classification"}
    student, teacher = (tiny.build("classifier", seed=seed, **several).eval() for seed in (0, 1))
    run = tiny.ByHand(Distillation(teacher, alpha=1.0, temperature=1.0), student, tmp_path)
    ours, theirs = (m(**inputs).logits.sigmoid() for m in (student, teacher))
    wanted = (theirs * (theirs / ours).log() + (1 - theirs) * ((1 - theirs) / (1 - ours)).log()).mean()
    assert run.value(inputs) == pytest.approx(wanted.item(), rel=1e-4)


def test_labels_in_another_order_are_put_in_order(tiny: Any, tmp_path: Path) -> None:
    teacher = tiny.build("classifier", id2label={0: "neg", 1: "mid", 2: "pos"})
    student = tiny.build("classifier", id2label={0: "Pos", 1: "neg", 2: "mid"}).eval()
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(student.classifier, name).copy_(getattr(teacher.classifier, name)[order])
    run = tiny.ByHand(Distillation(teacher, alpha=1.0), student, tmp_path)
    assert run.value(tiny.batch("classifier", labels=False)) == pytest.approx(0, abs=1e-6)


def test_labels_that_occur_twice_are_fine_in_the_same_order_only() -> None:
    def config(*names: str) -> SimpleNamespace:
        return SimpleNamespace(id2label=dict(enumerate(names)))

    assert label_order(config("crane", "crane", "owl"), config("crane", "crane", "owl")) is None
    assert label_order(config("LABEL_0", "LABEL_1"), config("no", "yes")) is None
    with pytest.raises(UsageError, match="labels differ"):
        label_order(config("crane", "owl", "crane"), config("crane", "crane", "owl"))


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "message"),
    [
        ("classifier", {"num_labels": 3}, {"num_labels": 2}, "the teacher has 2 labels, the student 3"),
        ("classifier", {"id2label": {0: "a", 1: "b"}}, {"id2label": {0: "a", 1: "c"}}, "the labels differ"),
        ("llama", {}, {"vocab_size": 130}, "vocabulary has 130 entries, the student's 120"),
    ],
)
def test_models_that_speak_of_other_things_are_refused(
    tiny: Any, tmp_path: Path, name: str, ours: Any, theirs: Any, message: str
) -> None:
    student, teacher = tiny.build(name, **ours), tiny.build(name, **theirs)
    with pytest.raises(UsageError, match=message):
        Distillation(teacher).prepare(student, StepContext(seed=0, folder=tmp_path))


def saved(model: Any, folder: Path, words: list[str]) -> Path:
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def test_tokenizers_are_compared_where_they_are_known(tiny: Any, tmp_path: Path) -> None:
    student_folder = saved(tiny.build("llama"), tmp_path / "student", ["a", "b"])
    student = transformers.LlamaForCausalLM.from_pretrained(student_folder)
    context = StepContext(seed=0, folder=tmp_path)
    other = saved(tiny.build("llama"), tmp_path / "other", ["b", "a"])
    with pytest.raises(UsageError, match="different tokenizers cannot be distilled token by token"):
        Distillation(str(other)).prepare(student, context)
    padded = saved(tiny.build("llama", vocab_size=128), tmp_path / "padded", ["a", "b"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(padded)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(padded)
    run = tiny.ByHand(Distillation(teacher=padded, alpha=1.0), student, tmp_path)
    assert run.value(tiny.batch("llama")) > 0, (
        "one tokenizer, with a token added, and embeddings padded to another size"
    )


def test_the_ways_to_name_a_teacher(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny.build("classifier", seed=1)
    saved(teacher, tmp_path / "teacher", ["a"])
    monkeypatch.chdir(tmp_path)
    checkpoint = Checkpoint(teacher, None, "text-classification", Source("memory", "x", None, "x"))
    config = DistillationConfig(teacher="teacher", alpha=1.0)
    ways = [
        Distillation(config),
        Distillation("teacher", alpha=1.0),
        Distillation(teacher="teacher", alpha=1.0),
        Distillation(Path("teacher"), alpha=1.0),
        Distillation(teacher, alpha=1.0),
        Distillation(checkpoint, alpha=1.0),
        Distillation(DistillationConfig(alpha=1.0), teacher=teacher),
        Distillation(DistillationConfig(alpha=1.0), teacher="teacher"),
    ]
    inputs = tiny.batch("classifier")
    student = tiny.build("classifier").eval()
    losses = {round(float(tiny.ByHand(way, student, tmp_path)(inputs)), 5) for way in ways}
    assert len(losses) == 1
    with pytest.raises(UsageError, match="two teachers"):
        Distillation(config, teacher=teacher)
    with pytest.raises(UsageError, match="temperature: .*greater than 0"):
        Distillation(teacher, temperature=0)
    with pytest.raises(UsageError, match="beside a config"):
        Distillation(config, alpha=0.5)
    with pytest.raises(UsageError, match="no teacher is given"):
        Distillation().prepare(student, StepContext(seed=0, folder=tmp_path))
    with pytest.raises(UsageError, match="nothing is distilled"):
        Distillation(teacher, alpha=0.0).prepare(student, StepContext(seed=0, folder=tmp_path))


def test_a_plan_reads_the_config_without_torch() -> None:
    source = "import sys, leptonsdk_distillation as d; d.DistillationConfig(); d.Distillation('x'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_model_can_be_its_own_teacher_as_it_was(tiny: Any, tmp_path: Path) -> None:
    student = tiny.build("classifier").eval()
    run = tiny.ByHand(Distillation(student, alpha=1.0), student, tmp_path)
    inputs = tiny.batch("classifier", labels=False)
    assert run.value(inputs) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        student.classifier.weight.neg_()
    assert run.value(inputs) > 0.01


def test_the_model_is_left_plain(tiny: Any, tmp_path: Path) -> None:
    student, teacher = tiny.build("classifier", width=16), tiny.build("classifier", seed=1)
    keys, attention = set(student.state_dict()), student.config._attn_implementation
    run = tiny.ByHand(Distillation(teacher, embeddings=1.0, **EVERYTHING), student, tmp_path)
    added = set(student.state_dict()) - keys
    assert added == {f"distillation_projections.{name}.weight" for name in ("hidden_states", "embeddings")}
    run(tiny.batch("classifier"))
    assert run.finalize() is student
    assert set(student.state_dict()) == keys
    assert student.config._attn_implementation == attention
    outputs = student(**tiny.batch("classifier"), output_hidden_states=True)
    assert outputs.keys() == {"loss", "logits", "hidden_states"}


def test_layers_that_cannot_be_compared_are_named(tiny: Any, tmp_path: Path) -> None:
    student, teacher = tiny.build("classifier"), tiny.build("classifier", layers=4)
    run = tiny.ByHand(Distillation(teacher, hidden=1.0, layer_map=[(1, 5)]), student, tmp_path)
    with pytest.raises(UsageError, match="the teacher 0 to 4"):
        run(tiny.batch("classifier"))
    run = tiny.ByHand(Distillation(teacher, attention=1.0), student, tmp_path)
    student.set_attn_implementation("sdpa")
    with pytest.raises(UsageError, match='student returns no attentions.*attn_implementation="eager"'):
        run(tiny.batch("classifier"))


def test_a_teacher_reads_what_its_forward_names(tiny: Any, tmp_path: Path) -> None:
    student, teacher = tiny.build("classifier"), tiny.build("distilbert")
    run = tiny.ByHand(Distillation(teacher), student, tmp_path)
    inputs = tiny.batch("classifier")
    run({**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])})


def test_projections_are_used_within_a_distributed_forward(tiny: Any, tmp_path: Path) -> None:
    """transformers' Trainer looks for unused parameters by default: one used after the forward would be marked twice."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        student, teacher = tiny.build("encoder", width=16), tiny.build("encoder", seed=1)
        distillation = Distillation(teacher, embeddings=1.0, hidden=1.0)
        distillation.prepare(student, StepContext(seed=0, folder=tmp_path))
        parallel = torch.nn.parallel.DistributedDataParallel(student, find_unused_parameters=True)
        inputs = tiny.batch("encoder")
        for _ in range(2):
            outputs = parallel(**inputs, **distillation.model_inputs())
            distillation.loss(parallel, inputs, outputs, None).backward()
        assert all(layer.weight.grad is not None for layer in student.distillation_projections.values())
    finally:
        torch.distributed.destroy_process_group()
