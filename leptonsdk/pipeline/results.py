"""The end of a run: timing by turns, sizes, the gate, ``run.json``, the artifacts' manifests."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonsdk.artifact import Artifact
from leptonsdk.gating.verdict import EXIT_CODES, overall
from leptonsdk.hooks import errors_named
from leptonsdk.pipeline import fingerprints
from leptonsdk.pipeline.store import key_of
from leptonsdk.references import find_local, read_config

if TYPE_CHECKING:
    from leptonsdk.evaluation.timing import Measurement, Target
    from leptonsdk.pipeline.run import Run, _Execution

_DEFAULT_LENGTH = 128  # tokens, where a recipe times a text model without saying how long its input is
_POSITIONS = ("max_position_embeddings", "n_positions")
_DEFAULT_BATCHES = (1, 32)
_PROFILE = "profile"
_GATE = "gate"


def finish(execution: _Execution, last: str) -> Run:
    """Measure, judge and write down everything."""
    from leptonsdk.pipeline.run import Run

    store = execution.store
    measured = _measure(execution, last)
    files = _weights(execution)
    gate = _judge(execution, last, measured, files)
    worked = bool(execution.display.done)
    if worked or "verdict" not in store.state:
        store.write(**describe(execution, measured, files, gate))
        _write_manifests(execution)
    return Run(store.folder, store.state, worked)


def latency_settings(execution: _Execution) -> list[tuple[int, int | None]]:
    """Every shape to time: the profile's and the gate's, or batch 1 and 32 where neither names one."""
    recipe = execution.recipe
    evaluator = execution.plugins.get("evaluator", execution.task)
    asked = [
        (s.batch_size, s.sequence_length)
        for s in (*recipe.profile.latency, *(recipe.gate.latency if recipe.gate else ()))
    ]
    if not asked:
        asked = [(batch_size, None) for batch_size in _DEFAULT_BATCHES]
    default = None if evaluator.length_input is None else default_length(_config(execution))
    return list(dict.fromkeys((batch, (length or default) if default else None) for batch, length in asked))


def default_length(config: Mapping[str, Any]) -> int:
    """Tokens of an input whose length nobody chose: 128, or as many as a model's config has positions for."""
    return min([_DEFAULT_LENGTH, *(int(config[key]) for key in _POSITIONS if config.get(key))])


def _config(execution: _Execution) -> Mapping[str, Any]:
    """The source's config, read from its folder where it has one: a run with nothing to do opens no model."""
    folder = execution.plan.model.folder
    if folder is not None:
        return read_config(folder)
    config: dict[str, Any] = execution.checkpoint("baseline").model.config.to_dict()
    return config


def _measure(execution: _Execution, last: str) -> dict[str, dict[str, Any]]:
    """Latency and memory of the baseline and of every artifact (or of the last step), timed by turns.

    Artifacts whose backend says that its figures would mean nothing here are left out.
    """
    store, recipe = execution.store, execution.recipe
    exported = execution.plan.exports
    names = [s.name for s in exported if execution.plugins.get("backend", s.plugin).untimed() is None]
    names = names if exported or last == "baseline" else [last]
    settings = latency_settings(execution)
    key = key_of(
        what="profile",
        models=[execution.keys[name] for name in ("baseline", *names)],
        settings=settings,
        turns=recipe.profile.turns,
        threads=execution.threads,
        data=execution.data_states["eval"],
        hardware=fingerprints.hardware(),
    )

    def work(folder: Path) -> dict[str, Any]:
        from leptonsdk.evaluation.timing import Target, measure, shape_inputs

        exports = {step.name for step in execution.plan.exports}
        targets: list[Target] = [
            Target(
                "baseline",
                "checkpoint",
                execution.source_reference(),
                execution.task,
                recipe.model.trust_remote_code,
            )
        ]
        for name in names:
            kind = "artifact" if name in exports else "checkpoint"
            place = store.folder / ("artifacts" if name in exports else "steps") / name
            targets.append(Target(name, kind, str(place), execution.task))
        # Every model reads the same ids: the last one's, since a step may have dropped tokens and none adds any.
        last = execution.plan.steps[-1].name if execution.plan.steps else "baseline"
        sample = next(iter(execution.batches("eval", last, limit=1)(1)))
        inputs = {(batch, length): shape_inputs(sample, batch, length) for batch, length in settings}
        measured = measure(
            targets, inputs, threads=execution.threads, turns=recipe.profile.turns, progress=execution.display.progress
        )
        noted = {name: _plain(measurement) for name, measurement in measured.items()}
        (folder / "latency.json").write_text(json.dumps(noted, indent=2), encoding="utf-8")
        return noted

    return execution.do(_PROFILE, "time by turns", key, work)


