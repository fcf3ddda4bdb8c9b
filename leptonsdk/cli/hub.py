"""``lepton push``, ``verify`` and ``reproduce``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leptonsdk.cli import common

if TYPE_CHECKING:
    from leptonsdk.api import Reproduced, Verified
    from leptonsdk.hub.again import Compared
    from leptonsdk.hub.push import Pushed

_Reference = Annotated[str, typer.Argument(metavar="FOLDER_OR_ID", help="A Hub id, or a folder with a leptonsdk.json.")]
_Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub id.")]


def push(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.")],
    repo_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; made if need be.")],
    artifact: Annotated[list[str] | None, typer.Option("--artifact", help="Push only this export.")] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public; private is the default.")
    ] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")] = False,
    allow_failed_gate: Annotated[
        bool,
        typer.Option("--allow-failed-gate", help="Push though the gate did not pass; the card says so first of all."),
    ] = False,
    source: Annotated[
        Path | None, typer.Option("--source", help="The source model's folder; its weights stand at the root.")
    ] = None,
    base_model: Annotated[str | None, typer.Option("--base-model", help="The source's id on the Hub.")] = None,
    license: Annotated[
        str | None, typer.Option("--license", help="For the card, instead of what the source's card says.")
    ] = None,
    sign: Annotated[
        Path | None, typer.Option("--sign", metavar="KEY", help="Sign with this private key (PEM).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be sent, and send nothing.")] = False,
    as_json: common.Json = False,
) -> None:
    """Push a run to the Hub: checkpoint, exports, model card and manifest, in one commit."""
    plugins = common.plugins()
    from leptonsdk import api
    from leptonsdk.hub.signing import KeySigner

    display, console = common.display(as_json)
    pushed = api.push_to_hub(
        run,
        repo_id,
        artifacts=artifact or (),
        public=public,
        create_pr=create_pr,
        allow_failed_gate=allow_failed_gate,
        source=source,
        base_model=base_model,
        license=license,
        signer=None if sign is None else KeySigner(sign),
        dry_run=dry_run,
        display=display,
        plugins=plugins,
    )
    if as_json:
        typer.echo(json.dumps(_push_as_dict(pushed), indent=2))
    else:
        _show_push(console, pushed, "public" if public else "private")


def _push_as_dict(pushed: Pushed) -> dict[str, Any]:
    prepared = pushed.prepared
    return {
        "repo_id": prepared.repo_id,
        "files": {file.path: file.size for file in prepared.files},
        "deleted": list(prepared.deleted),
        "bytes": prepared.size,
        "parent": prepared.parent,
        "commit": pushed.commit,
        "url": pushed.url,
        "pull_request": pushed.pull_request,
        "unchanged": pushed.unchanged,
    }


def _show_push(console: Any, pushed: Pushed, visibility: str) -> None:
    from leptonsdk.report.format import size

    prepared = pushed.prepared
    if pushed.commit is None:
        for file in prepared.files:
            console.print(f"  {size(file.size):>9}  {file.path}", soft_wrap=True, highlight=False)
        for path in prepared.deleted:
            console.print(f"  {'taken away':>10} {path}", soft_wrap=True, highlight=False)
    count = f"{len(prepared.files)} files, {size(prepared.size)}"
    if pushed.commit is None:
        where = (
            f"a new {visibility} repository" if prepared.parent is None else f"on top of commit {prepared.parent[:10]}"
        )
        console.print(f"{count} would go to {prepared.repo_id}, {where}. Nothing was sent.", soft_wrap=True)
    elif pushed.unchanged:
        console.print(f"Nothing to do: all {count} stand there already.", soft_wrap=True)
    else:
        console.print(f"{count}: {pushed.pull_request or pushed.url}", soft_wrap=True)


def verify(
    reference: _Reference,
    gate: Annotated[bool, typer.Option("--gate", help="Evaluate, time and judge it again on this machine.")] = False,
    sets: common.Set = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="KEY", help="Check its signature with this key (PEM).")
    ] = None,
    revision: _Revision = None,
    as_json: common.Json = False,
) -> None:
    """Check every file against its hash: exit code 0 as pushed, 1 not. With --gate also what is claimed of it; 3 inconclusive."""
    plugins = common.plugins()
    from leptonsdk import api
    from leptonsdk.hub.signing import KeyVerifier

    display, console = common.display(as_json)
    verified = api.verify(
        reference,
        gate=gate,
        overrides=sets or (),
        verifier=None if public_key is None else KeyVerifier(public_key),
        revision=revision,
        display=display,
        plugins=plugins,
    )
    if as_json:
        typer.echo(json.dumps(verified.as_dict(), indent=2))
    else:
        _show_verified(console, verified)
    raise typer.Exit(verified.exit_code)


def _show_verified(console: Any, verified: Verified) -> None:
    files = verified.files
    for word, paths in {"changed": files.changed, "missing": files.missing, "not covered": files.extra}.items():
        for path in paths:
            console.print(f"  {word}: {path}", soft_wrap=True, highlight=False)
    told = "All files are as pushed" if files.passed else "These are not the files that were pushed"
    bad = len(files.changed) + len(files.missing)
    counted = f"{files.intact} intact" + (f", {bad} not" if bad else "")
    console.print(f"{files.name}: {told} ({counted}).", soft_wrap=True)
    if files.signature is not None:
        hint = "; give --public-key" if files.signature == "not checked" else ""
        console.print(f"Signature: {files.signature}{hint}", soft_wrap=True)
    _show_conditions(console, verified.conditions)
    _show_versions(console, verified.versions or {})


def reproduce(
    reference: _Reference,
    out: Annotated[Path, typer.Option("--out", help="The new run's folder; an earlier run in it goes on.")],
    sets: common.Set = None,
    revision: _Revision = None,
    as_json: common.Json = False,
) -> None:
    """Carry out a repository's recipe again, and say what matched: exit code 0 as claimed, 1 not, 3 inconclusive."""
    plugins = common.plugins()
    from leptonsdk import api

    display, console = common.display(as_json)
    done = api.reproduce(reference, out, overrides=sets or (), revision=revision, display=display, plugins=plugins)
    if as_json:
        typer.echo(json.dumps(done.as_dict(), indent=2))
    else:
        _show_reproduced(console, done)
    raise typer.Exit(done.exit_code)


