"""End to end: a Trainer whose loss has a teacher's part in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from leptonsdk_distillation import Distillation
from leptonsdk_distillation.terms import divergence
from sklearn.datasets import load_digits

from leptonsdk.hooks import StepContext


class Trainer(transformers.Trainer):
    """As little of a Trainer as a training compressor needs."""

    distillation: Distillation

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(**inputs, **(self.distillation.model_inputs() if model.training else {}))
        loss = outputs.loss
        if model.training:
            loss = self.distillation.loss(model, inputs, outputs, loss)
        return (loss, outputs) if return_outputs else loss


def rows(count: int) -> list[dict[str, Any]]:
    digits = load_digits()
    images = torch.tensor(digits.images[:count] / 8 - 1, dtype=torch.float32)
    return [{"pixel_values": image[None], "labels": int(y)} for image, y in zip(images, digits.target, strict=False)]


def train(
    model: Any,
    data: Any,
    folder: Path,
    steps: int,
    distillation: Distillation | None = None,
    resume: Path | None = None,
    **options: Any,
) -> None:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        **{"save_strategy": "no", **options},
    )
    trainer = (transformers.Trainer if distillation is None else Trainer)(model, arguments, train_dataset=data)
    if distillation is not None:
        trainer.distillation = distillation
        distillation.prepare(model, StepContext(seed=0, folder=folder))
    trainer.train(resume_from_checkpoint=resume and str(resume))


@pytest.mark.parametrize("options", [{"cache": True}, {"hidden": 1.0, "attention": 0.1}])
def test_training_brings_a_student_to_its_teacher(tiny: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    data = rows(640)
    shape = {"num_labels": 10, "patch_size": 4}
    torch.manual_seed(0)
    teacher = tiny.build("vit", layers=2, width=32, **shape)
    train(teacher, data, tmp_path, 60)
    student = tiny.build("vit", seed=3, layers=1, width=16, **shape)
    pixels = torch.stack([row["pixel_values"] for row in data])

    def distance() -> float:
        with torch.no_grad():
            return float(divergence(student.eval()(pixels).logits, teacher.eval()(pixels).logits))

    before = distance()
    distillation = Distillation(teacher, temperature=2.0, alpha=0.9, **options)
    train(student, data, tmp_path, 80, distillation)
    assert distance() < 0.3 * before
    logs = distillation.logs()
    if options.get("cache"):
        assert logs["teacher_cache_hit_rate"] > 0.8, "eight epochs, the teacher runs in the first"
    distillation.finalize(student, StepContext(seed=0, folder=tmp_path))
    student.save_pretrained(tmp_path / "student")
    again = transformers.ViTForImageClassification.from_pretrained(tmp_path / "student").eval()
    torch.testing.assert_close(again(pixels[:8]).logits, student.eval()(pixels[:8]).logits)


def test_an_interrupted_run_goes_on_with_its_projections(tiny: Any, tmp_path: Path) -> None:
    inputs = tiny.batch("classifier", rows=128)
    data = [{name: value[i] for name, value in inputs.items()} for i in range(128)]

    def trained(resume: Path | None = None) -> Any:
        student, teacher = tiny.build("classifier", width=16), tiny.build("classifier", seed=1)
        distillation = Distillation(teacher, hidden=1.0, embeddings=1.0)
        train(student, data, tmp_path, 4, distillation, resume, save_strategy="steps", save_steps=2)
        return student

    whole, resumed = trained(), trained(tmp_path / "checkpoint-2")
    assert "distillation_projections.hidden_states.weight" in dict(whole.named_parameters())
    for ours, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_readme_runs(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "hidden_loss" in done.stdout
