"""The same ten images, annotated in each format that people have: every reader finds the same objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from hf_pgg.data.formats import read_coco, read_objects, read_voc, read_yolo
from hf_pgg.data.images import decode_mask
from hf_pgg.data.validation import validate_row

NAMES, SIZE = ["cat", "dog"], (50, 40)
mask_tools = pytest.importorskip("pycocotools.mask")


@pytest.fixture(scope="module")
def objects() -> list[tuple[int, list[list[int]]]]:
    """Class and boxes `[x, y, width, height]` of ten images, of which some show two objects."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(10):
        boxes = [[*rng.integers(0, 25, 2).tolist(), *rng.integers(2, 15, 2).tolist()] for _ in range(1 + i % 2)]
        found.append((i % 3 % 2, boxes))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, objects) -> Path:
    """Images, and beside them their annotations in each format."""
    root = tmp_path_factory.mktemp("formats")
    for name in ("images", "labels", "polygons", "xml", "ids"):
        (root / name).mkdir()
    coco = {"images": [], "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]}
    annotations: dict[str, list] = {"boxes": [], "polygons": [], "rle": [], "counts": []}
    width, height = SIZE
    for i, (label, boxes) in enumerate(objects):
        PILImage.new("RGB", SIZE, (i, 0, 0)).save(root / "images" / f"{i}.png")
        coco["images"].append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        ids, lines, polygons, xml = np.zeros((height, width), np.uint8), [], [], []
        for x, y, w, h in boxes:
            common = {"id": len(annotations["rle"]), "image_id": i, "category_id": [7, 3][label], "bbox": [x, y, w, h]}
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            mask = np.zeros((height, width), np.uint8)
            mask[y : y + h, x : x + w] = 1
            ids[mask > 0] = label + 1
            rle = mask_tools.encode(np.asfortranarray(mask))
            flat = mask.ravel(order="F").astype(int)
            runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[-1], flat, [-1]]))))
            counts = {"size": [height, width], "counts": [0] * int(flat[0]) + runs.tolist()}
            rle = {"size": rle["size"], "counts": rle["counts"].decode()}
            for name, shape in (("boxes", None), ("polygons", [corners]), ("rle", rle), ("counts", counts)):
                annotations[name].append(common | ({"segmentation": shape} if shape else {}))
            shares = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            lines.append(f"{label} " + " ".join(f"{v:.6f}" for v in shares))
            points = np.divide(np.reshape(corners, (-1, 2)), SIZE).ravel()
            polygons.append(f"{label} " + " ".join(f"{v:.6f}" for v in points))
            ends = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
            xml.append(f"<object><name>{NAMES[label]}</name><bndbox>{ends}</bndbox></object>")
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        text = f"<annotation><filename>{i}.png</filename>{size}{''.join(xml)}</annotation>"
        (root / "xml" / f"{i}.xml").write_text(text)
        (root / "labels" / f"{i}.txt").write_text("\n".join(lines))
        (root / "polygons" / f"{i}.txt").write_text("\n".join(polygons))
        ids[0, 49] = 255
        PILImage.fromarray(ids).save(root / "ids" / f"{i}.png")
    for name, some in annotations.items():
        (root / f"{name}.json").write_text(json.dumps(coco | {"annotations": some}))
    return root


def hub(folder: Path, objects) -> Dataset:
    """The set with a column `objects`, as on the Hub."""
    paths = [str(folder / "images" / f"{i}.png") for i in range(10)]
    column = [{"bbox": boxes, "category": [label] * len(boxes)} for label, boxes in objects]
    fields = {"bbox": List(List(Value("float32"))), "category": List(ClassLabel(names=NAMES))}
    return Dataset.from_dict({"image": paths, "objects": column}, features=Features(image=Image(), objects=fields))


