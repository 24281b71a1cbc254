"""Linking, gap filling and trimming of tubes: dynamic programs against enumeration, and real tubes taken apart."""

from itertools import pairwise, product

import numpy as np
import pytest

from hf_pgg.metrics.tubes import (
    ClipError,
    Tube,
    box_iou,
    label_by_viterbi,
    trim,
    tube_iou,
    tube_nms,
)

EMPTY = np.zeros((0, 4))


def random_frames(seed, counts, spread=8):
    """For each frame as many boxes as `counts` says, close enough together to overlap, and their scores."""
    rng = np.random.default_rng(seed)
    corners = [rng.integers(0, spread, (n, 2)).astype(float) for n in counts]
    return [np.concatenate([c, c + 10], axis=1) for c in corners], [rng.random(n) for n in counts]


def walking(first, last, start, step, score=0.5, label=0):
    """A tube whose box of 20 x 40 moves by `step` a frame."""
    frames = np.arange(first, last + 1)
    corner = np.asarray(start) + np.outer(frames - first, step)
    return Tube(frames, np.tile(corner, 2) + np.array([0, 0, 20, 40]), score, label)


def take_apart(tubes, num_frames, rng):
    """The boxes of tubes as a detector would give them: frame by frame, in random order, each with its tube's score."""
    boxes, scores = [], []
    for t in range(num_frames):
        here = [(tube.boxes[tube.frames == t][0], tube.score) for tube in tubes if t in tube.frames]
        here = [here[i] for i in rng.permutation(len(here))]
        boxes.append(np.array([box for box, _ in here]).reshape(-1, 4))
        scores.append(np.array([score for _, score in here]))
    return boxes, scores


def same(a, b):
    return np.array_equal(a.frames, b.frames) and np.allclose(a.boxes, b.boxes) and a.label == b.label


# ---------------------------------------------------------------------------------------------- overlap


@pytest.mark.parametrize("seed", range(5))
def test_box_iou_counts_pixels(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        a, b = np.sort(rng.integers(0, 12, (2, 2, 2)), axis=1).reshape(2, 4).tolist()
        for convention, last in (("inclusive", 1), ("exclusive", 0)):
            pixels = [
                {(x, y) for x in range(box[0], box[2] + last) for y in range(box[1], box[3] + last)} for box in (a, b)
            ]
            union = pixels[0] | pixels[1]
            expected = len(pixels[0] & pixels[1]) / len(union) if union else 0
            assert box_iou(np.array(a, float), np.array(b, float), convention) == pytest.approx(expected)


def test_tube_iou_is_temporal_times_spatial():
    still = Tube(np.arange(10), np.tile([0, 0, 9, 9], (10, 1)), 1.0, 0)
    later = Tube(np.arange(5, 15), np.tile([5, 0, 14, 9], (10, 1)), 1.0, 0)
    assert tube_iou(still, later) == pytest.approx(5 / 15 * 50 / 150)
    assert tube_iou(still, Tube(np.arange(10, 12), np.ones((2, 4)), 1.0, 0)) == 0
    assert tube_iou(still, still) == 1
    grows = Tube([8, 9], [[0, 0, 9, 9], [0, 0, 9, 4]], 1.0, 0)
    assert tube_iou(still, grows) == pytest.approx(2 / 10 * (1 + 1 / 2) / 2)


def test_suppression_is_within_a_class_and_keeps_the_better():
    a, b, c = (walking(0, 9, (0, 0), (1, 0), score) for score in (0.5, 0.9, 0.9))
    other_class = walking(0, 9, (0, 0), (1, 0), 0.1, label=1)
    away = walking(0, 9, (300, 0), (1, 0), 0.2)
    assert tube_nms([a, b, c, other_class, away]) == [1, 4, 3]
    assert tube_nms([a, b], threshold=1.0) == [1, 0]
    assert tube_nms([]) == []


# ---------------------------------------------------------------------------------------------- linking


# ---------------------------------------------------------------------------------------------- trimming


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("switch_cost", [0.0, 0.2, 0.7, 2.0])
def test_the_viterbi_labelling_is_that_of_enumeration(seed, switch_cost):
    scores = np.random.default_rng(seed).random(9)

    def energy(labels):
        unary = sum(s if label else 1 - s for s, label in zip(scores, labels, strict=True))
        return unary - switch_cost * sum(a != b for a, b in pairwise(labels))

    best = max(product((0, 1), repeat=9), key=energy)
    assert label_by_viterbi(scores, switch_cost).tolist() == list(map(bool, best))


# ---------------------------------------------------------------------------------------------- real tubes


def add_strays(boxes, scores, rng):
    """A false box of low score in every second frame."""
    for t in range(0, len(boxes), 2):
        corner = rng.integers(0, 100, 2)
        boxes[t] = np.concatenate([boxes[t], [[*corner, *(corner + 40)]]])
        scores[t] = np.append(scores[t], 0.2)


def as_tube(start, boxes, score, label):
    boxes = np.array(boxes, float)
    boxes[:, 2:] += boxes[:, :2]
    return Tube(np.arange(start, start + len(boxes)), boxes, score, label)


# ---------------------------------------------------------------------------------------------- bad input

GOOD = {"frames": [3, 4, 5], "boxes": np.tile([0.0, 0, 9, 9], (3, 1)), "score": 0.5, "label": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": [3, 5, 4]}, r"field 'frames': frame 5 is followed by frame 4\. Sort the boxes"),
        ({"frames": [3, 3, 4]}, r"field 'frames': frame 3 is followed by frame 3\. .*keep one a frame"),
        ({"frames": [3, 4]}, r"field 'boxes': 3 boxes for 2 frames\. Give one box a frame"),
        ({"frames": [], "boxes": EMPTY}, r"field 'frames': frames are \(N,\) integers with N >= 1.*leave out"),
        ({"frames": [3.0, 4.0, 5.0]}, r"field 'frames': .* not float64"),
        ({"boxes": np.zeros((3, 2, 2))}, r"field 'boxes': boxes are \(N, 4\), not \(3, 2, 2\)"),
        ({"boxes": np.tile([50, 50, 20, 40], (3, 1))}, r"field 'boxes': box 0 .*inverted.* add the corner"),
        ({"boxes": np.full((3, 4), np.nan)}, r"field 'boxes': box 0 of the tube from frame 3 on is \[nan.*Leave out"),
        ({"score": float("nan")}, r"field 'score': the score is nan\. Mend the detector"),
        ({"label": "Fencing"}, r"field 'label': the label is 'Fencing'\. Labels are integers"),
    ],
)
def test_a_malformed_tube_is_named(change, message):
    with pytest.raises(ClipError, match=r"clip 'v_Fencing', " + message):
        Tube(**{**GOOD, **change}, clip="v_Fencing")


def test_scores_for_another_number_of_frames_are_named():
    tube = Tube(**GOOD, clip="v_Fencing")
    with pytest.raises(ClipError, match=r"clip 'v_Fencing', field 'scores': \(2,\) for 3 frames"):
        trim(tube, [0.5, 0.5], [True, True, True])
    with pytest.raises(ClipError, match=r"clip 'v_Fencing', field 'keep': \(2,\) for 3 frames"):
        trim(tube, [0.5, 0.5, 0.5], [True, True])
    with pytest.raises(ClipError, match=r"clip 'v_Fencing', field 'score'"):
        trim(tube, [0.5, np.nan, 0.5], [True, True, True])
