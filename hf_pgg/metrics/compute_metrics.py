"""What a Trainer takes as `compute_metrics`: accuracy by group, or a module of `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_pgg.metrics.groups import group_accuracies, group_metrics, pair_groups


def metrics_for(group_column: str | None = None) -> Callable[[Any], dict[str, float]]:
    """Makes a `compute_metrics` that gives accuracy, and that of the worst group, see [`group_metrics`].

    `group_column` is one of `PGGConfig.group_columns`, whose values part the classes into groups.

    Example:
        >>> from types import SimpleNamespace
        >>> logits = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
        >>> prediction = SimpleNamespace(predictions=logits, label_ids=np.array([0, 1, 1]), groups={})
        >>> round(metrics_for()(prediction)["worst_group_accuracy"], 2)
        0.5
    """

    def compute(prediction: Any) -> dict[str, float]:
        labels = np.asarray(prediction.label_ids)
        backgrounds = prediction.groups[group_column] if group_column else np.zeros_like(labels)
        return group_metrics(_classes(prediction.predictions), labels, pair_groups(labels, backgrounds))

    return compute


def by_group(
    logits: Any,
    labels: ArrayLike,
    values: ArrayLike,
    label_names: Sequence[str],
    value_names: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """Lists the accuracy of every group by name, with its number of samples and 95 % interval.

    `logits` are (N, classes), or the first of a tuple; `labels` (N,) the true classes, `values` (N,) what parts them.

    Example:
        >>> by_group(np.eye(2), [0, 0], [0, 1], ["cat", "dog"], ["sand", "snow"])[0]["name"]
        'cat, sand'
    """
    numbers = pair_groups(labels, values)
    first = dict(zip(*np.unique(numbers, return_index=True), strict=True))
    labels, values = np.asarray(labels), np.asarray(values)
    rows = []
    for number, found in group_accuracies(_classes(logits), labels, numbers).items():
        label, value = int(labels[first[number]]), int(values[first[number]])
        rows.append({"name": f"{label_names[label]}, {value_names[value] if value_names else value}", **found})
    return rows


def compute_metrics_of(metric: Any, group_column: str | None = None) -> Callable[[Any], dict[str, float]]:
    """Makes a `compute_metrics` that gives a module of `evaluate` the predicted and true classes, and the groups.

    Args:
        metric: A loaded module that takes `predictions` and `references` (N,), and `groups` (N,) if `group_column` is
            given; or several, of `evaluate.combine`.
        group_column (`str`, *optional*): As in [`metrics_for`].

    Example:
        >>> import evaluate
        >>> from types import SimpleNamespace
        >>> from hf_pgg.metrics import module_path
        >>> compute = compute_metrics_of(evaluate.load(module_path("group_accuracy")), "scene")
        >>> groups = {"scene": np.array([0, 1])}
        >>> prediction = SimpleNamespace(predictions=np.eye(2), label_ids=np.array([0, 0]), groups=groups)
        >>> compute(prediction)["worst_group_accuracy"]
        0.0
    """

    def compute(prediction: Any) -> dict[str, float]:
        labels = np.asarray(prediction.label_ids)
        inputs = {"predictions": _classes(prediction.predictions), "references": labels}
        if group_column is not None:
            inputs["groups"] = pair_groups(labels, prediction.groups[group_column])
        metric.add_batch(**inputs)
        return metric.compute()

    return compute


def _classes(predictions: Any) -> np.ndarray:
    """(N,) predicted classes of logits (N, classes), which come first where a model returns more."""
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return logits.argmax(-1)
