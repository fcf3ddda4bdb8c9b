"""Whether a repository or folder is what its manifest says: every file's hash, the manifest itself, a signature.

The claims of the manifest (scores, speed) are another matter: see `leptonsdk.hub.again`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonsdk.artifact import MANIFEST, is_as_written, read_manifest, sha256
from leptonsdk.errors import CheckpointError
from leptonsdk.hub.errors import hub_errors
from leptonsdk.hub.layout import SIGNATURE, is_foreign
from leptonsdk.hub.schema import check_manifest
from leptonsdk.hub.signing import trusted_verifier
from leptonsdk.pipeline.display import Display
from leptonsdk.references import locate_model

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from leptonsdk.hub.signing import Verifier

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        name: The repository or folder, for people.
        folder: Where its files are.
        manifest: ``leptonsdk.json``.
        intact: How many files are as the manifest says.
        changed: Files whose content is another.
        missing: Files that are not there.
        extra: Files that the manifest does not name; they prove nothing and spoil nothing.
        signature: ``good``, ``not checked`` (no key was given), a reason why it is bad, or None where there is none.
    """

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    intact: int
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    signature: str | None = None

    @property
    def passed(self) -> bool:
        """Every file is as it was pushed, and no signature is bad."""
        return not (self.changed or self.missing) and self.signature in (None, "good", "not checked")

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "passed": self.passed,
            "intact": self.intact,
            "changed": list(self.changed),
            "missing": list(self.missing),
            "extra": list(self.extra),
            "signature": self.signature,
            "verdict": self.manifest.get("verdict"),
        }


def open_repository(
    reference: str | Path, revision: str | None, api: HfApi, display: Display | None = None
) -> tuple[str, Path]:
    """A folder as it is, or a repository of the Hub, all of it, in the cache: its name for people, and where it is."""
    located = locate_model(str(reference))
    if located.folder is not None:
        return located.name, located.folder
    title = f"download {located.name}"
    with (display or Display()).work("download", title), hub_errors(located.name, "downloading"):
        return located.name, Path(api.snapshot_download(located.name, revision=revision))


def read_repository(name: str, folder: Path) -> dict[str, Any]:
    """Its manifest.

    Raises:
        CheckpointError: There is none, or it does not say what one must.
    """
    manifest = read_manifest(folder)
    check_manifest(manifest, name)
    return manifest


def verify_files(name: str, folder: Path, verifier: Verifier | None = None) -> Verification:
    """Compare every file with the manifest.

    Args:
        name: For people.
        folder: The repository's files.
        verifier: Checks the signature, which must then be there. Without one, a signature that is there is checked with the
            key of LEPTONSDK_PUBLIC_KEY, if that is set.

    Raises:
        CheckpointError: There is no manifest, or it is not one.
    """
    manifest = read_repository(name, folder)
    hashes = _hashes(manifest, name)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    there = {path for path in there if not is_foreign(path)}
    known = hashes.keys()
    changed: tuple[str, ...] = (MANIFEST,)  # if it is not as written, what it says of the others proves nothing
    if is_as_written((folder / MANIFEST).read_bytes()):
        changed = tuple(path for path in sorted(known & there) if sha256(folder / path) != hashes[path])
    signature = None
    if (folder / SIGNATURE).is_file():
        checker = verifier or trusted_verifier()
        signature = "not checked" if checker is None else checker.check(folder) or "good"
    elif verifier is not None:
        signature = f"there is no {SIGNATURE}"
    return Verification(
        name,
        folder,
        manifest,
        intact=len(known & there) + 1 - len(changed),  # the manifest is a file too
        changed=changed,
        missing=tuple(sorted(known - there)),
        extra=tuple(sorted(there - known)),
        signature=signature,
    )


def is_signed(reference: str | Path, revision: str | None) -> bool:
    """Whether a signature stands in a repository or folder; of one that cannot be reached, in the cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled

    located = locate_model(str(reference))
    if located.folder is not None:
        return (located.folder / SIGNATURE).is_file()
    try:
        hf_hub_download(located.name, SIGNATURE, revision=revision)
    except (EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled):
        return False
    return True


def verified_folder(reference: str | Path, revision: str | None, verifier: Verifier) -> Path:
    """A repository's or folder's files, if they are those that were signed.

    Raises:
        CheckpointError: They are not.
    """
    from huggingface_hub import HfApi

    found = verify_files(*open_repository(reference, revision, HfApi()), verifier)
    if not found.passed:
        files = ", ".join([*found.changed, *found.missing][:5])
        told = (
            f"its files are not those that were pushed: {files}"
            if files
            else f"its signature is not good: {found.signature}"
        )
        raise CheckpointError(told, where=found.name)
    return found.folder


def _hashes(manifest: Mapping[str, Any], name: str) -> dict[str, str]:
    """The manifest's hashes, if they are such, of files inside the folder, and cover what it says it holds."""
    hashes, where = manifest.get("sha256"), f"{name}/{MANIFEST}"
    if not isinstance(hashes, dict) or not hashes:
        raise CheckpointError("its manifest names no files", where=where)
    for path, digest in hashes.items():
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise CheckpointError(f"the hash of {path} in its manifest is none", where=where)
        if path.startswith("/") or "\\" in path or ".." in path.split("/"):
            raise CheckpointError(f"its manifest names a file outside of it: {path}", where=where)
    described = [manifest["artifact"]] if manifest["artifact"] else []
    described += manifest.get("artifacts") or []
    for artifact in described:
        if left_out := [path for path in artifact["files"] if path not in hashes]:
            raise CheckpointError(f"its manifest has no hash of {', '.join(left_out)}", where=where)
    return hashes
