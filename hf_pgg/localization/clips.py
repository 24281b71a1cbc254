"""Spatio-temporal action localization from clip labels: maps of a clip to boxes on its frames, and to tubes.

The maps come from `hf_pgg.localization.attribution` on the frames that the model sees; boxes on the frames between are
interpolated, those before the first and after the last hold still. `hf_pgg.localization.in_time` cuts tubes in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, DatasetDict
from torch import nn

from hf_pgg.data.boxes import check_box_column, corners, read_clip_boxes
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.video import open_clip
from hf_pgg.data.video_file import Size
from hf_pgg.localization.attribution import Method, center_gaussian
from hf_pgg.localization.features import AttributionError
from hf_pgg.localization.images import boxes_of_map
from hf_pgg.localization.score_maps import SMOOTHED, score_maps, with_smoothing
from hf_pgg.metrics.actions import FrameMAP, VideoMAP
from hf_pgg.metrics.tubes import ClipError, FrameDetections, Tube, fill_gaps

_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
_JUDGE = "frame_mAP@0.5"


@dataclass(frozen=True)
class DetectedAction:
    """What is found in one clip.

    Attributes:
        probabilities: Probability of each class, (classes,) float32.
        maps, indices: Maps of the predicted class, (T, H, W), and the frames that they are of, (T,).
        length, size: Number of frames of the clip, and their height and width in pixels.

    Example:
        >>> found = DetectedAction(np.array([0.2, 0.8]), np.ones((1, 8, 8)), np.array([0]), length=3, size=(40, 60))
        >>> found.label, found.tube(0.5).boxes[2].tolist()  # a constant map gives whole frames
        (1, [0.0, 0.0, 59.0, 39.0])
    """

    probabilities: np.ndarray
    maps: np.ndarray
    indices: np.ndarray
    length: int
    size: Size

    @property
    def label(self) -> int:
        """The predicted class."""
        return int(self.probabilities.argmax())

    def tube(self, threshold: float) -> Tube:
        """The tube of the predicted class, see [`tubes_of_maps`]."""
        return self.tubes([threshold])[0]

    def tubes(self, thresholds: Sequence[float]) -> list[Tube]:
        """One tube for each threshold, which is faster than one by one."""
        score = float(self.probabilities[self.label])
        return tubes_of_maps(self.maps, thresholds, self.indices, self.length, self.size, self.label, score)


def tubes_of_maps(
    maps: np.ndarray,
    thresholds: Sequence[float],
    indices: np.ndarray,
    length: int,
    size: Size,
    label: int,
    score: float = 1.0,
) -> list[Tube]:
    """Returns for each threshold the tube around the largest part of each frame's map above it, over the whole clip.

    Args:
        maps (`np.ndarray`): Maps of some frames, (T, H, W); each is normalised to its own minimum and maximum.
        indices (`np.ndarray`): The frames of the maps, (T,) ascending; a frame that is repeated counts once.
        length, size: Number of frames of the clip, and their height and width in pixels.

    Example:
        >>> maps = np.zeros((2, 224, 224))
        >>> maps[0, :, :100] = maps[1, :, 20:120] = 1
        >>> tubes_of_maps(maps, [0.5], np.array([0, 2]), length=3, size=(224, 224), label=0)[0].boxes[:, 0]
        array([ 0., 10., 20.])
    """
    indices, first = np.unique(indices, return_index=True)
    boxes = np.stack([boxes_of_map(maps[i], thresholds, size[::-1]) for i in first], axis=1)
    tubes = []
    for found in boxes:
        tube = fill_gaps(Tube(indices, corners(found), score, label))
        before, after = tube.frames[0], length - 1 - tube.frames[-1]
        held = [np.repeat(tube.boxes[:1], before, 0), tube.boxes, np.repeat(tube.boxes[-1:], after, 0)]
        tubes.append(Tube(np.arange(length), np.concatenate(held), score, label))
    return tubes


def clip_boxes(
    value: Any, length: int, size: Size, clip: str, column: str, box_format: str | None = None
) -> np.ndarray | None:
    """Reads the boxes of a clip's one actor as (T, 4) float64 `[x, y, width, height]`; None where he is unknown.

    Args:
        size (`tuple[int, int]`): Height and width of the frames in pixels.
        box_format (`str`, *optional*): What the numbers of a box are, see [`~hf_pgg.data.boxes.read_boxes`].

    Raises:
        ClipError: Naming clip and column, if there is not one box of the image for each of the `length` frames.

    Example:
        >>> clip_boxes([[0, 0, 4, 4], [1, 0, 4, 4]], length=2, size=(16, 16), clip="run/3", column="bboxes").shape
        (2, 4)
    """
    try:
        found = read_clip_boxes(value, length, size[::-1], box_format)
        if found is None:
            return None
        several = next((t for t, boxes in enumerate(found) if len(boxes) > 1), None)
        if several is not None:
            raise ValueError(f"frame {several} has {len(found[several])} boxes, and one actor is measured")
    except ValueError as error:
        raise ClipError(clip, column, str(error), "Give one box on every frame, and state `box_format`.") from error
    boxes = np.concatenate(found)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def detect_actions(
    model: nn.Module,
    spec: InputSpec,
    dataset: Dataset,
    method: Method,
    *,
    sampler: FrameSampler,
    video_column: str = "video",
    batch_size: int = 8,
) -> Iterator[DetectedAction]:
    """Yields the action of each clip, in order; arguments as in [`score_maps`], the model takes (B, T, C, H, W).

    Example:
        >>> actions = detect_actions(video_model, spec, clips, center_gaussian, sampler=FrameSampler(4))
        >>> next(actions).maps.shape
        (4, 16, 16)
    """
    read: list[tuple[np.ndarray, int, Size]] = []

    def clips() -> Iterator[np.ndarray]:
        for row in dataset:
            with open_clip(row[video_column]) as clip:
                indices = sampler.indices(len(clip), np.random.default_rng(0))
                frames = clip.read(indices)
                read.append((indices, len(clip), (frames.shape[1], frames.shape[2])))
            yield frames

    scored = score_maps(model, spec, clips(), method, batch_size=batch_size)
    for number, result in enumerate(scored):
        yield DetectedAction(result.probabilities, result.score_map, *read[number])


def evaluate_actions(
    actions: Iterable[DetectedAction],
    dataset: Dataset,
    thresholds: Sequence[float],
    *,
    label_column: str = "label",
    box_column: str = "bboxes",
    box_format: str | None = None,
) -> dict[float, dict[str, float]]:
    """Measures clip accuracy, frame-mAP at 0.5 and video-mAP, of one actor a clip, for each threshold of the maps.

    The boxes are those of the predicted class's map, and stand for every class with that class's probability. Clips
    whose boxes are None or [] count for the accuracy alone. `actions` are what [`detect_actions`] yields on `dataset`.
    For each threshold come `accuracy` in [0, 1], and in percent what [`FrameMAP`] and [`VideoMAP`] return.

    Raises:
        ClipError: If a clip has no box, or none of the image, on some frame.
        ValueError: If no clip has boxes, or their format cannot be told, see [`~hf_pgg.data.boxes.read_boxes`].

    Example:
        >>> actions = detect_actions(video_model, spec, boxed_clips, center_gaussian, sampler=FrameSampler(4))
        >>> list(evaluate_actions(actions, boxed_clips, [0.5])[0.5])[:3]
        ['accuracy', 'frame_mAP@0.5', 'video_mAP@0.2']
    """
    if not check_box_column(dataset, box_column, box_format):
        raise ValueError(f"no clip has boxes in column '{box_column}': give a split that is annotated")
    num_classes, right = dataset.features[label_column].num_classes, 0
    frame_maps = {threshold: FrameMAP(num_classes, thresholds=(0.5,)) for threshold in thresholds}
    video_maps = {threshold: VideoMAP(num_classes) for threshold in thresholds}
    annotations = dataset.select_columns([label_column, box_column])
    for number, (row, action) in enumerate(zip(annotations, actions, strict=True)):
        clip, frames = f"row {number}", np.arange(action.length)
        boxes = clip_boxes(row[box_column], action.length, action.size, clip, box_column, box_format)
        right += int(action.label == row[label_column])
        if boxes is None:
            continue
        truth = Tube(frames, corners(boxes), 1.0, row[label_column], clip)
        scores = action.probabilities.astype(np.float64)
        for threshold, tube in zip(thresholds, action.tubes(thresholds), strict=True):
            tubes = [Tube(frames, tube.boxes, float(score), label) for label, score in enumerate(scores)]
            video_maps[threshold].update(clip, [truth], tubes)
            every_score, labels = (np.repeat(each, action.length) for each in (scores, np.arange(num_classes)))
            every_frame, every_box = np.tile(frames, num_classes), np.tile(tube.boxes, (num_classes, 1))
            detections = FrameDetections(every_frame, every_box, every_score, labels, clip)
            frame_maps[threshold].update(clip, [truth], detections)
    accuracy = {"accuracy": right / len(dataset)}
    return {at: {**accuracy, **frame_maps[at].compute(), **video_maps[at].compute()} for at in thresholds}


class ClipMap(NamedTuple):
    """A map to choose from: an attribution method, and how far it is blurred; see [`with_smoothing`].

    Example:
        >>> str(ClipMap("input_gradient", 0.06, 1.0))
        'input_gradient, blur 0.06, over time 1'
    """

    attribution: str
    smoothing: float = 0.0
    over_time: float = 0.0

    def __str__(self) -> str:
        blurs = [f"blur {self.smoothing:g}"] * (self.attribution in SMOOTHED)
        return ", ".join([self.attribution, *blurs, *[f"over time {self.over_time:g}"] * (self.over_time > 0)])

    @property
    def method(self) -> Method:
        """The attribution with its blur."""
        return with_smoothing(*self)


def clip_maps(attributions: Sequence[str], smoothing: Sequence[float], over_time: Sequence[float]) -> list[ClipMap]:
    """Returns the maps to choose from: each method with every blur over time, gradient maps with every `smoothing` too.

    Example:
        >>> [str(each) for each in clip_maps(["grad_cam", "input_gradient"], [0.03, 0.06], [0.0])]
        ['grad_cam', 'input_gradient, blur 0.03', 'input_gradient, blur 0.06']
    """
    return [
        ClipMap(name, blur, time)
        for name in attributions
        for blur in (smoothing if name in SMOOTHED else (0.0,))
        for time in over_time
    ]


def measure_maps(
    model: nn.Module,
    spec: InputSpec,
    data: DatasetDict,
    maps: Sequence[ClipMap],
    sampler: FrameSampler,
    *,
    box_column: str = "bboxes",
    box_format: str | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Measures `test` with the map and threshold that have the best frame-mAP at IoU 0.5 on `validation`.

    Boxes in the middle of each frame are measured beside them (`frame_mAP@0.5_centre`), with the same classifier's
    scores; `validation` chooses their size too. Returned are the figures, see [`evaluate_actions`], and what was
    chosen: `map`, `smoothing`, `over_time`, `threshold`, `centre_threshold`, and `selection`, the frame-mAP of
    everything that was compared.

    Example:
        >>> data = DatasetDict(validation=boxed_clips.select([0, 1]), test=boxed_clips.select([2, 3]))
        >>> figures, chosen = measure_maps(video_model, spec, data, [ClipMap("grad_cam")], FrameSampler(4))
        >>> chosen["map"], len(chosen["selection"])
        ('grad_cam', 6)
    """

    def measure(split: str, method: Method, thresholds: Sequence[float]) -> dict[float, dict[str, float]]:
        found = detect_actions(model, spec, data[split], method, sampler=sampler)
        return evaluate_actions(found, data[split], thresholds, box_column=box_column, box_format=box_format)

    def compare(method: Method) -> dict[float, float]:
        return {at: figures[_JUDGE] for at, figures in measure("validation", method, _THRESHOLDS).items()}

    selection: dict[tuple[ClipMap, float], float] = {}
    for candidate in maps:
        try:
            selection |= {(candidate, at): value for at, value in compare(candidate.method).items()}
        except AttributionError as error:
            print(f"{candidate}: not for this model ({error})")
    chosen, threshold = max(selection, key=selection.__getitem__)
    central = compare(center_gaussian)
    size = max(central, key=central.__getitem__)
    results = measure("test", chosen.method, [threshold])[threshold]
    results[f"{_JUDGE}_centre"] = measure("test", center_gaussian, [size])[size][_JUDGE]
    return results, {
        "map": chosen.attribution,
        "smoothing": chosen.smoothing,
        "over_time": chosen.over_time,
        "threshold": threshold,
        "centre_threshold": size,
        "selection": {f"{candidate} at {at}": value for (candidate, at), value in selection.items()},
    }
