"""To the Hub and back: push a run, verify what was pushed, make it again."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonsdk.api.common import installed_plugins
from leptonsdk.api.recipes import compress
from leptonsdk.hooks import Plugins
from leptonsdk.pipeline.display import Display
from leptonsdk.pipeline.store import read_run

if TYPE_CHECKING:
    from leptonsdk.hub.again import Compared
    from leptonsdk.hub.push import Pushed
    from leptonsdk.hub.signing import Signer, Verifier
    from leptonsdk.hub.verify import Verification
    from leptonsdk.pipeline.run import Run


def push_to_hub(
    run: Run | str | Path,
    repo_id: str,
    *,
    artifacts: Sequence[str] = (),
    public: bool = False,
    create_pr: bool = False,
    allow_failed_gate: bool = False,
    source: str | Path | None = None,
    base_model: str | None = None,
    license: str | None = None,
    signer: Signer | None = None,
    dry_run: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    display: Display | None = None,
    plugins: Plugins | None = None,
) -> Pushed:
    """Push a finished run: checkpoint, exports, card and manifest, in one commit that the Hub takes whole or not at all.

    Args:
        run: What `compress` gave, or a run folder.
        repo_id: ``owner/name``; made if need be.
        artifacts: Names of the exports to push; default: all.
        public: Make a new repository public. It is private by default; one that is there stays as it is.
        create_pr: Open a pull request instead of committing to the main branch.
        allow_failed_gate: Push although the gate failed or is inconclusive; the card says so in its first line.
        source: The source model's folder, whose weights then stand at the root where no step changed them. By default that
            is done of a model that an installed package holds, not of one on the Hub, where it can be had anyway.
        base_model: The source's id on the Hub, where it was not read from there.
        license: For the card, instead of what the source's own card says.
        signer: Signs the repository, see `leptonsdk.hub.signing`.
        dry_run: Only say what would be sent.
        token: By default the one that ``hf auth login`` or HF_TOKEN left; it is handed to the Hub's client and kept nowhere.
        endpoint: Another Hub than HF_ENDPOINT names.
        display: Where preparing is shown; uploads show the Hub client's own bars.
        plugins: Default: the installed ones.

    Raises:
        GateRefusedError: The gate did not pass.
        UsageError: Two artifacts want the same file, or the source is not the run's.
        HubError: What the Hub answered, and what to do. The repository is then as it was, or complete.
    """
    from huggingface_hub import HfApi

    from leptonsdk.hub.push import Pushed, prepare, send

    folder = run.folder if not isinstance(run, (str, Path)) else Path(run)
    api = HfApi(endpoint=endpoint, token=token)
    with (display or Display()).work("prepare", f"prepare {repo_id}"):
        prepared = prepare(
            folder,
            read_run(folder),
            repo_id,
            plugins or installed_plugins(),
            api,
            artifacts=artifacts,
            allow_failed_gate=allow_failed_gate,
            source=source,
            base_model=base_model,
            license=license,
            signer=signer,
        )
    return Pushed(prepared) if dry_run else send(prepared, api, public=public, create_pr=create_pr)


@dataclass(frozen=True)
class Verified:
    """What `verify` found: the files, and with ``gate`` the conditions measured again and the versions that differ."""

    files: Verification
    conditions: tuple[Compared, ...] = ()
    versions: Mapping[str, tuple[str | None, str | None]] | None = None

    @property
    def exit_code(self) -> int:
        """0 as claimed, 1 not, 3 inconclusive here."""
        from leptonsdk.hub.again import exit_code

        return exit_code(self.files.passed, self.conditions)

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.files.as_dict(),
            "conditions": [condition.as_dict() for condition in self.conditions],
            "versions": self.versions,
            "exit_code": self.exit_code,
        }


def verify(
    reference: str | Path,
    *,
    gate: bool = False,
    overrides: Sequence[str] = (),
    verifier: Verifier | None = None,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    display: Display | None = None,
    plugins: Plugins | None = None,
) -> Verified:
    """Check a repository, or a folder, against its manifest.

    Args:
        reference: A Hub id, or a folder.
        gate: Also evaluate, time and judge it again here, where its files are intact.
        overrides: ``a.b=value`` over the recipe for that, such as where the source model is on this machine.
        verifier: Checks its signature, which must then be there.
        revision: Of a Hub id.
        token: See `push_to_hub`.
        endpoint: See `push_to_hub`.
        display: Where progress is shown; nowhere by default.
        plugins: Default: the installed ones.

    Raises:
        CheckpointError: It has no manifest.
        HubError: It cannot be downloaded.
        RecipeError: Its recipe cannot be carried out here, for the reasons that it lists.
    """
    from leptonsdk.hub import again
    from leptonsdk.hub.verify import verify_files

    display = display or Display()
    name, folder = _opened(reference, revision, token, endpoint, display)
    files = verify_files(name, folder, verifier)
    if not gate or not files.passed:
        return Verified(files)
    from leptonsdk.pipeline.rejudging import judge_again

    plugins = plugins or installed_plugins()
    plan = again.plan_again(files.manifest, plugins, overrides)
    again.check_source(files.manifest, plan)
    with tempfile.TemporaryDirectory() as scratch:
        run = judge_again(plan, plugins, Path(scratch), folder, files.manifest, display)
    again.check_data(files.manifest, run.state)
    compared = again.compare_conditions(files.manifest, run.state)
    return Verified(files, tuple(compared), again.differing_versions(files.manifest, run.state))


@dataclass(frozen=True)
class Reproduced:
    """What came out when a repository's recipe was carried out again.

    Attributes:
        run: The new run.
        same_files: Files of its checkpoint and artifacts that are those of the repository, byte for byte.
        other_files: Those that are not.
        values: Metrics by model, as (claimed, here, equal).
        conditions: The gate's conditions beside the claimed intervals.
        versions: Packages whose version differs, as (there, here).
    """

    run: Run
    same_files: tuple[str, ...]
    other_files: tuple[str, ...]
    values: Mapping[str, Mapping[str, tuple[float, float, bool]]]
    conditions: tuple[Compared, ...]
    versions: Mapping[str, tuple[str | None, str | None]]

    @property
    def exit_code(self) -> int:
        """0 as claimed, 1 not, 3 inconclusive here. Files may differ where versions or processors do: scores decide."""
        from leptonsdk.hub.again import exit_code

        return exit_code(True, self.conditions)

    def as_dict(self) -> dict[str, Any]:
        return {
            "same_files": list(self.same_files),
            "other_files": list(self.other_files),
            "values": {name: dict(values) for name, values in self.values.items()},
            "conditions": [condition.as_dict() for condition in self.conditions],
            "versions": dict(self.versions),
            "exit_code": self.exit_code,
        }


def reproduce(
    reference: str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    display: Display | None = None,
    plugins: Plugins | None = None,
) -> Reproduced:
    """Carry out a repository's recipe again, and say what matched.

    Args:
        reference: A Hub id, or a folder.
        out: The new run's folder.
        overrides: ``a.b=value`` over the recipe, such as where the source model is on this machine.
        revision: Of a Hub id.
        token: See `push_to_hub`.
        endpoint: See `push_to_hub`.
        display: Where progress is shown; nowhere by default.
        plugins: Default: the installed ones.

    Raises:
        CheckpointError: It has no manifest, or one without a recipe.
        UsageError: The source model or the data here are not those of the manifest.
        RecipeError: Its recipe cannot be carried out here, for the reasons that it lists.
    """
    from leptonsdk.hub import again
    from leptonsdk.hub.verify import read_repository

    display = display or Display()
    manifest = read_repository(*_opened(reference, revision, token, endpoint, display))
    plugins = plugins or installed_plugins()
    plan = again.plan_again(manifest, plugins, overrides)
    again.check_source(manifest, plan)
    run = compress(plan, out, display=display, plugins=plugins)
    again.check_data(manifest, run.state)
    same, other = again.compare_files(manifest, run)
    return Reproduced(
        run,
        same,
        other,
        again.compare_values(manifest, run.state),
        tuple(again.compare_conditions(manifest, run.state)),
        again.differing_versions(manifest, run.state),
    )


def _opened(
    reference: str | Path, revision: str | None, token: str | None, endpoint: str | None, display: Display
) -> tuple[str, Path]:
    """A repository's name and folder, downloaded where it is not one of this machine."""
    from huggingface_hub import HfApi

    from leptonsdk.hub.verify import open_repository

    return open_repository(reference, revision, HfApi(endpoint=endpoint, token=token), display)
