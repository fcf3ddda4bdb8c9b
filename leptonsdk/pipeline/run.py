"""Carrying out a plan: baseline, steps, exports, scores of each, timing, gate, manifest, report.

Every piece of work has a key made of all that can change its result (see `leptonsdk.pipeline.store`), so an interrupted run
goes on where it stopped, and a finished one is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from leptonsdk.artifact import Artifact
from leptonsdk.errors import LeptonError, PluginError, RunError
from leptonsdk.hooks import Plugins, StepContext, errors_named
from leptonsdk.pipeline import fingerprints
from leptonsdk.pipeline.display import Display
from leptonsdk.pipeline.store import RunStore, key_of
from leptonsdk.recipe import Plan, Step
from leptonsdk.recipe.training import TrainConfig

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk.data.loading import Data
    from leptonsdk.evaluation.scores import Scores
    from leptonsdk.hooks import EvaluationSettings

BASELINE = "baseline"


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and ``run.json`` as data. ``worked`` says whether anything had to be done."""

    folder: Path
    state: Mapping[str, Any]
    worked: bool

    @property
    def verdict(self) -> str | None:
        """``pass``, ``fail``, ``inconclusive``, or None without a gate."""
        verdict: str | None = self.state["verdict"]
        return verdict

    def artifact(self, name: str | None = None) -> Artifact:
        """An exported artifact by its name in the run; the only one when left out."""
        names = [entry["name"] for entry in self.state["artifacts"]]
        if name is None and len(names) == 1:
            name = names[0]
        if name is None or name not in names:
            raise RunError(f"no artifact '{name}' in the run", hint=f"there are: {', '.join(names) or 'none'}")
        return Artifact.open(self.folder / "artifacts" / name)

    def scores(self, name: str) -> Scores:
        """The per-example scores of the baseline, a step or an artifact."""
        from leptonsdk.evaluation.scores import Scores

        return Scores.load(self.folder / "scores" / name / "scores.parquet")


def run_plan(plan: Plan, plugins: Plugins, out: str | Path, display: Display | None = None) -> Run:
    """Carry out a plan in a run folder.

    Args:
        plan: See `leptonsdk.recipe.make_plan`.
        plugins: The plugins that the plan was made with.
        out: The run folder: new, empty, or of an earlier run, which then goes on.
        display: Where progress is shown.

    Raises:
        LeptonError: With the step that broke. What was finished before it is kept.
    """
    display = display or Display()
    with RunStore(out) as store:
        return _Execution(plan, plugins, store, display).run()


