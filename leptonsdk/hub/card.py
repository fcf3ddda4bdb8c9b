"""The model card: made from the manifest alone, laid into what a person wrote, whose words stay."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import jinja2
import yaml
from huggingface_hub import ModelCard as HubCard

from leptonsdk.checkpoint.tasks import model_class_for
from leptonsdk.errors import RunError, UsageError, first_line
from leptonsdk.hooks import ModelCard, Plugins
from leptonsdk.hub.card_data import card_data, folder_of, library, merge
from leptonsdk.hub.layout import BASE_CARD, CARD, RepoFile
from leptonsdk.report import format as fmt
from leptonsdk.report import tables
from leptonsdk.report.conditions import read_conditions
from leptonsdk.report.models import primary_metrics, read_models
from leptonsdk.report.words import SYMBOLS, headline
from leptonsdk.structure.shapes import FILE as SHAPES

_TEMPLATE: Final = "card.md.j2"
_BEGIN: Final = (
    "<!-- leptonsdk: begin. `lepton push` writes this part anew each time; your own text stands outside of it. -->"
)
_END: Final = "<!-- leptonsdk: end -->"
_FIRST: Final = "<!-- leptonsdk: verdict -->"
_BLOCK: Final = re.compile(r"<!-- leptonsdk: begin\b.*?<!-- leptonsdk: end -->", re.DOTALL)
# What transformers needs to read a quantization method, where that is not the package of its name.
_READERS: Final = {"gptq": "optimum gptqmodel", "bitsandbytes": "accelerate bitsandbytes"}
_WARNING: Final = re.compile(rf"^.*{re.escape(_FIRST)}\n*", re.MULTILINE)


def write_card(
    manifest: Mapping[str, Any],
    files: Sequence[RepoFile],
    repo_id: str,
    plugins: Plugins,
    *,
    inherited: Mapping[str, Any],
    license: str | None = None,
    existing: str | None = None,
) -> RepoFile:
    """The repository's ``README.md``.

    Args:
        manifest: See `leptonsdk.hub.manifest.describe_run`.
        files: All other files of the push.
        repo_id: ``owner/name``.
        plugins: Their ``lepton_model_card`` hooks add sections.
        inherited: The source's licence and language.
        license: Another one, said for this push.
        existing: The card that stands there. Its text outside of our part stays, and so do its metadata that are not ours.
    """
    card = ModelCard(repo_id, manifest["task"])
    try:
        plugins.hooks.hook.lepton_model_card(card=card, run=manifest)
    except Exception as error:
        hint = "`lepton --no-plugin NAME push …` leaves a plugin out"
        raise RunError(f"{type(error).__name__}: {error}", where="a plugin's lepton_model_card", hint=hint) from error
    config = _json_file(files, "config.json")
    method = (config.get("quantization_config") or {}).get("quant_method") if manifest["root"] != "none" else None
    paths = [file.path for file in files]
    inherited = {**inherited, **({"license": license} if license else {})}
    name = repo_id.rpartition("/")[2]
    models = read_models(manifest)
    data = card_data(manifest, models, paths, method, inherited, card.tags, name)
    block = _render(manifest, card, paths, config, method, inherited, _pooling(files))
    old = None if existing is None else _read(existing)
    text = lay_in(block, _warning(manifest), None if old is None else old.text)
    metadata = data if old is None else merge(data, old.data)
    metadata["license"] = license or metadata.get("license")
    return RepoFile(CARD, f"---\n{metadata.to_yaml()}\n---\n{text}".encode())


def _read(existing: str) -> HubCard:
    try:
        return HubCard(existing, ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError) as error:
        hint = "mend it on the Hub, then push again"
        raise UsageError(
            f"its metadata cannot be read: {first_line(error)}", where=f"the repository's {CARD}", hint=hint
        ) from error


def lay_in(block: str, warning: str | None, existing: str | None) -> str:
    """A card's text: ours in place of what an earlier push wrote, or after what a person wrote.

    Args:
        block: Our part, without its markers.
        warning: One line that must come first of all, or None.
        existing: The text that stands there, without metadata.

    Raises:
        UsageError: Only one of the two markers of our part is left.
    """
    ours = f"{_BEGIN}\n{block.strip()}\n{_END}"
    kept = _WARNING.sub("", existing or "").strip()
    if len(_BLOCK.findall(kept)) != kept.count(_END) or kept.count("<!-- leptonsdk: begin") != kept.count(_END):
        raise UsageError(
            "one of the two marks of the part that lepton wrote is gone",
            where=f"the repository's {CARD}",
            hint="take the other one away too, and the part itself: the next push writes it anew",
        )
    if _BLOCK.search(kept):
        first, *others = _BLOCK.split(kept)
        kept = "".join([first, ours, *others])
    else:
        kept = f"{kept}\n\n{ours}" if kept else ours
    return f"{warning} {_FIRST}\n\n{kept}\n" if warning else f"{kept}\n"


def _warning(manifest: Mapping[str, Any]) -> str | None:
    verdict = manifest["verdict"]
    if verdict not in ("fail", "inconclusive"):
        return None
    said = "failed" if verdict == "fail" else "is inconclusive"
    return f'> **Warning: this model did not pass its own gate. The gate {said}; see "What it costs" below.**'


def _render(
    manifest: Mapping[str, Any],
    card: ModelCard,
    paths: Sequence[str],
    config: Mapping[str, Any],
    method: str | None,
    inherited: Mapping[str, Any],
    pooling: str | None,
) -> str:
    models = read_models(manifest)
    conditions = read_conditions(manifest, models)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown, not HTML: what comes from the run is escaped by the filter `cell`
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "title": fmt.title, "joined": fmt.joined}
    return environment.get_template(_TEMPLATE).render(
        name=card.repo_id.rpartition("/")[2],
        card=card,
        pooling=pooling,
        manifest=manifest,
        inherited=inherited,
        head=headline(manifest, models, conditions, primary_metrics(manifest, models)),
        symbols=SYMBOLS,
        models=models,
        conditions=conditions,
        groups=tables.model_groups(models),
        ledger=tables.ledger_rows(manifest, models),
        settings=_settings(manifest),
        losses=tables.export_losses(manifest, models),
        facts=tables.facts(manifest),
        transformers=_transformers(manifest, card, config, paths),
        method=_READERS.get(method, method) if method else None,
        sentences=library(manifest, paths, set()) == "sentence-transformers",
        base_card=BASE_CARD if BASE_CARD in paths else None,
        folders=_folders(paths),
        places=_places(manifest),
        contents=_contents(manifest),
        recipe=yaml.safe_dump(manifest["recipe"], sort_keys=False, allow_unicode=True, width=100),
        packages=sorted(package for package in manifest["versions"] if package.startswith("leptonsdk")),
    )


def _cell(text: object) -> str:
    """Text that stays in its cell of a table, and is text."""
    return re.sub(r"([|<>*_`\\\[\]])", r"\\\1", " ".join(str(text).split()))


def _settings(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What the recipe says of each step and export, by its name; what it leaves open is the plugin's default."""
    recipe = manifest["recipe"]
    told: dict[str, str] = {}
    for entry, stated in zip(manifest["steps"], recipe.get("steps") or (), strict=True):
        told[entry["name"]] = _flow(next(iter(stated.values())))
    for entry in manifest["artifacts"]:
        options = [one[entry["backend"]] for one in recipe.get("export") or () if entry["backend"] in one]
        fits = [one for one in options if one.items() <= {**entry["config"], **_resolved(one, entry)}.items()]
        told[entry["name"]] = _flow(fits[0] if fits else entry["config"])
    return told


