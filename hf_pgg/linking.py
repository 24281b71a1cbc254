"""Linking: per-frame boxes of one class to tubes.

G. Gkioxari, J. Malik, "Finding Action Tubes", CVPR 2015 (`link_viterbi`); V. Kalogeiton et al., "Action Tubelet
Detector for Spatio-Temporal Action Localization" (ACT), ICCV 2017 (`link_greedy`). Pure functions on numpy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from hf_pgg.tubes import ClipError, Tube, box_iou, checked_boxes, checked_scores

Path = list[tuple[int, int]]  # of each frame the number and the index of the box taken from it


def _checked_frames(
    boxes: Sequence[ArrayLike], scores: Sequence[ArrayLike], clip: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    if len(boxes) != len(scores):
        problem = f"scores for {len(scores)} frames, boxes for {len(boxes)}"
        raise ClipError(clip, "scores", problem, "Give both one array a frame.")
    for name, values in (("boxes", boxes), ("scores", scores)):
        for t, value in enumerate(values):
            if value is None:
                raise ClipError(clip, name, f"frame {t} has none", "Give an empty array where nothing was detected.")
    checked = [checked_boxes(frame, clip, f" of frame {t}") for t, frame in enumerate(boxes)]
    return checked, [checked_scores(s, len(checked[t]), clip, f" of frame {t}") for t, s in enumerate(scores)]


def _to_tubes(
    paths: Sequence[Path], boxes: list[np.ndarray], scores: list[np.ndarray], label: int, clip: str
) -> list[Tube]:
    """Tubes scored by the mean of their boxes' scores, best first."""
    tubes = []
    for path in paths:
        frames, taken = [t for t, _ in path], [boxes[t][i] for t, i in path]
        score = float(np.mean([scores[t][i] for t, i in path]))
        tubes.append(Tube(np.array(frames), np.array(taken), score, label, clip))
    return sorted(tubes, key=lambda tube: -tube.score)


def _best_path(frames: Sequence[tuple[np.ndarray, np.ndarray]], overlap_weight: float) -> list[int]:
    """The path of most energy by dynamic programming: of each frame's boxes and scores (none empty) one index."""
    boxes, scores = frames[0]
    if len(frames) == 1:
        return [int(np.argmax(scores))]
    energy, came_from = np.zeros(len(scores)), []
    for next_boxes, next_scores in frames[1:]:
        step = scores[:, None] + next_scores[None] + overlap_weight * box_iou(boxes[:, None], next_boxes[None])
        total = energy[:, None] + step
        came_from.append(total.argmax(0))
        energy, boxes, scores = total.max(0), next_boxes, next_scores
    path = [int(np.argmax(energy))]
    for back in reversed(came_from):
        path.append(int(back[path[-1]]))
    return path[::-1]


def link_viterbi(
    boxes: Sequence[ArrayLike],
    scores: Sequence[ArrayLike],
    label: int,
    *,
    overlap_weight: float = 1.0,
    clip: str = "",
) -> list[Tube]:
    """Boxes of one class to tubes that span the clip, best first (Gkioxari & Malik).

    A path takes one box in each frame and maximises the sum of s_t + s_{t+1} + `overlap_weight` * IoU over its steps.
    Its boxes are taken out and the next path is sought, until a frame runs out. A frame that never had a box is stepped
    over: the tubes have a gap there. A tube's score is the mean score of its boxes. Cut the tubes with `trim`.

    Args:
        boxes: T arrays (n_t, 4); frame t is number t of the clip. An empty array says that nothing was detected.
        scores: T arrays (n_t,).

    Raises:
        ClipError: If boxes and scores do not match or a box or score is malformed.
    """
    all_boxes, all_scores = _checked_frames(boxes, scores, clip)
    left = {t: np.arange(len(frame)) for t, frame in enumerate(all_boxes) if len(frame)}
    paths = []
    while left and all(len(indices) for indices in left.values()):
        remaining = [(all_boxes[t][indices], all_scores[t][indices]) for t, indices in left.items()]
        picks = dict(zip(left, _best_path(remaining, overlap_weight), strict=True))
        paths.append([(t, int(left[t][pick])) for t, pick in picks.items()])
        left = {t: np.delete(indices, picks[t]) for t, indices in left.items()}
    return _to_tubes(paths, all_boxes, all_scores, label, clip)


def link_greedy(
    boxes: Sequence[ArrayLike],
    scores: Sequence[ArrayLike],
    label: int,
    *,
    overlap: float = 0.5,
    max_gap: int = 5,
    clip: str = "",
) -> list[Tube]:
    """Boxes of one class to tubes that start and end where their boxes do, best first; frame by frame (ACT's linking).

    In each frame the tubes choose by falling mean score: of the free boxes with IoU >= `overlap` to a tube's last box,
    the one of highest score. Boxes that are left start tubes. A tube ends after more than `max_gap` frames without a
    box; shorter gaps stay in it for `fill_gaps`. A tube's score is the mean score of its boxes. ACT also drops tubes of
    fewer than 15 frames and of a score below 0.005; here that is left to the caller.

    Args:
        boxes: T arrays (n_t, 4); frame t is number t of the clip. An empty array says that nothing was detected.
        scores: T arrays (n_t,).

    Raises:
        ClipError: If boxes and scores do not match or a box or score is malformed.
    """
    all_boxes, all_scores = _checked_frames(boxes, scores, clip)
    active: list[tuple[Path, list[float]]] = []  # paths and the scores of their boxes
    ended: list[Path] = []
    for t, frame in enumerate(all_boxes):
        free = list(range(len(frame)))
        for path, own_scores in sorted(active, key=lambda tube: -sum(tube[1]) / len(tube[1])):
            last_t, last = path[-1]
            ious = box_iou(all_boxes[last_t][last], frame[free])
            near = [i for i, iou in zip(free, ious, strict=True) if iou >= overlap]
            if near:
                best = near[int(np.argmax(all_scores[t][near]))]
                path.append((t, best))
                own_scores.append(float(all_scores[t][best]))
                free.remove(best)
        ended += [path for path, _ in active if t - path[-1][0] > max_gap]
        active = [tube for tube in active if t - tube[0][-1][0] <= max_gap]
        active += [([(t, i)], [float(all_scores[t][i])]) for i in free]
    return _to_tubes(ended + [path for path, _ in active], all_boxes, all_scores, label, clip)