class _Execution:
    """One pass over a plan. Models and data are opened only when a piece of work really needs them."""

    def __init__(self, plan: Plan, plugins: Plugins, store: RunStore, display: Display) -> None:
        self.plan, self.plugins, self.store, self.display = plan, plugins, store, display
        self.recipe = plan.recipe
        self.threads = self.recipe.threads or fingerprints.available_threads()
        self.versions = fingerprints.versions()
        self.model_files = fingerprints.model_fingerprint(plan)
        self.data_states = {
            name: fingerprints.data_fingerprint(getattr(self.recipe.data, name), plugins, plan.base)
            for name in ("eval", "calibration", "train")
        }
        self.keys = {
            BASELINE: key_of(model=self.model_files, spec=self.recipe.model.model_dump(), versions=self.versions)
        }
        self._opened: dict[str, Any] = {}

    # ── what is opened on demand ────────────────────────────────────────────────────────────────────────────────────

    def checkpoint(self, name: str) -> Checkpoint:
        """The source model, or a step's result, read from where it stands on disk: what is measured is what is kept."""
        if name not in self._opened:
            from leptonsdk.checkpoint import load_checkpoint

            for other in [key for key in self._opened if key not in (BASELINE, "eval", "calibration", "train")]:
                del self._opened[other]  # hold one model besides the baseline
            spec = self.recipe.model
            baseline = name == BASELINE
            self._opened[name] = load_checkpoint(
                self.source_reference() if baseline else self.store.folder / "steps" / name,
                task=spec.task if baseline else self.task,
                revision=spec.revision if baseline else None,
                trust_remote_code=spec.trust_remote_code,
            )
        checkpoint: Checkpoint = self._opened[name]
        return checkpoint

    def source_reference(self) -> str:
        located = self.plan.model
        return str(located.folder.resolve()) if located.kind == "folder" and located.folder else located.name

    @property
    def task(self) -> str:
        return self.plan.task or self.checkpoint(BASELINE).task

    def data(self, section: str) -> Data:
        if section not in self._opened:
            from leptonsdk.data.loading import load_data

            spec = getattr(self.recipe.data, section)
            evaluator = self.plugins.get("evaluator", self.task)
            self._opened[section] = load_data(
                spec,
                evaluator,
                self.plugins,
                base=self.plan.base,
                seed=self.recipe.seed,
                scored=section != "calibration",
            )
        data: Data = self._opened[section]
        return data

    def settings(self, batch_size: int | None = None) -> EvaluationSettings:
        from leptonsdk.hooks import EvaluationSettings

        spec = self.recipe.evaluation
        return EvaluationSettings(
            batch_size=batch_size or spec.batch_size,
            max_length=spec.max_length,
            progress=self.display.progress,
            options=spec.options,
        )

    def batches(self, section: str, name: str, limit: int | None = None) -> Callable[[int], Any]:
        """Makes batches of a model's inputs from a section of the data; a step may have changed the tokenizer."""
        from leptonsdk.evaluation.harness import input_batches
        from leptonsdk.evaluation.subjects import open_subject

        def make(batch_size: int) -> Any:
            subject = open_subject(self.checkpoint(name), self.plugins)
            settings = self.settings(batch_size)
            return input_batches(subject, self.data(section), self.plugins, settings=settings, limit=limit)

        return make

    # ── the work ────────────────────────────────────────────────────────────────────────────────────────────────────

    def do(self, name: str, title: str, key: str, work: Callable[[Path], Mapping[str, Any] | None]) -> dict[str, Any]:
        if (noted := self.store.finished(name, key)) is not None:
            self.display.reuse(name, title)
            return noted
        with self.display.work(name, title):
            return self.store.do(name, key, work)

    def run(self) -> Run:
        from leptonsdk.pipeline.results import finish

        last = BASELINE
        self.score(BASELINE, "baseline in torch", lambda: self.checkpoint(BASELINE))
        for step in self.plan.steps:
            (self.train if step.kind == "train" else self.compress)(step, last)
            last = step.name
            self.score(step.name, f"{step.plugin} in torch", lambda name=step.name: self.checkpoint(name))  # type: ignore[misc]
        for step in self.plan.exports:
            self.export(step, last)
            folder = self.store.folder / "artifacts" / step.name
            self.score(step.name, f"{step.name}", lambda folder=folder: Artifact.open(folder))  # type: ignore[misc]
        return finish(self, last)

    def score(self, name: str, label: str, open_model: Callable[[], Checkpoint | Artifact]) -> None:
        """Score a model on the evaluation data."""
        key = key_of(
            what="scores",
            model=self.keys[name],
            baseline=self.keys[BASELINE],
            task=self.plan.task,
            data=self.data_states["eval"],
            evaluation=self.recipe.evaluation.model_dump(),
            seed=self.recipe.seed,
        )

        def work(folder: Path) -> dict[str, Any]:
            from leptonsdk.evaluation.harness import evaluate

            model = open_model()
            scores = evaluate(
                model,
                self.data("eval"),
                self.plugins,
                metrics=self.recipe.evaluation.metrics,
                settings=self.settings(),
                baseline=self.checkpoint(BASELINE),
                threads=self.threads,
            )
            scores.save(folder / "scores.parquet")
            return {
                "values": scores.values(),
                "model": scores.model,
                "runtime": scores.runtime,
                "seconds": scores.seconds,
                "examples": len(scores.ids),
                "task": scores.task,
                "data": {"label": scores.data, "fingerprint": self.data("eval").fingerprint},
            }

        self.do(f"scores/{name}", f"score {label}", key, work)
        self.keys[f"scores/{name}"] = key

    def compress(self, step: Step, previous: str) -> None:
        """Run a compressor over the previous checkpoint."""
        cls = self.plugins.get("compressor", step.plugin)
        calibrated = cls.capabilities.calibration != "never" and self.recipe.data.calibration is not None
        self.keys[step.name] = self.step_key(step, previous, calibrated)

        def work(folder: Path) -> dict[str, Any]:
            checkpoint = self.checkpoint(previous)
            context = self.context(step, previous, calibrated)
            result = self.guarded(step, context, lambda: cls(step.config).compress(checkpoint, context), cls)
            result.save(folder)
            return {"plugin": step.plugin, "version": step.version, "config": step.config.model_dump(mode="json")}

        self.do(f"steps/{step.name}", f"compress with {step.plugin}", self.keys[step.name], work)

    def train(self, step: Step, previous: str) -> None:
        """Train the previous checkpoint with compressors in the run."""
        parts = [
            {"plugin": part.plugin, "version": part.version, "config": part.config.model_dump(mode="json")}
            for part in step.parts
        ]
        self.keys[step.name] = self.step_key(step, previous, False, parts=parts, train=self.data_states["train"])

        def work(folder: Path) -> dict[str, Any]:
            from leptonsdk.training.step import train

            checkpoint = self.checkpoint(previous)
            context = self.context(step, previous, False)
            compression = [self.plugins.get("compressor", part.plugin)(part.config) for part in step.parts]
            config, data = cast(TrainConfig, step.config), self.data("train")
            args, zeros = config.args, self.keeps_zeros(step, config)
            carry_out = partial(train, args=args, settings=self.settings(), keep_zeros=zeros)
            result = self.guarded(
                step, context, lambda: carry_out(checkpoint, data, compression, self.plugins, context)
            )
            result.save(folder)
            return {"plugin": step.plugin, "version": step.version, "config": step.config.model_dump(mode="json")}

        self.do(f"steps/{step.name}", "train", self.keys[step.name], work)

    def keeps_zeros(self, step: Step, config: TrainConfig) -> bool:
        """Whether zeros are to stay in a training: as it is said, or where an earlier step has left some."""
        if config.keep_zeros is not None:
            return config.keep_zeros
        before = self.plan.steps[: self.plan.steps.index(step)]
        done = [part for one in before for part in (one.parts if one.kind == "train" else (one,))]
        return any("sparsifies" in self.plugins.get("compressor", one.plugin)(one.config).effects() for one in done)

    def export(self, step: Step, previous: str) -> None:
        """Export the last checkpoint to a backend."""
        backend = self.plugins.get("backend", step.plugin)(step.config)
        calibrated = backend.calibration() != "never" and self.recipe.data.calibration is not None
        self.keys[step.name] = self.step_key(step, previous, calibrated, runtime=backend.version())

        def work(folder: Path) -> dict[str, Any]:
            checkpoint = self.checkpoint(previous).dequantized()
            context = self.context(step, previous, calibrated)
            artifact = self.guarded(step, context, lambda: backend.export(checkpoint, folder, context), type(backend))
            artifact.write_manifest()
            return {
                "backend": artifact.backend,
                "precision": artifact.precision,
                "details": dict(artifact.details),
                "version": step.version,
                "config": step.config.model_dump(mode="json"),
            }

        self.do(f"artifacts/{step.name}", f"export to {step.name}", self.keys[step.name], work)

    def step_key(self, step: Step, previous: str, calibrated: bool, **more: Any) -> str:
        return key_of(
            what=step.kind,
            plugin=step.plugin,
            version=step.version,
            config=step.config.model_dump(mode="json"),
            input=self.keys[previous],
            calibration=self.data_states["calibration"] if calibrated else None,
            seed=self.recipe.seed,
            **more,
        )

    def context(self, step: Step, previous: str, calibrated: bool) -> StepContext:
        return StepContext(
            seed=self.recipe.seed,
            folder=self.store.scratch(self.keys[step.name]),
            batches=self.batches("calibration", previous) if calibrated else None,
            samples=self.batches("eval", previous, limit=64),
            progress=self.display.progress,
            device="cpu",
            threads=self.threads,
            base=self.plan.base,
        )

    def guarded(self, step: Step, context: StepContext, work: Callable[[], Any], *plugins: type[Any]) -> Any:
        """Do the work of a step's plugin, or of its training, between the lifecycle hooks; what it raises names the step too."""
        hooks = self.plugins.hooks.hook
        hooks.lepton_before_step(context=context, step=step)
        try:
            with errors_named(*plugins, foreign=not plugins):
                result = work()
        except Exception as error:
            broken = error.__cause__ if isinstance(error, PluginError) else error
            hooks.lepton_on_error(context=context, step=step, error=broken)
            if isinstance(error, LeptonError) and error.plugin is not None:
                error.within(f"step {step.name}")
                raise
            # Of no plugin's code, in a training: these took part.
            makers = sorted({f"{part.provider} {part.version}" for part in step.parts or (step,)})
            place = f"step {step.name} ({', '.join(makers)})"
            if isinstance(error, LeptonError):
                error.within(place)
                raise
            raise RunError(f"{type(error).__name__}: {error}", where=place) from error
        hooks.lepton_after_step(context=context, step=step, result=result)
        return result