def _resolved(stated: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """A precision by its short name, which the config spells out."""
    precision = stated.get("precision")
    return {"precision": precision} if precision and str(entry["name"]).endswith(f"-{precision}") else {}


def _flow(options: Mapping[str, Any]) -> str:
    if not options:
        return "defaults"
    return (
        str(yaml.safe_dump(dict(options), default_flow_style=True, sort_keys=False, width=10_000)).strip().strip("{}")
    )


def _pooling(files: Sequence[RepoFile]) -> str | None:
    """How a sentence encoder's token vectors become one, in words, where its own file says so."""
    from leptonsdk.checkpoint.pooling import POOLING_FILE, pooling_mode

    modes = {
        "mean": "mean over the tokens",
        "cls": "first token's",
        "lasttoken": "last token's",
        "max": "maximum over the tokens",
    }
    return modes.get(pooling_mode(_json_file(files, POOLING_FILE)) or "")


def _transformers(
    manifest: Mapping[str, Any], card: ModelCard, config: Mapping[str, Any], paths: Sequence[str]
) -> str | None:
    """Python that loads the root's weights, or None where there are none."""
    if manifest["root"] == "none":
        return None
    if SHAPES in paths:  # heads or neurons are gone in a way that the config cannot say
        return f'import leptonsdk\n\ncheckpoint = leptonsdk.load_model("{card.repo_id}")\nmodel = checkpoint.model'
    auto_class = model_class_for(manifest["task"], _Config(config)).__name__
    example = card.example("pt")
    load = f'model = {auto_class}.from_pretrained("{card.repo_id}")'
    if example is None:
        return f"from transformers import {auto_class}\n\n{load}"
    first, _, rest = example.partition("\n")
    processor = first.removeprefix("from transformers import ")
    run = "outputs = model(**inputs)"
    if manifest["task"] == "text-generation":
        run = "print(processor.decode(model.generate(**inputs, max_new_tokens=20)[0]))"
    elif "Seq2Seq" in auto_class:
        run = "print(processor.batch_decode(model.generate(**inputs, max_new_tokens=20)))"
    names = ", ".join(sorted([auto_class, processor]))
    return f"from transformers import {names}\n{rest}\n{load}\n{run}"


class _Config:
    """A config's model type, as `model_class_for` asks for it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.model_type = config.get("model_type")


def _folders(paths: Sequence[str]) -> dict[str, list[str]]:
    """File names by folder, the root first."""
    found: dict[str, list[str]] = {"": []}
    for path in paths:
        top, *rest = PurePosixPath(path).parts
        found.setdefault(top if rest else "", []).append("/".join(rest) if rest else top)
    return found


def _places(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The folder of each artifact, by its name; empty for the root."""
    return {entry["name"]: folder_of(entry) for entry in manifest["artifacts"]}


def _contents(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What a folder holds, in words."""
    root = {
        "checkpoint": "the compressed model for transformers, with its config and tokenizer or processor",
        "source": "the original model, its weights unchanged, with its config and tokenizer or processor",
        "none": "the config and the tokenizer or processor",
    }[manifest["root"]]
    found: dict[str, list[str]] = {"": [root]}
    for entry in manifest["artifacts"]:
        words = f"{entry['name']}, {fmt.size(entry['bytes'])}, for {entry['backend']}"
        found.setdefault(_places(manifest)[entry["name"]], []).append(words)
    return {folder: "; ".join(words) for folder, words in found.items()}


def _json_file(files: Sequence[RepoFile], path: str) -> dict[str, Any]:
    for file in files:
        if file.path == path:
            content = file.content if isinstance(file.content, bytes) else file.content.read_bytes()
            found: dict[str, Any] = json.loads(content)
            return found
    return {}
