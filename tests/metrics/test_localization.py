"""Localization metrics: the expected numbers of the reference's own tests (clovaai/wsolevaluation), cases counted by
hand, and OpenCV, which the reference calls, on random maps."""

import pickle

import evaluate
import numpy as np
import pytest

from hf_pgg.metrics import module_path
from hf_pgg.metrics.boxes import (
    _find_contours,
    boxes_at_thresholds,
    image_boxes,
    normalize_map,
    pairwise_iou,
    resize_boxes,
)
from hf_pgg.metrics.localization import BoxAccuracy, PixelAveragePrecision, threshold_grid

TENTHS = np.arange(0, 1, 0.1)


def blob(x0, y0, x1, y1, size=224):
    """A map that is 1 from (x0, y0) up to, without, (x1, y1) and 0 elsewhere."""
    score_map = np.zeros((size, size))
    score_map[y0:y1, x0:x1] = 1
    return score_map


def count_mask(count, start=0):
    mask = np.zeros(224 * 224, bool)
    mask[start : start + count] = True
    return mask.reshape(224, 224)


# ---------------------------------------------------------------------------------------------- boxes


def test_iou_counts_the_last_pixel():
    assert (pairwise_iou(np.zeros((3, 4), int), np.zeros((5, 4), int)) == np.ones((3, 5))).all()
    pair = [[1, 1, 3, 3], [4, 4, 5, 5]]
    assert (pairwise_iou(pair, pair) == np.eye(2)).all()
    assert pairwise_iou([[1, 2, 5, 6]], [[3, 1, 4, 5]])[0, 0] == pytest.approx(8 / 27, abs=1e-6)


@pytest.mark.parametrize("bad", [[[1, 1, 0, 0]], [[-1, 0, 2, 2]], [[0, 0, np.nan, 1]], [1, 1, 2, 2], [[0, 1, 2]]])
def test_iou_refuses_what_are_no_corners(bad):
    with pytest.raises(ValueError, match="corners"):
        pairwise_iou(bad, [[1, 1, 2, 2]])


def test_boxes_are_scaled_and_truncated():
    assert resize_boxes([[1, 2, 4, 3]], (10, 20), (35, 10)).tolist() == [[3, 1, 14, 1]]
    assert resize_boxes([[1, 2, 1, 2]], (3, 3), (3, 3)).tolist() == [[1, 2, 1, 2]]


def test_annotated_boxes_become_corners():
    # the first test images of CUB as annotated, and as in the reference's metadata
    assert image_boxes([60.0, 27.0, 325.0, 304.0], (500, 335)).tolist() == [[60, 27, 385, 331]]
    assert image_boxes([[14, 112, 388, 186]], (500, 347)).tolist() == [[14, 112, 402, 298]]
    corners = [[111, 108, 441, 193], [2, 69, 437, 207]]
    assert image_boxes(corners, (500, 375), "xyxy").tolist() == corners
    assert image_boxes([0, 0, 500, 375], (500, 375)).tolist() == [[0, 0, 499, 374]]  # up to the edge


@pytest.mark.parametrize(
    ("boxes", "box_format", "message"),
    [
        ([], "xywh", "no box"),
        (np.zeros((0, 4)), "xywh", "no box"),
        ([[1, 2, 3]], "xywh", r"\(N, 4\)"),
        ([[10, 10, 95, 45]], "xywh", "set box_format='xyxy'"),
        ([[10, 10, 101, 45]], "xyxy", "leaves the image of 100x50"),
        ([[100, 10, 0, 10]], "xywh", "leaves the image"),
        ([[-1, 10, 20, 10]], "xywh", "leaves the image"),
        ([[10, 10, -5, 10]], "xywh", "inverted"),
        ([[10, 10, 5, 20]], "xyxy", "inverted"),
        ([[10, 10, np.nan, 20]], "xywh", "NaN"),
        ([[10, 10, 20, 20]], "cxcywh", "box_format"),
    ],
)
def test_impossible_boxes_are_refused(boxes, box_format, message):
    with pytest.raises(ValueError, match=message):
        image_boxes(boxes, (100, 50), box_format)
    metric = BoxAccuracy()
    with pytest.raises(ValueError, match=message):
        metric.update(np.eye(3), boxes, (100, 50), box_format)
    assert metric.num_maps == 0


def test_an_image_size_is_two_numbers():
    with pytest.raises(ValueError, match="original_size"):
        image_boxes([0, 0, 1, 1], (100, 50, 3))


