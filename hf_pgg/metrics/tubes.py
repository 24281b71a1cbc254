"""Action tubes, one box a frame over a stretch of frames: overlap, gaps, trimming in time.

Boxes become tubes in `hf_pgg.linking`. Trimming: S. Saha et al., "Deep Learning for Detecting Multiple Space-Time
Action Tubes in Videos", BMVC 2016 (`label_by_viterbi`).

Boxes are `[x1, y1, x2, y2]` in pixels. Everything here is a pure function on numpy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

PixelConvention = Literal["inclusive", "exclusive"]


class ClipError(ValueError):
    """A clip's boxes or tubes are unusable. The message names the clip, the field and the remedy."""

    def __init__(self, clip: str, field: str, problem: str, remedy: str):
        super().__init__(f"clip '{clip or 'unnamed'}', field '{field}': {problem}. {remedy}")


def checked_boxes(boxes: ArrayLike, clip: str, where: str = "") -> np.ndarray:
    """`boxes` as (N, 4) float64; `where` says in the message which boxes these are.

    Raises:
        ClipError: If the shape is another, a coordinate is not finite, or a box ends before it starts.
    """
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


def checked_scores(scores: ArrayLike, count: int, clip: str, where: str = "") -> np.ndarray:
    """`scores` as (count,) float64.

    Raises:
        ClipError: If there are more or fewer, or one is not finite.
    """
    array = np.asarray(scores, np.float64)
    if array.shape != (count,):
        raise ClipError(clip, "scores", f"scores are {array.shape} for {count} boxes{where}", "Give one score a box.")
    for at in np.flatnonzero(~np.isfinite(array)):
        raise ClipError(clip, "scores", f"score {at}{where} is {array[at]}", "Mend the detector or drop the box.")
    return array


@dataclass(frozen=True, eq=False)
class Tube:
    """One box a frame. Valid by construction; frames may be missing in between until `fill_gaps`.

    Args:
        frames: (N,) integers, N >= 1, strictly increasing.
        boxes: (N, 4) pixels, `[x1, y1, x2, y2]`; kept as float64.
        score (`float`): Confidence; not read in ground truth.
        label (`int`): Class.
        clip (`str`, *optional*): Named in errors.

    Raises:
        ClipError: If a field is malformed.
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
        boxes = checked_boxes(self.boxes, self.clip, f" of the tube from frame {frames[0]} on")
        if len(boxes) != len(frames):
            problem = f"{len(boxes)} boxes for {len(frames)} frames"
            raise ClipError(self.clip, "boxes", problem, "Give one box a frame of the tube.")
        if not np.isfinite(self.score):
            raise ClipError(self.clip, "score", f"the score is {self.score}", "Mend the detector or drop the tube.")
        if not isinstance(self.label, (int, np.integer)):
            raise ClipError(self.clip, "label", f"the label is {self.label!r}", "Labels are integers.")
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "boxes", boxes)


# ---------------------------------------------------------------------------------------------- overlap


def box_iou(a: np.ndarray, b: np.ndarray, pixel_convention: PixelConvention = "inclusive") -> np.ndarray:
    """IoU of boxes (..., 4) that broadcast against each other; 0 where both boxes are empty.

    Args:
        pixel_convention (`str`, *optional*, defaults to `"inclusive"`): `"inclusive"`: x2 and y2 are the last pixel of
            the box, whose width is x2 - x1 + 1. `"exclusive"`: the width is x2 - x1.
    """
    if pixel_convention not in get_args(PixelConvention):
        raise ValueError(f"`pixel_convention` is one of {get_args(PixelConvention)}, not {pixel_convention!r}")
    extra = 1.0 if pixel_convention == "inclusive" else 0.0
    shared = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + extra).clip(min=0).prod(-1)
    union = (a[..., 2:] - a[..., :2] + extra).prod(-1) + (b[..., 2:] - b[..., :2] + extra).prod(-1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def tube_iou(a: Tube, b: Tube, pixel_convention: PixelConvention = "inclusive") -> float:
    """Temporal IoU (shared frames over frames of either) times the mean box IoU on the shared frames (ACT)."""
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
    """Indices of the tubes that stay, by falling score (of equals, the earlier first).

    A tube stays unless its IoU with one of its class that stayed before exceeds `threshold`.
    """
    kept: list[int] = []
    for i in np.argsort([-tube.score for tube in tubes], kind="stable").tolist():
        rivals = (tubes[j] for j in kept if tubes[j].label == tubes[i].label)
        if all(tube_iou(tubes[i], rival, pixel_convention) <= threshold for rival in rivals):
            kept.append(i)
    return kept


# ---------------------------------------------------------------------------------------------- in time


def fill_gaps(tube: Tube) -> Tube:
    """The tube with a box in every frame from its first to its last, interpolated linearly where one was missing."""
    frames = np.arange(tube.frames[0], tube.frames[-1] + 1)
    boxes = np.stack([np.interp(frames, tube.frames, side) for side in tube.boxes.T], axis=1)
    return Tube(frames, boxes, tube.score, tube.label, tube.clip)


def label_by_viterbi(scores: ArrayLike, switch_cost: float) -> np.ndarray:
    """Which frames show the action: the labelling l in {0, 1}^N of most energy (Saha et al., second pass).

    The energy is the sum of s_t where l_t = 1 and 1 - s_t where l_t = 0, less `switch_cost` for each change of label.

    Args:
        scores: (N,) probabilities of the action.

    Returns:
        (N,) bool.
    """
    probabilities = _checked_curve(scores)
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


def label_by_max_sum(scores: ArrayLike, threshold: float) -> np.ndarray:
    """The stretch of frames with the largest sum of score - threshold (Kadane's algorithm); may be empty.

    Args:
        scores: (N,).

    Returns:
        (N,) bool.
    """
    curve = _checked_curve(scores)
    labels = np.zeros(len(curve), bool)
    best, total, start, span = 0.0, 0.0, 0, (0, 0)
    for t, gain in enumerate(curve - threshold):
        if total <= 0:
            total, start = 0.0, t
        total += gain
        if total > best:
            best, span = total, (start, t + 1)
    labels[slice(*span)] = True
    return labels


def _checked_curve(scores: ArrayLike) -> np.ndarray:
    curve = np.asarray(scores, np.float64)
    if curve.ndim != 1 or not np.isfinite(curve).all():
        raise ValueError(f"`scores` are (N,) finite numbers, one a frame; their shape is {curve.shape}")
    return curve


def trim(tube: Tube, scores: ArrayLike, keep: ArrayLike) -> list[Tube]:
    """The stretches of a tube where `keep` is true, each with the mean of its frames' scores as score.

    Args:
        scores: (N,), one a frame of the tube.
        keep: (N,) bool, from `label_by_viterbi` or `label_by_max_sum`.

    Raises:
        ClipError: If there are more or fewer scores or labels than frames.
    """
    count = len(tube.frames)
    curve, kept = np.asarray(scores, np.float64), np.asarray(keep, bool)
    for name, values in (("scores", curve), ("keep", kept)):
        if values.shape != (count,):
            raise ClipError(
                tube.clip, name, f"{values.shape} for {count} frames", "Give one value a frame of the tube."
            )
    edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0))
    return [
        Tube(tube.frames[a:b], tube.boxes[a:b], float(curve[a:b].mean()), tube.label, tube.clip)
        for a, b in edges.reshape(-1, 2)
    ]
