"""Boxes: each format gives the same mask, and what is no box of the image is refused by row and column."""

from __future__ import annotations

import io

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from hf_pgg import add_provenance
from hf_pgg.data.boxes import BOX_FORMATS, boxes_to_mask, check_box_column, mask_to_box, read_boxes
from hf_pgg.data.images import encode_png
from hf_pgg.data.orientation import turned_rows
from hf_pgg.data.provenance import ProvenanceError

SIZE = (80, 60)


def as_format(box: list[float], name: str, size: tuple[int, int] = SIZE) -> list[float]:
    """A box `[x, y, width, height]` in pixels in another format."""
    x, y, w, h = box
    shape = name.removesuffix("_normalized")
    values = {"xyxy": [x, y, x + w, y + h], "xywh": [x, y, w, h]}.get(shape, [x + w / 2, y + h / 2, w, h])
    shares = name == "yolo" or name.endswith("_normalized")
    return [round(value / side, 6) if shares else value for value, side in zip(values, size * 2, strict=True)]


def table(boxes: list, size: tuple[int, int] = SIZE, orientation: int | None = None) -> Dataset:
    """Images of one size (width, height) with the boxes beside them."""
    image = encode_png(np.zeros((*size[::-1], 3), np.uint8))
    if orientation is not None:
        file, exif = io.BytesIO(), PILImage.Exif()
        exif[274] = orientation
        PILImage.new("RGB", size).save(file, "JPEG", exif=exif)
        image = {"bytes": file.getvalue(), "path": None}
    columns = {"image": [image] * len(boxes), "label": [0] * len(boxes), "box": boxes}
    depth = List(List(Value("float64"))) if any(box and isinstance(box[0], list) for box in boxes) else None
    features = Features(image=Image(), label=ClassLabel(names=["a"]), box=depth or List(Value("float64")))
    return Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("name", BOX_FORMATS)
def test_every_format_of_the_same_boxes_gives_the_same_masks(name):
    rng = np.random.default_rng(0)
    corners = [np.sort(rng.integers(0, [[80, 60], [81, 61]]), axis=0) for _ in range(40)]
    boxes = [[*low.tolist(), *(high - low).tolist()] for low, high in corners if (high > low).all()]
    known = add_provenance(table([as_format(box, name) for box in boxes]), box_column="box", box_format=name)
    for box, masks in zip(boxes, known["provenance"], strict=True):
        mask = np.asarray(masks[0]) > 0
        assert list(mask_to_box(mask)) == box and mask.sum() == box[2] * box[3]


@pytest.mark.parametrize(
    ("box", "name", "problem"),
    [
        ([0.2, 0.2, 0.5, 0.5], None, "lies within one pixel.*'xywh_normalized', 'xyxy_normalized' or 'yolo'"),
        ([0.0, 0.0, 1.0, 1.0], "xyxy", "lies within one pixel"),
        ([10.0, 10.0, 75.0, 55.0], None, r"leaves the image of 80x60 .*set box_format='xyxy'"),
        ([10.0, 10.0, 20.0, 20.0], "yolo", "not in shares of the image.*'xywh', 'xyxy' or 'cxcywh'"),
        ([0.8, 0.8, 0.4, 0.4], "xywh_normalized", "leaves the image.*'yolo'|leaves the image"),
        ([-3.0, 10.0, 20.0, 10.0], "xywh", "leaves the image"),
        ([200.0, 10.0, 20.0, 10.0], "xywh", "leaves the image"),
        ([10.0, 10.0, -5.0, 10.0], "xywh", "is empty or inverted"),
        ([10.0, 10.0, 0.0, 10.0], "xywh", "is empty or inverted"),
        ([40.0, 40.0, 10.0, 10.0], "xyxy", "is empty or inverted"),
        ([10.0, 10.0, float("nan"), 10.0], "xywh", "holds NaN or infinity"),
        ([10.0, 10.0, float("inf"), 10.0], "xywh", "holds NaN or infinity"),
        ([10.0, 10.0, 5.0], "xywh", "not four numbers each"),
        ([10.0, 10.0, 5.0, 5.0], "xxyy", "box_format is 'xxyy': choose one of xywh, xyxy"),
        ([5.0, 55.0, 20.0, 24.0], "xywh", r"leaves the image.*fits an image of 60x80.*EXIF"),
    ],
)
@pytest.mark.filterwarnings("ignore:column 'box'")
def test_what_is_no_box_of_the_image_is_refused_by_row_and_column(box, name, problem):
    with pytest.raises(ValueError, match=problem):
        read_boxes(box, SIZE, name)
    with pytest.raises((ProvenanceError, ValueError), match=f"row 1, column 'box': .*(?:{problem})"):
        add_provenance(table([None, box, [50.0, 3.0, 10.0, 10.0]]), box_column="box", box_format=name)


