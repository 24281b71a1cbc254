"""Frame-mAP and video-mAP of spatio-temporal action localization, by default as the evaluator of ACT defines them.

V. Kalogeiton et al., "Action Tubelet Detector for Spatio-Temporal Action Localization", ICCV 2017, which most results
on UCF101-24 and JHMDB come from. The methods' cards (`docs/methods/frame_map.md`, `video_map.md`) have the definitions,
the settings of other evaluators (YOWO, MultiSports), and where they are not followed. A class without ground truth, on
which ACT fails, is left out of the mean; equal scores keep the order in which they were given, which ACT leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from hf_pgg.metrics.boxes import PixelConvention, box_iou
from hf_pgg.metrics.tubes import ClipError, FrameDetections, Tube, tube_iou, tube_nms

Interpolation = Literal["trapezoid", "every-point"]
Matching = Literal["best-unmatched", "best"]

_COCO_THRESHOLDS = tuple(0.5 + 0.05 * i for i in range(10))


def average_precision(hits: ArrayLike, positives: int, interpolation: Interpolation = "trapezoid") -> float:
    """Returns the area under the precision-recall curve of one class, in [0, 1].

    Args:
        hits (`ArrayLike`): Whether each detection is a true positive, (N,) bool, best score first.
        positives (`int`): Number of ground truths, at least 1.
        interpolation (`str`): `"trapezoid"` (ACT): the sum of (R_i - R_{i-1}) (P_i + P_{i-1}) / 2 from R_0 = 0,
            P_0 = 1. `"every-point"` (PASCAL VOC since 2010): the sum of (R_i - R_{i-1}) max_{j >= i} P_j.

    Raises:
        ValueError: If there is no ground truth, or the interpolation is unknown.

    Example:
        >>> average_precision([False, True], 1), average_precision([False, True], 1, "every-point")
        (0.25, 0.5)
    """
    if interpolation not in get_args(Interpolation):
        raise ValueError(f"`interpolation` is {interpolation!r}: choose one of {get_args(Interpolation)}")
    if positives < 1:
        raise ValueError(f"`positives` is {positives}: without ground truth there is no recall, leave the class out")
    true = np.cumsum(np.asarray(hits, bool))
    precision = np.concatenate([[1.0], true / np.arange(1, len(true) + 1)])
    steps = np.diff(true, prepend=0) / positives
    if interpolation == "trapezoid":
        return float((steps * (precision[1:] + precision[:-1]) / 2).sum())
    return float((steps * np.maximum.accumulate(precision[:0:-1])[::-1]).sum())


def match(
    ious: np.ndarray, threshold: float, matching: Matching = "best-unmatched", scenes: np.ndarray | None = None
) -> np.ndarray:
    """Says which detections are true positives, (D,) bool.

    Args:
        ious (`np.ndarray`): IoU of each detection, best score first, with each ground truth, (D, G).
        matching (`str`): `"best-unmatched"` (ACT): a detection is compared with the best ground truth that is still
            free. `"best"` (VOC): with the best of all; where that one is taken, the detection is false.
        scenes (`np.ndarray`, *optional*): Frame of each detection, (D,) integers, where a column of `ious` stands for
            another ground truth in each frame; by default all are of one scene.

    Example:
        >>> match(np.array([[0.9, 0.6], [0.8, 0.7]]), 0.5), match(np.array([[0.9, 0.6], [0.8, 0.7]]), 0.5, "best")
        (array([ True,  True]), array([ True, False]))
    """
    if matching not in get_args(Matching):
        raise ValueError(f"`matching` is {matching!r}: choose one of {get_args(Matching)}")
    hits = np.zeros(len(ious), bool)
    close = np.flatnonzero((ious >= threshold).any(1))
    scene = np.zeros(len(close), int) if scenes is None else np.unique(scenes[close], return_inverse=True)[1]
    free = np.ones((len(close), ious.shape[1]), bool)  # a row a scene
    rank = _rank_in_group(scene)
    for r in range(rank.max(initial=-1) + 1):  # the r-th detections of all scenes at once
        rows, where = close[rank == r], scene[rank == r]
        rivals = np.where(free[where], ious[rows], -1) if matching == "best-unmatched" else ious[rows]
        best = rivals.argmax(1)
        right = (rivals[np.arange(len(rows)), best] >= threshold) & free[where, best]
        hits[rows[right]] = True
        free[where[right], best[right]] = False
    return hits


def _rank_in_group(groups: np.ndarray) -> np.ndarray:
    """(N,) integers to how many equal ones stand before each."""
    order = np.argsort(groups, kind="stable")
    rank = np.empty(len(groups), int)
    rank[order] = np.arange(len(groups)) - np.searchsorted(groups[order], groups[order])
    return rank


class _ActionMAP:
    """Takes clip after clip and keeps of each class only scores, hits and the number of ground truths, no boxes."""

    name: str

    def __init__(
        self,
        num_classes: int,
        thresholds: Sequence[float] = (0.5,),
        *,
        interpolation: Interpolation = "trapezoid",
        matching: Matching = "best-unmatched",
        pixel_convention: PixelConvention = "inclusive",
    ):
        self.num_classes, self.thresholds = num_classes, tuple(thresholds)
        self.interpolation, self.matching, self.pixel_convention = interpolation, matching, pixel_convention
        if not self.thresholds or not all(0 < threshold <= 1 for threshold in self.thresholds):
            raise ValueError(f"`thresholds` are {self.thresholds}: give one or more IoUs in (0, 1]")
        average_precision([True], 1, interpolation)  # a wrong argument fails here, not after the last clip
        match(np.ones((1, 1)), 1, matching)
        box_iou(np.zeros((1, 4)), np.zeros((1, 4)), pixel_convention)
        self._clips: set[str] = set()
        self._positives = np.zeros(num_classes, int)
        self._scores: list[list[np.ndarray]] = [[] for _ in range(num_classes)]
        self._hits: list[list[np.ndarray]] = [[] for _ in range(num_classes)]

    def _start(self, clip: str, truth: Sequence[Tube]) -> None:
        if clip in self._clips:
            raise ClipError(clip, "clip", "it was added before", "Give each clip once, with all its tubes.")
        self._check_tubes(clip, truth, "ground-truth")
        self._clips.add(clip)

    def _check_tubes(self, clip: str, tubes: Sequence[Tube], kind: str) -> None:
        for i, tube in enumerate(tubes):
            self._check(clip, np.array([tube.label]), tube.boxes, tube.clip)
            missing = np.flatnonzero(np.diff(tube.frames) > 1)
            if len(missing):
                problem = f"{kind} tube {i} has no box in frame {tube.frames[missing[0]] + 1}"
                remedy = "Fill the gap (`hf_pgg.metrics.tubes.fill_gaps`) or give two tubes."
                raise ClipError(clip, "frames", problem, remedy)

    def _check(self, clip: str, labels: np.ndarray, boxes: np.ndarray, own_clip: str) -> None:
        if own_clip not in ("", clip):
            raise ClipError(clip, "clip", f"it was given boxes of clip '{own_clip}'", "Pair clips and boxes by name.")
        unknown = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(unknown):
            problem = f"label {unknown[0]} is not one of the {self.num_classes} classes"
            raise ClipError(clip, "label", problem, f"Labels run from 0 to {self.num_classes - 1}; see `num_classes`.")
        if self.pixel_convention == "inclusive" and len(boxes) and boxes.max() <= 1:
            problem = "all coordinates are <= 1, but boxes are in pixels"
            raise ClipError(clip, "boxes", problem, "Scale them by width and height.")

    def _add(self, label: int, scores: np.ndarray, hits: np.ndarray, positives: int) -> None:
        self._positives[label] += positives
        self._scores[label].append(scores)
        self._hits[label].append(hits)

    def average_precisions(self) -> np.ndarray:
        """(number of thresholds, `num_classes`) average precisions in percent; NaN where a class has no ground truth.

        With no ground truth at all, that is a ValueError.
        """
        if not self._positives.any():
            raise ValueError(f"{self.name}: there is no ground truth in the {len(self._clips)} clips that were added")
        result = np.full((len(self.thresholds), self.num_classes), np.nan)
        for label in np.flatnonzero(self._positives):
            scores = np.concatenate([np.zeros(0), *self._scores[label]])
            hits = np.concatenate([np.zeros((len(self.thresholds), 0), bool), *self._hits[label]], axis=1)
            hits, positives = hits[:, np.argsort(-scores, kind="stable")], int(self._positives[label])
            result[:, label] = [100 * average_precision(each, positives, self.interpolation) for each in hits]
        return result

    def compute(self) -> dict[str, float]:
        """`{name}@{threshold}`: the mean over the classes that have ground truth, in percent."""
        means = np.nanmean(self.average_precisions(), axis=1)
        return {f"{self.name}@{t:g}": float(mean) for t, mean in zip(self.thresholds, means, strict=True)}


class FrameMAP(_ActionMAP):
    """Frame-mAP: every box of every frame counts by itself.

    Args:
        thresholds (`Sequence[float]`): IoUs from which a box is right.
        interpolation, matching, pixel_convention (`str`): See [`average_precision`], [`match`] and
            [`~hf_pgg.metrics.boxes.box_iou`].

    Example:
        >>> metric, box = FrameMAP(num_classes=2), [0, 0, 9, 9]
        >>> truth = [Tube([0, 1], [box, box], 1.0, label=1)]
        >>> metric.update("a clip", truth, FrameDetections([0], [box], [0.9], [1]))
        >>> metric.compute()  # one of two boxes was found
        {'frame_mAP@0.5': 50.0}
    """

    name = "frame_mAP"

    def update(self, clip: str, truth: Sequence[Tube], detections: FrameDetections) -> None:
        """Adds a clip: its ground-truth tubes (none, if nothing happens in it) and what was found in its frames.

        A clip that was added before, an unknown label or a ground-truth tube with a gap is a ClipError.
        """
        self._check(clip, detections.labels, detections.boxes, detections.clip)
        self._start(clip, truth)
        order = np.argsort(-detections.scores, kind="stable")
        for label in sorted({tube.label for tube in truth} | set(detections.labels.tolist())):
            own = order[detections.labels[order] == label]
            frames, boxes = detections.frames[own], detections.boxes[own]
            tubes = [tube for tube in truth if tube.label == label]
            ious = np.zeros((len(own), len(tubes)))
            for column, tube in zip(ious.T, tubes, strict=True):
                inside = (frames >= tube.frames[0]) & (frames <= tube.frames[-1])
                true_boxes = tube.boxes[frames[inside] - tube.frames[0]]
                column[inside] = box_iou(boxes[inside], true_boxes, self.pixel_convention)
            hits = np.stack([match(ious, threshold, self.matching, frames) for threshold in self.thresholds])
            self._add(label, detections.scores[own], hits, sum(len(tube.frames) for tube in tubes))


class VideoMAP(_ActionMAP):
    """Video-mAP: whole tubes, after non-maximum suppression within each class; with the mean over IoUs 0.5:0.05:0.95.

    Args:
        thresholds (`Sequence[float]`): IoUs of tubes from which a tube is right.
        nms_threshold (`float`, *optional*): IoU above which [`~hf_pgg.metrics.tubes.tube_nms`] removes a tube; `None`
            keeps all. Where people act together it also removes right tubes.
        options: `interpolation`, `matching` and `pixel_convention`, as in [`FrameMAP`].

    Example:
        >>> metric, box = VideoMAP(num_classes=2), [0, 0, 9, 9]
        >>> truth = [Tube([0, 1, 2], [box] * 3, 1.0, label=1)]
        >>> metric.update("a clip", truth, [Tube([0, 1], [box] * 2, 0.9, label=1)])
        >>> metric.compute()
        {'video_mAP@0.2': 100.0, 'video_mAP@0.5': 100.0, 'video_mAP@0.75': 0.0, 'video_mAP@0.5:0.95': 40.0}
    """

    name = "video_mAP"

    def __init__(
        self,
        num_classes: int,
        thresholds: Sequence[float] = (0.2, 0.5, 0.75),
        *,
        nms_threshold: float | None = 0.3,
        **options: Any,
    ):
        super().__init__(num_classes, (*thresholds, *_COCO_THRESHOLDS), **options)
        self.nms_threshold = nms_threshold

    def update(self, clip: str, truth: Sequence[Tube], tubes: Sequence[Tube]) -> None:
        """Adds a clip, like [`FrameMAP`], with the tubes found; one of these with a gap is a ClipError too."""
        self._check_tubes(clip, tubes, "predicted")
        self._start(clip, truth)
        order = np.argsort([-tube.score for tube in tubes], kind="stable").tolist()
        if self.nms_threshold is not None:
            order = tube_nms(tubes, self.nms_threshold, self.pixel_convention)
        for label in sorted({tube.label for tube in (*truth, *tubes)}):
            found = [tubes[i] for i in order if tubes[i].label == label]
            real = [tube for tube in truth if tube.label == label]
            ious = np.array([[tube_iou(a, b, self.pixel_convention) for b in real] for a in found])
            ious = ious.reshape(len(found), len(real))
            hits = np.stack([match(ious, threshold, self.matching) for threshold in self.thresholds])
            self._add(label, np.array([tube.score for tube in found]), hits, len(real))

    def compute(self) -> dict[str, float]:
        """`video_mAP@{threshold}` and `video_mAP@0.5:0.95`: means over the classes with ground truth, in percent."""
        means = np.nanmean(self.average_precisions(), axis=1)
        count = len(self.thresholds) - len(_COCO_THRESHOLDS)
        result = {f"{self.name}@{t:g}": float(m) for t, m in zip(self.thresholds[:count], means[:count], strict=True)}
        return {**result, f"{self.name}@0.5:0.95": float(means[count:].mean())}
