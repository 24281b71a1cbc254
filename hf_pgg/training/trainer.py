"""`PGGTrainer`: a `transformers.Trainer` whose loss includes input gradient guidance.

What it writes is an ordinary checkpoint. The losses are sums over the samples divided by the number of samples of the
accumulated, global batch, so that accumulation x k equals batch x k whatever the rows are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn import functional as F
from transformers import EvalPrediction, TrainerCallback
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput

from hf_pgg.data.collator import Collator
from hf_pgg.data.images import undecoded
from hf_pgg.data.provenance import LABEL_WEIGHTS, LABELS, PADDING_LABEL, PROVENANCE
from hf_pgg.guidance.engines import Guidance
from hf_pgg.guidance.forward import LoopState, guided_forward
from hf_pgg.guidance.modes import freeze_batch_norm
from hf_pgg.synthesis.base import FreshDraws
from hf_pgg.training.checkpoints import AtomicCheckpoints, complete_model
from hf_pgg.training.config import PGGConfig
from hf_pgg.training.hub import draft_card, has_own_card, push_checkpoint
from hf_pgg.training.monitor import GroupedEvalPrediction, TargetShare, Telemetry
from hf_pgg.training.validation import class_order, is_exact, model_config, refuse_unsupported, tell_classes


def soft_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, label_weights: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Returns the cross entropy (B,) against the weighted labels of each sample: sum over k of weight_k CE(label_k).

    The logits are (B, classes), the labels (B, K), padded with -100, and their weights (B, K).

    Example:
        >>> soft_cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([[0, 1]]), torch.tensor([[0.3, 0.7]]))
        tensor([0.6931])
    """
    total = torch.zeros((), device=logits.device)
    for k in range(labels.shape[1]):
        entropy = F.cross_entropy(
            logits, labels[:, k], ignore_index=PADDING_LABEL, reduction="none", label_smoothing=label_smoothing
        )
        total = total + label_weights[:, k] * entropy
    return total


