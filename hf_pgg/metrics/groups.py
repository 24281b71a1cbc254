"""Accuracy by group: per group, of the worst, their mean, and the gap between best and worst.

Definitions as in the group-robustness literature (S. Sagawa et al., "Distributionally Robust Neural Networks for Group
Shifts", ICLR 2020): a group is usually a pair of label and background; the worst group's is min_g acc_g.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

_BACKGROUNDS = 10_000  # a group's number is label * 10,000 + background


def _checked(*arrays: ArrayLike) -> list[np.ndarray]:
    """The arrays, which are (N,) of one N that is not 0."""
    out = [np.asarray(array) for array in arrays]
    if any(array.ndim != 1 for array in out) or len({len(array) for array in out}) != 1:
        shapes = [array.shape for array in out]
        raise ValueError(f"predictions, references and groups have the shapes {shapes}: give (N,) each")
    if len(out[0]) == 0:
        raise ValueError("there are no predictions: give one sample or more")
    return out


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval of a proportion: sound for small groups, and where none or all are correct.

    Example:
        >>> [round(end, 3) for end in wilson_interval(0, 20)]
        [0.0, 0.161]
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"correct is {correct} and total {total}: give 0 <= correct <= total, and total > 0")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, shrink = correct / total, 1 + z**2 / total
    centre = (p + z**2 / (2 * total)) / shrink
    half = z / shrink * np.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def pair_groups(labels: ArrayLike, backgrounds: ArrayLike) -> np.ndarray:
    """Gives each pair of label and background (0 to 9,999, else ValueError) one number: label * 10,000 + background.

    Example:
        >>> pair_groups([0, 1], [2, 2])
        array([    2, 10002])
    """
    labels, backgrounds = _checked(labels, backgrounds)
    if backgrounds.min() < 0 or backgrounds.max() >= _BACKGROUNDS:
        raise ValueError(f"backgrounds are numbered from 0 to {_BACKGROUNDS - 1}, not up to {backgrounds.max()}")
    return labels.astype(np.int64) * _BACKGROUNDS + backgrounds


def accuracy(predictions: ArrayLike, references: ArrayLike) -> float:
    """Returns the share of the predictions (N,) that equal the references (N,).

    Example:
        >>> accuracy([0, 1, 1, 1], [0, 1, 0, 1])
        0.75
    """
    predictions, references = _checked(predictions, references)
    return float((predictions == references).mean())


def group_accuracies(
    predictions: ArrayLike, references: ArrayLike, groups: ArrayLike, confidence: float = 0.95
) -> dict[int, dict[str, float]]:
    """Returns for each group `accuracy`, `count`, and the Wilson interval `low`, `high`, from (N,) integers each.

    Example:
        >>> group_accuracies([0, 1, 1], [0, 0, 1], groups=[7, 7, 9])[7]["accuracy"]
        0.5
    """
    predictions, references, groups = _checked(predictions, references, groups)
    right = predictions == references
    result = {}
    for group in np.unique(groups):
        hits = right[groups == group]
        low, high = wilson_interval(int(hits.sum()), len(hits), confidence)
        result[int(group)] = {"accuracy": float(hits.mean()), "count": len(hits), "low": low, "high": high}
    return result


def group_metrics(
    predictions: ArrayLike, references: ArrayLike, groups: ArrayLike, confidence: float = 0.95
) -> dict[str, float]:
    """Returns `accuracy`, `worst_group_accuracy` (`_low`, `_high`), `mean_group_accuracy`, `balanced_accuracy`,
    `group_gap` and `worst_group`.

    `mean_group_accuracy` is the mean over the groups, `balanced_accuracy` that over the classes of the references. The
    interval is that of the worst group's own proportion: it ignores that the minimum was picked.

    Example:
        >>> metrics = group_metrics([0, 1, 1, 1], [0, 0, 1, 1], groups=[0, 0, 1, 1])
        >>> metrics["worst_group_accuracy"], metrics["mean_group_accuracy"], metrics["worst_group"]
        (0.5, 0.75, 0)
    """
    per_class = group_accuracies(predictions, references, references, confidence)
    per_group = group_accuracies(predictions, references, groups, confidence)
    worst = min(per_group, key=lambda group: per_group[group]["accuracy"])
    values = [entry["accuracy"] for entry in per_group.values()]
    return {
        "accuracy": accuracy(predictions, references),
        "worst_group_accuracy": per_group[worst]["accuracy"],
        "worst_group_accuracy_low": per_group[worst]["low"],
        "worst_group_accuracy_high": per_group[worst]["high"],
        "mean_group_accuracy": float(np.mean(values)),
        "balanced_accuracy": float(np.mean([entry["accuracy"] for entry in per_class.values()])),
        "group_gap": max(values) - min(values),
        "worst_group": worst,
    }


def current_names(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns stored results under today's names: `balanced_accuracy` once was the mean over the groups.

    Example:
        >>> current_names({"accuracy": 0.9, "balanced_accuracy": 0.75})
        {'accuracy': 0.9, 'mean_group_accuracy': 0.75}
    """
    if any("mean_group_accuracy" in name for name in results):
        return dict(results)
    return {name.replace("balanced_accuracy", "mean_group_accuracy"): value for name, value in results.items()}
