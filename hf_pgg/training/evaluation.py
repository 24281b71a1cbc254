"""Evaluation and prediction as `Trainer` has them: one label a row; beside it the groups and the gradient share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import EvalPrediction, Trainer
from transformers.trainer_pt_utils import EvalLoopContainer
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from hf_pgg.data.collator import Collator
from hf_pgg.data.provenance import CONTRACT_COLUMNS, LABELS, PADDING_LABEL, PROVENANCE
from hf_pgg.guidance.engines import input_gradient, known_targets, over_channels
from hf_pgg.guidance.forms import share
from hf_pgg.guidance.forward import input_name, read_logits
from hf_pgg.training.config import PGGConfig
from hf_pgg.training.processes import agree_on_provenance, is_sharded


class GroupedEvalPrediction(EvalPrediction):
    """What the `compute_metrics` of a [`~hf_pgg.PGGTrainer`] receives.

    `groups` are group column to (N,) int64, an array as `label_ids` is, which holds the first label of each row.

    Example:
        >>> scenes = {"scene": np.array([7])}
        >>> found = GroupedEvalPrediction(scenes, predictions=np.ones((1, 2)), label_ids=np.array([1]))
        >>> found.label_ids, found.groups
        (array([1]), {'scene': array([7])})
    """

    def __init__(self, groups: Mapping[str, Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.groups = groups


class GroupedPredictionOutput(PredictionOutput):
    """What [`~hf_pgg.PGGTrainer`]`.predict` returns: that of `Trainer`, and the attribute `groups`, by group column.

    Example:
        >>> found = GroupedPredictionOutput(np.ones((1, 2)), np.array([1]), {})
        >>> found.groups = {"scene": np.array([7])}
        >>> predictions, label_ids, metrics = found
    """

    groups: dict[str, Any]


class UnlabelledCollator(Collator):
    """Turns rows without labels into a model's inputs alone, by another collator: for prediction.

    Example:
        >>> from hf_pgg.skeletons.rows import SkeletonCollator
        >>> list(UnlabelledCollator(SkeletonCollator())([{"keypoints": skeletons[0]["keypoints"]}]))
        ['keypoints', 'present']
    """

    labelled = False

    def __init__(self, own: Collator):
        self.own = own
        self.input_column, self.label_column, self.extra_columns = own.input_column, own.label_column, ()

    def for_evaluation(self) -> UnlabelledCollator:
        return self

    def _labelled(self, row: Mapping[str, Any]) -> dict[str, Any]:
        known = dict.fromkeys((self.label_column, *self.own.extra_columns), 0)
        contract = (LABELS, "label_weights", PROVENANCE)
        return {**{name: value for name, value in row.items() if name not in contract}, **known}

    def validate_row(self, row: Mapping[str, Any], name: object, num_classes: int, allow_overlap: bool = False) -> None:
        self.own.validate_row(self._labelled(row), name, num_classes, allow_overlap)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.own([self._labelled(row) for row in rows])
        return inputs_of(batch, self.own.extra_columns)


def inputs_of(batch: Mapping[str, Any], group_columns: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the part of a collator's batch that are the model's inputs.

    Example:
        >>> inputs_of({"pixel_values": 1, "labels": 2, "guided": 3, "scene": 4}, ["scene"])
        {'pixel_values': 1}
    """
    return {name: batch[name] for name in batch if name not in {*CONTRACT_COLUMNS, "guided", *group_columns}}


def target_shares(module: nn.Module, batch: Mapping[str, Any], group_columns: Sequence[str] = ()) -> torch.Tensor:
    """Returns (B, 2) of a collator's batch: the sum of the target gradient share over a row's labels, and their number.

    A row that is not guided has 0 of 0. The gradient is taken here, in `torch.inference_mode` and `no_grad`, too.

    Example:
        >>> guided, masks = torch.tensor([True]), torch.ones(1, 1, 16, 16)
        >>> batch = {"labels": torch.tensor([[0]]), "provenance": masks, "guided": guided}
        >>> target_shares(model, {"pixel_values": torch.ones(1, 3, 16, 16), **batch})
        tensor([[1., 1.]])
    """
    with torch.inference_mode(False), torch.enable_grad():
        own = {name: _usual(values) for name, values in inputs_of(batch, group_columns).items()}
        name = input_name(own, module)
        labels, provenance = known_targets(_usual(batch[LABELS]), _usual(batch[PROVENANCE]))
        pixels = own[name].detach().requires_grad_()
        logits = read_logits(module(**{**own, name: pixels}))
        found = torch.zeros(len(labels), 2, device=labels.device)
        for k in range(labels.shape[1]):
            chosen = labels[:, k].masked_fill(~_usual(batch["guided"]), PADDING_LABEL)
            gradient = input_gradient(logits, pixels, chosen)
            outside = share(gradient, over_channels(provenance[:, k], pixels), pixels.detach())
            found += torch.stack([(1 - outside) * (chosen >= 0), chosen >= 0], dim=1)
    return found


def _usual(value: Any) -> Any:
    """A tensor that autograd can use: one that `inference_mode` made is copied."""
    return value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value


