"""What a manifest claims, measured or made again on this machine, and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from leptonsdk.errors import CheckpointError, UsageError
from leptonsdk.pipeline.fingerprints import model_fingerprint
from leptonsdk.recipe import Plan, make_plan
from leptonsdk.report.models import COSTS

if TYPE_CHECKING:
    from leptonsdk.hooks import Plugins
    from leptonsdk.pipeline.run import Run


@dataclass(frozen=True)
class Compared:
    """One condition of the gate: what was claimed, and what came out here.

    Attributes:
        subject: The artifact or step.
        metric: With ``kind`` and ``detail`` (a shape that was timed) it names the condition.
        claimed: The claimed quantity (drop, ratio, value).
        interval: The claimed interval.
        value: The quantity here.
        inside: Whether it lies in the claimed interval.
        verdict: The gate's verdict on the value here.
    """

    subject: str
    metric: str
    kind: str
    detail: str
    claimed: float
    interval: tuple[float, float]
    value: float
    inside: bool
    verdict: str

    @property
    def is_cost(self) -> bool:
        """Speed, memory and size: of this machine, not only of the model."""
        return self.metric in COSTS

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_again(manifest: Mapping[str, Any], plugins: Plugins, overrides: Sequence[str]) -> Plan:
    """The plan of a manifest's recipe, ``a.b=value`` laid over it (where the model and data are on this machine).

    Of its exports those stay that were pushed.
    """
    recipe = manifest.get("recipe")
    if not isinstance(recipe, dict) or "root" not in manifest:
        raise CheckpointError("its manifest does not say how it was made", hint="only what `lepton push` wrote does")
    if revision := manifest["source"].get("revision"):
        overrides = [f"model.revision='{revision}'", *overrides]
    plan = make_plan(recipe, plugins, overrides=overrides)
    pushed = {entry["name"] for entry in manifest["artifacts"]}
    return replace(plan, exports=tuple(step for step in plan.exports if step.name in pushed))


def check_source(manifest: Mapping[str, Any], plan: Plan) -> None:
    """Whether a plan starts from the manifest's model.

    Raises:
        UsageError: It does not: nothing could be compared.
    """
    if model_fingerprint(plan) != manifest["source"]["files"]:
        raise UsageError(
            "the source model here is not the one that the manifest names",
            where=plan.model.name,
            hint="--set model.id=… names the right one",
        )


def check_data(manifest: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Whether a run read the manifest's evaluation data.

    Raises:
        UsageError: It did not: nothing could be compared.
    """
    if manifest["data"]["fingerprint"] != state["data"]["fingerprint"]:
        raise UsageError(
            "the evaluation data here are not those that the manifest names",
            where=str(state["data"]["label"]),
            hint="--set data.eval.path=… names the right ones; those that come with Python differ by its version",
        )


def compare_files(manifest: Mapping[str, Any], run: Run) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The repository's files that a run made byte for byte, and those that it made otherwise or not at all.

    Only what the run makes counts: its last step's checkpoint, and the artifacts' files that the runtime needs.
    """
    hashes, work = manifest["sha256"], run.state["work"]
    made: dict[str, str] = {}
    for entry in manifest["artifacts"]:
        files = work.get(f"artifacts/{entry['name']}", {}).get("files", {})
        made |= {name: files.get(name, "") for name in entry["files"]}
    if manifest["root"] == "checkpoint":
        files = work[f"steps/{manifest['steps'][-1]['name']}"]["files"]
        made |= {name: digest for name, digest in files.items() if name in hashes}
    same = tuple(sorted(name for name, digest in made.items() if hashes.get(name) == digest))
    return same, tuple(sorted(made.keys() - set(same)))


def compare_values(
    manifest: Mapping[str, Any], state: Mapping[str, Any]
) -> dict[str, dict[str, tuple[float, float, bool]]]:
    """Every metric of every model as (claimed, here, whether they are equal but for a sum's rounding)."""
    here = {row["name"]: row["values"] for row in state["ledger"]}
    return {row["name"]: _same(row["values"], here[row["name"]]) for row in manifest["ledger"] if row["name"] in here}


def compare_conditions(manifest: Mapping[str, Any], state: Mapping[str, Any]) -> list[Compared]:
    """Each condition of the manifest beside the same one of a run."""
    here = {_identity(condition): condition for condition in state["conditions"]}
    compared = []
    for claimed in manifest["conditions"]:
        found = here.get(_identity(claimed))
        if found is None:
            raise CheckpointError(
                f"its condition on {claimed['metric']} is not in its recipe's gate", where=claimed["subject"]
            )
        low, high = claimed["interval"]
        value = float(found["drop"])
        slack = 1e-9 * max(abs(low), abs(high), 1e-9)  # what is counted has an interval of no width
        compared.append(
            Compared(
                subject=claimed["subject"],
                metric=claimed["metric"],
                kind=claimed["kind"],
                detail=_shape(claimed),
                claimed=float(claimed["drop"]),
                interval=(low, high),
                value=value,
                inside=low - slack <= value <= high + slack,
                verdict=found["verdict"],
            )
        )
    return compared


def differing_versions(
    manifest: Mapping[str, Any], state: Mapping[str, Any]
) -> dict[str, tuple[str | None, str | None]]:
    """Packages whose version there is not the one here, as (there, here)."""
    there, here = manifest["versions"], state["versions"]
    names = sorted({*there, *here})
    return {name: (there.get(name), here.get(name)) for name in names if there.get(name) != here.get(name)}


def exit_code(passed: bool, compared: Sequence[Compared]) -> int:
    """0: all as claimed. 1: a file, or a metric outside of its claimed interval, or a condition that fails here.
    3: a condition that is inconclusive here."""
    if not passed or any((not c.inside and not c.is_cost) or c.verdict == "fail" for c in compared):
        return 1
    return 3 if any(c.verdict == "inconclusive" for c in compared) else 0


def _identity(condition: Mapping[str, Any]) -> tuple[Any, ...]:
    return condition["subject"], condition["metric"], condition["kind"], _shape(condition)


def _shape(condition: Mapping[str, Any]) -> str:
    detail = condition.get("detail") or {}
    return f"{detail.get('batch_size')}x{detail.get('sequence_length')}" if condition["metric"] == "latency" else ""


def _same(claimed: Mapping[str, float], here: Mapping[str, float]) -> dict[str, tuple[float, float, bool]]:
    names = [name for name in claimed if name in here]
    return {n: (claimed[n], here[n], math.isclose(claimed[n], here[n], rel_tol=1e-9, abs_tol=1e-12)) for n in names}
