"""Accuracy by group: per group, worst group, balanced, and the gap between best and worst.

Definitions as in the group-robustness literature (S. Sagawa et al., "Distributionally Robust Neural Networks for Group
Shifts", ICLR 2020): a group is usually a pair of label and background; worst = min_g acc_g; balanced = mean_g acc_g.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

_BACKGROUNDS = 10_000  # a group's number is label * 10,000 + background


def _checked(*arrays: ArrayLike) -> list[np.ndarray]:
    out = [np.asarray(array) for array in arrays]
    if any(array.ndim != 1 for array in out) or len({len(array) for array in out}) != 1:
        raise ValueError(f"predictions, references and groups are (N,), not {[array.shape for array in out]}")
    if len(out[0]) == 0:
        raise ValueError("there are no predictions")
    return out


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion: sound for small groups and for 0 or all correct."""
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} of {total} is no proportion")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, shrink = correct / total, 1 + z**2 / total
    centre = (p + z**2 / (2 * total)) / shrink
    half = z / shrink * np.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def pair_groups(labels: ArrayLike, backgrounds: ArrayLike) -> np.ndarray:
    """(N,) labels and (N,) backgrounds, both from 0 on, as one group number each: label * 10,000 + background.

    Raises:
        ValueError: If they differ in length, or a background is not in 0..9,999.
    """
    labels, backgrounds = _checked(labels, backgrounds)
    if backgrounds.min() < 0 or backgrounds.max() >= _BACKGROUNDS:
        raise ValueError(f"backgrounds are numbered from 0 to {_BACKGROUNDS - 1}, not up to {backgrounds.max()}")
    return labels.astype(np.int64) * _BACKGROUNDS + backgrounds


def accuracy(predictions: ArrayLike, references: ArrayLike) -> float:
    """Share of the (N,) predictions that equal the (N,) references."""
    predictions, references = _checked(predictions, references)
    return float((predictions == references).mean())


def group_accuracies(
    predictions: ArrayLike, references: ArrayLike, groups: ArrayLike, confidence: float = 0.95
) -> dict[int, dict[str, float]]:
    """Of each group: `accuracy`, `count`, and the Wilson interval `low`, `high`.

    Args:
        predictions, references, groups: (N,) integers.
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
    """`accuracy`, `worst_group_accuracy` (with `_low` and `_high`), `balanced_accuracy`, `group_gap`, `worst_group`.

    All in [0, 1]. The interval is that of the worst group's own proportion: it ignores that the minimum was picked.
    """
    per_group = group_accuracies(predictions, references, groups, confidence)
    worst = min(per_group, key=lambda group: per_group[group]["accuracy"])
    values = [entry["accuracy"] for entry in per_group.values()]
    return {
        "accuracy": accuracy(predictions, references),
        "worst_group_accuracy": per_group[worst]["accuracy"],
        "worst_group_accuracy_low": per_group[worst]["low"],
        "worst_group_accuracy_high": per_group[worst]["high"],
        "balanced_accuracy": float(np.mean(values)),
        "group_gap": max(values) - min(values),
        "worst_group": worst,
    }
