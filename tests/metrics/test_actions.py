"""Frame-mAP and video-mAP against hand-counted cases and against a second computation straight from the definitions."""

from collections import defaultdict
from fractions import Fraction

import evaluate
import numpy as np
import pyarrow.parquet as parquet
import pytest

from hf_pgg.metrics import module_path
from hf_pgg.metrics.actions import FrameMAP, VideoMAP, average_precision, match
from hf_pgg.metrics.tubes import ClipError, FrameDetections, Tube

ACT = {"interpolation": "trapezoid", "matching": "best-unmatched", "pixel_convention": "inclusive"}
YOWO_FRAMES = {**ACT, "interpolation": "every-point", "matching": "best"}
YOWO_VIDEOS = {**ACT, "interpolation": "every-point"}
MULTISPORTS = {"interpolation": "every-point", "matching": "best", "pixel_convention": "exclusive"}
EVALUATORS = pytest.mark.parametrize("evaluator", [ACT, YOWO_FRAMES, YOWO_VIDEOS, MULTISPORTS])


# ---------------------------------------------------------------------------------------------- the definitions again


def iou_of_boxes(a, b, pixel_convention):
    more = 1 if pixel_convention == "inclusive" else 0
    width = min(a[2], b[2]) - max(a[0], b[0]) + more
    height = min(a[3], b[3]) - max(a[1], b[1]) + more
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1 + more) * (y2 - y1 + more) for x1, y1, x2, y2 in (a, b)]
    return width * height / (sum(areas) - width * height)


def iou_of_tubes(a, b, pixel_convention):
    """Tubes as dictionaries from frame to box."""
    shared = [t for t in a if t in b]
    if not shared:
        return 0.0
    spatial = sum(iou_of_boxes(a[t], b[t], pixel_convention) for t in shared) / len(shared)
    return spatial * len(shared) / len({*a, *b})


def suppress(tubes, threshold, iou):
    """ACT's way around: the best takes away what overlaps it, then the next best of the rest."""
    rest, kept = sorted(tubes, key=lambda tube: -tube[0]), []
    while rest:
        kept.append(rest[0])
        rest = [tube for tube in rest[1:] if iou(tube[1], kept[-1][1]) <= threshold]
    return kept


def precision_recall(real, found, threshold, matching, iou):
    """Points (recall, precision) of one class, exact. `real`: scene to things; `found`: (score, scene, thing)."""
    positives, right, taken, points = sum(map(len, real.values())), 0, set(), []
    for n, (_, scene, thing) in enumerate(sorted(found, key=lambda item: -item[0]), start=1):
        best, best_iou = None, -1.0
        for j, other in enumerate(real.get(scene, [])):
            if matching == "best-unmatched" and (scene, j) in taken:
                continue
            if (overlap := iou(thing, other)) > best_iou:
                best, best_iou = (scene, j), overlap
        if best_iou >= threshold and best not in taken:
            taken.add(best)
            right += 1
        points.append((Fraction(right, positives), Fraction(right, n)))
    return points


def area(points, positives, interpolation):
    if interpolation == "trapezoid":
        before, total = (Fraction(0), Fraction(1)), Fraction(0)
        for point in points:
            total += (point[0] - before[0]) * (point[1] + before[1]) / 2
            before = point
        return 100 * float(total)
    tops, top = {}, Fraction(0)  # recall level to the best precision at that recall or beyond
    for recall, precision in reversed(points):
        top = max(top, precision)
        tops[recall] = top
    levels = [Fraction(k, positives) for k in range(1, positives + 1)]
    return 100 * float(sum((tops.get(level, Fraction(0)) for level in levels), Fraction(0)) / positives)


def mean_over_classes(real, found, threshold, evaluator, iou):
    """`real`: class to scene to things; `found`: class to list."""
    aps = []
    for label, scenes in real.items():
        points = precision_recall(scenes, found[label], threshold, evaluator["matching"], iou)
        aps.append(area(points, sum(map(len, scenes.values())), evaluator["interpolation"]))
    return sum(aps) / len(aps)


def frame_map_by_definition(truth, detections, threshold, evaluator):
    real, found = defaultdict(lambda: defaultdict(list)), defaultdict(list)
    for clip, tubes in truth.items():
        for tube in tubes:
            for t, box in zip(tube.frames.tolist(), tube.boxes.tolist(), strict=True):
                real[tube.label][clip, t].append(box)
    for clip, d in detections.items():
        for t, box, score, label in zip(*(x.tolist() for x in (d.frames, d.boxes, d.scores, d.labels)), strict=True):
            found[label].append((score, (clip, t), box))
    return mean_over_classes(
        real, found, threshold, evaluator, lambda a, b: iou_of_boxes(a, b, evaluator["pixel_convention"])
    )