def _show_reproduced(console: Any, done: Reproduced) -> None:
    console.print(f"Files: {len(done.same_files)} are the same byte for byte, {len(done.other_files)} are not.")
    for path in done.other_files:
        console.print(f"  another content: {path}", soft_wrap=True, highlight=False)
    for name, values in done.values.items():
        for metric, (claimed, here, same) in values.items():
            word = "the same" if same else "another value"
            console.print(f"  {name} {metric}: claimed {claimed:.6g}, here {here:.6g}: {word}", soft_wrap=True)
    _show_conditions(console, done.conditions)
    _show_versions(console, done.versions)


def _show_conditions(console: Any, conditions: tuple[Compared, ...]) -> None:
    for c in conditions:
        word = "inside" if c.inside else "outside"
        shape = f" at {c.detail}" if c.detail else ""
        console.print(
            f"  {c.subject} {c.metric} {c.kind}{shape}: claimed {c.claimed:.6g} [{c.interval[0]:.6g}, {c.interval[1]:.6g}], "
            f"here {c.value:.6g}: {word} the claimed interval; {c.verdict} here",
            soft_wrap=True,
            markup=False,
        )


def _show_versions(console: Any, versions: Any) -> None:
    if versions:
        told = ", ".join(
            f"{name} {there or 'none'} there, {here or 'none'} here" for name, (there, here) in versions.items()
        )
        console.print(f"Other versions: {told}", soft_wrap=True)
