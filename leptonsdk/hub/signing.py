"""Signatures over a whole repository, by model-signing (the extra ``signing``): one file, ``model.sig``.

Anything with the methods of `Signer` or `Verifier` can take its place.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from leptonsdk.errors import MissingPluginError, UsageError, first_line
from leptonsdk.hub.layout import SIGNATURE, RepoFile

# A public key (PEM) that every signature is checked with where no other verifier is given, on loading too.
TRUSTED_KEY = "LEPTONSDK_PUBLIC_KEY"


class Signer(Protocol):
    """Makes a signature."""

    def signature(self, files: Sequence[RepoFile]) -> bytes:
        """The content of ``model.sig``, over files as they will stand in the repository."""


class Verifier(Protocol):
    """Checks a signature."""

    def check(self, folder: Path) -> str | None:
        """Why the signature in a folder is not good; None where it is."""


class KeySigner:
    """Signs with an elliptic-curve private key in a PEM file."""

    def __init__(self, private_key: str | Path, password: str | None = None) -> None:
        if not Path(private_key).is_file():
            raise UsageError("there is no such key file", where=f"--sign {private_key}")
        self.private_key, self.password = Path(private_key), password

    def signature(self, files: Sequence[RepoFile]) -> bytes:
        signing = _library().signing
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            for file in files:
                _place(file, folder / file.path)
            place = Path(scratch) / SIGNATURE
            try:
                config = signing.Config().use_elliptic_key_signer(private_key=self.private_key, password=self.password)
                config.sign(folder, place)
            except (ValueError, TypeError) as error:
                raise UsageError(f"the key cannot sign: {first_line(error)}", where="--sign") from error
            return place.read_bytes()


class KeyVerifier:
    """Checks against an elliptic-curve public key in a PEM file."""

    def __init__(self, public_key: str | Path) -> None:
        if not Path(public_key).is_file():
            raise UsageError("there is no such key file", where=f"--public-key {public_key}")
        self.public_key = Path(public_key)

    def check(self, folder: Path) -> str | None:
        verifying = _library().verifying
        with (
            tempfile.TemporaryDirectory() as scratch
        ):  # the Hub's cache is full of links, which the library follows nowhere
            paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            for name in paths:
                _place(RepoFile(name, folder / name), Path(scratch) / name)
            try:
                config = verifying.Config().use_elliptic_key_verifier(public_key=self.public_key)
                config.set_ignore_unsigned_files(True).verify(Path(scratch), Path(scratch) / SIGNATURE)
            except (
                Exception
            ) as error:  # whatever the library's parts raise: it all means that the signature is not good
                told = first_line(error)
                return "it is of other files" if told.startswith("Signature mismatch") else told
        return None


def trusted_verifier() -> Verifier | None:
    """The verifier of the key that LEPTONSDK_PUBLIC_KEY names, or None where it names none."""
    key = os.environ.get(TRUSTED_KEY)
    if not key:
        return None
    if not Path(key).is_file():
        raise UsageError(f"there is no such key file: {key}", where=TRUSTED_KEY)
    return KeyVerifier(key)


def _library() -> Any:
    try:
        import model_signing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise MissingPluginError(
            "signatures need model-signing, which is not there", hint="pip install 'leptonsdk[signing]'"
        ) from error
    return model_signing


def _place(file: RepoFile, place: Path) -> None:
    """Put a file where it will stand, by a hard link where the file system has them."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(file.content, bytes):
        place.write_bytes(file.content)
        return
    try:
        os.link(file.content.resolve(), place)
    except OSError:
        shutil.copyfile(file.content, place)
