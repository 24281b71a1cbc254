"""Boxes from maps, their measure, and the command line that writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from torch import nn

from hf_pgg.cli.main import main
from hf_pgg.data.boxes import indices_with_boxes
from hf_pgg.data.images import encode_mask, encode_png, image_files
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.localization.images import LocalizationSettings, box_of_map, boxes_of_map, evaluate_localization
from hf_pgg.localization.score_maps import score_maps, with_smoothing
from hf_pgg.reports.figures import draw
from tests.conftest import SIZE, tiny_model

SPEC = InputSpec((SIZE, SIZE), (SIZE, SIZE), (0.5,) * 3, (0.5,) * 3)


def bright_map(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """An attribution that finds what is bright, and for class 0 looks at the left half alone."""
    maps = pixel_values.mean(1) + 1
    maps[target == 0, :, SIZE // 2 :] = 0
    return maps


@pytest.fixture(scope="module")
def boxed() -> Dataset:
    """Black images of 64 x 32 with one white rectangle, its box and its mask; the last has no box."""
    rows = {"image": [], "label": [], "bbox": [], "mask": []}
    for i in range(5):
        image = np.zeros((32, 64, 3), np.uint8)
        x, y, width, height = 8 + 6 * i, 4 + 2 * i, 24, 12
        image[y : y + height, x : x + width] = 255
        rows["image"].append(encode_png(image))
        rows["mask"].append(encode_mask(image[..., 0] > 0))
        rows["label"].append(1 + i % 2)
        rows["bbox"].append([x, y, width, height] if i < 4 else None)
    features = {"image": Image(), "mask": Image(), "label": ClassLabel(names=["a", "b", "c"])}
    return Dataset.from_dict(rows, features=Features({**features, "bbox": List(Value("float32"))}))


def test_the_box_of_a_map_is_its_largest_part_in_pixels_of_the_image() -> None:
    score_map = np.zeros((224, 224), np.float32)
    score_map[56:112, 28:140] = 1
    score_map[200:210, 200:210] = 1
    assert box_of_map(score_map, 0.5, (448, 224)) == [56, 56, 224, 56]
    to_the_edge = np.zeros((224, 224), np.float32)
    to_the_edge[112:, 112:] = 1
    assert box_of_map(to_the_edge, 0.5, (100, 50)) == [50, 25, 50, 25]
    assert box_of_map(np.ones((7, 7)), 0.5, (100, 50)) == [0, 0, 100, 50], "a constant map says nothing"
    rough, thresholds = np.random.default_rng(0).random((9, 13)), [0.9, 0.2, 0.5]
    boxes = [box_of_map(rough, threshold, (26, 90)) for threshold in thresholds]
    assert boxes_of_map(rough, thresholds, (26, 90)).tolist() == boxes and boxes[0] != boxes[1]


def test_maps_follow_the_order_of_the_images_and_the_classes_asked_for(boxed: Dataset) -> None:
    images = [np.array(row["image"]) for row in boxed]
    model = tiny_model("vit")
    targets = [0, 1, 0, 1, 0]
    results = list(score_maps(model, SPEC, images, bright_map, targets, batch_size=2))
    assert [result.target for result in results] == targets
    for image, result in zip(images, results, strict=True):
        assert result.score_map.shape == (SIZE, SIZE) and 0 < result.probability <= 1
        columns = np.asarray(image)[:, ::2, 0].max(0) > 0
        right = result.score_map[:, SIZE // 2 :].max() > 0
        assert right == (result.target == 1 and columns[SIZE // 2 :].any())
    predicted = list(score_maps(model, SPEC, images, bright_map))
    assert all(result.target == result.predicted for result in predicted), "by default the predicted class"
    assert [result.predicted for result in predicted] == [result.predicted for result in results]


def test_a_perfect_map_localizes_perfectly_and_half_a_map_does_not(boxed: Dataset) -> None:
    model = tiny_model("vit")
    masks = LocalizationSettings(mask_column="mask")
    perfect = evaluate_localization(model, SPEC, boxed, bright_map, masks)
    assert perfect["num_maps"] == 4, "the row without a box is passed over"
    assert perfect["max_box_acc"] == perfect["max_box_acc_v2"] == perfect["gt_known"] == 1
    assert perfect["pixel_average_precision"] > 0.98
    swapped = boxed.map(lambda row: {"label": 0})
    half = evaluate_localization(model, SPEC, swapped, bright_map, masks)
    assert half["max_box_acc_v2"] < 0.9 and half["pixel_average_precision"] < perfect["pixel_average_precision"]


def test_a_threshold_chosen_elsewhere_is_reported_beside_the_best_one(boxed: Dataset) -> None:
    model = tiny_model("vit")
    best = evaluate_localization(model, SPEC, boxed, bright_map)
    fixed = evaluate_localization(model, SPEC, boxed, bright_map, LocalizationSettings(threshold=best))
    assert fixed["box_acc_v2"] == best["max_box_acc_v2"] and fixed["max_box_acc_v2"] == best["max_box_acc_v2"]
    assert (
        evaluate_localization(model, SPEC, boxed, bright_map, LocalizationSettings(threshold=0.0))["threshold"] == 0.0
    )


def test_bad_columns_and_boxes_name_the_row_and_the_remedy(boxed: Dataset) -> None:
    model = tiny_model("vit")
    with pytest.raises(ValueError, match="column 'box' is not in the dataset; its columns"):
        evaluate_localization(model, SPEC, boxed, bright_map, LocalizationSettings(box_column="box"))
    with pytest.raises(ValueError, match="no row has a box in column 'bbox'"):
        evaluate_localization(model, SPEC, boxed.select([4]), bright_map)
    corners = boxed.select([3]).map(lambda row: {"bbox": [30.0, 4.0, 62.0, 20.0]})
    with pytest.raises(ValueError, match="column 'bbox': each of 1 distinct boxes could be 'xywh' or 'xyxy'"):
        evaluate_localization(model, SPEC, corners, bright_map)
    with pytest.raises(ValueError, match=r"row 0, column 'bbox'.*box_format='xyxy'"):
        evaluate_localization(model, SPEC, corners, bright_map, LocalizationSettings(box_format="xywh"))
    assert (
        evaluate_localization(model, SPEC, corners, bright_map, LocalizationSettings(box_format="xyxy"))["num_maps"]
        == 1
    )
    inverted = boxed.select([3]).map(lambda row: {"bbox": [30.0, 4.0, -2.0, 20.0]})
    with pytest.raises(ValueError, match="inverted"):
        evaluate_localization(model, SPEC, inverted, bright_map)


def test_maps_that_hold_nan_are_counted_as_no_box(boxed: Dataset) -> None:
    def broken(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.full((len(target), SIZE, SIZE), torch.nan)

    result = evaluate_localization(tiny_model("vit"), SPEC, boxed, broken, LocalizationSettings(mask_column="mask"))
    assert result["num_flat_maps"] == 4 and result["max_box_acc_v2"] == 0
    inside = np.mean([np.mean(np.asarray(row["mask"]) > 127) for row in boxed.select(range(4))])
    assert result["pixel_average_precision"] == pytest.approx(inside, abs=1e-6), "what a flat map finds"


def test_masks_that_do_not_fit_name_the_row_and_their_own_column(boxed: Dataset) -> None:
    model = tiny_model("vit")
    expected = evaluate_localization(model, SPEC, boxed, bright_map, LocalizationSettings(mask_column="mask"))
    colours = boxed.map(lambda row: {"mask": row["mask"] and row["mask"].convert("RGB")})
    assert evaluate_localization(model, SPEC, colours, bright_map, LocalizationSettings(mask_column="mask")) == expected
    small = boxed.map(lambda row: {"mask": row["mask"] and row["mask"].resize((9, 7))})
    with pytest.raises(ValueError, match=r"row 0, column 'mask': a mask of 9x7 for an image of \d+x\d+"):
        evaluate_localization(model, SPEC, small, bright_map, LocalizationSettings(mask_column="mask"))


def test_rows_without_a_box_are_passed_over_however_they_say_so() -> None:
    rows = Dataset.from_dict({"bbox": [[1.0, 2.0, 3.0, 4.0], None, []], "name": ["a", "b", "c"]})
    assert rows.select(indices_with_boxes(rows, "bbox"))["name"] == ["a"]


def test_only_gradient_maps_are_smoothed() -> None:
    assert with_smoothing("input_gradient", 0.1).keywords == {"smoothing": 0.1}
    assert not hasattr(with_smoothing("grad_cam", 0.1), "keywords")


def test_the_drawing_holds_the_boxes() -> None:
    canvas = np.asarray(
        draw(np.zeros((40, 60, 3), np.uint8), np.zeros((4, 4)), [10, 5, 20, 10], truth=[[30, 20, 8, 8]])
    )
    assert canvas[5, 10:30].tolist() == [[0, 255, 0]] * 20 and canvas[20, 30:38].tolist() == [[255, 0, 0]] * 8


# ---------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, processor: object) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model("convnext").save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_the_command_line_writes_coco_boxes_and_overlays(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, size in {"b.png": (50, 40), "a.jpg": (30, 60), "deep/b.png": (20, 20)}.items():
        PILImage.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(
            tmp_path / "in" / name
        )
    boxes, overlays = tmp_path / "out" / "boxes.json", tmp_path / "overlays"
    arguments = ["--output", str(boxes), "--overlays", str(overlays), "--image_size", "64"]
    main(["localize", str(checkpoint), str(tmp_path / "in"), *arguments])
    coco = json.loads(boxes.read_text())
    assert [Path(image["file_name"]).name for image in coco["images"]] == ["a.jpg", "b.png", "b.png"]
    assert [(image["width"], image["height"]) for image in coco["images"]] == [(30, 60), (50, 40), (20, 20)]
    for image, annotation in zip(coco["images"], coco["annotations"], strict=True):
        x, y, width, height = annotation["bbox"]
        assert annotation["image_id"] == image["id"] and 0 <= annotation["score"] <= 1
        assert width > 0 and height > 0 and x + width <= image["width"] and y + height <= image["height"]
    assert [category["id"] for category in coco["categories"]] == [0, 1, 2]
    assert len(list(overlays.iterdir())) == 3, "images of one name do not overwrite each other"
    assert "3 boxes written to" in capsys.readouterr().out


def test_images_that_cannot_be_read_are_named_and_the_others_are_done(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PILImage.new("RGB", (32, 32), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match="1 of 2 images could not be read"):
        main(
            ["localize", str(checkpoint), str(tmp_path), "--output", str(tmp_path / "boxes.json"), "--image_size", "64"]
        )
    assert "bad.png: not read" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "boxes.json").read_text())["images"]) == 1


def test_wrong_paths_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        image_files([str(tmp_path / "none")])
    with pytest.raises(ValueError, match="no images"):
        image_files([str(tmp_path)])
    with pytest.raises(SystemExit):
        main(["localize", "no-model", str(tmp_path)])