@pytest.mark.parametrize(
    "value", ["4 2 8 6", ["4", "2", "8", "6"], [True] * 4, [[4, 2, 8, 6], [4, 2]], [None] * 4, [[[1] * 4]]]
)
def test_what_is_not_four_numbers_is_refused(value):
    with pytest.raises(ValueError, match="not four numbers each"):
        read_boxes(value, SIZE)


def test_none_and_no_box_are_unknown_everywhere():
    known = add_provenance(table([None, [], [50.0, 30.0, 10.0, 10.0]]), box_column="box", box_format="xywh")
    assert [masks is None for masks in known["provenance"]] == [True, True, False]
    assert read_boxes(np.zeros((0, 4)), SIZE) is None and read_boxes([[]], SIZE) is None


def test_several_boxes_of_an_image_are_one_object():
    known = add_provenance(
        table([[[50.0, 30.0, 10.0, 10.0], [0.0, 0.0, 1.0, 1.0]], [[9.0, 9.0, 2.0, 2.0]]]),
        box_column="box",
        box_format="xywh",
    )
    assert (np.asarray(known[0]["provenance"][0]) > 0).sum() == 101, "beside another box, one pixel is one pixel"


def test_corners_that_nobody_declared_are_seen_in_the_column():
    rng = np.random.default_rng(1)
    boxes = [[*(low := rng.integers(0, 20, 2)).tolist(), *(low + rng.integers(1, 20, 2)).tolist()] for _ in range(9)]
    with pytest.raises(ValueError, match=r"column 'box': each of 9 distinct boxes could be.*'xywh' or 'xyxy'"):
        add_provenance(table(boxes), box_column="box")
    for name, area in (("xywh", boxes[0][2] * boxes[0][3]), ("xyxy", np.prod(np.subtract(boxes[0][2:], boxes[0][:2])))):
        masks = add_provenance(table(boxes), box_column="box", box_format=name)[0]["provenance"]
        assert (np.asarray(masks[0]) > 0).sum() == area
    for count in (1, 2, 3):
        with pytest.raises(ValueError, match=f"each of {count} distinct boxes could be 'xywh' or 'xyxy'"):
            add_provenance(table(boxes[:count]), box_column="box")
    proof = [[1.0, 3.0, 10.0, 9.0], [50.0, 3.0, 9.0, 9.0]]  # no centre and size, and no corners
    assert check_box_column(table([*boxes, *proof]), "box", image_column="image") == list(range(11))
    with pytest.raises(ValueError, match="each of 1 distinct boxes could be 'xywh' or 'cxcywh', such as"):
        add_provenance(table([[50.0, 30.0, 10.0, 9.0]]), box_column="box")


def test_an_image_turned_by_its_tag_is_seen_or_warned_of():
    upright = [[5.0, 55.0, 20.0, 24.0]]  # in an image shown at 60x80, stored at 80x60
    with pytest.warns(UserWarning, match="1 images, the first in row 0, are turned by their EXIF tag"):
        known = add_provenance(table(upright, orientation=6), box_column="box", box_format="xywh")
    assert mask_to_box(np.asarray(known[0]["provenance"][0]) > 0) == (5, 55, 20, 24)
    with (
        pytest.warns(UserWarning, match="EXIF"),
        pytest.raises(ProvenanceError, match=r"row 0, column 'box'.*leaves.*fits an image of 80x60.*EXIF"),
    ):
        add_provenance(table([[55.0, 5.0, 24.0, 20.0]], orientation=6), box_column="box", box_format="xywh")
    with pytest.warns(UserWarning, match="EXIF"):  # a square cannot tell
        add_provenance(table(upright, size=(80, 80), orientation=6), box_column="box", box_format="xywh")
    assert turned_rows(table(upright), "image") == [] and turned_rows(table(upright, orientation=1), "image") == []


def test_a_box_within_one_pixel_of_the_raster_covers_one():
    assert np.argwhere(boxes_to_mask([[3.6, 2.1, 3.9, 2.4]], (4, 6))).tolist() == [[2, 3]]
    assert boxes_to_mask([[5.7, 3.7, 6.0, 4.0]], (4, 6))[3, 5]
    assert read_boxes([79.7, 10, 0.6, 5], SIZE).tolist() == [[79.7, 10, 80, 15]], "rounding at the edge"
