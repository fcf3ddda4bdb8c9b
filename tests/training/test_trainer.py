"""The mixin: losses are scaled as the Trainer scales its own, runs resume, and what counts as best is compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from leptonsdk.errors import UsageError
from leptonsdk.hooks import Capabilities
from leptonsdk.training import CompressionTrainer, CompressionTrainerMixin
from leptonsdk.training.weights import effective_weight


def train(kit: Any, folder: Path, compression: Any, *, language: bool = False, **more: Any) -> CompressionTrainer:
    model = kit.language_model() if language else kit.classifier()
    trainer = CompressionTrainer(
        model, kit.arguments(folder, **more), train_dataset=kit.rows(language=language), compression=compression
    )
    trainer.train()
    return trainer


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_close(one: Any, two: Any, tolerance: float = 1e-6) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=tolerance, rtol=tolerance), name


def test_without_compressors_it_is_the_trainer(kit: Any, tmp_path: Path) -> None:
    ours = train(kit, tmp_path / "a", ())
    plain = transformers.Trainer(kit.classifier(), kit.arguments(tmp_path / "b"), train_dataset=kit.rows())
    plain.train()
    assert_close(weights(ours), weights(plain), 0)


@pytest.mark.parametrize("language", [False, True], ids=["classifier", "language model"])
def test_accumulated_batches_are_one_large_batch(kit: Any, tmp_path: Path, language: bool) -> None:
    """SGD, so that a wrong factor shows: Adam would divide it away."""
    options = {"optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "learning_rate": 0.1}
    large = train(kit, tmp_path / "a", [kit.Shrinker()], language=language, per_device_train_batch_size=8, **options)
    small = train(
        kit,
        tmp_path / "b",
        [kit.Shrinker()],
        language=language,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        **options,
    )
    # The language model's batches have uneven numbers of labels, and the penalty counts by batch, not by label.
    assert_close(weights(large), weights(small), 2e-3 if language else 1e-6)


def test_own_parameters_have_their_own_group(kit: Any, tmp_path: Path) -> None:
    shrinker = kit.Shrinker(lr=0.0)
    trainer = train(kit, tmp_path, [shrinker])
    assert all(torch.equal(gate.scores, torch.ones_like(gate.scores)) for gate in shrinker.gates)
    grouped = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(trainer.model.parameters()))


def test_schedules_run_from_nought_to_one(kit: Any, tmp_path: Path) -> None:
    shrinker = kit.Shrinker()
    train(kit, tmp_path, [shrinker])
    assert shrinker.seen[0] == 0
    assert shrinker.seen[-1] == 1
    assert shrinker.seen == sorted(shrinker.seen)
    assert len(set(shrinker.seen)) == 9


def test_two_compressors_act_on_one_layer_and_both_are_logged(kit: Any, tmp_path: Path) -> None:
    first, second = kit.Shrinker(), kit.Shrinker()
    second.name = "other"
    model = kit.classifier()
    first.prepare(model, None)
    layer = first.layers[0]
    first.gates[0].scores.data.fill_(2.0)
    second.layers, second.gates = [layer], [type(first.gates[0])(layer.out_features)]
    from leptonsdk.training import fold, transform_weight

    transform_weight(layer, "other", second.gates[0])
    second.gates[0].scores.data.fill_(3.0)
    assert torch.equal(effective_weight(layer), layer.weight * 6)
    fold(layer, "other")
    assert torch.equal(effective_weight(layer), layer.weight * 2)
    trainer = train(kit, tmp_path, [kit.Shrinker()])
    assert any("gate" in entry and "loss" in entry for entry in trainer.state.log_history)


def test_finalize_leaves_plain_modules_that_compute_the_same(kit: Any, tmp_path: Path) -> None:
    trainer = train(kit, tmp_path, [kit.Shrinker()])
    batch = torch.stack([row["input_ids"] for row in kit.rows(4)])
    trainer.model.eval()
    with torch.no_grad():
        before = trainer.model(batch).logits
        model = trainer.finalize()
        after = model(batch).logits
    assert torch.allclose(before, after, atol=1e-6)
    assert model.state_dict().keys() == kit.classifier().state_dict().keys()
    assert {type(m) for m in model.modules()} == {type(m) for m in kit.classifier().modules()}
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(again(batch).logits, after)


def test_a_resumed_run_ends_with_the_same_weights(kit: Any, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    class Kill(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise KilledError

    options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2}
    whole = train(kit, tmp_path / "whole", [kit.Shrinker()], **options)
    args = kit.arguments(tmp_path / "killed", **options)
    first = CompressionTrainer(kit.classifier(), args, train_dataset=kit.rows(), compression=[kit.Shrinker()])
    first.add_callback(Kill())
    with pytest.raises(KilledError):
        first.train()
    shrinker = kit.Shrinker()
    second = CompressionTrainer(kit.classifier(seed=9), args, train_dataset=kit.rows(), compression=[shrinker])
    second.train(resume_from_checkpoint=True)
    assert shrinker.seen[:2] == [4 / 16, 5 / 16]
    assert_close(weights(whole), weights(second), 0)


def test_the_best_model_is_one_that_is_compressed(kit: Any, tmp_path: Path) -> None:
    options = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "progress",
        "greater_is_better": False,  # the first evaluation would win
    }
    trainer = CompressionTrainer(
        kit.classifier(),
        kit.arguments(tmp_path, **options),
        train_dataset=kit.rows(),
        eval_dataset=kit.rows(8),
        compression=[kit.Shrinker(settles=0.6)],
        compute_metrics=lambda _: {"progress": trainer.state.global_step},
    )
    trainer.train()
    assert trainer.state.best_metric == 6
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-6")


def test_it_mixes_into_other_trainers(kit: Any, tmp_path: Path) -> None:
    class Mine(CompressionTrainerMixin, transformers.Seq2SeqTrainer):
        pass

    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    args = transformers.Seq2SeqTrainingArguments(**kit.arguments(tmp_path).to_dict() | {"report_to": []})
    data = [{**row, "labels": row["input_ids"]} for row in kit.rows(8)]
    shrinker = kit.Shrinker()
    trainer = Mine(transformers.T5ForConditionalGeneration(config), args, train_dataset=data, compression=[shrinker])
    trainer.train()
    assert shrinker.seen[-1] == 1
    trainer.finalize()


def test_evaluation_is_of_the_task_alone(kit: Any, tmp_path: Path) -> None:
    trainer = train(kit, tmp_path, [kit.Shrinker()])
    data = kit.rows(8)
    loss = trainer.evaluate(data)["eval_loss"]
    with torch.no_grad():
        batch = {name: torch.stack([row[name] for row in data]) for name in data[0]}
        assert loss == pytest.approx(float(trainer.model.eval()(**batch).loss), abs=1e-5)


def test_a_decoder_keeps_its_cache(kit: Any, tmp_path: Path) -> None:
    """The Trainer turns the config's use_cache off, and a saved model would generate without one."""
    trainer = train(kit, tmp_path, [kit.Shrinker()], language=True)
    assert trainer.finalize().config.use_cache is True


