"""`PGGTrainer`: a `transformers.Trainer` whose loss includes input gradient guidance.

What it writes is an ordinary checkpoint. The losses are sums over the samples divided by the number of samples of the
accumulated, global batch, so that accumulation x k equals batch x k whatever the rows are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn import functional as F
from transformers import TrainerCallback, enable_full_determinism, set_seed
from transformers.modeling_outputs import ImageClassifierOutput

from hf_pgg.data.collator import Collator
from hf_pgg.data.images import undecoded
from hf_pgg.data.provenance import LABEL_WEIGHTS, LABELS, PADDING_LABEL, PROVENANCE
from hf_pgg.guidance.engines import Guidance
from hf_pgg.guidance.forward import GuidanceSettings, LoopState, guided_forward, input_name, read_logits
from hf_pgg.guidance.modes import freeze_batch_norm
from hf_pgg.synthesis.base import FreshDraws
from hf_pgg.training.checkpoints import complete_model
from hf_pgg.training.config import PGGConfig
from hf_pgg.training.evaluation import RowEvaluation, inputs_of
from hf_pgg.training.hub import PublishedCheckpoints
from hf_pgg.training.monitor import Telemetry
from hf_pgg.training.probing import can_run_alone, dry_forward, first_batch
from hf_pgg.training.processes import agree_on_provenance, all_agree, is_sharded
from hf_pgg.training.validation import (
    class_order,
    is_exact,
    model_config,
    refuse_arguments,
    refuse_unsupported,
    tell_classes,
)


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


class PGGTrainer(RowEvaluation, PublishedCheckpoints):
    """A `Trainer` that suppresses the input gradient outside each label's target.

    Datasets keep the contract of `hf_pgg.data.provenance`, or have a column of single labels; rows without provenance
    are not guided. Beside the usual, the log holds `classification_loss`, `guidance_loss`, `target_gradient_share` and
    `train_accuracy`; evaluation adds `target_gradient_share` where the rows have provenance.

    Args:
        model (`nn.Module`): Takes `pixel_values` (or floats under the name of its `main_input_name`), returns
            `logits`, which a dry forward of one row proves. `model_init` may be given in its place.
        args ([`~hf_pgg.PGGConfig`]): Training arguments.
        data_collator ([`~hf_pgg.data.collator.Collator`], *optional*): In place of the one made from
            `processing_class`.
        compute_metrics (`Callable`, *optional*): Receives a [`~hf_pgg.training.evaluation.GroupedEvalPrediction`].
        augment (`Callable`, *optional*): torchvision v2 transform for training, see [`~hf_pgg.PGGCollator`].
        others: Those of `transformers.Trainer`, in its order.

    Raises:
        TypeError: If the arguments are no `PGGConfig`, or the collator is not a `Collator`.
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
        model: Any = None,
        args: PGGConfig | None = None,
        data_collator: Collator | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Any = None,
        compute_loss_func: Any = None,
        compute_metrics: Any = None,
        *others: Any,
        augment: Any = None,
        **kwargs: Any,
    ):
        args = PGGConfig("tmp_trainer") if args is None else args
        refuse_arguments(args, data_collator, compute_loss_func)
        self.args, self.model_init, self._made = args, model_init, None
        if model is None and model_init is not None:
            enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)
            self._made = super().call_model_init()
        first = self._made if model is None else model
        if first is None:
            raise RuntimeError("`Trainer` requires either a `model` or `model_init` argument")
        self.group_columns = list(args.group_columns or [])
        refuse_unsupported(first, args)
        collator = args.collator(processing_class, augment) if data_collator is None else data_collator
        names = class_order(first, train_dataset, collator.label_column)
        processing_class = collator.image_processor or processing_class  # what is used is what is saved
        self._complete = partial(complete_model, processor=processing_class, names=names)
        self._complete(first)
        classes = self._dry_forward(first, collator, (train_dataset, eval_dataset))
        collator, self._checked = tell_classes(collator, names, classes, train_dataset, args)
        train_dataset = self._checked(train_dataset, "training", collator)
        eval_dataset = self._checked(eval_dataset, "evaluation", collator.for_evaluation())
        args.label_names = [LABELS]
        super().__init__(
            model,
            args,
            collator,
            train_dataset,
            eval_dataset,
            processing_class,
            model_init,
            None,
            self._with_groups(compute_metrics),
            *others,
            **kwargs,
        )
        # what the collator reads, not the model's signature: the stock Trainer would drop the masks
        self._signature_columns: Any = [*collator.columns]
        self._last_step, self._microstep, self._alpha = -1, 0, 0.0
        self._guided_by: tuple[Any, ...] = ()
        self.telemetry = Telemetry(args.max_nonfinite_steps, classes)
        self.add_callback(_Epochs(self))

    def _dry_forward(self, model: Any, collator: Collator, datasets: tuple[Any, ...]) -> int:
        """The number of the model's classes, which a row proves where there is one."""
        classes = getattr(model_config(model), "num_labels", None)
        batch = first_batch(datasets, collator) if can_run_alone(model) else None
        if batch is None:
            return classes or 0
        return dry_forward(model, inputs_of(batch, self.group_columns), classes, guided=self.args.alpha > 0)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        if self._made is not None:  # by the constructor
            model, self._made = self._made, None
            return model
        model = super().call_model_init(trial)
        refuse_unsupported(model, self.args)
        self._complete(model)
        return model

    @property
    def guidance(self) -> GuidanceSettings:
        """How batches are guided, by the arguments as they are now: a callback or a search may change them."""
        if self._guided_by != self.args.guidance_values:
            self.args.check_guidance()
            refuse_unsupported(self.model, self.args)
            exact = self.args.alpha > 0 and is_exact(self.model, self.args)
            self._guidance, self._guided_by = self.args.guidance_settings(exact), self.args.guidance_values
        return self._guidance

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        if isinstance(dataset, Dataset):
            if dataset.format["type"] == "custom":
                return dataset  # a transform set by the user may read any column
            dataset = undecoded(dataset.with_format(None))  # the collator reads images, not what torch makes of them
        return super()._remove_unused_columns(dataset, description)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        if not batch_samples:
            return None
        count = torch.tensor(sum(len(batch[LABELS]) for batch in batch_samples), device=device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        module = self.accelerator.unwrap_model(model, keep_torch_compile=True)
        own = inputs_of(inputs, self.group_columns)
        settings, alpha = self.guidance, self.current_alpha() if model.training else 0.0
        sharded = alpha > 0 and is_sharded(self, module)
        if sharded:
            inputs = agree_on_provenance(self.accelerator, inputs, input_name(own, module))
        labels, weights = inputs[LABELS], inputs[LABEL_WEIGHTS]
        if model.training and self.args.freeze_batch_norm:
            freeze_batch_norm(module)  # every step: the stock training step has just called `model.train()`
        if alpha > 0 and PROVENANCE in inputs:
            loop = LoopState(self._generator(), sharded, isinstance(module, OptimizedModule), self.telemetry.backoff)
            logits, guidance = self._guide(
                model, module, own, labels, inputs[PROVENANCE], inputs["guided"], settings, loop
            )
            outputs: Any = ImageClassifierOutput(logits=logits)
        else:
            outputs, guidance = model(**own), None
            logits = read_logits(outputs)
        entropy = soft_cross_entropy(logits, labels, weights, self.args.label_smoothing_factor)
        count = num_items_in_batch if num_items_in_batch is not None else len(labels)
        loss = self.classification_loss(entropy, {name: inputs.get(name) for name in self.group_columns}, count)
        if guidance is not None and self._is_finite(guidance, sharded):
            loss = loss + alpha * guidance.value.sum() / count
        if model.training:
            self._alpha = alpha
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
        settings: GuidanceSettings,
        loop: LoopState,
    ) -> tuple[torch.Tensor, Guidance]:
        return guided_forward(model, module, inputs, labels, provenance, guided, settings, loop)

    def _is_finite(self, guidance: Guidance, sharded: bool) -> bool:
        agree = partial(all_agree, self.accelerator) if sharded else bool
        return self.telemetry.is_finite(guidance, self.state.global_step, agree)

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
            if self._alpha == 0:
                parts.pop("guidance_loss", None)
            elif parts:
                parts["alpha"] = self._alpha
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
