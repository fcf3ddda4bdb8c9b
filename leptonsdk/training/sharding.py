"""Sharded training (FSDP2): outside of the forward each process holds a part of every parameter, a ``DTensor``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, distributed, nn

from leptonsdk.errors import UsageError
from leptonsdk.hooks import TrainingCompressor

_WHERE = "CompressionTrainer"


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor, or a sum over one, with what all processes have of it; another tensor as it is.

    All processes must call it alike, since each sends its part. Gradients that it is given are averaged over the processes, as
    FSDP averages those of the forward.
    """
    if not hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import Partial

    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    found: Tensor = tensor.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if found.requires_grad:
        found.register_hook(lambda gradient: gradient / mesh.size())  # type: ignore[no-untyped-call]
    return found


def gather(model: nn.Module) -> None:
    """Undo what accelerate did to shard a model, in place: whole parameters on every process, tied ones still tied, plain modules.

    torch has no public way back from ``fully_shard``: its hooks and its state are found by private names, here alone.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY
    from torch.distributed._composable_state import _module_state_mapping
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import ActivationWrapper
    from torch.distributed.fsdp import FSDPModule

    sharded: list[Any] = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not sharded:
        return
    for module in sharded:
        module.reshard()  # some were left whole by the last forward, and not in their own dtype
    for name, module in reversed(list(model.named_modules())):  # the inner of two first
        if isinstance(module, ActivationWrapper):  # fsdp_config's activation_checkpointing
            model.set_submodule(name, module.get_submodule("_checkpoint_wrapped_module"))
    made: dict[Tensor, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter not in made:
                made[parameter] = nn.Parameter(whole(parameter.detach()), parameter.requires_grad)
            setattr(module, name, made[parameter])
        for name in ("_is_fsdp_managed_module", "_fsdp_use_orig_params"):
            vars(module).pop(name, None)
        _remove_hooks(module)
    for module in sharded:
        for key in (STATE_KEY, REGISTRY_KEY):
            vars(module).pop(key, None)
        _module_state_mapping.pop(module, None)
        module.__class__ = next(cls for cls in type(module).__mro__ if not issubclass(cls, FSDPModule))
    vars(model).pop("generate", None)  # which the Trainer had wrapped


def _remove_hooks(module: nn.Module) -> None:
    """Those of FSDP, for forwards and state dicts, which are known by where their functions stand."""
    kept_by_kind = [hooks for name, hooks in vars(module).items() if "_hooks" in name and isinstance(hooks, dict)]
    of_fsdp = [
        number
        for hooks in kept_by_kind
        for number, hook in hooks.items()
        if str(getattr(getattr(hook, "hook", hook), "__module__", "")).startswith("torch.distributed.fsdp")
    ]
    for hooks in kept_by_kind:
        for number in of_fsdp:  # one number in several: its function in the first, how to call it in the others
            hooks.pop(number, None)


def check_sharding(accelerator: Any, model: nn.Module, compression: Sequence[TrainingCompressor[Any]]) -> None:
    """Check that compressors can work with how the accelerator shards a model.

    Raises:
        UsageError: A compressor changes weights, which DeepSpeed's ZeRO-3 and FSDP1 keep in a form of their own; or processes
            other than the first have no weights to look at (FSDP's ``cpu_ram_efficient_loading``); or the model is sharded already.
    """
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    deepspeed = getattr(accelerator.state, "deepspeed_plugin", None)
    kind = "FSDP1" if fsdp is not None and fsdp.fsdp_version == 1 else None
    if deepspeed is not None and deepspeed.zero_stage == 3:
        kind = "DeepSpeed's ZeRO-3"
    for compressor in compression:
        if kind and compressor.effects() - {"distills"}:
            raise UsageError(
                f"'{compressor.name}' changes weights, which {kind} keeps in a form of its own",
                where=_WHERE,
                hint="use FSDP2 (fsdp_config: {fsdp_version: 2}), ZeRO-1, ZeRO-2 or DDP",
            )
    if compression and fsdp is not None and fsdp.cpu_ram_efficient_loading:
        raise UsageError(
            "compressors look at the weights on every process, and FSDP's cpu_ram_efficient_loading has them on the first only",
            where=_WHERE,
            hint="use fsdp_config: {cpu_ram_efficient_loading: false}",
        )
    if compression and any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        raise UsageError(
            "the model is sharded already, before compressors could add to it",
            where=_WHERE,
            hint="load it plainly and let the Trainer shard it (fsdp_config: {fsdp_version: 2})",
        )
