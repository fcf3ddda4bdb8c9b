"""Started by torchrun, on CPUs: trains the cases of a test file, and keeps what each process ends with.

Arguments: the test file, and a folder. The file has ``CASES``, each with the class of the blocks that FSDP2 shards, or None for
DistributedDataParallel, and ``train(case, folder, processes, **arguments)``, which gives what is compared.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate.utils import DistributedType

FSDP = {"fsdp_version": 2, "reshard_after_forward": True, "state_dict_type": "FULL_STATE_DICT"}


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def let_cpus_shard() -> None:
    """accelerate shards for accelerators only, though torch and gloo do it on CPUs: they are told to be one."""
    init = accelerate.PartialState.__init__

    def patched(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if sharding and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    accelerate.PartialState.__init__ = patched


if __name__ == "__main__":
    torch.set_num_threads(1)
    let_cpus_shard()
    test, folder = load(Path(sys.argv[1])), Path(sys.argv[2])
    for case, block in test.CASES.items():
        os.environ.pop("ACCELERATE_USE_FSDP", None)  # of the case before
        sharding = block is not None
        config = {**FSDP, "transformer_layer_cls_to_wrap": [block]}
        options = {"fsdp": True, "fsdp_config": config} if sharding else {}
        torch.save(test.train(case, folder / case, 2, **options), folder / f"{case}.{os.environ['RANK']}.pt")
