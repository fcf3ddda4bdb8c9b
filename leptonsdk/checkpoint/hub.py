"""Models from the Hub."""

from __future__ import annotations

from pathlib import Path

from leptonsdk.errors import CheckpointError, first_line


def download(name: str, revision: str | None) -> Path:
    """The snapshot of a Hub model: its safetensors, configs and tokenizer files, nothing pickled."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py", "LICENSE*", "1_Pooling/*"]
    unwanted = ["onnx/*", "openvino/*", "coreml/*", "*/*.safetensors"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=unwanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(
            f"cannot be downloaded: {first_line(error)}",
            where=f"Hub model '{name}'",
            hint="check the name, your access and the network; a local folder works without one",
        ) from error


def commit_of(folder: Path) -> str | None:
    """The commit of a Hub snapshot, whose folder is named after it."""
    return folder.name if folder.parent.name == "snapshots" else None
