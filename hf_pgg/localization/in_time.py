"""When an action happens: clips joined in time, a classifier slid over them, and tubes cut where its scores fall.

Trimmed clips such as JHMDB's hold their action from end to end and cannot tell a localizer in time from none. Between
clips of other classes they can. The classifier knows whole clips: windows as long as one are scored, a frame's scores
are the mean of the windows over it, and [`~hf_pgg.metrics.tubes.label_by_viterbi`] says which frames show a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, DatasetDict
from numpy.typing import ArrayLike
from torch import nn

from hf_pgg.data.boxes import check_box_column, corners
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.video import open_clip, probe_clips
from hf_pgg.data.video_file import Size
from hf_pgg.localization.attribution import Method
from hf_pgg.localization.clips import clip_boxes, tubes_of_maps
from hf_pgg.localization.score_maps import score_maps
from hf_pgg.metrics.actions import VideoMAP
from hf_pgg.metrics.tubes import ClipError, Tube, label_by_viterbi, temporal_iou, trim

_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
_SWITCH_COSTS = (0.0, 1.0, 2.0, 4.0)


@dataclass(frozen=True, eq=False)
class JoinedClip:
    """Clips one after the other.

    Attributes:
        frames: All frames, (N, H, W, 3) uint8.
        truth: The tube of each clip, in frames of the whole.
        acting, name: Which of them is asked for (no other is of its class), and the name of its clip.

    Example:
        >>> clip = JoinedClip(np.zeros((9, 4, 4, 3), np.uint8), [Tube([3, 4], [[0, 0, 3, 3]] * 2, 1.0, 5)], 0, "row 7")
        >>> clip.truth[clip.acting].label
        5
    """

    frames: np.ndarray
    truth: Sequence[Tube]
    acting: int
    name: str


def join_plan(labels: Sequence[int], seed: int = 0) -> list[tuple[int, int, int]]:
    """Says for every clip i which clips are joined, in order of time: one of another class, i, one of another class.

    The neighbours of clip i are drawn from `default_rng([seed, i])`; they may be of one class. ValueError if all are.

    Example:
        >>> join_plan([0, 1, 1])
        [(2, 0, 2), (0, 1, 0), (0, 2, 0)]
    """
    classes = np.asarray(labels)
    if len(np.unique(classes)) < 2:
        raise ValueError(f"the {len(classes)} clips are of one class: give clips of two classes at least")
    plan = []
    for i, label in enumerate(classes):
        before, after = np.random.default_rng([seed, i]).choice(np.flatnonzero(classes != label), 2).tolist()
        plan.append((before, i, after))
    return plan


def join_clips(
    dataset: Dataset,
    plan: Iterable[tuple[int, int, int]],
    *,
    video_column: str = "video",
    label_column: str = "label",
    box_column: str = "bboxes",
    box_format: str | None = None,
) -> Iterator[JoinedClip]:
    """Yields the joined clips of a plan; those around the acting one are brought to its size, with their boxes.

    The plan is that of [`join_plan`]; for `box_format` see [`~hf_pgg.localization.clips.clip_boxes`].

    Raises:
        ClipError, VideoError: If a clip has no box, or none of the image, on some frame, or cannot be read.

    Example:
        >>> next(join_clips(boxed_clips, [(1, 0, 3)])).frames.shape
        (24, 16, 16, 3)
    """
    for rows in plan:
        size: Size | None = None
        parts, truth, start = {}, {}, 0
        for position in (1, 0, 2):  # the acting clip sets the size
            row = dataset[rows[position]]
            with open_clip(row[video_column]) as clip:
                parts[position] = clip.read(np.arange(len(clip)), size)
                stored = clip.stored_size
            size = size or stored
            where = (f"row {rows[position]}", box_column)
            boxes = clip_boxes(row[box_column], len(parts[position]), stored, *where, box_format)
            if boxes is None:
                raise ClipError(*where, "there are no boxes", "Leave out clips without boxes.")
            truth[position] = (boxes * np.tile(np.divide(size, stored)[::-1], 2), row[label_column])
        tubes = []
        for boxes, label in (truth[position] for position in range(3)):
            tubes.append(Tube(start + np.arange(len(boxes)), corners(boxes), 1.0, label))
            start += len(boxes)
        yield JoinedClip(np.concatenate([parts[0], parts[1], parts[2]]), tubes, 1, f"row {rows[1]}")


def _window_starts(length: int, window: int, stride: int) -> np.ndarray:
    """First frames of windows `stride` apart, (W,) int64 ascending; the last window ends with the clip."""
    if not 1 <= stride <= window <= length:
        given = f"windows of {window} frames, {stride} apart, in a clip of {length}"
        raise ValueError(f"{given}: take 1 <= stride <= window <= length")
    return np.unique(np.append(np.arange(0, length - window + 1, stride), length - window))


def _frame_scores(scores: ArrayLike, starts: ArrayLike, window: int, length: int) -> np.ndarray:
    """Scores of windows (W, classes) to those of frames (N, classes): the mean over the windows around a frame."""
    after = np.arange(length)[:, None] - np.asarray(starts)  # (N, W)
    covers = (after >= 0) & (after < window)
    return covers @ np.asarray(scores, np.float64) / covers.sum(1, keepdims=True)


def _contrast(curve: ArrayLike) -> np.ndarray:
    """A class's scores (N,), from 0 at their least to 1 at their greatest; 1 where they are constant.

    A softmax over many classes seldom exceeds one half: what counts is when a class scores more than at other times.
    """
    values = np.asarray(curve, np.float64)
    span = np.ptp(values)
    return (values - values.min()) / span if span > 0 else np.ones_like(values)


@dataclass(frozen=True, eq=False)
class ScannedClip:
    """What a classifier says along one joined clip.

    Attributes:
        scores: Scores of each frame, (N, classes): the mean over the windows that it lies in.
        maps, indices: Means of the maps of each window's predicted class, (M, H, W), and the frames that they are of.
        size: Height and width of the frames in pixels.
        truth, acting, name: As in [`JoinedClip`].

    Example:
        >>> scores = np.array([[0.1], [0.9], [0.8], [0.2]])
        >>> scan = ScannedClip(scores, np.ones((1, 8, 8)), np.array([0]), (40, 60), [], 0, "row 7")
        >>> [tube.frames.tolist() for tube in scan.tubes(scan.frame_boxes([0.5])[0.5], scan.when(0.5))]
        [[1, 2]]
    """

    scores: np.ndarray
    maps: np.ndarray
    indices: np.ndarray
    size: Size
    truth: Sequence[Tube]
    acting: int
    name: str

    def frame_boxes(self, thresholds: Sequence[float]) -> dict[float, np.ndarray]:
        """Returns the boxes (N, 4) of all frames at each threshold; see [`tubes_of_maps`]."""
        tubes = tubes_of_maps(self.maps, thresholds, self.indices, len(self.scores), self.size, 0)
        return {threshold: tube.boxes for threshold, tube in zip(thresholds, tubes, strict=True)}

    def when(self, switch_cost: float) -> np.ndarray:
        """Says which frames show each class, (classes, N) bool; a high `switch_cost` finds it throughout or never."""
        return np.stack([label_by_viterbi(_contrast(curve), switch_cost) for curve in self.scores.T])

    def tubes(self, boxes: np.ndarray, when: np.ndarray) -> list[Tube]:
        """Returns the stretches of each class, from [`frame_boxes`] and [`when`], with its mean score there."""
        tubes: list[Tube] = []
        for whole, curve, keep in zip(self.untrimmed(boxes), self.scores.T, when, strict=True):
            tubes += trim(whole, curve, keep)
        return tubes

    def untrimmed(self, boxes: np.ndarray) -> list[Tube]:
        """Returns each class from end to end, with its greatest score: what trimming is compared with."""
        frames = np.arange(len(self.scores))
        return [Tube(frames, boxes, float(score), label, self.name) for label, score in enumerate(self.scores.max(0))]


def scan_clips(
    model: nn.Module,
    spec: InputSpec,
    clips: Iterable[JoinedClip],
    method: Method,
    *,
    window: int,
    stride: int,
    sampler: FrameSampler,
    batch_size: int = 8,
) -> Iterator[ScannedClip]:
    """Slides a classifier over each clip; arguments as in [`~hf_pgg.localization.clips.detect_actions`].

    `window` and `stride` are the frames of a window (best as many as clips of training have) and between windows.

    Example:
        >>> from hf_pgg.localization.attribution import grad_cam
        >>> joined = join_clips(boxed_clips, [(1, 0, 3)])
        >>> options = {"window": 8, "stride": 4, "sampler": FrameSampler(4)}
        >>> next(scan_clips(video_model, spec, joined, grad_cam, **options)).scores.shape
        (24, 2)
    """
    for clip in clips:
        length = len(clip.frames)
        starts = _window_starts(length, window, stride)
        sampled = [start + sampler.indices(window, np.random.default_rng(0)) for start in starts]
        scored = list(score_maps(model, spec, (clip.frames[i] for i in sampled), method, batch_size=batch_size))
        indices, place = np.unique(np.concatenate(sampled), return_inverse=True)
        maps = np.zeros((len(indices), *scored[0].score_map.shape[1:]))
        np.add.at(maps, place, np.concatenate([result.score_map for result in scored]))
        scores = _frame_scores([result.probabilities for result in scored], starts, window, length)
        height, width = clip.frames.shape[1:3]
        maps /= np.bincount(place)[:, None, None]
        yield ScannedClip(scores, maps, indices, (height, width), clip.truth, clip.acting, clip.name)


def evaluate_scans(
    scans: Iterable[ScannedClip], num_classes: int, settings: Sequence[tuple[float, float]]
) -> dict[tuple[float, float], dict[str, float]]:
    """Measures how well actions are found in time, for each (threshold of the maps, switch cost).

    In [0, 1] the mean over clips of the acting clip's IoU in time, its class taken as known: `temporal_iou` with that
    class's best-scored stretch (0 where it has none), `temporal_iou_untrimmed` with the whole joined clip. In percent,
    over the tubes of all three clips: `video_mAP@0.2` and `video_mAP@0.5` ([`~hf_pgg.metrics.VideoMAP`]), and
    `..._untrimmed`, of tubes from end to end.

    Example:
        >>> truth = [Tube([1, 2], [[0, 0, 59, 39]] * 2, 1.0, label=0)]
        >>> scores = np.array([[0.1], [0.9], [0.8], [0.2]])
        >>> scan = ScannedClip(scores, np.ones((1, 8, 8)), np.array([0]), (40, 60), truth, 0, "row 7")
        >>> figures = evaluate_scans([scan], num_classes=1, settings=[(0.5, 0.5)])[0.5, 0.5]
        >>> figures["temporal_iou"], figures["temporal_iou_untrimmed"]
        (1.0, 0.5)
    """
    thresholds = (0.2, 0.5)
    metrics = {setting: [VideoMAP(num_classes, thresholds) for _ in range(2)] for setting in settings}
    ious: dict[tuple[float, float], list[tuple[float, float]]] = {setting: [] for setting in settings}
    for scan in scans:
        acting = scan.truth[scan.acting]
        boxes = scan.frame_boxes(list(dict.fromkeys(threshold for threshold, _ in settings)))
        when = {cost: scan.when(cost) for cost in {cost for _, cost in settings}}
        for setting in settings:
            whole, trimmed = scan.untrimmed(boxes[setting[0]]), scan.tubes(boxes[setting[0]], when[setting[1]])
            for metric, tubes in zip(metrics[setting], (trimmed, whole), strict=True):
                metric.update(scan.name, scan.truth, tubes)
            own = [tube for tube in trimmed if tube.label == acting.label]
            best = temporal_iou(max(own, key=lambda tube: tube.score), acting) if own else 0.0
            ious[setting].append((best, temporal_iou(whole[0], acting)))
    if not all(ious.values()):
        raise ValueError("there is no joined clip to evaluate: give one or more scans")
    results = {}
    for setting, pairs in ious.items():
        results[setting] = dict(
            zip(("temporal_iou", "temporal_iou_untrimmed"), np.mean(pairs, 0).tolist(), strict=True)
        )
        for metric, suffix in zip(metrics[setting], ("", "_untrimmed"), strict=True):
            figures = metric.compute()
            results[setting] |= {f"video_mAP@{at}{suffix}": figures[f"video_mAP@{at}"] for at in thresholds}
    return results


def measure_joined(
    model: nn.Module,
    spec: InputSpec,
    data: DatasetDict,
    method: Method,
    sampler: FrameSampler,
    *,
    window: int | None = None,
    stride: int | None = None,
    seed: int = 0,
    video_column: str = "video",
    label_column: str = "label",
    box_column: str = "bboxes",
    box_format: str | None = None,
) -> dict[str, float]:
    """Measures joined `test` clips with the threshold and the switch cost that joined `validation` clips choose.

    `window` and `stride` are by default the median length of the validation clips, and an eighth of it. Returned is
    what [`evaluate_scans`] returns, and `threshold`, `switch_cost`, `window` and `stride`.

    Example:
        >>> from hf_pgg.localization.attribution import grad_cam
        >>> data = DatasetDict(validation=boxed_clips.select([0, 1]), test=boxed_clips.select([2, 3]))
        >>> found = measure_joined(video_model, spec, data, grad_cam, FrameSampler(4))
        >>> found["window"], found["stride"]
        (8, 1)
    """
    window = window or int(np.median(probe_clips(data["validation"], video_column)["num_frames"]))
    stride = stride or max(window // 8, 1)
    columns = {"video_column": video_column, "label_column": label_column, "box_column": box_column}
    parts = {part: data[part] for part in ("validation", "test")}
    boxed = {part: rows.select(check_box_column(rows, box_column, box_format)) for part, rows in parts.items()}

    def measure(rows: Dataset, settings: Sequence[tuple[float, float]]) -> dict[tuple[float, float], dict[str, float]]:
        clips = join_clips(rows, join_plan(rows[label_column], seed), **columns, box_format=box_format)
        scans = scan_clips(model, spec, clips, method, window=window, stride=stride, sampler=sampler)
        return evaluate_scans(scans, rows.features[label_column].num_classes, settings)

    selection = measure(boxed["validation"], [(at, cost) for at in _THRESHOLDS for cost in _SWITCH_COSTS])
    chosen = max(selection, key=lambda key: (selection[key]["video_mAP@0.5"], selection[key]["temporal_iou"]))
    figures = measure(boxed["test"], [chosen])[chosen]
    return {**figures, "threshold": chosen[0], "switch_cost": chosen[1], "window": window, "stride": stride}