# ---------------------------------------------------------------------------------------------- maps to boxes


def test_boxes_of_a_unimodal_map():
    score_map = [
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.4, 0.4, 0.4, 0.6],
        [0.0, 0.4, 1.0, 0.8, 0.6],
        [0.0, 0.4, 0.4, 0.4, 0.6],
    ]
    found = boxes_at_thresholds(score_map, np.arange(0, 1, 0.2))
    expected = [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]]
    assert found.largest[found.level_at].tolist() == expected
    assert boxes_at_thresholds(score_map, [0.4]).largest[0].tolist() == expected[2]


def test_boxes_of_a_multimodal_map():
    score_map = [
        [0.4, 0.0, 0.2, 0.2, 0.2],
        [0.4, 0.4, 0.0, 0.4, 0.0],
        [0.0, 0.0, 0.0, 0.4, 0.0],
        [1.0, 0.6, 0.8, 0.2, 0.2],
    ]
    found = boxes_at_thresholds(score_map, np.arange(0, 1, 0.2))
    expected = [[0, 0, 4, 3], [0, 0, 2, 2], [0, 3, 3, 3], [2, 3, 3, 3], [0, 3, 1, 3]]
    assert found.largest[found.level_at].tolist() == expected
    assert sorted(boxes_at_thresholds(score_map, [0.6]).boxes.tolist()) == [[0, 3, 1, 3], [2, 3, 3, 3]]


def test_every_grey_level_is_cut_on_its_own():
    ramp = np.tile(np.arange(256) / 255, (3, 1))
    found = boxes_at_thresholds(ramp, (np.arange(255) + 0.5) / 255)
    assert found.boxes.tolist() == found.largest.tolist() == [[level + 1, 0, 255, 2] for level in range(255)]
    assert found.level.tolist() == found.level_at.tolist() == list(range(255))


def test_a_zero_map_has_the_zero_box():
    found = boxes_at_thresholds(np.zeros((3, 3)), np.arange(0, 1, 0.2))
    assert found.boxes.tolist() == found.largest.tolist() == [[0, 0, 0, 0]] and found.level_at.tolist() == [0] * 5


def test_holes_have_contours():
    ring = blob(2, 3, 9, 10, size=12) - blob(4, 5, 7, 8, size=12) + blob(5, 6, 6, 7, size=12)
    # the ring, the hole from the ring's inner pixels on, and the pixel in the hole
    assert sorted(boxes_at_thresholds(ring, [0.5]).boxes.tolist()) == [[2, 3, 9, 10], [3, 4, 8, 9], [5, 6, 6, 7]]
    # filled, the ring is larger than the full square of 6x6 beside it
    assert boxes_at_thresholds(np.hstack([blob(0, 0, 6, 6, size=12), ring]), [0.5]).largest[0].tolist() == [
        14,
        3,
        21,
        10,
    ]
    # open at a corner only, the hole still is one: background is 4-connected
    diamond = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    boxes, _, largest = _find_contours(diamond[None])
    assert boxes.tolist() == [[0, 0, 2, 2], [0, 0, 2, 2]] and largest.tolist() == [[0, 0, 2, 2]]


def test_thresholds_do_not_mix():
    masks = np.stack([blob(0, 0, 12, 12, 12), np.zeros((12, 12)), blob(0, 0, 1, 12, 12), blob(11, 11, 12, 12, 12)]) > 0
    boxes, mask, largest = _find_contours(masks)
    assert mask.tolist() == [0, 2, 3] and boxes.tolist() == [[0, 0, 11, 11], [0, 0, 0, 11], [11, 11, 11, 11]]
    assert largest.tolist() == [boxes[0].tolist(), [-1] * 4, *boxes[1:].tolist()]


def test_of_contours_of_equal_area_the_last_counts():
    lines = blob(0, 0, 9, 1, size=12) + blob(5, 4, 6, 6, size=12) + blob(2, 4, 3, 9, size=12)  # lines have no area
    assert boxes_at_thresholds(lines, [0.5]).largest[0].tolist() == [5, 4, 6, 6]


@pytest.mark.parametrize("bad", [np.full((3, 3), np.nan), np.full((3, 3), 1.5), -np.eye(3), np.zeros(3), np.eye(3)[:0]])
def test_only_normalized_maps_are_cut(bad):
    with pytest.raises(ValueError, match="normalized_map"):
        boxes_at_thresholds(bad, TENTHS)