def _plain(measurement: Measurement) -> dict[str, Any]:
    return {
        "runtime": measurement.runtime,
        "memory_bytes": measurement.memory,
        "latency": [latency.as_dict() for latency in measurement.latencies],
    }


def _weights(execution: _Execution) -> dict[str, dict[str, Any]]:
    """Bytes, parameters, sparsity and bits per weight of every model, read from its files."""
    store = execution.store
    key = key_of(what="weights", models=execution.keys)

    def work(folder: Path) -> dict[str, Any]:
        from leptonsdk.evaluation.weights import profile_safetensors, weight_files

        found: dict[str, Any] = {}
        source = execution.plan.model.folder
        if source is None:
            from leptonsdk.checkpoint import download

            source = download(execution.plan.model.name, execution.recipe.model.revision)
        for name, place in {
            "baseline": source,
            **{s.name: store.folder / "steps" / s.name for s in execution.plan.steps},
        }.items():
            bytes_on_disk = sum(path.stat().st_size for path in weight_files(place))
            found[name] = _profile(bytes_on_disk, profile_safetensors(place))
        for step in execution.plan.exports:
            artifact = Artifact.open(store.folder / "artifacts" / step.name)
            backend = execution.plugins.get("backend", step.plugin)
            with errors_named(backend):
                profile = backend.weights(artifact)
            found[step.name] = _profile(artifact.bytes_on_disk, profile)
        (folder / "weights.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
        return found

    return execution.do("weights", "read the files", key, work)


def _profile(bytes_on_disk: int, profile: Any) -> dict[str, Any]:
    described: dict[str, Any] = {"bytes": bytes_on_disk}
    if profile is not None:
        described |= {
            "parameters": profile.parameters,
            "sparsity": profile.sparsity,
            "bits_per_weight": profile.bits_per_weight,
        }
    return described


def _judge(
    execution: _Execution, last: str, measured: Mapping[str, Any], files: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The gate's conditions for every artifact (or for the last step where nothing is exported)."""
    recipe = execution.recipe
    names = [step.name for step in execution.plan.exports] or [last]
    if recipe.gate is None:
        return None
    gate = recipe.gate
    key = key_of(
        what="gate",
        gate=gate.model_dump(),
        seed=recipe.seed,
        scores=[execution.keys[f"scores/{name}"] for name in ("baseline", *names)],
        measured=measured,
        files=files,
        versions=execution.versions,
    )

    def work(folder: Path) -> dict[str, Any]:
        from leptonsdk.evaluation.scores import Scores
        from leptonsdk.evaluation.timing import Latency, Measurement
        from leptonsdk.pipeline.judging import Candidate, judge

        def candidate(name: str) -> Candidate:
            noted = measured.get(name)
            measurement = None
            if noted is not None:
                latencies = tuple(
                    Latency(one["batch_size"], one["sequence_length"], tuple(ms / 1e3 for ms in one["turns_ms"]))
                    for one in noted["latency"]
                )
                measurement = Measurement(noted["runtime"], latencies, noted["memory_bytes"])
            return Candidate(
                subject=name,
                scores=Scores.load(execution.store.folder / "scores" / name / "scores.parquet"),
                bytes_on_disk=files[name]["bytes"],
                measurement=measurement,
                parameters=files["baseline"]["parameters"],
            )

        baseline = candidate("baseline")
        conditions = [
            result.as_dict() for name in names for result in judge(baseline, candidate(name), gate, seed=recipe.seed)
        ]
        judged = {"conditions": conditions, "verdict": overall(c["verdict"] for c in conditions)}
        (folder / "gate.json").write_text(json.dumps(judged, indent=2), encoding="utf-8")
        return judged

    return execution.do(_GATE, "judge", key, work)


def describe(
    execution: _Execution, measured: Mapping[str, Any], files: Mapping[str, Any], gate: Mapping[str, Any] | None
) -> dict[str, Any]:
    """``run.json``'s public part: everything that a reader, the report or a model card needs."""
    plan, store = execution.plan, execution.store
    work = store.state["work"]

    def model(name: str, folder: str | None) -> dict[str, Any]:
        scored = work[f"scores/{name}"]["noted"]
        timed = measured.get(name, {})
        return {
            "name": name,
            "model": scored["model"],
            "folder": folder,
            "scores": f"scores/{name}/scores.parquet",
            "values": scored["values"],
            "runtime": scored["runtime"],
            **files[name],
            "latency": timed.get("latency", []),
            "memory_bytes": timed.get("memory_bytes"),
        }

    def done(name: str) -> dict[str, Any]:
        entry = work[name]
        return {field: entry[field] for field in ("key", "state", "seconds", "peak_memory_bytes")}

    artifacts = []
    for step in plan.exports:
        noted = work[f"artifacts/{step.name}"]["noted"]
        artifacts.append(
            {
                **model(step.name, f"artifacts/{step.name}"),
                **done(f"artifacts/{step.name}"),
                "backend": noted["backend"],
                "precision": noted["precision"],
                "config": noted["config"],
                "details": noted["details"],
            }
        )
    baseline = work["scores/baseline"]["noted"]
    return {
        "verdict": gate["verdict"] if gate else None,
        "exit_code": EXIT_CODES[gate["verdict"]] if gate else 0,
        "conditions": gate["conditions"] if gate else [],
        "baseline": model("baseline", None),
        "steps": [
            {
                **model(step.name, f"steps/{step.name}"),
                **done(f"steps/{step.name}"),
                "config": step.config.model_dump(mode="json"),
            }
            for step in plan.steps
        ],
        "artifacts": artifacts,
        "task": baseline["task"],
        "metrics": [dataclasses.asdict(m) for m in execution.plugins.get("evaluator", baseline["task"]).metrics],
        "data": {"examples": baseline["examples"], **baseline["data"]},
        "model": source_model(execution),
        "recipe": public_recipe(execution),
        "seed": plan.recipe.seed,
        "threads": execution.threads,
        "versions": {
            **execution.versions,
            **{step.provider: step.version for step in (*plan.steps, *plan.exports)},
        },
        "hardware": fingerprints.hardware(),
        "ledger": ledger(execution, files),
    }


def source_model(execution: _Execution) -> dict[str, Any]:
    """The source: its name, the hashes of its files, and the commit of one from the Hub."""
    located = execution.plan.model
    found: dict[str, Any] = {"id": located.name, "kind": located.kind, "files": execution.model_files}
    if located.folder is None:
        from leptonsdk.checkpoint.hub import commit_of, download

        found["revision"] = commit_of(download(located.name, execution.recipe.model.revision))
    return found


def public_recipe(execution: _Execution) -> dict[str, Any]:
    """The resolved recipe, local paths shortened to their names: it travels with the artifact."""
    recipe: dict[str, Any] = execution.recipe.model_dump(mode="json", exclude_unset=True)
    recipe["model"]["id"] = execution.plan.model.name
    for spec in recipe["data"].values():
        if spec and find_local(spec["path"], execution.plan.base) is not None:
            spec["path"] = Path(spec["path"]).name
    return recipe


def ledger(execution: _Execution, files: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each step gave and cost: values, their change since the step before, bytes."""
    rows: list[dict[str, Any]] = []
    steps = [("baseline", "source"), *((s.name, s.kind) for s in execution.plan.steps)]
    steps += [(s.name, s.kind) for s in execution.plan.exports]
    before: dict[str, float] = {}
    for name, kind in steps:
        values = execution.store.state["work"][f"scores/{name}"]["noted"]["values"]
        rows.append(
            {
                "name": name,
                "kind": kind,
                "values": values,
                "change": {metric: value - before[metric] for metric, value in values.items() if metric in before},
                "bytes": files[name]["bytes"],
            }
        )
        if kind != "export":  # every export starts from the last checkpoint, not from another export
            before = values
    return rows


def _write_manifests(execution: _Execution) -> None:
    """Complete every artifact's manifest with what the run found out."""
    state = execution.store.state
    for entry in state["artifacts"]:
        artifact = Artifact.open(execution.store.folder / "artifacts" / entry["name"])
        artifact.write_manifest(
            {
                "recipe": state["recipe"],
                "source": state["model"],
                "data": state["data"],
                "seed": state["seed"],
                "versions": state["versions"],
                "hardware": state["hardware"],
                "ledger": state["ledger"],
                "scores": {"baseline": state["baseline"]["values"], "artifact": entry["values"]},
                "latency": {"baseline": state["baseline"]["latency"], "artifact": entry["latency"]},
                "conditions": [c for c in state["conditions"] if c["subject"] == entry["name"]],
                "verdict": overall(c["verdict"] for c in state["conditions"] if c["subject"] == entry["name"])
                if state["conditions"]
                else None,
            }
        )
