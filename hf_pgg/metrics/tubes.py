"""Action tubes, one box a frame over a stretch of frames: overlap, gaps, trimming in time.

Boxes are `[x1, y1, x2, y2]` in pixels. Everything here is a pure function on numpy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hf_pgg.metrics.boxes import PixelConvention, box_iou


class ClipError(ValueError):
    """A clip's boxes or tubes are unusable. The message names the clip, the field and the remedy.

    Example:
        >>> str(ClipError("run/3", "score", "the score is nan", "Drop the tube."))
        "clip 'run/3', field 'score': the score is nan. Drop the tube."
    """

    def __init__(self, clip: str, field: str, problem: str, remedy: str):
        super().__init__(f"clip '{clip or 'unnamed'}', field '{field}': {problem}. {remedy}")


def _checked_boxes(boxes: ArrayLike, clip: str, where: str = "") -> np.ndarray:
    """The boxes as (N, 4) float64, finite and not inverted; `where` says in the error which boxes these are."""
    array = np.asarray(boxes, np.float64)
    array = array.reshape(0, 4) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 4:
        raise ClipError(clip, "boxes", f"boxes are (N, 4), not {array.shape}{where}", "Give [x1, y1, x2, y2] a box.")
    for at in np.flatnonzero(~np.isfinite(array).all(1)):
        raise ClipError(clip, "boxes", f"box {at}{where} is {array[at].tolist()}", "Leave out a box that is not known.")
    for at in np.flatnonzero((array[:, 2:] < array[:, :2]).any(1)):
        problem = f"box {at}{where} is inverted: {array[at].tolist()} ends before it starts"
        raise ClipError(clip, "boxes", problem, "Boxes are [x1, y1, x2, y2]: to [x, y, width, height] add the corner.")
    return array


def _checked_scores(scores: ArrayLike, count: int, clip: str) -> np.ndarray:
    """The scores as (count,) float64, all finite."""
    array = np.asarray(scores, np.float64)
    if array.shape != (count,):
        raise ClipError(clip, "scores", f"scores are {array.shape} for {count} boxes", "Give one score a box.")
    for at in np.flatnonzero(~np.isfinite(array)):
        raise ClipError(clip, "scores", f"score {at} is {array[at]}", "Mend the detector or drop the box.")
    return array


@dataclass(frozen=True, eq=False)
class Tube:
    """One box a frame. Valid by construction; frames may be missing in between until [`fill_gaps`].

    Args:
        frames (`np.ndarray`): Frame numbers, (N,) integers in strictly ascending order, N >= 1.
        boxes (`np.ndarray`): Boxes `[x1, y1, x2, y2]` in pixels, (N, 4); kept as float64.
        score (`float`): Confidence, which is not read in ground truth.
        clip (`str`, *optional*): Name of the clip in the [`ClipError`] of a field that is malformed.

    Example:
        >>> Tube([3, 5], [[0, 0, 9, 9], [2, 0, 11, 9]], score=0.9, label=1).boxes.dtype
        dtype('float64')
    """

    frames: np.ndarray
    boxes: np.ndarray
    score: float
    label: int
    clip: str = ""

    def __post_init__(self) -> None:
        frames = np.asarray(self.frames)
        if frames.ndim != 1 or len(frames) == 0 or not np.issubdtype(frames.dtype, np.integer):
            problem = f"frames are (N,) integers with N >= 1, not {frames.dtype} {frames.shape}"
            raise ClipError(self.clip, "frames", problem, "Number a tube's frames, and leave out an empty tube.")
        frames = frames.astype(np.int64)
        for at in np.flatnonzero(np.diff(frames) <= 0):
            problem = f"frame {frames[at]} is followed by frame {frames[at + 1]}"
            raise ClipError(self.clip, "frames", problem, "Sort the boxes by frame and keep one a frame.")
        boxes = _checked_boxes(self.boxes, self.clip, f" of the tube from frame {frames[0]} on")
        if len(boxes) != len(frames):
            problem = f"{len(boxes)} boxes for {len(frames)} frames"
            raise ClipError(self.clip, "boxes", problem, "Give one box a frame of the tube.")
        if not np.isfinite(self.score):
            raise ClipError(self.clip, "score", f"the score is {self.score}", "Mend the detector or drop the tube.")
        if not isinstance(self.label, (int, np.integer)):
            raise ClipError(self.clip, "label", f"the label is {self.label!r}", "Labels are integers.")
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "boxes", boxes)


@dataclass(frozen=True, eq=False)
class FrameDetections:
    """The boxes found in the frames of one clip, in any order; N may be 0.

    Args:
        frames, labels (`np.ndarray`): Frame number and class of each box, (N,) integers.
        boxes (`np.ndarray`): Boxes `[x1, y1, x2, y2]` in pixels, (N, 4).
        scores (`np.ndarray`): Confidence of each box, (N,).
        clip (`str`, *optional*): Name of the clip in the [`ClipError`] of a field that is malformed or too long.

    Example:
        >>> FrameDetections([0, 0], [[0, 0, 9, 9], [5, 5, 14, 14]], [0.9, 0.4], [1, 2]).scores
        array([0.9, 0.4])
    """

    frames: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    clip: str = ""

    def __post_init__(self) -> None:
        boxes = _checked_boxes(self.boxes, self.clip)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", _checked_scores(self.scores, len(boxes), self.clip))
        for name in ("frames", "labels"):
            values = np.asarray(getattr(self, name))
            if values.shape != (len(boxes),) or (len(boxes) and not np.issubdtype(values.dtype, np.integer)):
                problem = f"{values.dtype} {values.shape} for {len(boxes)} boxes"
                raise ClipError(self.clip, name, problem, "Give one integer a box.")
            object.__setattr__(self, name, values.astype(np.int64))


# ---------------------------------------------------------------------------------------------- overlap


def temporal_iou(a: Tube, b: Tube) -> float:
    """Returns the number of frames that two tubes share over the number of frames of either.

    Example:
        >>> box = [0, 0, 9, 9]
        >>> temporal_iou(Tube([0, 1, 2], [box] * 3, 1.0, 0), Tube([2, 3], [box] * 2, 1.0, 0))
        0.25
    """
    shared = len(np.intersect1d(a.frames, b.frames, assume_unique=True))
    return shared / (len(a.frames) + len(b.frames) - shared)


def tube_iou(a: Tube, b: Tube, pixel_convention: PixelConvention = "inclusive") -> float:
    """Returns the temporal IoU times the mean box IoU on the shared frames, as the evaluator of ACT does.

    Example:
        >>> a = Tube([0, 1, 2], [[0, 0, 9, 9]] * 3, 1.0, 0)
        >>> tube_iou(a, Tube([2, 3], [[0, 0, 9, 4]] * 2, 1.0, 0))  # a quarter of the frames, half of the box
        0.125
    """
    if a.frames[-1] < b.frames[0] or b.frames[-1] < a.frames[0]:
        return 0.0
    shared, in_a, in_b = np.intersect1d(a.frames, b.frames, assume_unique=True, return_indices=True)
    if len(shared) == 0:
        return 0.0
    temporal = len(shared) / (len(a.frames) + len(b.frames) - len(shared))
    return temporal * float(box_iou(a.boxes[in_a], b.boxes[in_b], pixel_convention).mean())


def tube_nms(
    tubes: Sequence[Tube], threshold: float = 0.3, pixel_convention: PixelConvention = "inclusive"
) -> list[int]:
    """Returns the indices of the tubes that stay, best score first (of equals, the earlier one).

    A tube stays unless its IoU with a better one of its class that stayed exceeds `threshold`.

    Example:
        >>> tubes = [Tube([0, 1], [[0, 0, 9, 9]] * 2, score, 0) for score in (0.5, 0.9)]
        >>> tube_nms(tubes)
        [1]
    """
    kept: list[int] = []
    for i in np.argsort([-tube.score for tube in tubes], kind="stable").tolist():
        rivals = (tubes[j] for j in kept if tubes[j].label == tubes[i].label)
        if all(tube_iou(tubes[i], rival, pixel_convention) <= threshold for rival in rivals):
            kept.append(i)
    return kept


# ---------------------------------------------------------------------------------------------- in time


def fill_gaps(tube: Tube) -> Tube:
    """Returns the tube with a box in every frame from its first to its last, interpolated linearly between boxes.

    Example:
        >>> fill_gaps(Tube([0, 2], [[0, 0, 9, 9], [4, 0, 13, 9]], 1.0, 0)).boxes[1]
        array([ 2.,  0., 11.,  9.])
    """
    frames = np.arange(tube.frames[0], tube.frames[-1] + 1)
    boxes = np.stack([np.interp(frames, tube.frames, side) for side in tube.boxes.T], axis=1)
    return Tube(frames, boxes, tube.score, tube.label, tube.clip)


def label_by_viterbi(scores: ArrayLike, switch_cost: float) -> np.ndarray:
    """Says which frames show the action, (N,) bool: the labelling l in {0, 1}^N of most energy.

    The energy is the sum of s_t where l_t = 1 and 1 - s_t where l_t = 0, less `switch_cost` for each change of label
    (S. Saha et al., "Deep Learning for Detecting Multiple Space-Time Action Tubes in Videos", BMVC 2016, second pass).

    Args:
        scores (`ArrayLike`): Probability of the action in each frame, (N,); others are a ValueError.
        switch_cost (`float`): What a change of label costs, in units of probability.

    Example:
        >>> label_by_viterbi([0.1, 0.9, 0.4, 0.9, 0.1], switch_cost=0.5).tolist()
        [False, True, True, True, False]
    """
    probabilities = np.asarray(scores, np.float64)
    if probabilities.ndim != 1 or not np.isfinite(probabilities).all():
        raise ValueError(f"`scores` are (N,) finite numbers, one a frame; their shape is {probabilities.shape}")
    if len(probabilities) and not 0 <= probabilities.min() <= probabilities.max() <= 1:
        raise ValueError("`scores` are probabilities in [0, 1]: the background scores 1 - s")
    unary = np.stack([1 - probabilities, probabilities], axis=1)
    switches = np.zeros(unary.shape, bool)
    for t in range(1, len(unary)):
        stay, switch = unary[t - 1], unary[t - 1, ::-1] - switch_cost
        switches[t] = switch > stay
        unary[t] += np.maximum(stay, switch)
    labels = np.zeros(len(unary), bool)
    state = int(unary[-1].argmax()) if len(unary) else 0
    for t in range(len(unary) - 1, -1, -1):
        labels[t] = state
        state ^= int(switches[t, state])
    return labels


def trim(tube: Tube, scores: ArrayLike, keep: ArrayLike) -> list[Tube]:
    """Cuts a tube to the stretches where `keep` is true, each with the mean of its frames' scores as its score.

    Args:
        scores (`ArrayLike`): Score of each frame of the tube, (N,); more or fewer are a ClipError.
        keep (`ArrayLike`): Frames to keep, (N,) bool; see [`label_by_viterbi`].

    Example:
        >>> tube = Tube([5, 6, 7, 8], [[0, 0, 9, 9]] * 4, 1.0, 0)
        >>> [(part.frames.tolist(), part.score) for part in trim(tube, [0.5, 0.25, 0.1, 1.0], [1, 1, 0, 1])]
        [([5, 6], 0.375), ([8], 1.0)]
    """
    count = len(tube.frames)
    curve, kept = np.asarray(scores, np.float64), np.asarray(keep, bool)
    for name, values in (("scores", curve), ("keep", kept)):
        if values.shape != (count,):
            problem = f"{values.shape} for {count} frames"
            raise ClipError(tube.clip, name, problem, "Give one value a frame of the tube.")
    edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0))
    return [
        Tube(tube.frames[a:b], tube.boxes[a:b], float(curve[a:b].mean()), tube.label, tube.clip)
        for a, b in edges.reshape(-1, 2)
    ]
