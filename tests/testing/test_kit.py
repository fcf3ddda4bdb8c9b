"""The kit's own parts: tiny models, results, expected failures, what it leaves as it was, and the command."""

from __future__ import annotations

import json
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from mutants.compressors import NoDescription
from mutants.plugins import FolderConfig, Pruner
from typer.testing import CliRunner

from leptonsdk.checkpoint import load_checkpoint
from leptonsdk.cli import app
from leptonsdk.errors import LeptonError, UsageError
from leptonsdk.hooks import Backend, Compressor, Evaluator
from leptonsdk.hooks.manager import ENVIRONMENT
from leptonsdk.testing import Check, CheckFailed, CheckSkipped, checks_for, run_checks, running
from leptonsdk.testing.alone import run_artifact
from leptonsdk.testing.bench import forward_hooks
from leptonsdk.testing.models import ARCHITECTURES, tiny_checkpoint, tiny_inputs, tiny_rows
from leptonsdk.testing.observing import is_pickled
from leptonsdk.testing.watching import no_network, restored


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tiny_models_come_back_from_disk(name: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(name)
    checkpoint.save(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.task == checkpoint.task
    assert type(loaded.processor) is type(checkpoint.processor)
    inputs = tiny_inputs(checkpoint)
    with torch.no_grad():
        ours, theirs = (one.model(**inputs).logits for one in (checkpoint, loaded))
    assert torch.equal(ours, theirs)
    assert ours.std() > 0.05, "outputs depend on the inputs"
    assert len(tiny_rows(checkpoint, 5)) == 5


def test_a_tiny_model_is_a_fresh_one_each_time() -> None:
    first, second = tiny_checkpoint("bert"), tiny_checkpoint("bert")
    next(first.model.parameters()).data.zero_()
    assert next(second.model.parameters()).abs().sum() > 0


def test_tiny_tokenizers_know_their_words() -> None:
    tokenizer = tiny_checkpoint("bert").processor
    assert len(tokenizer) == 64
    assert tokenizer.unk_token_id not in tokenizer("a good film of the sea")["input_ids"]
    assert tokenizer.decode(tokenizer("rotated")["input_ids"], skip_special_tokens=True) == "rotated"


def test_checks_have_names_and_descriptions_and_are_chosen_by_kind() -> None:
    checks = running.all_checks()
    assert all(check.name == check.name.lower().replace("_", "-").replace(" ", "-") for check in checks)
    assert all(check.description and "\n" not in check.description for check in checks)
    names = {kind: {check.name for check in checks_for(kind)} for kind in (Pruner, NoDescription)}
    assert names[Pruner] == names[NoDescription]
    assert "refuses-without-calibration" in names[Pruner]
    assert "resumes" not in names[Pruner]
    with pytest.raises(TypeError, match="no compressor, backend or evaluator"):
        checks_for(dict)


def test_base_classes_have_examples() -> None:
    assert Compressor.examples == Backend.examples == Evaluator.example_options == ({},)
    assert FolderConfig()


def _fails(plugin: type[Any], config: Any) -> None:
    raise CheckFailed("it does not", where="here", hint="do it")


def _breaks(plugin: type[Any], config: Any) -> None:
    raise KeyError("vocab_size")


def _skips(plugin: type[Any], config: Any) -> None:
    raise CheckSkipped("nothing to check")


def _second_fails(plugin: type[Any], config: Any) -> None:
    if config:
        _fails(plugin, config)


@pytest.fixture
def with_checks(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_checks(**functions: Any) -> None:
        made = tuple(Check(name, "one line", run, lambda plugin: True) for name, run in functions.items())
        monkeypatch.setattr(running, "all_checks", lambda: made)

    return set_checks


def test_results_say_what_happened(with_checks: Any) -> None:
    with_checks(fails=_fails, breaks=_breaks, skips=_skips, passes=lambda plugin, config: None, second=_second_fails)
    results = {result.name: result for result in run_checks(Pruner, [{}, {"sparsity": 0.25}])}
    states = {name: result.state for name, result in results.items()}
    assert states == {"fails": "failed", "breaks": "failed", "skips": "skipped", "passes": "passed", "second": "failed"}
    assert "here: " in results["fails"].message
    assert "do it" in results["fails"].message
    assert "KeyError: 'vocab_size'" in results["breaks"].message
    assert "{'sparsity': 0.25}" in results["second"].message, "the config with which it fails is named"
    assert all(result.seconds >= 0 for result in results.values())


def test_expected_failures_are_strict(with_checks: Any) -> None:
    with_checks(fails=_fails, passes=lambda plugin, config: None)
    failing, passing = run_checks(Pruner, expected_failures={"fails": "no time yet", "passes": "it used to fail"})
    assert (failing.state, failing.message, failing.ok) == ("expected failure", "no time yet", True)
    assert (passing.state, passing.ok) == ("unexpected pass", False)
    with pytest.raises(UsageError, match="Did you mean 'fails'"):
        run_checks(Pruner, expected_failures={"fail": "mistyped"})


def test_a_check_leaves_no_trace_of_a_plugin_that_does(with_checks: Any) -> None:
    def spoil(plugin: type[Any], config: Any) -> None:
        torch.manual_seed(99)
        torch.set_num_threads(3)
        torch.set_default_dtype(torch.float64)
        os.environ["SPOILT"] = "1"

    with_checks(spoils=spoil)
    before = (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype(), dict(os.environ))
    run_checks(Pruner)
    assert before == (
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        dict(os.environ),
    )


def test_the_network_is_closed_and_opened_again() -> None:
    real = socket.getaddrinfo
    with restored(), no_network() as tried:
        with pytest.raises(OSError, match="lets nothing out"):
            socket.create_connection(("192.0.2.1", 80), timeout=0.1)
        with pytest.raises(OSError, match="lets nothing out"):
            socket.socket().connect(("192.0.2.1", 80))
    assert len(tried) == 2
    assert socket.getaddrinfo is real
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())


def test_pickles_are_known_by_what_they_are(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.safetensors")
    (tmp_path / "state").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "data").write_bytes(b"\x80\x02 but no pickle")
    found = {path.name for path in tmp_path.iterdir() if is_pickled(path)}
    assert found == {"weights.safetensors", "state"}


pytest_plugins = ["pytester"]
CONFORMING = """
import sys
sys.path.insert(0, {folder!r})
from mutants.compressors import NoDescription
from leptonsdk.testing import CompressorConformance
class TestConformance(CompressorConformance):
    plugin = NoDescription
    {more}
"""


def conforming(pytester: pytest.Pytester, more: str) -> pytest.RunResult:
    """The three checks of a config, of a mutant whose config lacks a description."""
    running.all_checks()  # imported out here: pytester forgets what is imported inside
    pytester.makepyfile(test_conformance=CONFORMING.format(folder=str(Path(__file__).parent), more=more))
    return pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-k", "config")


@pytest.mark.parametrize(
    ("more", "outcomes"),
    [
        ("", {"failed": 1, "passed": 2}),
        ("expected_failures = {'config-described': 'to come'}", {"passed": 2, "xfailed": 1}),
        (
            "expected_failures = {'config-described': 'to come', 'config-strict': 'it passes'}",
            {"failed": 1, "passed": 1, "xfailed": 1},
        ),
    ],
)
def test_three_lines_are_a_test_of_each_check(more: str, outcomes: Any, pytester: pytest.Pytester) -> None:
    conforming(pytester, more).assert_outcomes(**outcomes, deselected=len(checks_for(NoDescription)) - 3)


def test_an_expected_failure_of_no_check_is_an_error(pytester: pytest.Pytester) -> None:
    done = conforming(pytester, "expected_failures = {'config-descripted': 'to come'}")
    assert "Did you mean 'config-described'?" in done.stdout.str()
    assert done.ret != 0


RUNNER = CliRunner()


def test_the_command_lists_every_check(with_checks: Any) -> None:
    with_checks(does=lambda plugin, config: None, skips=_skips)
    done = RUNNER.invoke(app, ["plugins", "check", "rtn"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "compressor rtn, of core (leptonsdk" in done.output
    assert "2 checks: 1 passed, 1 skipped" in done.output


def test_the_command_fails_and_says_why(with_checks: Any) -> None:
    with_checks(fails=_fails)
    done = RUNNER.invoke(app, ["plugins", "check", "text-classification", "--json"])
    assert done.exit_code == 1
    (answer,) = json.loads(done.stdout)
    assert answer["kind"] == "evaluator"
    (found,) = answer["checks"]
    assert found["state"] == "failed"
    assert found["message"] == "here: it does not (do it)"


def test_the_command_takes_a_distribution(with_checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "core")
    with_checks(does=lambda plugin, config: None)
    done = RUNNER.invoke(app, ["plugins", "check", "leptonsdk", "--json"])
    names = {one["name"] for one in json.loads(done.stdout)}
    assert {"rtn", "trim_vocabulary", "fill-mask"} <= names


def test_an_unknown_name_is_a_usage_error() -> None:
    done = RUNNER.invoke(app, ["plugins", "check", "rtm"])
    assert isinstance(done.exception, UsageError)
    assert "Did you mean 'rtn'?" in str(done.exception)


def test_errors_keep_what_they_happened_in() -> None:
    error = LeptonError("groups do not fit", where="layer 'a'").within("step 01-rtn (leptonsdk 0.1.0)")
    assert str(error) == "step 01-rtn (leptonsdk 0.1.0), layer 'a': groups do not fit"
    assert str(LeptonError("no").within("step 1")) == "step 1: no"


def test_hooks_of_transformers_itself_are_no_leak() -> None:
    model = tiny_checkpoint("bert").model
    model(**tiny_inputs(tiny_checkpoint("bert")), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules()), "transformers collects by hooks"
    assert forward_hooks(model) == []
    handle = model.base_model.register_forward_hook(lambda *_: None)
    assert forward_hooks(model) == ["bert"]
    handle.remove()


@pytest.mark.parametrize("package", ["leptonsdk", "leptonsdk_openvino", "torch", "torch.nn"])
def test_outside_of_leptonsdk_nothing_of_it_can_be_imported_nor_what_else_is_kept_out(package: str) -> None:
    lines = "\ndef run(entry, inputs):\n    return {name: value + 1 for name, value in inputs.items()}"
    with pytest.raises(CheckFailed, match=f"'{package.partition('.')[0]}"):
        run_artifact(Path("entry"), f"import {package}{lines}", {}, "here", without=("torch",))
    given = {"ids": torch.tensor([1, 2]), "half": torch.tensor(0.5, dtype=torch.half)}
    found = run_artifact(Path("entry"), f"import numpy{lines}", given, "here", without=("torch",))
    assert found["ids"].tolist() == [2, 3]
    assert found["ids"].dtype == torch.int64, "integers stay"
    assert found["half"] == 1.5
    assert found["half"].dtype == torch.float32
    assert found["half"].shape == ()