def video_map_by_definition(truth, predictions, thresholds, evaluator, nms_threshold):
    known = {}

    def iou(a, b):
        key = (id(a), id(b))
        if key not in known:
            known[key] = iou_of_tubes(a, b, evaluator["pixel_convention"])
        return known[key]

    def as_dictionary(tube):
        return dict(zip(tube.frames.tolist(), tube.boxes.tolist(), strict=True))

    real, found = defaultdict(lambda: defaultdict(list)), defaultdict(list)
    for clip, tubes in truth.items():
        for tube in tubes:
            real[tube.label][clip].append(as_dictionary(tube))
        for label in {tube.label for tube in predictions[clip]}:
            own = [(tube.score, as_dictionary(tube)) for tube in predictions[clip] if tube.label == label]
            own = own if nms_threshold is None else suppress(own, nms_threshold, iou)
            found[label] += [(score, clip, tube) for score, tube in own]
    return [mean_over_classes(real, found, threshold, evaluator, iou) for threshold in thresholds]


# ---------------------------------------------------------------------------------------------- clips


def still_tube(first, last, box, score=1.0, label=0):
    """A tube over the frames first to last, both included, whose box does not move."""
    frames = np.arange(first, last + 1)
    return Tube(frames, np.tile(box, (len(frames), 1)), score, label)


def over_clips(metric, truth, found):
    assert truth.keys() == found.keys()
    for clip, tubes in truth.items():
        metric.update(clip, tubes, found[clip])
    return metric.compute()


def frame_map(truth, detections, num_classes, **options):
    """Frame-mAP of all clips, by name."""
    return over_clips(FrameMAP(num_classes, **options), truth, detections)


def video_map(truth, tubes, num_classes, **options):
    """Video-mAP of all clips, by name."""
    return over_clips(VideoMAP(num_classes, **options), truth, tubes)


def boxes_of(tubes):
    """All boxes of tubes as frame detections with their tube's score."""
    lengths = [len(tube.frames) for tube in tubes]
    return FrameDetections(
        np.concatenate([np.zeros(0, int), *(tube.frames for tube in tubes)]),
        np.concatenate([np.zeros((0, 4)), *(tube.boxes for tube in tubes)]),
        np.repeat(np.array([tube.score for tube in tubes], float), lengths),
        np.repeat(np.array([tube.label for tube in tubes], int), lengths),
    )


