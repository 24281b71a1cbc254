"""Overlap, gap filling and trimming of tubes: a dynamic program against enumeration, and real tubes with gaps."""

from itertools import pairwise, product

import numpy as np
import pyarrow.parquet as parquet
import pytest

from hf_pgg.metrics.actions import VideoMAP
from hf_pgg.metrics.boxes import box_iou
from hf_pgg.metrics.tubes import ClipError, Tube, fill_gaps, label_by_viterbi, trim, tube_iou, tube_nms

EMPTY = np.zeros((0, 4))


def walking(first, last, start, step, score=0.5, label=0):
    """A tube whose box of 20 x 40 moves by `step` a frame."""
    frames = np.arange(first, last + 1)
    corner = np.asarray(start) + np.outer(frames - first, step)
    return Tube(frames, np.tile(corner, 2) + np.array([0, 0, 20, 40]), score, label)


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


# ---------------------------------------------------------------------------------------------- gaps


def test_frames_without_boxes_leave_gaps_that_are_filled():
    tube = walking(0, 9, (0, 0), (1, 1))
    known = [1, 2, 3, 6, 7, 8]
    filled = fill_gaps(Tube(tube.frames[known], tube.boxes[known], 0.7, 2, "a clip"))
    assert filled.frames.tolist() == list(range(1, 9))
    assert filled.boxes == pytest.approx(tube.boxes[1:9])
    assert (filled.score, filled.label, filled.clip) == (0.7, 2, "a clip")


def test_actors_seen_in_every_third_frame_are_found_again(shared_data):
    """JHMDB: one actor through the whole clip; between the frames where the box is known it moves nearly straight."""
    path = shared_data / "jhmdb21-160p" / "test.parquet"
    metric = VideoMAP(21)
    for row in parquet.read_table(path, columns=["video_id", "bboxes", "label"]).to_pylist()[::3]:
        boxes = np.array(row["bboxes"], float)
        boxes[:, 2:] += boxes[:, :2]
        tube = Tube(np.arange(len(boxes)), boxes, 0.9, row["label"])
        known = [*range(0, len(boxes) - 1, 3), len(boxes) - 1]
        filled = fill_gaps(Tube(tube.frames[known], tube.boxes[known], tube.score, tube.label))
        assert np.array_equal(filled.frames, tube.frames)
        metric.update(row["video_id"], [tube], [filled])
    assert metric.compute()["video_mAP@0.5"] > 95


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


def test_where_nothing_happens_nothing_is_left():
    tube = walking(0, 4, (0, 0), (1, 0))
    low = np.full(5, 0.1)
    assert trim(tube, low, label_by_viterbi(low, 1.0)) == []
    assert label_by_viterbi([], 1.0).shape == (0,)


def test_trimming_keeps_the_stretches_with_the_action():
    tube = walking(10, 29, (0, 0), (1, 0), label=4)
    scores = np.full(20, 0.1)
    scores[3:8], scores[5] = 0.9, 0.3  # a dip of one frame
    scores[14:19] = 0.8
    first, second = trim(tube, scores, label_by_viterbi(scores, 0.5))
    assert first.frames.tolist() == list(range(13, 18)) and second.frames.tolist() == list(range(24, 29))
    assert first.boxes == pytest.approx(tube.boxes[3:8]) and first.label == 4
    assert (first.score, second.score) == pytest.approx((scores[3:8].mean(), 0.8))
    assert len(trim(tube, scores, label_by_viterbi(scores, 0.0))) == 3


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


def test_scores_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match=r"`scores` are probabilities in \[0, 1\]"):
        label_by_viterbi([0.5, 3.0], 1.0)
    with pytest.raises(ValueError, match=r"`scores` are \(N,\) finite numbers"):
        label_by_viterbi([0.5, np.nan], 0.5)
    with pytest.raises(ValueError, match="`pixel_convention`"):
        box_iou(np.zeros(4), np.zeros(4), "half-open")