def test_model_init_is_refused(kit: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model_init"):
        CompressionTrainer(
            args=kit.arguments(tmp_path), model_init=lambda: kit.classifier(), compression=[kit.Shrinker()]
        )


def test_penalties_are_not_weighed_with_the_task(kit: Any, tmp_path: Path) -> None:
    """One that distills weighs the task's loss against a teacher's; the order in which it is given makes no difference."""

    class Weigher(kit.Shrinker):  # type: ignore[misc]
        capabilities = Capabilities(effects=frozenset({"distills"}))

        def prepare(self, model: Any, context: Any) -> None: ...

        def parameter_groups(self) -> list[dict[str, Any]]:
            return []

        def loss(self, model: Any, inputs: Any, outputs: Any, loss: Any) -> Any:
            return 0.1 * loss

    class Penalty(Weigher):
        capabilities = Capabilities(effects=frozenset({"sparsifies"}))

        def loss(self, model: Any, inputs: Any, outputs: Any, loss: Any) -> Any:
            return loss + 7.0

    losses = []
    for compression in ([Weigher(), Penalty()], [Penalty(), Weigher()], []):
        trainer = CompressionTrainer(
            kit.classifier(), kit.arguments(tmp_path), train_dataset=kit.rows(), compression=compression
        )
        inputs = next(iter(trainer.get_train_dataloader()))
        losses.append(float(trainer.compute_loss(trainer.model.train(), inputs)))
    assert losses[0] == losses[1] == pytest.approx(0.1 * losses[2] + 7.0)


class Contrastive(transformers.Trainer):
    """A loss of its own on batches without labels: rows and their pairs come near, or go apart, as ``near`` says."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        others, near = inputs.pop("others"), inputs.pop("near")
        outputs = model(**inputs)
        apart = (outputs.logits - model(others).logits).square().sum(-1)
        loss = torch.where(near, apart, (1 - apart).relu()).mean()
        return (loss, outputs) if return_outputs else loss


def scattered(kit: Any) -> Any:
    """A classifier whose logits differ enough for such a loss to matter."""
    model = kit.classifier()
    model.classifier.weight.data.mul_(30)
    return model


def pairs(kit: Any, count: int = 32) -> list[dict[str, Any]]:
    ids = [row["input_ids"] for row in kit.rows(count)]
    return [{"input_ids": one, "others": one.flip(0), "near": bool(one[0] % 2)} for one in ids]


def test_a_trainer_with_a_loss_of_its_own_keeps_it_without_labels(kit: Any, tmp_path: Path) -> None:
    class Mine(CompressionTrainerMixin, Contrastive):
        pass

    args = kit.arguments(tmp_path, remove_unused_columns=False)
    plain = Contrastive(scattered(kit), args, train_dataset=pairs(kit))
    ours = Mine(scattered(kit), args, train_dataset=pairs(kit), compression=[kit.Shrinker()])
    inputs = next(iter(plain.get_train_dataloader()))
    loss, outputs = plain.compute_loss(plain.model.train(), inputs, return_outputs=True)
    total = ours.compute_loss(ours.model.train(), inputs)
    assert float(total) == pytest.approx(0.5 * float(loss) + 0.1 * float(outputs.logits.square().mean()))
    assert float(loss) > 0.01


SGD = {"optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "learning_rate": 0.1}


@pytest.mark.parametrize("own", ["method", "function"])
def test_a_loss_without_labels_is_scaled_for_accumulated_batches(kit: Any, tmp_path: Path, own: str) -> None:
    """A function divides by the accumulated batches itself: the Trainer takes what it gives as it is."""

    class Mine(CompressionTrainerMixin, Contrastive if own == "method" else transformers.Trainer):
        pass

    def trained(steps: int, penalty: float = 0.1) -> Any:
        args = kit.arguments(
            tmp_path, per_device_train_batch_size=8 // steps, gradient_accumulation_steps=steps,
            remove_unused_columns=False, **SGD,
        )  # fmt: skip
        function = lambda outputs, labels, num_items_in_batch: (outputs.logits - 1).square().mean() / steps  # noqa: E731
        data = pairs(kit) if own == "method" else [{"input_ids": row["input_ids"]} for row in kit.rows()]
        more = {} if own == "method" else {"compute_loss_func": function}
        trainer = Mine(scattered(kit), args, train_dataset=data, compression=[kit.Shrinker(penalty)], **more)
        trainer.train()
        return weights(trainer)

    large, small = trained(1), trained(4)
    assert_close(large, small, 1e-5)
    for other in (
        trained(1, penalty=0.2),
        scattered(kit).state_dict(),
    ):  # both parts of the loss have moved the weights
        assert not torch.allclose(large["classifier.weight"], other["classifier.weight"], atol=1e-3)


def test_a_model_that_gives_a_loss_without_labels_keeps_it(kit: Any, tmp_path: Path) -> None:
    class Rebuilding(transformers.BertForSequenceClassification):  # as a masked autoencoder does
        def forward(self, input_ids: Any, labels: Any = None) -> Any:
            logits = super().forward(input_ids).logits
            return transformers.modeling_outputs.SequenceClassifierOutput(logits.square().mean() + 3.0, logits)

    model = Rebuilding(kit.classifier().config)
    data = [{"input_ids": row["input_ids"]} for row in kit.rows(8)]
    trainer = CompressionTrainer(model, kit.arguments(tmp_path), train_dataset=data, compression=[kit.Shrinker(0.0)])
    inputs = next(iter(trainer.get_train_dataloader()))
    assert float(trainer.compute_loss(trainer.model.train(), inputs)) > 1.5
