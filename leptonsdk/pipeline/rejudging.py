"""A gate's claims measured again: the pushed files in place of what the run's steps and exports made.

It is a run like any other, in a folder of its own, in which a step's work is to put the files there.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonsdk.artifact import Artifact, hash_files
from leptonsdk.pipeline.run import Run, _Execution
from leptonsdk.pipeline.store import RunStore, key_of

if TYPE_CHECKING:
    from leptonsdk.hooks import Plugins
    from leptonsdk.pipeline.display import Display
    from leptonsdk.recipe import Plan, Step


def judge_again(
    plan: Plan, plugins: Plugins, out: Path, folder: Path, manifest: Mapping[str, Any], display: Display
) -> Run:
    """Score, time and judge what a repository holds.

    Args:
        plan: Of the manifest's recipe, with the exports that the repository holds.
        plugins: Those that the plan was made with.
        out: A run folder for it.
        folder: The repository's files.
        manifest: Its ``leptonsdk.json``.
        display: Where progress is shown.
    """
    pushed = {entry["name"]: Artifact.described(folder, entry) for entry in manifest["artifacts"]}
    steps = plan.steps[-1:] if manifest["root"] == "checkpoint" else ()
    with RunStore(out) as store:
        return _Rejudging(dataclasses.replace(plan, steps=steps), plugins, store, display, folder, pushed).run()


class _Rejudging(_Execution):
    def __init__(
        self,
        plan: Plan,
        plugins: Plugins,
        store: RunStore,
        display: Display,
        folder: Path,
        pushed: Mapping[str, Artifact],
    ) -> None:
        super().__init__(plan, plugins, store, display)
        self.pushed, self.folder = pushed, folder
        self.files = hash_files(folder)

    def compress(self, step: Step, previous: str) -> None:
        exported = {name for artifact in self.pushed.values() for name in artifact.files}
        self._place(step, "steps", [name for name in self.files if name not in exported])

    train = compress

    def export(self, step: Step, previous: str) -> None:
        artifact = self.pushed[step.name]
        beside = [name for name in self.files if not name.endswith(".safetensors")]
        others = {name for other in self.pushed.values() for name in other.files}
        self._place(step, "artifacts", [name for name in beside if name not in others] + list(artifact.files))

    def _place(self, step: Step, kind: str, names: Iterable[str]) -> None:
        wanted = sorted(set(names))
        hashes = {name: self.files[name] for name in wanted}
        self.keys[step.name] = key_of(what=kind, name=step.name, files=hashes, task=self.task)

        def work(place: Path) -> dict[str, Any]:
            for name in wanted:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / name, place / name)
            noted = {"plugin": step.plugin, "version": step.version, "config": step.config.model_dump(mode="json")}
            if kind == "artifacts":
                artifact = dataclasses.replace(self.pushed[step.name], folder=place)
                artifact.write_manifest()
                noted |= {
                    "backend": artifact.backend,
                    "precision": artifact.precision,
                    "details": dict(artifact.details),
                }
            return noted

        self.do(f"{kind}/{step.name}", f"take {step.name}", self.keys[step.name], work)
