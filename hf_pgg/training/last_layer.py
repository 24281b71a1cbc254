"""Refitting the last layer of a trained classifier on group-balanced rows (DFR, deep feature reweighting).

P. Kirichenko, P. Izmailov, A. G. Wilson, "Last Layer Re-Training is Sufficient for Robustness to Spurious
Correlations" (ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_pgg.data.collator import PGGCollator
from hf_pgg.data.groups import GROUP, column_values
from hf_pgg.guidance.modes import evaluation_mode
from hf_pgg.metrics import group_metrics

STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # inverse strengths C of the L1 penalty that are tried


@dataclass(frozen=True)
class LastLayer:
    """A linear head: weight (classes, d), bias (classes,), and the inverse L1 strength `C` that was chosen.

    Example:
        >>> LastLayer(weight=np.zeros((2, 8)), bias=np.zeros(2), C=0.1).weight.shape
        (2, 8)
    """

    weight: np.ndarray
    bias: np.ndarray
    C: float


def fit_last_layer(
    features: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    strengths: Sequence[float] = STRENGTHS,
    refits: int = 20,
    seed: int = 0,
) -> LastLayer:
    """Fits an L1 logistic regression on group-balanced rows.

    C is fitted on a balanced part of one half of the rows and chosen by the worst group of the other half; then
    `refits` fits on balanced draws of all rows are averaged. Features are standardised, and the scale is folded into
    the weights.

    Args:
        features: (N, d) float.
        labels, groups: (N,) integers; a group has rows of one label.

    Raises:
        ValueError: If a group has fewer than two rows, labels are not 0..classes-1, or a feature is not finite.

    Example:
        >>> features, labels = np.array([[-2.0], [-1.0], [1.0], [2.0]]), [0, 0, 1, 1]
        >>> layer = fit_last_layer(features, labels, groups=labels, refits=2)
        >>> (features @ layer.weight.T + layer.bias).argmax(1)
        array([0, 0, 1, 1])
    """
    features, labels, groups = np.asarray(features, np.float64), np.asarray(labels), np.asarray(groups)
    _check_rows(features, labels, groups)
    rng, names = np.random.default_rng(seed), np.unique(groups)

    def balanced(rows: np.ndarray) -> np.ndarray:
        parts = [rng.permutation(rows[groups[rows] == group]) for group in names]
        return np.concatenate([part[: min(map(len, parts))] for part in parts])

    # either half has every group
    halves = [np.array_split(rng.permutation(np.flatnonzero(groups == group)), 2) for group in names]
    first, second = (np.concatenate(half) for half in zip(*halves, strict=True))
    chosen = balanced(first)

    def held_out(C: float) -> tuple[float, float]:
        weight, bias = _logistic(features[chosen], labels[chosen], C, seed)
        metrics = group_metrics((features[second] @ weight.T + bias).argmax(1), labels[second], groups[second])
        return metrics["worst_group_accuracy"], metrics["mean_group_accuracy"]

    best = max(tqdm(strengths, desc="strengths", unit="fit"), key=held_out)
    draws = (balanced(np.arange(len(labels))) for _ in tqdm(range(refits), desc="refits", unit="fit"))
    fits = [_logistic(features[rows], labels[rows], best, seed) for rows in draws]
    return LastLayer(np.mean([w for w, _ in fits], 0), np.mean([b for _, b in fits], 0), best)


def _check_rows(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
    if features.ndim != 2 or not len(features) == len(labels) == len(groups):
        raise ValueError(
            f"features (N, d), labels and groups (N,): not {features.shape}, {labels.shape}, {groups.shape}"
        )
    if not np.isfinite(features).all():
        raise ValueError("the features hold NaN or infinity: the model has diverged, train it again")
    if len(np.unique(labels)) < 2 or set(np.unique(labels)) != set(range(labels.max() + 1)):
        raise ValueError(f"the labels are {np.unique(labels)}: every class needs rows to refit the last layer")
    names, counts = np.unique(groups, return_counts=True)
    if counts.min() < 2:
        raise ValueError(f"group {names[counts.argmin()]} has one row: refitting needs two, one to choose C on")


def _logistic(features: np.ndarray, labels: np.ndarray, C: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fits the weight (classes, d) and bias (classes,) of a softmax over the raw features."""
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=C, solver="saga", max_iter=1000, random_state=seed, **_L1)
    model.fit(scaler.transform(features), labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # one logit of two classes: half of it each, with opposite signs
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    return weight, bias - weight @ scaler.mean_


# scikit-learn 1.8 says l1_ratio=1 where earlier releases say penalty="l1"
_L1: dict[str, Any] = {"penalty": "l1"} if LogisticRegression().penalty == "l2" else {"l1_ratio": 1.0}


def _classification_head(model: Any) -> nn.Linear:
    """The last linear layer of a `transformers` or timm-wrapped classifier; ValueError if it has none with a bias."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.timm_model.get_classifier() if hasattr(base, "timm_model") else getattr(base, "classifier", None)
    last = head[-1] if isinstance(head, nn.Sequential) else head
    if not isinstance(last, nn.Linear) or last.bias is None:
        raise ValueError(f"{type(base).__name__} has no linear `classifier` ({head}): there is no last layer to refit")
    return last


@torch.no_grad()
def _head_inputs(
    model: Any, dataset: Dataset, collator: PGGCollator, batch_size: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the last linear layer reads, (N, d) float32, and the rows' (first) labels (N,); no augmentation."""
    head, seen, labels = _classification_head(model), [], []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    try:
        with evaluation_mode(model):
            batches = DataLoader(dataset, batch_size, collate_fn=collator.for_evaluation())
            for batch in tqdm(batches, desc="features", unit="batch"):
                model(pixel_values=batch["pixel_values"].to(head.weight.device))
                labels.append(batch["labels"][:, 0])
    finally:
        hook.remove()
    return torch.cat(seen).numpy(), torch.cat(labels).numpy()


@torch.no_grad()
def refit_head(
    model: Any, dataset: Dataset, collator: PGGCollator, group_column: str = GROUP, **options: Any
) -> LastLayer:
    """Refits the last layer of a model (DFR) on its features of some rows, best validation rows, and writes the head.

    `group_column` holds integers, see [`~hf_pgg.data.groups.add_groups`]; options and errors are those of
    [`fit_last_layer`], and a class of the model without rows is a ValueError.

    Example:
        >>> from hf_pgg.training.models import image_classifier
        >>> model, processor = image_classifier(rows.features["label"], image_size=32)
        >>> refit_head(model, rows, PGGCollator(processor), group_column="label", refits=1).bias.shape
        (2,)
    """
    head = _classification_head(model)
    features, labels = _head_inputs(model, dataset, collator)
    layer = fit_last_layer(features, labels, column_values(dataset, group_column), **options)
    if len(layer.weight) != head.out_features:
        raise ValueError(f"the rows have {len(layer.weight)} classes, the model {head.out_features}: each needs rows")
    head.weight.copy_(torch.as_tensor(layer.weight))
    head.bias.copy_(torch.as_tensor(layer.bias))
    return layer