READERS = {
    **{
        f"coco {name}": lambda folder, _, name=name: read_coco(folder / f"{name}.json", folder / "images")
        for name in ("boxes", "polygons", "rle", "counts")
    },
    "yolo": lambda folder, _: read_yolo(folder / "labels", folder / "images", NAMES),
    "yolo polygons": lambda folder, _: read_yolo(folder / "polygons", folder / "images", NAMES),
    "voc": lambda folder, _: read_voc(folder / "xml", folder / "images"),
    "voc ids": lambda folder, _: read_voc(folder / "xml", folder / "images", folder / "ids", NAMES),
    "objects": lambda folder, objects: read_objects(hub(folder, objects), "xywh"),
}


@pytest.mark.parametrize("name", READERS)
def test_every_format_of_the_same_ten_images_gives_the_same_objects(name, folder, objects):
    rows = READERS[name](folder, objects)
    assert rows.features["label"].names == NAMES and rows["label"][:] == [label for label, _ in objects]
    for i, (row, (_, boxes)) in enumerate(zip(rows, objects, strict=True)):
        validate_row(row, i, 2)
        expected = np.zeros(SIZE[::-1], bool)
        for x, y, w, h in boxes:
            expected[y : y + h, x : x + w] = True
        assert ((decode_mask(row["provenance"][0]) > 0) == expected).all()
        assert np.asarray(row["image"])[0, 0, 0] == i
        if name != "voc ids":
            assert row["bbox"] == boxes


def changed(folder: Path, tmp_path: Path, **values) -> Path:
    """The COCO file of boxes with its first annotation changed."""
    content = json.loads((folder / "boxes.json").read_text())
    content["annotations"][0] |= values
    (tmp_path / "changed.json").write_text(json.dumps(content))
    return tmp_path / "changed.json"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"bbox": [45, 5, 20, 10]}, "annotation 0: .*leaves the image of 50x40"),
        ({"bbox": [0.1, 0.1, 0.5, 0.5]}, "annotation 0: .*within one pixel"),
        ({"bbox": []}, "annotation 0: an object has no box"),
        ({"segmentation": [[1, 1, 2, 2]]}, "annotation 0: a polygon has fewer than three points"),
        ({"segmentation": [[1, 1, 90, 2, 3, 9]]}, "annotation 0: a polygon leaves the image"),
        ({"segmentation": {"size": [50, 40], "counts": [0, 2000]}}, "annotation 0: a mask of size"),
        ({"segmentation": {"size": [40, 50], "counts": [2000]}}, "annotation 0: the mask of an object covers no pixel"),
        ({"image_id": 99}, "annotation 0: its image or category is not listed"),
        ({"category_id": 3, "image_id": 3}, "shows cat, dog: leave in one class an image|covers|shows"),
    ],
)
def test_a_coco_annotation_that_fits_no_image_is_named(values, problem, folder, tmp_path):
    file = changed(folder, tmp_path, **values)
    if values.get("category_id"):
        content = json.loads(file.read_text())
        content["annotations"][1] |= {"image_id": 3, "category_id": 7}
        file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=problem):
        read_coco(file, folder / "images")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("2 0.5 0.5 0.2 0.2", "line 1: class 2 is not one of the 2 names"),
        ("0 25 20 10 8", "line 1: .*not in shares"),
        ("0 0.5 0.5 0.2", "line 1: "),
        ("cat 0.5 0.5 0.2 0.2", "line 1: .*give a class number"),
        ("0 0.9 0.5 0.4 0.2", "line 1: .*leaves the image"),
    ],
)
def test_a_yolo_line_that_is_no_object_is_named(line, problem, folder, tmp_path):
    (tmp_path / "0.txt").write_text(line)
    with pytest.raises(ValueError, match=problem):
        read_yolo(tmp_path, folder / "images", NAMES)


def test_class_ids_beyond_the_names_are_refused(folder):
    with pytest.raises(ValueError, match="holds the class id 2: there are 1 names"):
        read_voc(folder / "xml", folder / "images", folder / "ids", ["cat"])