class EvaluatedRows:
    """What an evaluation gathers beside predictions and labels, batch by batch; it may `concatenate` the groups.

    Example:
        >>> rows = EvaluatedRows()
        >>> rows.add({"scene": torch.tensor([7, 8])}, torch.tensor([[0.5, 1.0], [0.0, 0.0]]))
        >>> rows.groups(), rows.target_share
        ({'scene': array([7, 8])}, 0.5)
    """

    def __init__(self, concatenate: bool = True):
        self.concatenate, self.last = concatenate, dict[str, torch.Tensor]()
        self._groups: dict[str, EvalLoopContainer] = {}
        self._sums = torch.zeros(2, dtype=torch.float64)

    def add(self, groups: Mapping[str, torch.Tensor], shares: torch.Tensor | None) -> None:
        """Adds a batch of all processes: the groups (B,) by name, and the rows' [`target_shares`]."""
        self.last = dict(groups)
        for name, values in groups.items():
            self._groups.setdefault(name, EvalLoopContainer(self.concatenate)).add(values.cpu())
        if shares is not None:
            self._sums += shares.double().sum(0).cpu()

    def groups(self) -> dict[str, Any]:
        """Returns the groups by name: (N,) int64, or a list of arrays."""
        return {name: values.get_arrays() for name, values in self._groups.items()}

    @property
    def target_share(self) -> float | None:
        """The target gradient share, averaged over the labels of the guided rows; None if there were none."""
        return (self._sums[0] / self._sums[1]).item() if self._sums[1] > 0 else None


class RowEvaluation(Trainer):
    """A `Trainer` that evaluates the batches of a [`~hf_pgg.data.collator.Collator`]; [`~hf_pgg.PGGTrainer`] is one.

    Whatever the rows keep of their sources, predictions come with one label a row, the first, and the groups beside.

    Example:
        >>> RowEvaluation.predict.__doc__.splitlines()[0]
        "Returns what `Trainer.predict` does, with the rows' groups as the attribute `groups`."
    """

    args: PGGConfig
    data_collator: Collator
    group_columns: list[str]
    _checked: Callable[..., Any]
    _rows = EvaluatedRows()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        return self._loader(super().get_eval_dataloader, eval_dataset, self.data_collator.for_evaluation())

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        collator = self.data_collator.for_evaluation()
        if not _has_labels(test_dataset, collator.label_column):
            collator = UnlabelledCollator(collator)
        return self._loader(super().get_test_dataloader, test_dataset, collator)

    def _loader(self, make: Any, dataset: Any, collator: Collator) -> Any:
        own = self.data_collator
        if dataset is not None and not isinstance(dataset, str):  # one that the constructor has not seen
            dataset = self._checked(dataset, "evaluation", collator)
        self.data_collator = collator
        try:
            return make(dataset)
        finally:
            self.data_collator = own

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> GroupedPredictionOutput:
        """Returns what `Trainer.predict` does, with the rows' groups as the attribute `groups`.

        Rows without labels are predicted, too; `label_ids` is then None.
        """
        found = GroupedPredictionOutput(*super().predict(test_dataset, ignore_keys, metric_key_prefix))
        found.groups = self._rows.groups()
        return found

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self._rows = EvaluatedRows(self.args.eval_do_concat_batches)
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if self._rows.target_share is not None and output.metrics is not None:
            output.metrics[f"{metric_key_prefix}_target_gradient_share"] = self._rows.target_share
        return output

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        inputs = self._prepare_inputs(inputs)
        if LABELS not in inputs:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        groups = {name: self.gather_function(inputs[name]) for name in self.group_columns if name in inputs}
        self._rows.add(groups, self._shares(inputs) if self.args.eval_target_share else None)
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        return loss, logits, None if labels is None else labels[:, 0]  # a row's own label comes first

    def _shares(self, inputs: dict[str, Any]) -> torch.Tensor | None:
        """The [`target_shares`] of the rows of all processes, without those that fill the last batch."""
        module = self.accelerator.unwrap_model(self.model_wrapped)
        if is_sharded(self, module):
            inputs = agree_on_provenance(self.accelerator, inputs, input_name(inputs, module))
        shares = torch.zeros(len(inputs[LABELS]), 2, device=self.args.device)
        if PROVENANCE in inputs:
            with self.compute_loss_context_manager():
                shares = target_shares(module, inputs, self.group_columns)
        return self.gather_function(shares)

    def _with_groups(self, compute_metrics: Callable[..., Any] | None) -> Callable[..., Any] | None:
        """The user's `compute_metrics`, called with a [`GroupedEvalPrediction`]."""
        if compute_metrics is None:
            return None

        @wraps(compute_metrics)  # its signature tells the stock Trainer whether it takes `compute_result`
        def compute(prediction: EvalPrediction, **more: Any) -> Any:
            known = {name: getattr(prediction, name) for name in ("predictions", "label_ids", "inputs", "losses")}
            groups = self._rows.last if self.args.batch_eval_metrics else self._rows.groups()
            return compute_metrics(GroupedEvalPrediction(groups, **known), **more)

        return compute


def _has_labels(dataset: Any, label_column: str) -> bool:
    made = isinstance(dataset, Dataset) and dataset.format["type"] == "custom"  # by a transform
    columns = None if made else getattr(dataset, "column_names", None)
    if columns is None:
        with torch.random.fork_rng(devices=[]):
            columns = next(iter(dataset), {LABELS: 0})
    return LABELS in columns or label_column in columns
