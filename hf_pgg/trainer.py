"""`PGGTrainer`: a `transformers.Trainer` whose loss includes input gradient guidance.

What it writes is an ordinary checkpoint. The losses are sums over the samples divided by the number of samples of the
accumulated, global batch, so that accumulation x k equals batch x k whatever the rows are.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image, List
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from hf_pgg.checks import check_dataset, model_config, refuse_unsupported
from hf_pgg.collator import PGGCollator
from hf_pgg.config import PGGConfig
from hf_pgg.guidance import (
    FORMS,
    Guidance,
    RandomState,
    exact_guidance,
    exchange_guidance,
    first_order_guidance,
    input_gradient,
    running_statistics,
    second_derivatives,
    share,
    uses_batch_statistics,
)
from hf_pgg.provenance import CONTRACT_COLUMNS, LABELS, PADDING_LABEL, PROVENANCE

logger = logging.get_logger(__name__)


class GroupedEvalPrediction(EvalPrediction):
    """What `compute_metrics` receives: `label_ids` (N,) int64, and `groups`, group column -> (N,) int64."""

    def __init__(self, groups: Mapping[str, np.ndarray], **kwargs: Any):
        super().__init__(**kwargs)
        self.groups = groups


def soft_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, label_weights: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """(B,) cross entropy against the weighted labels of each sample: sum_k weight_k CE(logits, label_k).

    Args:
        logits (`torch.Tensor`): (B, classes). labels (`torch.Tensor`): (B, K), padded with -100.
        label_weights (`torch.Tensor`): (B, K).
    """
    total = torch.zeros((), device=logits.device)
    for k in range(labels.shape[1]):
        entropy = F.cross_entropy(
            logits, labels[:, k], ignore_index=PADDING_LABEL, reduction="none", label_smoothing=label_smoothing
        )
        total = total + label_weights[:, k] * entropy
    return total


class _Epochs(TrainerCallback):
    """Tells fresh draws (in the collator or in `with_transform`) which epoch it is."""

    def __init__(self, trainer: PGGTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for source in self.trainer.epoch_listeners():
            source.set_epoch(int(state.epoch or 0))


class PGGTrainer(Trainer):
    """A `Trainer` that suppresses the input gradient outside each label's target.

        trainer = PGGTrainer(model, args=PGGConfig(output_dir="out"), train_dataset=train, eval_dataset=test,
                             processing_class=image_processor)

    Datasets keep the contract of `hf_pgg.provenance`, or have a single-label column; rows without provenance are not
    guided. Logs, beside the usual: `classification_loss`, `guidance_loss`, `target_gradient_share` and
    `train_accuracy`; evaluation adds `target_gradient_share` where the rows have provenance.

    Args:
        model (`PreTrainedModel`): Takes `pixel_values`, returns `logits`.
        args ([`PGGConfig`]): Training arguments.
        augment (`Callable`, *optional*): torchvision v2 transform for training, see [`PGGCollator`].
        data_collator (`PGGCollator`, *optional*): In place of the one made from `processing_class`.
        kwargs: Those of `transformers.Trainer`. `compute_metrics` receives a [`GroupedEvalPrediction`].

    Raises:
        ValueError: If the configuration, the model or the datasets cannot be trained, before anything is written.
        ProvenanceError: If a row does not keep the contract.
    """

    args: PGGConfig
    model: Any
    loss_is_scaled_for_ga = True  # compute_loss divides by the samples of the whole accumulated batch

    def __init__(
        self,
        model: Any,
        args: PGGConfig,
        *,
        augment: Any = None,
        data_collator: PGGCollator | None = None,
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
        if data_collator is None:
            if processing_class is None:
                raise ValueError("give `processing_class` (the model's image processor) or `data_collator`")
            data_collator = PGGCollator(
                processing_class,
                image_size=args.image_size,
                augment=augment,
                image_column=args.image_column,
                label_column=args.label_column,
                extra_columns=self.group_columns,
            )
        num_classes = model_config(model).num_labels
        evaluated = eval_dataset if isinstance(eval_dataset, dict) else {"evaluation": eval_dataset}
        for name, dataset in {"training": train_dataset, **evaluated}.items():
            if isinstance(dataset, Dataset):
                check_dataset(dataset, name, num_classes, args, data_collator)
        args.label_names = [LABELS, *self.group_columns]
        self._user_metrics = compute_metrics
        super().__init__(
            model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=None if compute_metrics is None else self._metrics_with_groups,
            **kwargs,
        )
        self.form = FORMS.get(args.guidance_form)
        self._last_step, self._microstep = -1, 0
        self._sums: dict[str, torch.Tensor] = {}
        self._nonfinite_in_a_row = 0
        self._steps_at_chance = 0
        self.nonfinite_steps = 0
        self.collapsed_at: int | None = None
        self.add_callback(_Epochs(self))

    # ------------------------------------------------------------------ data

    def epoch_listeners(self) -> list[Any]:
        """What wants to hear of a new epoch: the collator, and a `FreshDraws` set by `with_transform`."""
        transform = getattr(self.train_dataset, "format", {}) if isinstance(self.train_dataset, Dataset) else {}
        candidates = [self.data_collator, transform.get("format_kwargs", {}).get("transform")]
        return [candidate for candidate in candidates if hasattr(candidate, "set_epoch")]

    def _set_signature_columns_if_needed(self) -> None:
        # the contract's columns, not the model's signature: the stock Trainer would drop the masks
        if self._signature_columns is None:
            collator = self.data_collator
            names = [*CONTRACT_COLUMNS, self.args.image_column, self.args.label_column, *self.group_columns]
            synthesis = getattr(collator, "synthesis", None)
            if synthesis is not None:
                names += [synthesis.synthesizer.row_id_column, synthesis.synthesizer.image_column]
                names += [
                    value for name, value in vars(synthesis.synthesizer).items() if name.endswith("_column") and value
                ]
            self._signature_columns: Any = list(dict.fromkeys(names))

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        if isinstance(dataset, Dataset):
            if dataset.format["type"] == "custom":
                return dataset  # a transform set by the user may read any column
            for name, feature in dataset.features.items():  # decoded once, in the collator
                if isinstance(feature, Image) and feature.decode:
                    dataset = dataset.cast_column(name, Image(decode=False))
                elif isinstance(feature, List) and isinstance(feature.feature, Image):
                    dataset = dataset.cast_column(name, List(Image(decode=False)))
        return super()._remove_unused_columns(dataset, description)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        return self._without_augmentation(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        return self._without_augmentation(super().get_test_dataloader, test_dataset)

    def _without_augmentation(self, make: Any, dataset: Any) -> Any:
        collator = self.data_collator
        if isinstance(collator, PGGCollator):
            self.data_collator = collator.without_augmentation()
        try:
            return make(dataset)
        finally:
            self.data_collator = collator

    # ------------------------------------------------------------------ loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        if not batch_samples:
            return None
        count = torch.tensor(sum(len(batch["pixel_values"]) for batch in batch_samples), device=device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        labels, weights = inputs.pop("labels"), inputs.pop("label_weights")
        guided, provenance = inputs.pop("guided"), inputs.pop(PROVENANCE, None)
        for name in self.group_columns:
            inputs.pop(name, None)
        pixels = inputs["pixel_values"]
        alpha = self.current_alpha() if model.training and provenance is not None else 0.0
        module = self.accelerator.unwrap_model(model)
        if model.training and self.args.freeze_batch_norm:
            _freeze_batch_norm(module)  # every step: the stock training step has just called `model.train()`

        def forward(moved: torch.Tensor) -> torch.Tensor:
            # past any wrapper: a second pass through DDP's would confuse its reducer
            return module(**{**inputs, "pixel_values": moved}).logits

        exact = self.args.guidance_mode == "exact"
        separate = alpha > 0 and uses_batch_statistics(module)
        if alpha > 0 and not separate:
            inputs["pixel_values"] = pixels = pixels.detach().requires_grad_()
        random_state = RandomState(pixels.device)
        with second_derivatives() if alpha > 0 and exact and not separate else nullcontext():
            outputs = model(**inputs)
        entropy = soft_cross_entropy(outputs.logits, labels, weights, self.args.label_smoothing_factor)
        count = num_items_in_batch if num_items_in_batch is not None else len(pixels)
        loss = entropy.sum() / count
        if alpha > 0:
            guidance = self._guide(forward, outputs.logits, pixels, labels, provenance, guided, separate, random_state)
            if self._finite(guidance):
                # the surrogate's gradient, the loss's value
                value = guidance.surrogate + (guidance.loss - guidance.surrogate).detach()
                loss = loss + alpha * value.sum() / count
            self._add_up(guidance_loss=guidance.loss.sum(), share=guidance.target_share.sum(), guided=guided.sum())
        if model.training:
            top = labels.gather(1, weights.argmax(1, keepdim=True))[:, 0]
            right = (outputs.logits.argmax(1) == top).sum()
            self._add_up(classification_loss=entropy.detach().sum(), right=right, samples=torch.tensor(len(pixels)))
        if self.args.world_size > 1 and num_items_in_batch is not None:
            loss = loss * self.args.world_size  # DDP averages over processes, the count is global
        return (loss, outputs) if return_outputs else loss

    def _guide(
        self,
        forward: Any,
        logits: torch.Tensor,
        pixels: torch.Tensor,
        labels: torch.Tensor,
        provenance: torch.Tensor,
        guided: torch.Tensor,
        separate: bool,
        random_state: RandomState,
    ) -> Guidance:
        exact, centered = self.args.guidance_mode == "exact", self.args.guidance_logit == "centered"
        module = self.accelerator.unwrap_model(self.model_wrapped)
        with running_statistics(module), second_derivatives() if exact else nullcontext():
            if separate:  # batch statistics leak between samples: guidance takes a forward pass of its own
                pixels = pixels.detach().requires_grad_()
                with random_state.replayed():
                    logits = forward(pixels)
            given = (logits, pixels, labels, provenance, guided)
            if self.form is None:
                generator = self._partner_generator()
                return exchange_guidance(
                    forward, *given, random_state=random_state, generator=generator, centered=centered
                )
            if exact:
                return exact_guidance(*given, self.form, centered=centered)
            step = self.args.guidance_step
            return first_order_guidance(
                forward, *given, self.form, random_state=random_state, step=step, centered=centered
            )

    def _partner_generator(self) -> torch.Generator:
        """Keyed by (seed, step, process, micro-step), so that a resumed run draws what an uninterrupted one draws."""
        step = self.state.global_step
        if step != self._last_step:
            self._last_step, self._microstep = step, 0
        self._microstep += 1
        key = np.random.SeedSequence([self.args.seed, step, self.args.process_index, self._microstep])
        return torch.Generator().manual_seed(int(key.generate_state(1)[0]))

    def current_alpha(self) -> float:
        """alpha at this step: grows linearly over `alpha_warmup_ratio` of the steps."""
        warmup = self.args.alpha_warmup_ratio * self.state.max_steps
        return self.args.alpha * min(1.0, (self.state.global_step + 1) / warmup) if warmup > 0 else self.args.alpha

    def _finite(self, guidance: Guidance) -> bool:
        if bool(torch.isfinite(guidance.loss).all() and torch.isfinite(guidance.surrogate).all()):
            self._nonfinite_in_a_row = 0
            return True
        self.nonfinite_steps += 1
        self._nonfinite_in_a_row += 1
        logger.warning(f"step {self.state.global_step}: the guidance loss is not finite; this batch trains without it")
        if self._nonfinite_in_a_row >= self.args.max_nonfinite_steps:
            raise RuntimeError(
                f"the guidance loss was NaN or infinite {self._nonfinite_in_a_row} times in a row: the model has"
                " diverged. Lower the learning rate or alpha, or train in bf16 or float32 instead of fp16."
            )
        return False

    # ------------------------------------------------------------------ logging

    def _add_up(self, **values: torch.Tensor) -> None:
        for name, value in values.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._sums:
            names = ("guidance_loss", "share", "guided", "classification_loss", "right", "samples")
            device = self.args.device
            sums = torch.stack([self._sums.get(n, torch.zeros((), dtype=torch.float64)).to(device) for n in names])
            if self.args.world_size > 1:
                sums = self.accelerator.reduce(sums, "sum")
            total = dict(zip(names, sums.tolist(), strict=True))
            self._sums = {}
            logs["classification_loss"] = total["classification_loss"] / total["samples"]
            logs["train_accuracy"] = total["right"] / total["samples"]
            if self.current_alpha() > 0:
                logs["alpha"] = self.current_alpha()
                logs["guidance_loss"] = total["guidance_loss"] / total["samples"]
            if total["guided"] and self.form is not None:
                logs["target_gradient_share"] = total["share"] / total["guided"]
            if self.nonfinite_steps:
                logs["nonfinite_steps"] = self.nonfinite_steps
            self._watch_for_collapse(logs["train_accuracy"], total["samples"])
        super().log(logs, start_time)

    def _watch_for_collapse(self, accuracy: float, samples: float) -> None:
        """Warns when guidance has destroyed the features: training accuracy at chance after a fifth of the steps."""
        chance = 1 / model_config(self.model).num_labels
        spread = (chance * (1 - chance) / samples) ** 0.5
        late = self.state.global_step > 0.2 * self.state.max_steps
        self._steps_at_chance = self._steps_at_chance + 1 if late and accuracy < chance + 2 * spread else 0
        if self._steps_at_chance >= 3 and self.collapsed_at is None:
            self.collapsed_at = self.state.global_step
            logger.warning(
                f"step {self.state.global_step}: accuracy on the training batches is {accuracy:.2f}, chance is"
                f" {chance:.2f}: the features are destroyed. Lower alpha or the learning rate."
            )

    # ------------------------------------------------------------------ checkpoints

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        _load_renamed_weights(self.model if model is None else model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            _load_renamed_weights(self.model, self.state.best_model_checkpoint)

    # ------------------------------------------------------------------ evaluation

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        if self.args.eval_target_share and PROVENANCE in inputs:
            self._add_target_share(self._prepare_inputs(inputs))
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def _add_target_share(self, inputs: dict[str, Any]) -> None:
        pixels, provenance = inputs["pixel_values"].detach().requires_grad_(), inputs[PROVENANCE]
        with torch.enable_grad(), self.compute_loss_context_manager():
            logits = self.accelerator.unwrap_model(self.model_wrapped)(pixel_values=pixels).logits
            for k in range(inputs["labels"].shape[1]):
                chosen = inputs["labels"][:, k].masked_fill(~inputs["guided"], PADDING_LABEL)
                gradient = input_gradient(logits, pixels, chosen)
                outside = share(gradient, provenance[:, k, None], pixels.detach())
                self._eval_sums += torch.stack([((1 - outside) * (chosen >= 0)).sum(), (chosen >= 0).sum()]).double()

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self._eval_sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        sums = self.accelerator.reduce(self._eval_sums, "sum") if self.args.world_size > 1 else self._eval_sums
        if sums[1] > 0 and output.metrics is not None:
            output.metrics[f"{metric_key_prefix}_target_gradient_share"] = (sums[0] / sums[1]).item()
        return output

    def _metrics_with_groups(self, prediction: EvalPrediction) -> dict[str, float]:
        label_ids = prediction.label_ids
        columns: tuple[np.ndarray, ...] = label_ids if isinstance(label_ids, tuple) else (label_ids,)
        labels, *groups = columns
        # sources are listed with the row's own first; evaluation rows have one label as a rule
        return self._user_metrics(
            GroupedEvalPrediction(
                groups=dict(zip(self.group_columns, groups, strict=True)),
                predictions=prediction.predictions,
                label_ids=labels[:, 0],
                inputs=prediction.inputs,
                losses=prediction.losses,
            )
        )


def _load_renamed_weights(model: Any, folder: str) -> None:
    """Loads a checkpoint whose weights are stored under other names than the modules have (ViT in transformers 5).

    `save_pretrained` writes the Hub's old names, which the stock Trainer's `load_state_dict(strict=False)` passes
    over: the resumed run would go on from the initial weights, with a warning only.
    """
    file = Path(folder) / SAFE_WEIGHTS_NAME
    if not isinstance(model, PreTrainedModel) or not file.is_file():
        return
    with safe_open(file, framework="pt") as stored:
        if set(stored.keys()) <= set(model.state_dict()):
            return
    model.load_state_dict(type(model).from_pretrained(folder).state_dict())


def _freeze_batch_norm(module: nn.Module) -> None:
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
