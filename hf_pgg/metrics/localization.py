"""Weakly supervised object localization: how well the score maps of a model trained on labels alone find the object.

J. Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020 (MaxBoxAcc, PxAP), and its
journal version "Evaluation for Weakly Supervised Object Localization: Protocol, Metrics, and Datasets", TPAMI 2023
(MaxBoxAccV2). The numbers are those of its code (clovaai/wsolevaluation), as fractions instead of per cent.

The metrics take one map after the other and keep counts for each threshold, never a map. Instances of several processes
merge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from hf_pgg.metrics.boxes import (
    SIZE,
    _check_thresholds,
    boxes_at_thresholds,
    image_boxes,
    normalize_map,
    pairwise_iou,
    resize_boxes,
)

Metric = TypeVar("Metric", bound="_MapMetric")


def threshold_grid(delta: float = 0.01) -> np.ndarray:
    """Returns the thresholds 0, delta, ..., 1 - delta. The reference uses steps of 0.01 and 0.001.

    Example:
        >>> threshold_grid(0.25)
        array([0.  , 0.25, 0.5 , 0.75])
    """
    if not 0 < delta <= 1:
        raise ValueError(f"delta is {delta}: give a step in (0, 1]")
    return np.arange(0, 1, delta)


class _MapMetric:
    """What the metrics over maps share: thresholds, and counts that add up."""

    _counts: tuple[str, ...]  # the attributes that are summed over maps
    _settings: tuple[str, ...] = ("thresholds", "size")  # those that must be equal to merge

    def __init__(self, thresholds: ArrayLike | None, size: int):
        self.thresholds = threshold_grid() if thresholds is None else np.array(thresholds, np.float64)
        _check_thresholds(self.thresholds)
        if (np.diff(self.thresholds) <= 0).any():
            raise ValueError(f"thresholds are {self.thresholds.tolist()}: give them in ascending order")
        self.size = size
        self.num_maps = 0

    def merge(self: Metric, other: Metric) -> Metric:
        """Adds the counts of another instance, of another process say, and returns this one; ValueError if it differs.

        It differs if it is another metric or has other settings.
        """
        if type(other) is not type(self):
            raise ValueError(f"a {type(other).__name__} does not merge into a {type(self).__name__}: give one of these")
        for name in self._settings:
            if not np.array_equal(getattr(self, name), getattr(other, name)):
                raise ValueError(f"the metrics differ in their {name}: merge those that were made with the same")
        for name in self._counts:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def _check_not_empty(self) -> None:
        if self.num_maps == 0:
            raise RuntimeError("there are no maps: call `update` before `result`")


class BoxAccuracy(_MapMetric):
    """MaxBoxAcc, MaxBoxAccV2, GT-known and top-1 localization, over score maps and ground-truth boxes.

    A map is cut at each threshold (see [`boxes_at_thresholds`]). It is right there, for an IoU delta, if a box reaches
    that IoU with any of the image's boxes: the largest contour's box (MaxBoxAcc), or any contour's (MaxBoxAccV2).

    Args:
        thresholds (`ArrayLike`, *optional*): Numbers in [0, 1], ascending; by default `threshold_grid(0.01)`.
        iou (`Sequence[float]`): The deltas of MaxBoxAccV2; 0.5, at which all others are defined, is among them.
        size (`int`): Side of the square to which maps and boxes are resized.

    Example:
        >>> metric, score_map = BoxAccuracy(), np.zeros((224, 224))
        >>> score_map[20:120, 20:120] = 1
        >>> metric.update(score_map, boxes=[20, 20, 100, 80], original_size=(224, 224))
        >>> {name: value for name, value in metric.result().items() if name.startswith("max_box_acc_v2_")}
        {'max_box_acc_v2_30': 1.0, 'max_box_acc_v2_50': 1.0, 'max_box_acc_v2_70': 1.0}
    """

    _counts = ("num_maps", "num_flat_maps", "num_classified", "largest_hits", "any_hits", "top1_hits")
    _settings = ("thresholds", "size", "iou")

    def __init__(
        self, thresholds: ArrayLike | None = None, iou: Sequence[float] = (0.3, 0.5, 0.7), size: int = SIZE
    ) -> None:
        super().__init__(thresholds, size)
        self.iou = np.array(iou, np.float64)
        if self.iou.ndim != 1 or not ((self.iou > 0) & (self.iou <= 1)).all() or 0.5 not in self.iou:
            raise ValueError(f"iou is {iou}: give numbers in (0, 1] with 0.5 among them")
        self.num_flat_maps = 0
        self.num_classified = 0
        self.largest_hits = np.zeros((len(self.iou), len(self.thresholds)), np.int64)
        self.any_hits = np.zeros_like(self.largest_hits)
        self.top1_hits = np.zeros_like(self.largest_hits)

    def update(
        self,
        score_map: ArrayLike,
        boxes: ArrayLike,
        original_size: Sequence[float],
        box_format: str = "xywh",
        correct: bool | None = None,
    ) -> None:
        """Counts one image.

        Args:
            score_map (`ArrayLike`): Map (H, W) of the whole image, of any size and scale. One that is constant or holds
                NaN counts as zeros, with the box [0, 0, 0, 0], and in `num_flat_maps`.
            boxes, original_size, box_format: As in [`image_boxes`].
            correct (`bool`, *optional*): Whether the top-1 class is right, for `top1_localization`; all images or none.

        Raises:
            ValueError: Where [`normalize_map`] or [`image_boxes`] does, or if `correct` is given for some images.
        """
        if self.num_maps and (correct is not None) != (self.num_classified > 0):
            raise ValueError("correct is given for some images and not for others: give it for all or none")
        truth = resize_boxes(image_boxes(boxes, original_size, box_format), original_size, (self.size, self.size))
        normalized = normalize_map(score_map, self.size)
        found = boxes_at_thresholds(normalized, self.thresholds)
        best = np.zeros(len(found.largest))
        np.maximum.at(best, found.level, pairwise_iou(found.boxes, truth).max(axis=1))
        largest = pairwise_iou(found.largest, truth).max(axis=1)
        right = (largest >= self.iou[:, None])[:, found.level_at]
        self.largest_hits += right
        self.any_hits += (best >= self.iou[:, None])[:, found.level_at]
        self.num_maps += 1
        self.num_flat_maps += int(normalized.max() == 0)
        if correct is not None:
            self.num_classified += 1
            self.top1_hits += right & bool(correct)

    def merge(self, other: BoxAccuracy) -> BoxAccuracy:
        """As in other metrics; `correct` must have been given to both or neither."""
        if self.num_maps and other.num_maps and (self.num_classified > 0) != (other.num_classified > 0):
            raise ValueError("correct is given for some images and not for others: give it for all or none")
        return super().merge(other)

    def curves(self) -> dict[str, np.ndarray]:
        """Returns `thresholds` (T,), `iou` (D,), and for each pair of them the accuracy (D, T): `box_acc` (the largest
        contour), `box_acc_v2` (any contour), and `top1_localization` if `correct` was given.
        """
        self._check_not_empty()
        curves = {"box_acc": self.largest_hits / self.num_maps, "box_acc_v2": self.any_hits / self.num_maps}
        if self.num_classified:
            curves["top1_localization"] = self.top1_hits / self.num_maps
        return {"thresholds": self.thresholds, "iou": self.iou, **curves}

    def result(self, threshold: float | Mapping[str, float] | None = None) -> dict[str, float]:
        """Returns the metrics, each a fraction in [0, 1], and `num_maps` and `num_flat_maps` (where no box was found).

        Without `threshold`, each is taken where it is best on these very maps, as the metrics are defined (of equally
        good thresholds at the lowest): `max_box_acc` and `best_threshold`; `max_box_acc_v2`, the mean of
        `max_box_acc_v2_30`, `_50` and `_70` with `best_threshold_v2_30`, `_50` and `_70`; `gt_known`, the older name of
        MaxBoxAcc; and, if `correct` was given, `top1_localization`, at `best_threshold`. With it (one of `thresholds`
        for all metrics, or the result of another split), the keys are `box_acc` and `threshold`, etc.

        Raises:
            RuntimeError: If there were no maps.
            ValueError: If `threshold` is not among the thresholds, or a mapping that lacks a best threshold.
        """
        curves = self.curves()
        half = int(np.flatnonzero(self.iou == 0.5)[0])
        rows = {"": curves["box_acc"][half]}
        rows |= {f"_v2_{100 * delta:g}": row for delta, row in zip(self.iou, curves["box_acc_v2"], strict=True)}
        if threshold is None:
            value, at = "max_box_acc", "best_threshold"
            columns = {name: int(row.argmax()) for name, row in rows.items()}
        else:
            value, at = "box_acc", "threshold"
            columns = {name: self._column(threshold, name) for name in rows}
        out = {value + name: row[columns[name]] for name, row in rows.items()}
        out[f"{value}_v2"] = np.mean([out[value + name] for name in rows if name])
        out["gt_known"] = out[value]
        if self.num_classified:
            out["top1_localization"] = curves["top1_localization"][half, columns[""]]
        out |= {at + name: self.thresholds[column] for name, column in columns.items()}
        counts = {"num_maps": self.num_maps, "num_flat_maps": self.num_flat_maps}
        return {**{name: float(number) for name, number in out.items()}, **counts}

    def _column(self, threshold: float | Mapping[str, float], name: str) -> int:
        """Where `thresholds` holds the one given, or the best one of another split's result."""
        if isinstance(threshold, Mapping):
            if f"best_threshold{name}" not in threshold:
                raise ValueError(f"threshold has no best_threshold{name}: give the result() of a metric with equal iou")
            threshold = threshold[f"best_threshold{name}"]
        near = np.flatnonzero(np.isclose(self.thresholds, threshold, rtol=0, atol=1e-9))
        if not len(near):
            raise ValueError(f"threshold {threshold} is not among the metric's: give it to BoxAccuracy(thresholds=...)")
        return int(near[0])