def disturb(truth, num_classes, seed, jitter=0.05):
    """Tubes from ground truth: some lost, some twice, cut in time, moved, scored at random with ties, labels mixed."""
    rng, out = np.random.default_rng(seed), {}
    for clip, tubes in truth.items():
        out[clip] = []
        for tube in (tube for tube in tubes for _ in range(rng.choice(3, p=[0.2, 0.5, 0.3]))):
            n = len(tube.frames)
            start = int(rng.integers(0, 1 + n // 3))
            end = n - int(rng.integers(0, 1 + n // 3))
            start, end = (start, end) if start < end else (0, n)
            boxes = tube.boxes[start:end]
            size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
            moved = np.sort((boxes + jitter * size * rng.normal(size=boxes.shape)).reshape(-1, 2, 2), 1).reshape(-1, 4)
            label = tube.label if rng.random() < 0.9 else int(rng.integers(num_classes))
            out[clip].append(Tube(tube.frames[start:end], moved, round(float(rng.random()), 2), label))
    return out


def random_truth(seed, clips=12, num_classes=4):
    """Crowded clips: several people of the same class close together; the last class and the last clip have none."""
    rng, truth = np.random.default_rng(seed), {}
    for c in range(clips - 1):
        truth[f"clip-{c}"] = []
        for _ in range(rng.integers(1, 5)):
            frames = np.arange(rng.integers(0, 6), rng.integers(8, 14))
            corner = rng.integers(0, 25, 2) + rng.integers(-2, 3, (len(frames), 2)).cumsum(0)
            boxes = np.concatenate([corner, corner + rng.integers(10, 30, 2)], axis=1)
            truth[f"clip-{c}"].append(Tube(frames, boxes, 1.0, int(rng.integers(num_classes - 1))))
    return {**truth, "quiet": []}


@pytest.fixture(scope="module")
def ucf_test(shared_data):
    """Ground truth of the test split of UCF101-24: [x, y, w, h] becomes [x, y, x + w, y + h]."""
    truth = {}
    for row in parquet.read_table(shared_data / "ucf101-24-tubes" / "test.parquet").to_pylist():
        truth[row["video_id"]] = [
            Tube(
                np.arange(tube["start"], tube["end"]),
                np.array(tube["boxes"], float) @ np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]),
                1.0,
                row["label"],
                row["video_id"],
            )
            for tube in row["tubes"]
        ]
    return truth


@pytest.fixture(scope="module")
def jhmdb_test(shared_data):
    path = shared_data / "jhmdb21-160p" / "test.parquet"
    truth = {}
    for row in parquet.read_table(path, columns=["video_id", "bboxes", "label", "num_frames"]).to_pylist():
        boxes = np.array(row["bboxes"], float)
        boxes[:, 2:] += boxes[:, :2]
        truth[row["video_id"]] = [Tube(np.arange(row["num_frames"]), boxes, 1.0, row["label"], row["video_id"])]
    return truth


# ---------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("hits", "positives", "trapezoid", "every_point"),
    [
        ([1], 1, 1.0, 1.0),
        ([], 3, 0.0, 0.0),
        ([0, 0], 2, 0.0, 0.0),
        ([1], 2, 1 / 2, 1 / 2),
        ([0, 1], 1, (0 + 1 / 2) / 2, 1 / 2),
        # P = 1, 1/2, 2/3 at R = 1/2, 1/2, 1
        ([1, 0, 1], 2, 1 / 2 + (1 / 2 + 2 / 3) / 4, 1 / 2 + 2 / 3 / 2),
        # P = 0, 1/2, 2/3: the envelope lifts the first hit to 2/3
        ([0, 1, 1], 2, (0 + 1 / 2) / 4 + (1 / 2 + 2 / 3) / 4, 2 / 3),
    ],
)
def test_average_precision_by_hand(hits, positives, trapezoid, every_point):
    assert average_precision(hits, positives) == pytest.approx(trapezoid)
    assert average_precision(hits, positives, "every-point") == pytest.approx(every_point)


def test_a_ground_truth_counts_once():
    ious = np.array([[0.9], [0.8]])
    assert match(ious, 0.5).tolist() == [True, False]


def test_a_taken_ground_truth_is_passed_over_by_act_and_fails_the_detection_in_voc():
    ious = np.array([[0.9, 0.6], [0.8, 0.7], [0.6, 0.2]])
    assert match(ious, 0.5, "best-unmatched").tolist() == [True, True, False]
    assert match(ious, 0.5, "best").tolist() == [True, False, False]


def test_the_same_boxes_are_others_in_another_frame():
    ious = np.array([[0.9], [0.8], [0.7], [0.6]])
    assert match(ious, 0.5, scenes=np.array([3, 8, 3, 8])).tolist() == [True, True, False, False]


def test_the_pixel_convention_decides_small_boxes():
    """10 x 10 pixels moved by 3 and written [0, 0, 9, 9]: 70 / 130 with the last pixel, 54 / 108 without."""
    truth, found = {"a": [still_tube(0, 0, [0, 0, 9, 9])]}, {"a": boxes_of([still_tube(0, 0, [3, 0, 12, 9])])}
    for convention, iou in (("inclusive", 70 / 130), ("exclusive", 54 / 108)):
        for threshold, expected in ((iou - 1e-9, 100), (iou + 1e-9, 0)):
            result = frame_map(truth, found, 1, thresholds=(threshold,), pixel_convention=convention)
            assert list(result.values()) == [expected]


def test_frame_map_by_hand():
    """Two classes, two frames. Class 0: a hit at 0.9 and a false box at 0.8; class 1: nothing found."""
    truth = {"a": [still_tube(0, 1, [0, 0, 9, 9]), still_tube(0, 0, [50, 50, 69, 69], label=1)]}
    found = {"a": boxes_of([still_tube(0, 0, [0, 0, 9, 9], 0.9), still_tube(1, 1, [30, 0, 39, 9], 0.8)])}
    assert frame_map(truth, found, 3) == {"frame_mAP@0.5": pytest.approx((100 / 2 + 0) / 2)}


def test_video_map_by_hand():
    """Frames 0-9 against 5-14, the same box: temporal IoU 5/15. Half as wide: 5/15 * 1/2."""
    truth = {"a": [still_tube(0, 9, [0, 0, 9, 9])]}
    whole, half = still_tube(5, 14, [0, 0, 9, 9]), still_tube(5, 14, [0, 0, 4, 9])
    assert video_map(truth, {"a": [whole]}, 1, thresholds=(0.33, 0.34)) == {
        "video_mAP@0.33": 100,
        "video_mAP@0.34": 0,
        "video_mAP@0.5:0.95": 0,
    }
    assert video_map(truth, {"a": [half]}, 1, thresholds=(0.16, 0.17))["video_mAP@0.16"] == 100
    assert video_map(truth, {"a": [half]}, 1, thresholds=(0.16, 0.17))["video_mAP@0.17"] == 0
    almost = still_tube(0, 7, [0, 0, 9, 9])  # IoU 0.8: right at 0.5, 0.55, ... 0.8
    assert video_map(truth, {"a": [almost]}, 1)["video_mAP@0.5:0.95"] == pytest.approx(70)


def test_suppression_takes_the_weaker_of_two_tubes_of_a_class():
    truth = {"a": [still_tube(0, 9, [0, 0, 9, 9])]}
    found = {"a": [still_tube(0, 4, [0, 0, 9, 9], 0.9), still_tube(0, 9, [0, 0, 9, 9], 0.8)]}
    assert video_map(truth, found, 1)["video_mAP@0.75"] == 0
    assert video_map(truth, found, 1, nms_threshold=None)["video_mAP@0.75"] == pytest.approx(25)


def test_a_class_without_ground_truth_is_left_out_of_the_mean():
    truth, found = {"a": [still_tube(0, 3, [0, 0, 9, 9])]}, {"a": [still_tube(0, 3, [0, 0, 9, 9], 0.5, label=2)]}
    metric = FrameMAP(3)
    metric.update("a", truth["a"], boxes_of(found["a"] + truth["a"]))
    assert metric.compute() == {"frame_mAP@0.5": 100}
    assert np.isnan(metric.average_precisions()[0, 1:]).all()


# ---------------------------------------------------------------------------------------------- twice computed


@EVALUATORS
@pytest.mark.parametrize("seed", range(6))
def test_crowded_clips_score_as_defined(evaluator, seed):
    truth = random_truth(seed)
    tubes = disturb(truth, 4, seed)
    boxes = {clip: boxes_of(found) for clip, found in tubes.items()}
    for threshold in (0.3, 0.5):
        result = frame_map(truth, boxes, 4, thresholds=(threshold,), **evaluator)
        expected = frame_map_by_definition(truth, boxes, threshold, evaluator)
        assert result == {f"frame_mAP@{threshold:g}": pytest.approx(expected)} and 0 < expected < 100
    for nms_threshold in (0.3, None):
        result = video_map(truth, tubes, 4, nms_threshold=nms_threshold, **evaluator)
        low, *rest = video_map_by_definition(
            truth, tubes, (0.2, *(0.5 + 0.05 * i for i in range(10))), evaluator, nms_threshold
        )
        assert result["video_mAP@0.2"] == pytest.approx(low) and 0 < low < 100
        assert result["video_mAP@0.5"] == pytest.approx(rest[0])
        assert result["video_mAP@0.5:0.95"] == pytest.approx(np.mean(rest))


def test_the_evaluators_disagree():
    truth = random_truth(2)
    boxes = {clip: boxes_of(found) for clip, found in disturb(truth, 4, 2, jitter=0.15).items()}
    evaluators = (ACT, YOWO_FRAMES, YOWO_VIDEOS, MULTISPORTS)
    values = [frame_map(truth, boxes, 4, **evaluator)["frame_mAP@0.5"] for evaluator in evaluators]
    assert len({round(value, 3) for value in values}) == 4


def test_the_order_of_the_clips_does_not_matter():
    truth = random_truth(1)
    rng = np.random.default_rng(0)
    tubes = {
        clip: [Tube(t.frames, t.boxes, float(rng.random()), t.label) for t in found]
        for clip, found in disturb(truth, 4, 1).items()
    }
    backwards = {clip: truth[clip] for clip in reversed(truth)}
    assert video_map(truth, tubes, 4) == pytest.approx(video_map(backwards, tubes, 4))


@EVALUATORS
def test_jhmdb_scores_100_against_itself_and_as_defined_when_disturbed(jhmdb_test, evaluator):
    assert len(jhmdb_test) == 268
    own = {clip: boxes_of(tubes) for clip, tubes in jhmdb_test.items()}
    assert frame_map(jhmdb_test, own, 21, **evaluator) == {"frame_mAP@0.5": pytest.approx(100)}
    assert list(video_map(jhmdb_test, jhmdb_test, 21, **evaluator).values()) == pytest.approx([100] * 4)
    tubes = disturb(jhmdb_test, 21, seed=7)
    boxes = {clip: boxes_of(found) for clip, found in tubes.items()}
    expected = frame_map_by_definition(jhmdb_test, boxes, 0.5, evaluator)
    assert frame_map(jhmdb_test, boxes, 21, **evaluator) == {"frame_mAP@0.5": pytest.approx(expected)}
    result = list(video_map(jhmdb_test, tubes, 21, **evaluator).values())[:3]
    assert result == pytest.approx(video_map_by_definition(jhmdb_test, tubes, (0.2, 0.5, 0.75), evaluator, 0.3))
    assert 20 < result[1] < 90


def test_ucf_scores_100_against_itself_but_not_after_suppression(ucf_test):
    """Couples act in nearly the same place: suppression at 0.3, which ACT and YOWO apply, removes right tubes."""
    assert sum(map(len, ucf_test.values())) == 1315
    own = {clip: boxes_of(tubes) for clip, tubes in ucf_test.items()}
    assert frame_map(ucf_test, own, 24) == {"frame_mAP@0.5": pytest.approx(100)}
    assert list(video_map(ucf_test, ucf_test, 24, nms_threshold=None).values()) == pytest.approx([100] * 4)
    ceiling = video_map(ucf_test, ucf_test, 24)
    assert list(ceiling.values()) == pytest.approx([97.944] * 4, abs=1e-3)
    assert video_map_by_definition(ucf_test, ucf_test, (0.5,), ACT, 0.3) == pytest.approx([ceiling["video_mAP@0.5"]])


@pytest.mark.parametrize(("frames", "videos"), [(ACT, ACT), (YOWO_FRAMES, YOWO_VIDEOS)])
def test_ucf_scores_as_defined_when_disturbed(ucf_test, frames, videos):
    truth = dict(list(ucf_test.items())[::4])
    tubes = disturb(truth, 24, seed=3)
    boxes = {clip: boxes_of(found) for clip, found in tubes.items()}
    expected = frame_map_by_definition(truth, boxes, 0.5, frames)
    assert frame_map(truth, boxes, 24, **frames) == {"frame_mAP@0.5": pytest.approx(expected)}
    result = list(video_map(truth, tubes, 24, **videos).values())[:3]
    assert result == pytest.approx(video_map_by_definition(truth, tubes, (0.2, 0.5, 0.75), videos, 0.3))
    assert 20 < expected < 90 and 20 < result[0] < 90


# ---------------------------------------------------------------------------------------------- evaluate


def plain(tube, *fields):
    values = {"frames": tube.frames.tolist(), "boxes": tube.boxes.tolist(), "score": tube.score, "label": tube.label}
    return {field: values[field] for field in ("frames", "boxes", *fields)}


def test_the_evaluate_modules_load_offline_and_agree():
    truth = random_truth(2)
    tubes = disturb(truth, 4, 2)
    frames, videos = evaluate.load(module_path("frame_map")), evaluate.load(module_path("video_map"))
    for clip in truth:
        found = boxes_of(tubes[clip])
        fields = {name: getattr(found, name).tolist() for name in ("frames", "boxes", "scores", "labels")}
        references = [plain(tube, "label") for tube in truth[clip]]
        frames.add(clips=clip, detections=fields, references=references)
        predictions = [plain(tube, "score", "label") for tube in tubes[clip]]
        videos.add_batch(clips=[clip], predictions=[predictions], references=[references])
    boxes = {clip: boxes_of(found) for clip, found in tubes.items()}
    assert frames.compute(num_classes=4, **YOWO_FRAMES) == frame_map(truth, boxes, 4, **YOWO_FRAMES)
    assert videos.compute(num_classes=4, nms_threshold=0.5) == video_map(truth, tubes, 4, nms_threshold=0.5)


def test_the_evaluate_modules_name_a_bad_clip():
    metric = evaluate.load(module_path("video_map"))
    row = plain(still_tube(0, 3, [0, 0, 9, 9]), "label")
    metric.add(clips="v_Fencing_g01_c01", predictions=[], references=[{**row, "frames": [0, 1, 1, 2]}])
    with pytest.raises(ClipError, match=r"clip 'v_Fencing_g01_c01', field 'frames': frame 1 is followed by frame 1"):
        metric.compute(num_classes=2)


# ---------------------------------------------------------------------------------------------- bad input

GOOD = {
    "frames": np.arange(3),
    "boxes": np.tile([0.0, 0, 9, 9], (3, 1)),
    "scores": np.ones(3),
    "labels": np.zeros(3, int),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"boxes": GOOD["boxes"][:2]},
            r"clip 'v', field 'scores': scores are \(3,\) for 2 boxes\. Give one score a box",
        ),
        ({"frames": np.arange(4)}, r"clip 'v', field 'frames': int64 \(4,\) for 3 boxes\. Give one integer a box"),
        ({"labels": np.zeros(3)}, r"clip 'v', field 'labels': float64 .* Give one integer"),
        ({"scores": np.array([1, np.nan, 1])}, r"clip 'v', field 'scores': score 1 is nan\. Mend the detector"),
        ({"boxes": np.tile([5, 5, 2, 9], (3, 1))}, r"clip 'v', field 'boxes': box 0 is inverted.*add the corner"),
        ({"boxes": np.full((3, 4), np.inf)}, r"clip 'v', field 'boxes': box 0 is \[inf.*Leave out"),
        ({"boxes": np.zeros((3, 5))}, r"clip 'v', field 'boxes': boxes are \(N, 4\), not \(3, 5\)"),
    ],
)
def test_malformed_frame_detections_are_named(change, message):
    with pytest.raises(ClipError, match=message):
        FrameDetections(**{**GOOD, **change}, clip="v")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            still_tube(0, 3, [0, 0, 9, 9], label=2),
            r"clip 'v', field 'label': label 2 is not one of the 2 classes.*0 to 1",
        ),
        (still_tube(0, 3, [0, 0, 9, 9], label=-1), r"clip 'v', field 'label': label -1"),
        (
            Tube([0, 1, 3], np.ones((3, 4)) * 5, 1.0, 0),
            r"clip 'v', field 'frames': predicted tube 0 has no box in frame 2.*",
        ),
        (still_tube(0, 3, [0, 0, 0.5, 0.9]), r"clip 'v', field 'boxes': all coordinates are <= 1.*Scale them"),
        (Tube([0], np.ones((1, 4)) * 5, 1.0, 0, clip="w"), r"clip 'v', field 'clip': it was given boxes of clip 'w'"),
    ],
)
def test_unusable_tubes_are_named(found, message):
    truth = still_tube(0, 3, [0, 0, 9, 9])
    with pytest.raises(ClipError, match=message):
        VideoMAP(2).update("v", [truth], [found])
    with pytest.raises(ClipError, match=message.replace("predicted", "ground-truth")):
        FrameMAP(2).update("v", [found], boxes_of([truth]))


