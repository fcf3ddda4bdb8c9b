"""Two processes (gloo) end with the weights of one, on the same batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import conftest as kit
from leptonsdk.training import CompressionTrainer

torch.set_num_threads(1)
language, folder = sys.argv[2] == "language", Path(sys.argv[3])
args = kit.arguments(folder, per_device_train_batch_size=4, optim="sgd", max_grad_norm=0.0, learning_rate=0.1)
model = kit.language_model() if language else kit.classifier()
data = kit.rows(language=language)
trainer = CompressionTrainer(model, args, train_dataset=data, compression=[kit.Shrinker(penalty=0.0 if language else 0.1)])
trainer.train()
assert trainer.accelerator.num_processes == 2
trainer.save_model(folder / "trained")
"""


@pytest.mark.parametrize("kind", ["classifier", "language"])
def test_two_processes_end_like_one(kit: Any, tmp_path: Path, kind: str) -> None:
    from leptonsdk.training import CompressionTrainer

    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    here = str(Path(__file__).parent)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(
        [*command, here, kind, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    language = kind == "language"
    trainer = CompressionTrainer(
        kit.language_model() if language else kit.classifier(),
        kit.arguments(
            tmp_path / "one", per_device_train_batch_size=8, optim="sgd", max_grad_norm=0.0, learning_rate=0.1
        ),
        train_dataset=kit.rows(language=language),
        compression=[kit.Shrinker(penalty=0.0 if language else 0.1)],
    )
    trainer.train()
    two = load_file(tmp_path / "two" / "trained" / "model.safetensors")
    for name, value in trainer.model.state_dict().items():
        if name in two:  # tied ones are saved once
            assert torch.allclose(value, two[name], atol=1e-6), name