@pytest.mark.parametrize("bad", [[], [[0.1]], [1.5], [np.nan], [0.5, 0.2]])
def test_thresholds_are_ascending_numbers(bad):
    for metric in (BoxAccuracy, PixelAveragePrecision):
        with pytest.raises(ValueError, match="thresholds"):
            metric(thresholds=bad)


def test_a_map_is_resized_and_brought_to_0_and_1():
    ramp = normalize_map(np.arange(14.0)[None] * 3 - 5)
    assert ramp.shape == (224, 224) and ramp.min() == 0 and ramp.max() == 1
    # halfway between pixels the kernel is 19/32 for the near ones and -3/32 for the far ones: here -3, 19 and 0
    impulse = np.tile([0, 0, 1, 0, 0, 0], (6, 1))
    assert normalize_map(impulse, size=3) == pytest.approx(np.tile([0, 1, 3 / 22], (3, 1)), abs=1e-12)
    same = np.random.default_rng(0).random((224, 224))
    assert np.array_equal(normalize_map(same), (same - same.min()) / (same - same.min()).max())


@pytest.mark.parametrize("flat", [np.full((7, 7), 0.3), np.zeros((1, 1)), np.where(np.eye(7), np.nan, 1.0)])
def test_a_constant_map_and_one_with_nan_are_zeros_and_counted(flat):
    assert (normalize_map(flat) == 0).all()
    metric = BoxAccuracy(TENTHS)
    metric.update(flat, [10, 10, 50, 50], (100, 100))
    metric.update(blob(10, 10, 60, 60), [10, 10, 50, 50], (224, 224))
    result = metric.result()
    assert result["num_flat_maps"] == 1 and result["num_maps"] == 2 and result["max_box_acc"] == 0.5


@pytest.mark.parametrize("bad", [np.zeros((1, 7, 7)), np.zeros(7), np.zeros((0, 7)), np.array([[0, np.inf]])])
def test_what_is_no_map_is_refused(bad):
    for update in (
        lambda: BoxAccuracy().update(bad, [0, 0, 5, 5], (10, 10)),
        lambda: PixelAveragePrecision().update(bad, np.eye(3)),
    ):
        with pytest.raises(ValueError, match="score_map"):
            update()


# ---------------------------------------------------------------------------------------------- box metrics


def test_metrics_counted_by_hand():
    metric = BoxAccuracy(TENTHS)
    # a right box; a right one beside a larger wrong one; one of IoU 0.41; one that is right below threshold 0.5
    right = blob(20, 20, 120, 120)
    split = blob(0, 130, 224, 224) + blob(20, 20, 120, 120)
    thin = blob(20, 20, 120, 60)
    faint = 0.5 * blob(0, 0, 200, 200) + 0.5 * blob(100, 100, 110, 110)
    truth = [20, 20, 100, 100]
    metric.update(right, truth, (224, 224), correct=True)
    metric.update(split, truth, (224, 224), correct=True)
    metric.update(thin, truth, (224, 224), correct=True)
    metric.update(faint, [0, 0, 200, 200], (224, 224), correct=False)
    result = metric.result()
    assert result["max_box_acc"] == result["gt_known"] == 2 / 4 and result["best_threshold"] == 0
    assert result["top1_localization"] == 1 / 4
    assert [result[f"max_box_acc_v2_{d}"] for d in (30, 50, 70)] == [4 / 4, 3 / 4, 3 / 4]
    assert result["max_box_acc_v2"] == pytest.approx((1 + 0.75 + 0.75) / 3)
    fixed = metric.result(threshold=0.7)  # the faint box is lost
    assert fixed["box_acc"] == fixed["top1_localization"] == 1 / 4 and fixed["threshold"] == pytest.approx(0.7)
    assert [fixed[f"box_acc_v2_{d}"] for d in (30, 50, 70)] == [3 / 4, 2 / 4, 2 / 4]
    assert metric.curves()["box_acc"][1].tolist() == [0.5] * 5 + [0.25] * 5  # int(0.5 * 255) = uint8(255 * 0.5)


def test_any_box_of_an_image_serves():
    metric = BoxAccuracy([0.5])
    metric.update(blob(20, 20, 120, 120), [[150, 150, 50, 50], [20, 20, 100, 100]], (224, 224))
    assert metric.result()["max_box_acc"] == metric.result()["max_box_acc_v2"] == 1