def test_frame_detections_with_an_unknown_label_or_of_another_clip_are_named():
    with pytest.raises(ClipError, match=r"clip 'v', field 'label': label 4"):
        FrameMAP(4).update("v", [], FrameDetections(**{**GOOD, "labels": np.full(3, 4)}))
    with pytest.raises(ClipError, match=r"clip 'v', field 'clip': it was given boxes of clip 'w'"):
        FrameMAP(4).update("v", [], FrameDetections(**GOOD, clip="w"))


def test_a_clip_that_comes_twice_is_named():
    truth = {"a": [still_tube(0, 3, [0, 0, 9, 9])]}
    metric = VideoMAP(1)
    metric.update("a", truth["a"], [])
    with pytest.raises(ClipError, match=r"clip 'a', field 'clip': it was added before"):
        metric.update("a", truth["a"], [])


def test_nothing_to_find_is_an_error_and_nothing_found_is_zero():
    with pytest.raises(ValueError, match="no ground truth in the 1 clips"):
        video_map({"a": []}, {"a": []}, 1)
    assert set(video_map({"a": [still_tube(0, 3, [0, 0, 9, 9])]}, {"a": []}, 1).values()) == {0}


@pytest.mark.parametrize(
    "bad", [{"interpolation": "11-point"}, {"matching": "hungarian"}, {"pixel_convention": 1}, {"thresholds": (50,)}]
)
def test_a_wrong_option_fails_before_the_first_clip(bad):
    with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
        FrameMAP(2, **bad)