class _Epochs(TrainerCallback):
    """Tells the collator, and a `FreshDraws` set by `with_transform`, which epoch it is."""

    def __init__(self, trainer: PGGTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch, dataset = int(state.epoch or 0), self.trainer.train_dataset
        self.trainer.data_collator.set_epoch(epoch)
        transform = dataset.format["format_kwargs"].get("transform") if isinstance(dataset, Dataset) else None
        if isinstance(transform, FreshDraws):
            transform.set_epoch(epoch)


class PGGTrainer(AtomicCheckpoints):
    """A `Trainer` that suppresses the input gradient outside each label's target.

    Datasets keep the contract of `hf_pgg.data.provenance`, or have a column of single labels; rows without provenance
    are not guided. Beside the usual, the log holds `classification_loss`, `guidance_loss`, `target_gradient_share` and
    `train_accuracy`; evaluation adds `target_gradient_share` where the rows have provenance.

    Args:
        model (`PreTrainedModel`): Takes `pixel_values` (or floats under the name of its `main_input_name`), returns
            `logits`.
        args ([`~hf_pgg.PGGConfig`]): Training arguments.
        augment (`Callable`, *optional*): torchvision v2 transform for training, see [`~hf_pgg.PGGCollator`].
        data_collator ([`~hf_pgg.data.collator.Collator`], *optional*): Replaces that made from `processing_class`.
        kwargs: Those of `transformers.Trainer`. `compute_metrics` receives a
            [`~hf_pgg.training.monitor.GroupedEvalPrediction`].

    Raises:
        TypeError: If the collator is not a `Collator`.
        ValueError: If the configuration, the model or the datasets cannot be trained, before anything is written.
        ProvenanceError: If a row does not keep the contract.

    Example:
        >>> import copy, tempfile
        >>> from transformers import ViTImageProcessor
        >>> options = {"max_steps": 1, "logging_steps": 1, "save_strategy": "no", "report_to": [], "use_cpu": True}
        >>> args = PGGConfig(tempfile.mkdtemp(), alpha=1.0, disable_tqdm=True, **options)
        >>> processor = ViTImageProcessor(size={"height": 16, "width": 16})
        >>> trainer = PGGTrainer(copy.deepcopy(model), args, train_dataset=rows, processing_class=processor)
        >>> result = trainer.train()
        {'loss': ... 'classification_loss': ... 'guidance_loss': ... 'target_gradient_share': ...}
    """

    args: PGGConfig
    model: Any
    data_collator: Collator
    loss_is_scaled_for_ga = True  # compute_loss divides by the samples of the whole accumulated batch

    def __init__(
        self,
        model: Any,
        args: PGGConfig,
        *,
        augment: Any = None,
        data_collator: Collator | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Any = None,
        **kwargs: Any,
    ):
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("PGGTrainer computes its own loss: `compute_loss_func` would be ignored, remove it")
        refuse_unsupported(model, args)
        self.group_columns = list(args.group_columns or [])
        collator = args.collator(processing_class, augment) if data_collator is None else data_collator
        num_classes = model_config(model).num_labels
        collator, self._checked = tell_classes(collator, model, train_dataset, args)
        processing_class = collator.image_processor or processing_class  # what is used is what is saved
        complete_model(model, processing_class, class_order(model, train_dataset, collator.label_column))
        train_dataset = self._checked(train_dataset, "training", collator)
        eval_dataset = self._checked(eval_dataset, "evaluation", collator.for_evaluation())
        args.label_names = [LABELS, *self.group_columns]
        self._user_metrics = compute_metrics
        super().__init__(
            model,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=None if compute_metrics is None else self._metrics_with_groups,
            **kwargs,
        )
        self.guidance = args.guidance_settings(exact=args.alpha > 0 and is_exact(model, args))
        # what the collator reads, not the model's signature: the stock Trainer would drop the masks
        self._signature_columns: Any = [*collator.columns]
        self._last_step, self._microstep = -1, 0
        self.telemetry = Telemetry(args.max_nonfinite_steps, num_classes)
        self.add_callback(_Epochs(self))

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        if isinstance(dataset, Dataset):
            if dataset.format["type"] == "custom":
                return dataset  # a transform set by the user may read any column
            dataset = undecoded(dataset.with_format(None))  # the collator reads images, not what torch makes of them
        return super()._remove_unused_columns(dataset, description)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        return self._for_evaluation(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        return self._for_evaluation(super().get_test_dataloader, test_dataset)

    def _for_evaluation(self, make: Any, dataset: Any) -> Any:
        collator = self.data_collator
        self.data_collator = collator.for_evaluation()
        if dataset is not None and not isinstance(dataset, str):  # one that the constructor has not seen
            dataset = self._checked(dataset, "evaluation", self.data_collator)
        try:
            return make(dataset)
        finally:
            self.data_collator = collator

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        if not batch_samples:
            return None
        count = torch.tensor(sum(len(batch[LABELS]) for batch in batch_samples), device=device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        labels, weights, guided = (inputs.pop(name) for name in (LABELS, LABEL_WEIGHTS, "guided"))
        provenance = inputs.pop(PROVENANCE, None)
        groups = {name: inputs.pop(name, None) for name in self.group_columns}
        module = self.accelerator.unwrap_model(model, keep_torch_compile=True)
        if model.training and self.args.freeze_batch_norm:
            freeze_batch_norm(module)  # every step: the stock training step has just called `model.train()`
        alpha = self.current_alpha() if model.training and provenance is not None else 0.0
        if alpha > 0:
            logits, guidance = self._guide(model, module, inputs, labels, provenance, guided)
            outputs = ImageClassifierOutput(logits=logits)
        else:
            outputs, guidance = model(**inputs), None
            logits = outputs.logits
        entropy = soft_cross_entropy(logits, labels, weights, self.args.label_smoothing_factor)
        count = num_items_in_batch if num_items_in_batch is not None else len(labels)
        loss = self.classification_loss(entropy, groups, count)
        if guidance is not None and self.telemetry.is_finite(guidance, self.state.global_step):
            loss = loss + alpha * guidance.value.sum() / count
        if model.training:
            self.telemetry.add_batch(logits, labels, weights, entropy, guidance)
        if self.args.world_size > 1 and num_items_in_batch is not None:
            loss = loss * self.args.world_size  # DDP averages over processes, the count is global
        return (loss, outputs) if return_outputs else loss

    def classification_loss(
        self, entropy: torch.Tensor, groups: Mapping[str, Any], count: torch.Tensor | int
    ) -> torch.Tensor:
        """Returns this micro-batch's part () of the classification loss; the parts of the global batch add up.

        A subclass that weighs rows otherwise overrides it. It is called in evaluation, too.

        Args:
            entropy (`torch.Tensor`): (B,) cross entropies.
            groups (`Mapping`): Group column to (B,) int64.
            count: Number of samples of the accumulated, global batch.
        """
        return entropy.sum() / count

    def _guide(
        self,
        model: nn.Module,
        module: nn.Module,
        inputs: dict[str, Any],
        labels: torch.Tensor,
        provenance: torch.Tensor,
        guided: torch.Tensor,
    ) -> tuple[torch.Tensor, Guidance]:
        sharded, compiled = self.is_fsdp_enabled or self.is_deepspeed_enabled, isinstance(module, OptimizedModule)
        if sharded and not self.guidance.one_label:  # as many labels, hence passes, in every process
            places = int(self.accelerator.reduce(torch.tensor(labels.shape[1], device=labels.device), "max"))
            extra = places - labels.shape[1]
            labels = F.pad(labels, (0, extra), value=PADDING_LABEL)
            provenance = torch.cat([provenance, provenance[:, :1].expand(-1, extra, *provenance.shape[2:])], dim=1)
        loop = LoopState(self._generator(), sharded, compiled, self.telemetry.backoff)
        return guided_forward(model, module, inputs, labels, provenance, guided, self.guidance, loop)

    def _generator(self) -> torch.Generator:
        """A generator keyed by (seed, step, process, micro-step), so that a resumed run draws the same."""
        step = self.state.global_step
        if step != self._last_step:
            self._last_step, self._microstep = step, 0
        self._microstep += 1
        key = np.random.SeedSequence([self.args.seed, step, self.args.process_index, self._microstep])
        return torch.Generator().manual_seed(int(key.generate_state(1)[0]))

    def current_alpha(self) -> float:
        """Returns the weight of guidance at this step: it grows linearly over `alpha_warmup_ratio` of the steps."""
        warmup = self.args.alpha_warmup_ratio * self.state.max_steps
        return self.args.alpha * min(1.0, (self.state.global_step + 1) / warmup) if warmup > 0 else self.args.alpha

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            parts = self.telemetry.flush(self.args.device, self.accelerator if self.args.world_size > 1 else None)
            if self.current_alpha() == 0:
                parts.pop("guidance_loss", None)
            elif parts:
                parts["alpha"] = self.current_alpha()
                self.telemetry.warn_if_unguided()
            logs.update(parts)
            if parts:
                self.telemetry.watch_for_collapse(parts["train_accuracy"], self.state)
        super().log(logs, start_time)

    @property
    def collapsed_at(self) -> int | None:
        """The step at which the training accuracy was found at chance, or None."""
        return self.telemetry.collapsed_at

    @property
    def nonfinite_steps(self) -> int:
        """Batches whose guidance loss was NaN or infinite, and which trained without it."""
        return self.telemetry.nonfinite_steps

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = output_dir or str(self.args.output_dir)
            (Path(folder) / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # it pickles the Hub token
            if self.data_collator.spec is not None:
                draft_card(self, folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.staging and self.is_world_process_zero():
            push_checkpoint(self, checkpoint_folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The stock draft for models of other inputs than images and clips, whose saves write the run's own card."""
        if self.data_collator.spec is None and not has_own_card(str(self.args.output_dir)):
            super().create_model_card(*args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        if self.args.eval_target_share and PROVENANCE in inputs:
            module = self.accelerator.unwrap_model(self.model_wrapped)
            with torch.enable_grad(), self.compute_loss_context_manager():
                self._target_share.add_batch(module, self._prepare_inputs(inputs), self.group_columns)
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self._target_share = TargetShare(self.args.device)
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        share = self._target_share.mean(self.accelerator if self.args.world_size > 1 else None)
        if share is not None and output.metrics is not None:
            output.metrics[f"{metric_key_prefix}_target_gradient_share"] = share
        return output

    def _metrics_with_groups(self, prediction: EvalPrediction) -> dict[str, float]:
        return self._user_metrics(GroupedEvalPrediction.split(prediction, self.group_columns))