def test_an_iou_of_exactly_a_half_is_right():
    metric = BoxAccuracy([0.5])
    metric.update(blob(0, 0, 99, 99), [0, 0, 199, 99], (224, 224), box_format="xyxy")  # 100 x 100 in 200 x 100
    result = metric.result()
    assert result["max_box_acc"] == result["max_box_acc_v2_50"] == 1 and result["max_box_acc_v2_70"] == 0


def test_boxes_follow_the_image_size():
    metric = BoxAccuracy([0.5])
    metric.update(blob(7, 0, 14, 7, size=14), [200, 0, 200, 50], (400, 100))
    metric.update(blob(7, 0, 14, 7, size=14), [200, 0, 400, 50], (400, 100), box_format="xyxy")
    assert metric.result()["max_box_acc_v2_70"] == 1


def test_thresholds_of_another_split():
    rng = np.random.default_rng(0)
    val, test = BoxAccuracy(), BoxAccuracy()
    for i in range(20):
        (val if i % 2 else test).update(rng.random((5, 5)), [30, 30, 120, 150], (224, 224))
    chosen, result = val.result(), test.result(threshold=val.result())
    assert result["threshold"] == chosen["best_threshold"]
    curves = test.curves()
    at = [int(np.flatnonzero(test.thresholds == chosen[f"best_threshold_v2_{d}"])[0]) for d in (30, 50, 70)]
    assert result["box_acc_v2"] == pytest.approx(np.mean([curves["box_acc_v2"][i, c] for i, c in enumerate(at)]))
    assert result["box_acc"] <= test.result()["max_box_acc"]
    with pytest.raises(ValueError, match="not among"):
        test.result(threshold=0.123)
    with pytest.raises(ValueError, match="best_threshold"):
        test.result(threshold=test.result(threshold=0.5))


def test_processes_merge_to_the_same_numbers():
    rng = np.random.default_rng(0)
    masks, maps = rng.random((6, 20, 30)) > 0.7, rng.random((6, 7, 7))
    whole, parts = BoxAccuracy(TENTHS), [BoxAccuracy(TENTHS) for _ in range(3)]  # the third saw no image
    pixels, pixel_parts = PixelAveragePrecision(), [PixelAveragePrecision() for _ in range(2)]
    for i in range(6):
        for metric in (whole, parts[i % 2]):
            metric.update(maps[i], [5, 5, 100, 80], (200, 100), correct=i < 4)
        for metric in (pixels, pixel_parts[i % 2]):
            metric.update(maps[i], masks[i])
    first, *others = (pickle.loads(pickle.dumps(part)) for part in parts)
    for other in others:
        first.merge(other)
    assert first.result() == whole.result() and first.num_maps == 6
    assert pixel_parts[0].merge(pixel_parts[1]).result() == pixels.result()


def test_what_does_not_fit_does_not_merge():
    with pytest.raises(ValueError, match="thresholds"):
        BoxAccuracy(TENTHS).merge(BoxAccuracy())
    with pytest.raises(ValueError, match="iou"):
        BoxAccuracy().merge(BoxAccuracy(iou=(0.5,)))
    with pytest.raises(ValueError, match="PixelAveragePrecision"):
        BoxAccuracy().merge(PixelAveragePrecision())
    judged, not_judged = BoxAccuracy(), BoxAccuracy()
    judged.update(np.eye(3), [0, 0, 5, 5], (10, 10), correct=True)
    not_judged.update(np.eye(3), [0, 0, 5, 5], (10, 10))
    with pytest.raises(ValueError, match="correct"):
        judged.merge(not_judged)
    with pytest.raises(ValueError, match="correct"):
        judged.update(np.eye(3), [0, 0, 5, 5], (10, 10))
    assert "top1_localization" not in not_judged.result()


@pytest.mark.parametrize("metric", [BoxAccuracy(), PixelAveragePrecision()])
def test_an_empty_split_has_no_result(metric):
    with pytest.raises(RuntimeError, match="no maps"):
        metric.result()


@pytest.mark.parametrize("iou", [(0.3, 0.7), (), (0.5, 1.5), (30, 50, 70)])
def test_iou_holds_a_half_and_fractions(iou):
    with pytest.raises(ValueError, match="iou"):
        BoxAccuracy(iou=iou)


