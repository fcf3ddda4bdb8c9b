"""Compressors in a Trainer: a mixin for any subclass of `transformers.Trainer`, and a ready class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback

from leptonsdk.checkpoint import Checkpoint
from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext, TrainingCompressor, errors_named
from leptonsdk.quantization.tensor_codebook import AnyTensor
from leptonsdk.training.sharding import check_sharding, gather
from leptonsdk.training.zeros import Zeros

if TYPE_CHECKING:
    from transformers import Trainer as _Mixed
else:
    _Mixed = object


class CompressionTrainerMixin(_Mixed):  # type: ignore[misc]
    """Lets compressors act inside a training run: mix it in before the Trainer's class.

    ::

        class MyTrainer(CompressionTrainerMixin, Seq2SeqTrainer): ...

        trainer = MyTrainer(model, args, …, compression=[MovementPruning(…), Distillation(teacher)])
        trainer.train()
        model = trainer.finalize()  # or .checkpoint(), which also has what a quantized model is saved and exported with

    Everything that the compressors learn is part of the model while it trains, and their schedules follow from the number
    of steps, so that the Trainer's own checkpoints resume them. With ``load_best_model_at_end`` an evaluation counts from the
    moment on when every compressor has reached its target: before it, the best model is the one that is compressed least.

    Several processes may train: with DistributedDataParallel, DeepSpeed's ZeRO-1 and 2, or FSDP2, which keeps weights, gradients
    and the optimizer's states in parts. Compressors that change weights then gather these, a layer at a time, after each
    step; what they hold in buffers, such as the masks of single weights, is whole on every device; and `finalize` leaves the
    whole model on each. All processes must call it. DeepSpeed's ZeRO-3 and FSDP1 are for compressors that leave weights as
    they are (distillation), and the Trainer's `save_model`.

    Args:
        compression: Compressors, in the order in which they act on the loss, those that distill before all others, and in
            which they finish.
        quantized: Integers behind the model's weights (``Checkpoint.quantized``), for a compressor that goes on from them.
        keep_zeros: Weights of linear layers that are zero when the training begins stay zero: for a model that was pruned before,
            which training would fill again. Off by default; a recipe's training step turns it on where an earlier step prunes.

    Raises:
        UsageError: `model_init` is given: each trial would need compressors of its own; or a compressor may not follow another;
            or the model is sharded in a way that compressors cannot work with.
    """

    model: Any
    _zeros: Zeros | None

    def __init__(
        self,
        *args: Any,
        compression: Sequence[TrainingCompressor[Any]] = (),
        quantized: Mapping[str, AnyTensor] | None = None,
        keep_zeros: bool = False,
        **kwargs: Any,
    ) -> None:
        if compression and kwargs.get("model_init") is not None:
            raise UsageError("compression needs the model itself, not model_init", where="CompressionTrainer")
        self.compression = self._compressors = tuple(compression)
        # A teacher's part is weighed against the task's loss, and no other's penalty may be weighed with it.
        self._by_loss = sorted(self.compression, key=lambda one: "distills" not in one.capabilities.effects)
        check_order(self.compression, quantized)
        model = args[0] if args else kwargs.pop("model", None)
        for compressor in self.compression:
            with errors_named(type(compressor)):
                model = compressor.student(model)
        self._use_cache = getattr(getattr(model, "config", None), "use_cache", None)
        super().__init__(model, *args[1:], **kwargs)
        check_sharding(self.accelerator, self.model, self.compression)
        self.compression_context = StepContext(
            seed=self.args.seed,
            folder=Path(self.args.output_dir) / "compression",
            device=str(self.args.device),
            quantized=quantized or {},
        )
        for compressor in self.compression:
            with errors_named(type(compressor)):
                compressor.prepare(self.model, self.compression_context)
        if self.place_model_on_device:
            self._move_model_to_device(self.model, self.args.device)
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        self._groups = []
        for compressor in self.compression:
            with errors_named(type(compressor)):
                groups = compressor.parameter_groups()
                self._groups += [
                    {**one, "params": [names[id(parameter)] for parameter in one["params"]]} for one in groups
                ]
        self._scaled: bool | None = None
        self._keep_zeros, self._zeros = keep_zeros, None
        self.add_callback(_Schedules(self))

    @property
    def compression_progress(self) -> float:
        """Optimizer steps done, as a share of all."""
        return min(1.0, int(self.state.global_step) / max(int(self.state.max_steps), 1))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's optimizer, with the compressors' parameters in groups of their own."""
        parameters = dict((self.model if model is None else model).named_parameters())
        groups = [{**group, "params": [parameters[name] for name in group["params"]]} for group in self._groups]
        own = [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]
        for parameter in own:
            parameter.requires_grad_(False)  # out of the default groups
        optimizer: torch.optim.Optimizer = super().create_optimizer(*(() if model is None else (model,)))
        for parameter in own:
            parameter.requires_grad_(True)
        known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for group in groups:
            if group["params"] and id(group["params"][0]) not in known:
                optimizer.add_param_group({"weight_decay": 0.0, **group})
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The Trainer's loss with the compressors' parts; in evaluation the Trainer's alone."""
        if not (self.compression and model.training):
            # By name, as the Trainer does: a subclass may take keywords only.
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        asked = {**inputs, **{name: value for c in self.compression for name, value in c.model_inputs().items()}}
        labelled = "labels" in inputs or any(name in inputs for name in self.label_names)
        if not labelled and not self._own_loss():
            # The Trainer would refuse it. Without a loss of the model's own the compressors' parts are all that there is.
            outputs = model(**asked)
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
            loss = torch.zeros((), device=self.args.device) if loss is None else loss
        else:
            loss, outputs = super().compute_loss(
                model, asked, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
        # Compressors are to see a mean over this batch, whatever the Trainer divides by.
        share, rest = self._share(model, inputs, num_items_in_batch)
        loss = loss / (share * rest)
        for compressor in self._by_loss:
            loss = compressor.loss(model, inputs, outputs, loss)
        loss = loss * share
        return (loss, outputs) if return_outputs else loss

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; an error from a compressor's code names its plugin, found once it was raised: no batch is slower for it."""
        with errors_named(*map(type, self.compression), foreign=True):
            return super().train(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The Trainer's, with no gradient for zeros that are to stay."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if self._zeros is not None:
            self._zeros.hold_gradients()
        return loss

    def note_zeros(self) -> None:
        """Called when the training begins, with the weights that it begins with, of a checkpoint where it goes on."""
        if self._keep_zeros:
            self._zeros = Zeros(self.accelerator.unwrap_model(self.model))

    def restore_zeros(self) -> None:
        """Called after every step of the optimizer."""
        if self._zeros is not None:
            self._zeros.restore()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint under the names that the model has in memory.

        Some families (ViT) have others on disk, and the Trainer, which loads without translating, would go on with the
        weights that it started from.
        """
        model = self.accelerator.unwrap_model(self.model)
        own = model.save_pretrained if isinstance(model, PreTrainedModel) else None
        if own is not None:
            model.save_pretrained = partial(own, save_original_format=False)
        try:
            super()._save(output_dir, state_dict)
        finally:
            if own is not None:
                del model.save_pretrained

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds what the compressors tell to the training's own logs."""
        if "loss" in logs:
            for compressor in self.compression:
                logs = {**logs, **compressor.logs()}
        super().log(logs, *args, **kwargs)

    def finalize(self) -> Any:
        """The model with every compressor's work done: plain modules, smaller where something was removed. Done once.

        Of a sharded model every process gets the whole.
        """
        model: Any = self.accelerator.unwrap_model(self.model)
        gather(model)
        for compressor in self.compression:
            with errors_named(type(compressor)):
                compressor.update(self.compression_progress)
        for compressor in self.compression:
            with errors_named(type(compressor)):
                model = compressor.finalize(model, self.compression_context)
        if self._use_cache is not None:
            model.config.use_cache = self._use_cache  # the Trainer's own choice is for its forwards only
        self.compression, self._groups, self.optimizer, self._zeros = (), [], None, None
        self.model = self.model_wrapped = model
        return model

    def checkpoint(self, like: Checkpoint | None = None) -> Checkpoint:
        """What `finalize` leaves as a checkpoint, with the integers and scales of what was quantized in training.

        Args:
            like: Has the processor, the task and the provenance; default: the Trainer's processing class, and the task of the
                model's architecture.
        """
        model = self.finalize()
        model.requires_grad_(True).eval()
        if like is None:
            checkpoint = Checkpoint.of(model, processor=self.processing_class)
        else:
            checkpoint = like.replace(model=model.to(like.model.device), quantized={})
        for compressor in self._compressors:
            with errors_named(type(compressor)):
                checkpoint = compressor.checkpoint(checkpoint)
        return checkpoint

    def _own_loss(self) -> bool:
        """Whether somebody computes a loss besides the model: the class that this is mixed into, or a function."""
        theirs: Any = super().compute_loss
        return theirs.__func__ is not Trainer.compute_loss or self.compute_loss_func is not None

    def _share(self, model: nn.Module, inputs: dict[str, Any], items: Any) -> tuple[Any, int]:
        """What the loss is of a mean over this batch: a share that belongs there, and a factor that does not.

        The Trainer has a model divide its loss by the items of all accumulated batches, ``num_items_in_batch``, and multiplies
        it by the processes that this was gathered from, whether or not the model did so. Where there is nothing to count, a loss
        that says of itself that it is scaled (``loss_is_scaled_for_ga``, or a loss function) is a sum over accumulated batches.
        """
        labels = inputs.get("shift_labels", inputs.get("labels"))
        function = self.compute_loss_func is not None
        if items is None or labels is None or not (self.model_accepts_loss_kwargs or function):
            scaled = function if self.loss_is_scaled_for_ga is None else self.loss_is_scaled_for_ga
            return 1 / getattr(self, "current_gradient_accumulation_steps", 1) if scaled else 1.0, 1
        if "shift_labels" not in inputs and getattr(self, "_loss_shifts_labels", False):
            labels = labels[..., 1:]
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        share = (labels != -100).sum() / items * processes
        if processes == 1 and abs(float(share) - 1) < 1e-6:
            return 1.0, 1
        return (share, 1) if self._divides(model, inputs, items) else (1.0, processes)

    def _divides(self, model: nn.Module, inputs: dict[str, Any], items: Any) -> bool:
        """Whether the model heeds ``num_items_in_batch``, as its signature says. Not all do: asked once, with two numbers."""
        if self._scaled is None:
            if self.compute_loss_func is not None or self.label_smoother is not None:
                self._scaled = True
            else:
                with torch.no_grad(), self.compute_loss_context_manager(), torch.random.fork_rng():
                    losses = []
                    for count in (items, 2 * items):
                        torch.manual_seed(0)  # the same dropout
                        losses.append(float(model(**inputs, num_items_in_batch=count).loss))
                self._scaled = losses[1] < 0.75 * losses[0]
            if not self._scaled:
                self.loss_is_scaled_for_ga = False  # the Trainer then divides by the accumulated batches
        return self._scaled

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        progress = self.compression_progress
        if not all(compressor.settled(progress) for compressor in self.compression):
            return False
        return bool(super()._determine_best_metric(metrics, trial))


class CompressionTrainer(CompressionTrainerMixin, Trainer):  # type: ignore[misc]
    """`transformers.Trainer` with compressors."""


def check_order(compression: Sequence[TrainingCompressor[Any]], quantized: Mapping[str, AnyTensor] | None) -> None:
    """Check that each compressor may follow those before it, and that one goes on from integers where there are some.

    Raises:
        UsageError: Names the two.
    """
    done: dict[str, str] = {}
    for compressor in compression:
        for effect in sorted(compressor.capabilities.may_not_follow & done.keys()):
            raise UsageError(
                f"'{compressor.name}' may not follow '{done[effect]}', which {effect} the weights",
                hint="put it before that one",
            )
        done.update(dict.fromkeys(compressor.effects(), compressor.name))
    if quantized and "quantizes" not in done:
        raise UsageError(
            "quantized weights cannot be trained as floats",
            hint="train first, quantize then; or add quantization-aware training (`qat`), which goes on from their integers",
        )


class _Schedules(TrainerCallback):  # type: ignore[misc]
    """Moves the compressors' schedules on: at the start, then after each optimizer step, before evaluations and checkpoints."""

    def __init__(self, trainer: CompressionTrainerMixin) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.note_zeros()
        self._update()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.restore_zeros()  # before a compressor looks at the weights
        self._update()

    def _update(self) -> None:
        for compressor in self._trainer.compression:
            compressor.update(self._trainer.compression_progress)
