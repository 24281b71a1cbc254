"""`PGGTrainer`: a `transformers.Trainer` whose loss includes input gradient guidance.

What it writes is an ordinary checkpoint. The losses are sums over the samples divided by the number of samples of the
accumulated, global batch, so that accumulation x k equals batch x k whatever the rows are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn import functional as F
from transformers import EvalPrediction, TrainerCallback
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.trainer_utils import EvalLoopOutput

from hf_pgg.data.collator import PGGCollator
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import undecoded
from hf_pgg.data.provenance import CONTRACT_COLUMNS, LABELS, PADDING_LABEL, PROVENANCE
from hf_pgg.guidance.engines import Guidance, input_gradient, over_channels
from hf_pgg.guidance.forms import FORMS, share
from hf_pgg.guidance.forward import GuidanceSettings, guided_forward, input_name
from hf_pgg.training.checkpoints import AtomicCheckpoints, load_renamed_weights
from hf_pgg.training.config import PGGConfig
from hf_pgg.training.hub import draft_card, forget_arguments, has_own_card, push_checkpoint
from hf_pgg.training.monitor import Telemetry
from hf_pgg.training.validation import check_dataset, is_exact, model_config, refuse_unsupported


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


class PGGTrainer(AtomicCheckpoints):
    """A `Trainer` that suppresses the input gradient outside each label's target.

        trainer = PGGTrainer(model, args=PGGConfig(output_dir="out"), train_dataset=train, eval_dataset=test,
                             processing_class=image_processor)

    Datasets keep the contract of `hf_pgg.data.provenance`, or have a single-label column; rows without provenance are not
    guided. Logs, beside the usual: `classification_loss`, `guidance_loss`, `target_gradient_share` and
    `train_accuracy`; evaluation adds `target_gradient_share` where the rows have provenance.

    Args:
        model (`PreTrainedModel`): Takes `pixel_values` (or floats under the name of its `main_input_name`), returns
            `logits`.
        args ([`PGGConfig`]): Training arguments.
        augment (`Callable`, *optional*): torchvision v2 transform for training, see [`PGGCollator`].
        data_collator ([`PGGCollator`] or [`~hf_pgg.skeletons.rows.SkeletonCollator`], *optional*): In place of the one made
            from `processing_class`.
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
        data_collator: Any = None,
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
                video_column=args.video_column,
                sampler=FrameSampler(args.num_frames) if args.num_frames else None,
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
        self.guidance = GuidanceSettings(
            form=FORMS[args.guidance_form],
            exact=args.alpha > 0 and is_exact(model, args),
            step=args.guidance_step,
            central={"one-sided": False, "central": True, "auto": None}[args.guidance_difference],
            centered=args.guidance_logit == "centered",
            one_label=args.guidance_labels == "one",
            fraction=args.guidance_fraction,
        )
        self._last_step, self._microstep = -1, 0
        self.telemetry = Telemetry(args.max_nonfinite_steps)
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
            names += [self.args.video_column] if self.args.video_column else []
            names += [collator.input_column] if hasattr(collator, "input_column") else []
            synthesis = getattr(collator, "synthesis", None)
            if synthesis is not None:
                names += [synthesis.synthesizer.row_id_column, synthesis.synthesizer.input_column]
                names += [
                    value for name, value in vars(synthesis.synthesizer).items() if name.endswith("_column") and value
                ]
            self._signature_columns: Any = list(dict.fromkeys(names))

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        if isinstance(dataset, Dataset):
            if dataset.format["type"] == "custom":
                return dataset  # a transform set by the user may read any column
            dataset = undecoded(dataset)
        return super()._remove_unused_columns(dataset, description)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        return self._without_augmentation(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        return self._without_augmentation(super().get_test_dataloader, test_dataset)

    def _without_augmentation(self, make: Any, dataset: Any) -> Any:
        collator = self.data_collator
        if hasattr(collator, "for_evaluation"):
            self.data_collator = collator.for_evaluation()
        try:
            return make(dataset)
        finally:
            self.data_collator = collator

    # ------------------------------------------------------------------ loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        if not batch_samples:
            return None
        count = torch.tensor(sum(len(batch[LABELS]) for batch in batch_samples), device=device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        labels, weights = inputs.pop("labels"), inputs.pop("label_weights")
        guided, provenance = inputs.pop("guided"), inputs.pop(PROVENANCE, None)
        groups = {name: inputs.pop(name, None) for name in self.group_columns}
        module = self.accelerator.unwrap_model(model, keep_torch_compile=True)
        if model.training and self.args.freeze_batch_norm:
            _freeze_batch_norm(module)  # every step: the stock training step has just called `model.train()`
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
        """This micro-batch's part () of the classification loss; the parts of an accumulated, global batch add up.

        What a subclass overrides that weighs rows otherwise. It is called in evaluation too (`model.training`).

        Args:
            entropy (`torch.Tensor`): (B,) cross entropies. groups: Group column -> (B,) int64.
            count: Samples of the accumulated, global batch.
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
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if sharded and not self.guidance.one_label:  # as many labels, hence passes, in every process
            places = int(self.accelerator.reduce(torch.tensor(labels.shape[1], device=labels.device), "max"))
            extra = places - labels.shape[1]
            labels = F.pad(labels, (0, extra), value=PADDING_LABEL)
            provenance = torch.cat([provenance, provenance[:, :1].expand(-1, extra, *provenance.shape[2:])], dim=1)
        return guided_forward(
            model,
            module,
            inputs,
            labels,
            provenance,
            guided,
            self.guidance,
            generator=self._generator(),
            sharded=sharded,
            compiled=isinstance(module, OptimizedModule),
            backoff=self.telemetry.backoff,
        )

    def _generator(self) -> torch.Generator:
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

    # ------------------------------------------------------------------ logging

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            parts = self.telemetry.flush(self.args.device, self.accelerator if self.args.world_size > 1 else None)
            if self.current_alpha() == 0:
                parts.pop("guidance_loss", None)
            elif parts:
                parts["alpha"] = self.current_alpha()
            logs.update(parts)
            if "train_accuracy" in parts:
                self.telemetry.watch_for_collapse(
                    parts["train_accuracy"], model_config(self.model).num_labels, self.state
                )
        super().log(logs, start_time)

    @property
    def collapsed_at(self) -> int | None:
        """The step at which the training accuracy was found at chance, or None."""
        return self.telemetry.collapsed_at

    @property
    def nonfinite_steps(self) -> int:
        """Batches whose guidance loss was NaN or infinite, and which trained without it."""
        return self.telemetry.nonfinite_steps

    # ------------------------------------------------------------------ checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            forget_arguments(output_dir or str(self.args.output_dir))
            if getattr(self.data_collator, "spec", None) is not None:
                draft_card(self, output_dir or str(self.args.output_dir))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.staging and self.is_world_process_zero():
            push_checkpoint(self, checkpoint_folder)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The stock draft for models of other inputs than images and clips, whose saves write the run's own card."""
        if getattr(self.data_collator, "spec", None) is None and not has_own_card(str(self.args.output_dir)):
            super().create_model_card(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_renamed_weights(self.model if model is None else model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            load_renamed_weights(self.model, self.state.best_model_checkpoint)

    # ------------------------------------------------------------------ evaluation

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        if self.args.eval_target_share and PROVENANCE in inputs:
            self._add_target_share(self._prepare_inputs(inputs))
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def _add_target_share(self, inputs: dict[str, Any]) -> None:
        contract = {*CONTRACT_COLUMNS, "guided", *self.group_columns}
        own = {name: value for name, value in inputs.items() if name not in contract}
        model = self.accelerator.unwrap_model(self.model_wrapped)
        name, provenance = input_name(own, model), inputs[PROVENANCE]
        pixels = own[name].detach().requires_grad_()
        with torch.enable_grad(), self.compute_loss_context_manager():
            logits = model(**{**own, name: pixels}).logits
            for k in range(inputs["labels"].shape[1]):
                chosen = inputs["labels"][:, k].masked_fill(~inputs["guided"], PADDING_LABEL)
                gradient = input_gradient(logits, pixels, chosen)
                outside = share(gradient, over_channels(provenance[:, k], pixels), pixels.detach())
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


def _freeze_batch_norm(module: nn.Module) -> None:
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