def test_the_grid_is_that_of_the_reference():
    assert len(threshold_grid()) == 100 and len(threshold_grid(0.001)) == 1000
    with pytest.raises(ValueError, match="delta"):
        threshold_grid(0)


# ---------------------------------------------------------------------------------------------- pixels


def pxap(score_map, mask, ignore=None):
    metric = PixelAveragePrecision()
    metric.update(score_map, mask, ignore)
    return metric.result()["pixel_average_precision"]


@pytest.mark.parametrize("ignored_score", [0.0, 1.0])
@pytest.mark.parametrize(("foreground", "ignored"), [(43031, 0), (833, 1), (347, 35920)])
def test_a_perfect_map_has_pxap_1(foreground, ignored, ignored_score):
    mask, ignore = count_mask(foreground), count_mask(ignored, start=foreground)
    assert pxap(np.where(ignore, ignored_score, mask), mask, ignore) == 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("foreground", "background"), [(43031, 7145), (833, 49342), (347, 13909), (50176, 0)])
def test_a_constant_map_has_the_objects_share_as_pxap(foreground, background, value):
    ignore = count_mask(224**2 - background - foreground, start=foreground)
    result = pxap(np.full((224, 224), value), count_mask(foreground), ignore)
    assert result == pytest.approx(foreground / (foreground + background), abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_split_without_object_pixels_has_no_pxap(value):
    metric = PixelAveragePrecision()
    metric.update(np.full((224, 224), value), np.zeros((224, 224)))
    with pytest.raises(RuntimeError, match="no object pixel"):
        metric.result()


def test_pxap_counted_by_hand():
    values = np.repeat([1.0, 0.5, 0.5, 0.0], 224 * 56).reshape(224, 224)
    mask = np.repeat([1, 1, 0, 0], 224 * 56).reshape(224, 224)
    # P = 1 at R = 1/2, then P = 2/3 at R = 1
    assert pxap(values, mask) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    pooled = PixelAveragePrecision()
    pooled.update(values, mask)
    pooled.update(values, np.zeros((5, 5)))  # no object: its pixels are negatives
    # one positive quarter and one negative at 1; two and four at 1/2
    assert pooled.result()["pixel_average_precision"] == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 6)


def test_masks_are_joined_resized_and_weigh_more_than_ignore():
    halves = np.zeros((2, 10, 20), np.uint8)
    halves[0, :5], halves[1, 5:] = 255, 255
    assert pxap(np.eye(7), halves) == 1  # together the whole image
    score_map = blob(0, 0, 112, 224)
    assert pxap(score_map, blob(0, 0, 4, 8, size=8), np.ones((8, 8))) == 1  # only the object counts


def test_pxap_refuses_nan_and_masks_that_are_none():
    with pytest.raises(ValueError, match="NaN"):
        pxap(np.full((7, 7), np.nan), np.ones((7, 7)))
    with pytest.raises(ValueError, match="mask holds values beside"):
        pxap(np.eye(3), np.array([[1, 2], [3, 1]]))  # a trimap
    with pytest.raises(ValueError, match="ignore holds values beside"):
        pxap(np.eye(3), np.eye(3), np.full((3, 3), 0.5))
    with pytest.raises(ValueError, match="mask is"):
        pxap(np.eye(3), np.zeros(9))
    with pytest.raises(ValueError, match="begin with 0"):
        PixelAveragePrecision([0.5])


# ---------------------------------------------------------------------------------------------- OpenCV


def cv2_boxes(cv2, score_map, threshold):
    """All boxes and that of the largest contour as OpenCV finds them, in the reference's conventions."""
    grey = (score_map * 255).astype(np.uint8)
    binary = cv2.threshold(grey, int(threshold * grey.max()), 255, cv2.THRESH_BINARY)[1]
    contours = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not contours:
        return [[0, 0, 0, 0]], [0, 0, 0, 0]
    corner = np.array(score_map.shape[::-1]) - 1
    rects = np.array([cv2.boundingRect(contour) for contour in contours])
    boxes = np.concatenate([rects[:, :2], np.minimum(rects[:, :2] + rects[:, 2:], corner)], axis=1).tolist()
    return boxes, boxes[int(np.argmax([cv2.contourArea(contour) for contour in contours]))]


def random_maps(cv2, rng, count):
    """Maps of a few pixels, of smooth hills, thin structures and noise; of 4x4 up to 300x300."""
    for i in range(count):
        height, width = rng.integers(4, 20, 2) if i % 4 else rng.integers(20, 300, 2)
        noise = rng.random((height, width))
        if i % 3 == 1:
            noise = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.4, 3))
        elif i % 3 == 2:
            noise = np.maximum(rng.normal(size=(height, width)), 0).round(1)
        yield noise


