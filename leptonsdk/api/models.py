"""Load and save: checkpoints and artifacts from whatever a caller has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonsdk.artifact import Artifact, is_artifact
from leptonsdk.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk.hub.signing import Verifier


def load_model(
    reference: str | Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    verifier: Verifier | None = None,
) -> Checkpoint:
    """Load a model with its processor.

    Args:
        reference: A Hub id, a local folder, or ``package://name/sub`` for a folder inside an installed package.
        task: The Hub's task name, such as ``text-classification``; inferred from the architecture when left out.
        revision: Of a Hub model.
        dtype: To compute in; float32 by default, whatever is on disk.
        device: A torch device.
        trust_remote_code: Run code that the model's repository holds.
        verifier: Checks the repository's signature and every file's hash first, see `leptonsdk.hub.signing`. Without one, a
            repository that is signed is checked with the key of LEPTONSDK_PUBLIC_KEY, if that is set.

    Raises:
        CheckpointError: It is missing, has no safetensors weights, does not do the task, or is not what was signed.
    """
    import torch

    from leptonsdk.checkpoint import load_checkpoint
    from leptonsdk.hub.signing import trusted_verifier

    checker = verifier or trusted_verifier()
    if checker is not None:
        from leptonsdk.hub.verify import is_signed, verified_folder

        if verifier is not None or is_signed(reference, revision):
            reference = verified_folder(reference, revision, checker)
    return load_checkpoint(
        reference,
        task=task,
        revision=revision,
        dtype=dtype or torch.float32,
        device=device,
        trust_remote_code=trust_remote_code,
    )


def save_model(
    model: Checkpoint, folder: str | Path, *, dtype: torch.dtype | None = None, format: str = "compressed-tensors"
) -> Path:
    """Write a Hugging Face folder that plain ``from_pretrained`` loads; quantized weights as compressed-tensors.

    Args:
        model: What `load_model` or `quantize_model` gave.
        folder: Made if need be.
        dtype: Of the weights that are not quantized (``torch.float16`` halves them); default: as they are.
        format: Of those that are: ``compressed-tensors``, or ``gptq`` (transformers needs gptqmodel to load it).
    """
    return model.save(folder, dtype=dtype, format=format)


def as_checkpoint(model: Any, task: str | None = None) -> Checkpoint:
    """A checkpoint from a checkpoint, a transformers model, or a reference."""
    from transformers import PreTrainedModel

    from leptonsdk.checkpoint import Checkpoint

    if isinstance(model, Checkpoint):
        return model
    if isinstance(model, PreTrainedModel):
        return Checkpoint.of(model, task=task)
    if isinstance(model, Artifact) or (isinstance(model, (str, Path)) and is_artifact(model)):
        raise CheckpointError("an exported artifact cannot be compressed again", hint="start from the checkpoint")
    return load_model(model, task=task)


def as_subject(model: Any, task: str | None = None) -> Checkpoint | Artifact:
    """A checkpoint or an artifact, whichever it is or a folder holds."""
    if isinstance(model, Artifact):
        return model
    if isinstance(model, (str, Path)) and is_artifact(model):
        return Artifact.open(model)
    return as_checkpoint(model, task)