class PixelAveragePrecision(_MapMetric):
    """PxAP: the area under the precision-recall curve of the maps' pixels, pooled over the split.

    PxAP = sum over l of P(tau_l) (R(tau_l) - R(tau_{l-1})), from the highest threshold down, where a pixel is positive
    if its value is at least tau. Unlike in `sklearn`, values within one step of the grid are not told apart. Arguments
    are as in [`BoxAccuracy`]; the thresholds begin with 0.

    Example:
        >>> metric = PixelAveragePrecision()
        >>> metric.update([[0.9, 0.1], [0.9, 0.1]], mask=[[1, 0], [1, 0]])
        >>> round(metric.result()["pixel_average_precision"], 3)
        1.0
    """

    _counts = ("num_maps", "object_pixels", "other_pixels")

    def __init__(self, thresholds: ArrayLike | None = None, size: int = SIZE) -> None:
        super().__init__(thresholds, size)
        if self.thresholds[0] != 0:
            raise ValueError(f"thresholds start at {self.thresholds[0]}: begin with 0, so that every pixel has a step")
        self.object_pixels = np.zeros(len(self.thresholds) + 1, np.int64)  # a step each, and the value 1
        self.other_pixels = np.zeros_like(self.object_pixels)

    def update(self, score_map: ArrayLike, mask: ArrayLike, ignore: ArrayLike | None = None) -> None:
        """Counts the pixels of one image.

        Args:
            score_map (`ArrayLike`): Map (H, W) of the whole image; brought to [0, 1] by [`normalize_map`].
            mask (`ArrayLike`): Mask (H, W), or (K, H, W) for K instances, which are joined; resized to the nearest.
                Bool, or of the two values 0 and 1, or 0 and 255. It may be empty.
            ignore (`ArrayLike`, *optional*): Like `mask`: pixels that do not count, except those of the object.

        Raises:
            ValueError: If the map holds NaN or infinity, or a map or mask is not binary or not of these shapes.
        """
        score_map = np.asarray(score_map, np.float64)
        if np.isnan(score_map).any():
            raise ValueError("score_map holds NaN, and its pixels have no order: leave it out, or give zeros")
        values = normalize_map(score_map, self.size)
        foreground = _resize_mask(mask, self.size, "mask")
        background = ~foreground if ignore is None else ~(foreground | _resize_mask(ignore, self.size, "ignore"))
        steps = np.searchsorted(np.append(self.thresholds, 1.0), values, side="right") - 1
        self.object_pixels += np.bincount(steps[foreground], minlength=len(self.object_pixels))
        self.other_pixels += np.bincount(steps[background], minlength=len(self.other_pixels))
        self.num_maps += 1

    def curves(self) -> dict[str, np.ndarray]:
        """Returns `thresholds`, `precision` and `recall` (T + 1,), from the threshold 1 down to 0.

        Precision is NaN where no pixel is positive. No maps, or no mask with a pixel, is a RuntimeError.
        """
        self._check_not_empty()
        true, false = (np.cumsum(pixels[::-1]) for pixels in (self.object_pixels, self.other_pixels))
        if true[-1] == 0:
            raise RuntimeError("the split has no object pixel, and PxAP is undefined: give masks with objects")
        positive = true + false
        precision = np.where(positive > 0, true / np.maximum(positive, 1), np.nan)
        return {"thresholds": np.append(self.thresholds, 1.0)[::-1], "precision": precision, "recall": true / true[-1]}

    def result(self) -> dict[str, float]:
        """Returns `pixel_average_precision` in [0, 1] and `num_maps`; raises as [`curves`] does."""
        curves = self.curves()
        gains = np.diff(curves["recall"], prepend=0.0)
        area = np.sum(curves["precision"] * gains, where=gains > 0)
        return {"pixel_average_precision": float(area), "num_maps": self.num_maps}


def _resize_mask(mask: ArrayLike, size: int, name: str) -> np.ndarray:
    """(H, W) or (K, H, W) to one (size, size) bool mask; the nearest pixel is that of OpenCV's INTER_NEAREST."""
    mask = np.asarray(mask)
    if mask.ndim not in (2, 3) or 0 in mask.shape:
        raise ValueError(f"{name} is of shape {mask.shape}: give (H, W) or (K, H, W) with pixels")
    if mask.max() not in (0, 1, 255) or not np.isin(mask, (0, mask.max())).all():
        raise ValueError(f"{name} holds values beside 0 and 1, or 0 and 255: threshold it first")
    joined = np.any(mask.astype(bool).reshape(-1, *mask.shape[-2:]), axis=0)
    steps = [np.floor(np.arange(size) * (1 / (size / length))).astype(int) for length in joined.shape]
    rows, columns = (np.minimum(step, length - 1) for step, length in zip(steps, joined.shape, strict=True))
    return joined[rows[:, None], columns]