def test_resize_equals_opencv_bit_for_bit():
    cv2 = pytest.importorskip("cv2")
    for score_map in random_maps(cv2, np.random.default_rng(0), 60):
        resized = cv2.resize(score_map, (224, 224), interpolation=cv2.INTER_CUBIC)
        resized -= resized.min()
        assert np.array_equal(normalize_map(score_map), resized / resized.max())


def test_contours_equal_opencv():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(1)
    for score_map in random_maps(cv2, rng, 300):
        low = score_map - score_map.min()
        score_map, threshold = low / low.max(), rng.random()
        boxes, largest = cv2_boxes(cv2, score_map, threshold)
        assert sorted(boxes_at_thresholds(score_map, [threshold]).boxes.tolist()) == sorted(boxes)
        assert boxes_at_thresholds(score_map, [threshold]).largest[0].tolist() == largest


def test_the_whole_metric_equals_opencv():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(2)
    metric, thresholds = BoxAccuracy(), threshold_grid()
    hits = np.zeros((2, 3, len(thresholds)))
    maps = [cv2.GaussianBlur(rng.random((s, s)), (0, 0), s / 8) for s in (7, 14, 14, 28, 56) * 2]
    for score_map in maps:
        truth = [[20, 30, 150, 200], [100, 20, 60, 60]]
        metric.update(score_map, truth, (300, 250))
        scale_x, scale_y = 224 / 300, 224 / 250
        corners = [
            [int(x * scale_x), int(y * scale_y), int((x + w) * scale_x), int((y + h) * scale_y)] for x, y, w, h in truth
        ]
        resized = cv2.resize(score_map, (224, 224), interpolation=cv2.INTER_CUBIC)
        resized -= resized.min()
        resized /= resized.max()
        for t, threshold in enumerate(thresholds):
            boxes, largest = cv2_boxes(cv2, resized, threshold)
            best = [pairwise_iou([largest], corners).max(), pairwise_iou(boxes, corners).max()]
            hits[:, :, t] += np.array(best)[:, None] >= np.array([0.3, 0.5, 0.7])
    assert np.array_equal(metric.curves()["box_acc"], hits[0] / len(maps))
    assert np.array_equal(metric.curves()["box_acc_v2"], hits[1] / len(maps))
    assert metric.result()["max_box_acc_v2"] == pytest.approx((hits[1].max(axis=1) / len(maps)).mean(), abs=1e-12)
    assert 0 < metric.result()["max_box_acc"] < 1


def test_masks_are_resized_as_by_opencv():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(3)
    for height, width in rng.integers(1, 700, (20, 2)):
        mask = (rng.random((height, width)) > 0.5).astype(np.uint8)
        mask[0, 0] = 1
        resized = cv2.resize(mask, (224, 224), interpolation=cv2.INTER_NEAREST)
        assert pxap(resized, mask) == 1


# ---------------------------------------------------------------------------------------------- evaluate


def test_the_evaluate_modules_load_offline_and_agree():
    rng = np.random.default_rng(0)
    maps, masks = rng.random((4, 5, 5)), rng.random((4, 9, 9)) > 0.6
    boxes, sizes, correct = [[[10, 20, 100, 80]]] * 4, [(200, 150)] * 4, [True, False, True, True]
    box_metric, pixel_metric = BoxAccuracy(), PixelAveragePrecision()
    for i in range(4):
        box_metric.update(maps[i], boxes[i], sizes[i], correct=correct[i])
        pixel_metric.update(maps[i], masks[i], masks[0] if i else None)
    module = evaluate.load(module_path("box_localization"))
    for start in (0, 2):
        part = slice(start, start + 2)
        module.add_batch(predictions=maps[part], boxes=boxes[part], sizes=sizes[part])
    assert module.compute(correct=correct) == box_metric.result()
    fixed = module.compute(predictions=maps, boxes=boxes, sizes=sizes, correct=correct, threshold=0.4)
    assert fixed == box_metric.result(threshold=0.4)
    module = evaluate.load(module_path("pixel_average_precision"))
    result = module.compute(predictions=maps, references=masks, ignore=[None, *[masks[0]] * 3])
    assert result == pixel_metric.result()
