"""Linking, gap filling and trimming of tubes: dynamic programs against enumeration, and real tubes taken apart."""

from itertools import pairwise, product

import numpy as np
import pyarrow.parquet as parquet
import pytest

from hf_pgg.linking import link_greedy, link_viterbi
from hf_pgg.metrics.actions import video_map
from hf_pgg.tubes import (
    ClipError,
    Tube,
    box_iou,
    fill_gaps,
    label_by_max_sum,
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


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("overlap_weight", [0.0, 1.0, 3.0])
def test_viterbi_finds_the_path_that_enumeration_finds(seed, overlap_weight):
    boxes, scores = random_frames(seed, (3, 2, 4, 3, 2))

    def energy(path):
        return sum(
            scores[t][i] + scores[t + 1][j] + overlap_weight * box_iou(boxes[t][i], boxes[t + 1][j], "inclusive").item()
            for t, (i, j) in enumerate(pairwise(path))
        )

    left = [list(range(len(frame))) for frame in boxes]
    expected = []
    while all(left):
        best = max(product(*left), key=energy)
        expected.append(Tube(np.arange(5), np.array([boxes[t][i] for t, i in enumerate(best)]), 0.0, 7))
        left = [[i for i in frame if i != taken] for frame, taken in zip(left, best, strict=True)]
    found = link_viterbi(boxes, scores, 7, overlap_weight=overlap_weight)
    assert len(found) == len(expected) == 2
    assert all(any(same(tube, other) for other in expected) for tube in found)


def test_a_tube_scores_the_mean_of_its_boxes_and_the_best_comes_first():
    boxes = [[[0, 0, 9, 9], [50, 0, 59, 9]]] * 3
    scores = [[0.1, 0.9], [0.2, 0.6], [0.6, 0.3]]
    for link in (link_viterbi, link_greedy):
        tubes = link(boxes, scores, 3)
        assert [tube.score for tube in tubes] == pytest.approx([0.6, 0.3])
        assert tubes[0].boxes[:, 0].tolist() == [50] * 3 and tubes[0].label == 3


def test_people_who_pass_each_other_keep_their_tubes():
    """Both walk at 4 pixels a frame; where they meet, their boxes overlap by half."""
    rng = np.random.default_rng(0)
    right, left = walking(0, 29, (0, 0), (4, 0), 0.8), walking(0, 29, (116, 20), (-4, 0), 0.6)
    boxes, scores = take_apart([right, left], 30, rng)
    for link in (link_viterbi, link_greedy):
        tubes = link(boxes, scores, 0)
        assert len(tubes) == 2 and same(tubes[0], right) and same(tubes[1], left)


def test_greedy_takes_the_best_score_among_the_boxes_that_overlap():
    boxes = [[[0, 0, 9, 9]], [[0, 0, 9, 9], [2, 0, 11, 9], [9, 0, 18, 9]]]
    tubes = link_greedy(boxes, [[1.0], [0.4, 0.6, 0.9]], 0)
    assert [tube.boxes[:, 0].tolist() for tube in tubes] == [[9], [0, 2], [0]]


def test_greedy_lets_the_better_tube_choose_first():
    boxes = [[[0, 0, 9, 9], [1, 0, 10, 9]], [[1, 0, 10, 9]]]
    tubes = link_greedy(boxes, [[0.9, 0.2], [0.9]], 0)
    assert tubes[0].boxes[:, 0].tolist() == [0, 1] and tubes[1].boxes[:, 0].tolist() == [1]


@pytest.mark.parametrize(("missing", "lengths"), [(2, [6]), (3, [3, 3])])
def test_greedy_bridges_gaps_up_to_max_gap(missing, lengths):
    box = [[0, 0, 9, 9]]
    boxes = [box] * 3 + [EMPTY] * missing + [box] * 3
    scores = [np.ones(len(frame)) for frame in boxes]
    assert [len(tube.frames) for tube in link_greedy(boxes, scores, 0, max_gap=2)] == lengths


def test_frames_without_boxes_leave_gaps_that_are_filled():
    tube = walking(0, 9, (0, 0), (1, 1))
    boxes, scores = take_apart([tube], 10, np.random.default_rng(0))
    for t in (0, 4, 5, 9):
        boxes[t], scores[t] = EMPTY, np.zeros(0)
    for link in (link_viterbi, link_greedy):
        (linked,) = link(boxes, scores, 0)
        assert linked.frames.tolist() == [1, 2, 3, 6, 7, 8]
        filled = fill_gaps(linked)
        assert filled.frames.tolist() == list(range(1, 9))
        assert filled.boxes == pytest.approx(tube.boxes[1:9]) and filled.score == linked.score


def test_no_detections_make_no_tubes():
    for link in (link_viterbi, link_greedy):
        assert link([], [], 0) == [] and link([EMPTY] * 3, [[]] * 3, 0) == []
    (single,) = link_viterbi([EMPTY, [[0, 0, 9, 9]]], [[], [0.5]], 0)
    assert single.frames.tolist() == [1]


def test_viterbi_of_one_frame_takes_boxes_by_score():
    tubes = link_viterbi([[[0, 0, 9, 9], [20, 0, 29, 9]]], [[0.3, 0.7]], 0)
    assert [tube.score for tube in tubes] == [0.7, 0.3]


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


@pytest.mark.parametrize("seed", range(8))
def test_the_max_sum_stretch_is_that_of_enumeration(seed):
    scores = np.random.default_rng(seed).random(12)
    spans = [(a, b) for a in range(12) for b in range(a, 13)]
    start, end = max(spans, key=lambda span: (scores[span[0] : span[1]] - 0.6).sum())
    assert np.flatnonzero(label_by_max_sum(scores, 0.6)).tolist() == list(range(start, end))


def test_where_nothing_happens_nothing_is_left():
    tube = walking(0, 4, (0, 0), (1, 0))
    low = np.full(5, 0.1)
    assert trim(tube, low, label_by_viterbi(low, 1.0)) == [] == trim(tube, low, label_by_max_sum(low, 0.5))
    assert label_by_viterbi([], 1.0).shape == label_by_max_sum([], 0.5).shape == (0,)


def test_trimming_keeps_the_stretches_with_the_action():
    tube = walking(10, 29, (0, 0), (1, 0), label=4)
    scores = np.full(20, 0.1)
    scores[3:8], scores[5] = 0.9, 0.3  # a dip of one frame
    scores[14:19] = 0.8
    first, second = trim(tube, scores, label_by_viterbi(scores, 0.5))
    assert first.frames.tolist() == list(range(13, 18)) and second.frames.tolist() == list(range(24, 29))
    assert first.boxes == pytest.approx(tube.boxes[3:8]) and first.label == 4
    assert (first.score, second.score) == pytest.approx((scores[3:8].mean(), 0.8))
    (best,) = trim(tube, scores, label_by_max_sum(scores, 0.5))
    assert same(best, second)
    assert len(trim(tube, scores, label_by_viterbi(scores, 0.0))) == 3


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


def test_an_actor_alone_is_found_among_stray_boxes(shared_data):
    """JHMDB: one actor through the whole clip. Viterbi keeps the whole path, greedy linking loses leaps."""
    rng = np.random.default_rng(0)
    path = shared_data / "jhmdb21-160p" / "test.parquet"
    rows = parquet.read_table(path, columns=["video_id", "bboxes", "label"]).to_pylist()[::3]
    truth, spanning, greedy = {}, {}, {}
    for row in rows:
        tube = as_tube(0, row["bboxes"], 0.9, row["label"])
        boxes, scores = take_apart([tube], len(tube.frames), rng)
        add_strays(boxes, scores, rng)
        truth[row["video_id"]] = [tube]
        spanning[row["video_id"]] = link_viterbi(boxes, scores, tube.label)[:1]
        greedy[row["video_id"]] = [fill_gaps(found) for found in link_greedy(boxes, scores, tube.label)]
    assert all(same(found, truth[clip][0]) for clip, (found,) in spanning.items())
    assert video_map(truth, greedy, 21)["video_mAP@0.5"] > 95


def test_crowds_taken_apart_are_linked_again(shared_data):
    """UCF101-24, clips with several tubes. Not all return: people in one place swap, a repeated action is bridged."""
    rng = np.random.default_rng(0)
    truth, linked = {}, {}
    for row in parquet.read_table(shared_data / "ucf101-24-tubes" / "test.parquet").to_pylist():
        if len(row["tubes"]) < 2:
            continue
        parts = [(tube["start"], tube["boxes"]) for tube in row["tubes"]]
        tubes = [as_tube(*part, 0.9 - 0.01 * k, row["label"]) for k, part in enumerate(parts)]
        truth[row["video_id"]] = tubes
    truth = dict(list(truth.items())[::4])
    for clip, tubes in truth.items():
        boxes, scores = take_apart(tubes, 1 + max(tube.frames[-1] for tube in tubes), rng)
        linked[clip] = [fill_gaps(found) for found in link_greedy(boxes, scores, tubes[0].label, clip=clip)]
    assert video_map(truth, linked, 24, nms_threshold=None)["video_mAP@0.5"] > 75


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


@pytest.mark.parametrize("link", [link_viterbi, link_greedy])
@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        ([EMPTY, EMPTY], [[]], r"field 'scores': scores for 1 frames, boxes for 2\. Give both"),
        ([EMPTY, None], [[], []], r"field 'boxes': frame 1 has none\. Give an empty array"),
        ([EMPTY, [[0, 0, 9, 9]]], [[], [0.5, 0.5]], r"field 'scores': scores are \(2,\) for 1 boxes of frame 1"),
        ([[[0, 0, 9, 9]]], [[np.nan]], r"field 'scores': score 0 of frame 0 is nan\. Mend"),
        ([[[9, 0, 0, 9]]], [[0.5]], r"field 'boxes': box 0 of frame 0 is inverted"),
    ],
)
def test_malformed_detections_are_named(link, boxes, scores, message):
    with pytest.raises(ClipError, match=r"clip 'v_Fencing', " + message):
        link(boxes, scores, 0, clip="v_Fencing")


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
        label_by_max_sum([0.5, np.nan], 0.5)
    with pytest.raises(ValueError, match="`pixel_convention`"):
        box_iou(np.zeros(4), np.zeros(4), "half-open")
