"""The same ten images, annotated in each format that people have: every reader finds the same objects."""

from __future__ import annotations

import json
import sys
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


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ({"size": [40, 50], "counts": [0, 1990]}, "run lengths of 1990 pixels in place of those of 2000"),
        ({"size": [40, 50], "counts": [10, 2000]}, "run lengths of 2010 pixels in place of those of 2000"),
        ({"size": [40, 50], "counts": [-5, 2005]}, "run lengths of 2000 pixels"),
        ({"size": [40, 50], "counts": [0.5, 1999.5]}, "in place of those of 2000"),
        ({"size": [40, 50], "counts": "04"}, "run lengths of 4 pixels in place of those of 2000"),
        ({"size": [40, 50], "counts": "\n"}, "are no compressed run lengths"),
        ({"size": [40, 50]}, "neither polygons nor run lengths with `size` and `counts`"),
        ([["1", "1", "9", "1", "9", "9"]], "are no polygons: give lists of numbers"),
        ([[1, 1, 9, 1, 9, float("nan")]], "a polygon leaves the image"),
        ([1, 1, 9, 1, 9, 9], "are no polygons"),
    ],
)
def test_an_outline_that_is_none_is_refused(shape, problem, folder, tmp_path):
    """Of run lengths that end early, pycocotools makes masks of whatever stood in memory."""
    with pytest.raises(ValueError, match=f"changed.json, annotation 0: .*{problem}"):
        read_coco(changed(folder, tmp_path, segmentation=shape), folder / "images")


def test_a_crowd_is_a_part_of_the_target_where_its_outline_is_known(folder, objects, tmp_path):
    whole = {"size": [40, 50], "counts": [0, 2000]}
    known = read_coco(changed(folder, tmp_path, iscrowd=1, segmentation=whole), folder / "images")
    assert decode_mask(known[0]["provenance"][0]).all() and len(known) == 10
    known = read_coco(changed(folder, tmp_path, iscrowd=1), folder / "images")
    assert len(known) == 9, "a box around a crowd says nothing"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text[:-9], "changed.json: "),
        (lambda text: "[]", "it is no COCO data set, which has images, categories, annotations"),
        (lambda text: json.dumps({**json.loads(text), "categories": None}), "changed.json: "),
        (lambda text: text.replace('"categories"', '"classes"'), "it is no COCO data set, which has categories"),
        (lambda text: text.replace('"file_name": "0.png"', '"name": "0.png"'), "changed.json: there is no 'file_name'"),
        (lambda text: text.replace('"1.png"', '"gone.png"'), "gone.png does not exist"),
        (lambda text: text.replace('"1.png"', '"0.png"'), "'0.png' stands twice among the file_name of the images"),
        (
            lambda text: text.replace('{"id": 7, "n', '{"id": 3, "n'),
            "3 stands twice among the id of the categories",
        ),
        (lambda text: text.replace('"category_id": 7', '"category_id": 8'), "its image or category is not listed"),
        (lambda text: text.replace('"width": 50', '"width": 40'), "is 50x40 as it is shown, and annotated as 40x40"),
    ],
)
def test_a_coco_file_that_is_none_is_refused_in_a_sentence(change, problem, folder, tmp_path):
    (tmp_path / "changed.json").write_text(change((folder / "boxes.json").read_text()))
    with pytest.raises(ValueError, match=problem) as caught:
        read_coco(tmp_path / "changed.json", folder / "images")
    assert "\n" not in str(caught.value)


def test_without_pycocotools_polygons_name_the_extra_and_all_else_is_read(folder, objects, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    for name in READERS:
        if "polygons" in name:
            with pytest.raises(ImportError, match=r"pip install 'hf-pgg\[annotations\]'"):
                READERS[name](folder, objects)
        else:
            assert len(READERS[name](folder, objects)) == 10


def test_two_images_of_one_name_are_refused(folder, tmp_path):
    """`a.jpg` and `a.png` would share the file `a.txt`; the same image in two XML files would be two rows."""
    (tmp_path / "labels").mkdir()
    for suffix in ("png", "jpg"):
        PILImage.new("RGB", SIZE).save(tmp_path / f"a.{suffix}")
    with pytest.raises(ValueError, match="'a' stands twice among the names without suffix"):
        read_yolo(tmp_path / "labels", tmp_path, NAMES)
    for name in ("0", "other"):
        (tmp_path / "labels" / f"{name}.xml").write_text((folder / "xml" / "0.xml").read_text())
    with pytest.raises(ValueError, match=r"0\.png' stands twice among the images of the XML files"):
        read_voc(tmp_path / "labels", folder / "images")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("<name>cat</name>", "", "0.xml, object 1: there is no <name>"),
        ("<name>cat</name>", "<name> </name>", "0.xml, object 1: there is no <name>"),
        ("bndbox>", "polygon>", "0.xml, object 1: there is no <bndbox><xmin>"),
        ("<filename>0.png</filename>", "", "0.xml: there is no <filename>"),
        ("0.png", "gone.png", "gone.png does not exist"),
        ("<width>50", "<width>40", "is 50x40 as it is shown, and annotated as 40x40"),
        ("</annotation>", "", "0.xml: no element found"),
        ("<xmin>", "<xmin>none", "0.xml, object 1: could not convert"),
        ("<ymax>", "<ymax>9", "0.xml, object 1: box .* leaves the image"),
    ],
)
def test_a_voc_file_that_says_too_little_is_named(old, new, problem, folder, tmp_path):
    text = (folder / "xml" / "0.xml").read_text()
    assert old in text
    (tmp_path / "0.xml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=problem):
        read_voc(tmp_path, folder / "images")


def test_voc_boxes_that_count_from_0_are_refused(folder, tmp_path):
    box = "<bndbox><xmin>0</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    text = f"<annotation><filename>0.png</filename><object><name>cat</name>{box}</object></annotation>"
    (tmp_path / "0.xml").write_text(text)
    with pytest.raises(ValueError, match=r"0\.xml, object 1: box .* begins at 0, and VOC counts pixels from 1"):
        read_voc(tmp_path, folder / "images")


def test_class_ids_in_another_order_than_the_names_are_seen(folder):
    with pytest.raises(ValueError, match=r"0\.xml: it names cat, and its PNG shows dog: give `names` in the order"):
        read_voc(folder / "xml", folder / "images", folder / "ids", ["dog", "cat"])


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        ({"bbox": [[1, 1, 9, 9]], "category": [-1]}, "row 1, column 'objects': -1 in `category` is none of the 2"),
        ({"bbox": [[1, 1, 9, 9]], "category": [None]}, "row 1, column 'objects': None in `category`"),
        ({"bbox": [[1, 1, 9, 9]], "category": []}, "row 1, column 'objects': zip"),
        ({"bbox": [[1, 1, 90, 9]], "category": [0]}, "row 1, column 'objects': box .* leaves the image"),
    ],
)
def test_an_object_of_the_hub_that_is_none_is_named(column, problem, folder):
    paths = [str(folder / "images" / f"{i}.png") for i in range(3)]
    columns = {"image": paths, "objects": [{"bbox": [[1, 1, 9, 9]], "category": [0]}, column, None]}
    fields = {"bbox": List(List(Value("float32"))), "category": List(Value("int64"))}
    rows = Dataset.from_dict(columns, features=Features(image=Image(), objects=fields))
    named = Features(image=Image(), objects={**fields, "category": List(ClassLabel(names=NAMES))})
    with pytest.raises(ValueError, match=problem):
        read_objects(rows.cast(named), "xywh")
    rest = rows.select([0, 2]).cast(named)
    assert len(read_objects(rest, "xywh")) == 1, "a row without objects has no class"


def test_images_turned_by_their_tag_are_warned_of_where_nothing_shows_it(folder, tmp_path):
    """COCO states sizes, which show a quarter turn of what is no square; YOLO states none."""
    exif = PILImage.Exif()
    for tag, words in ((3, "turned by their EXIF tag; the annotations are taken"), (6, "is 40x50 as it is shown")):
        exif[274] = tag
        (tmp_path / str(tag)).mkdir()
        for i in range(10):
            PILImage.new("RGB", SIZE).save(tmp_path / str(tag) / f"{i}.png", exif=exif)
        with pytest.warns(UserWarning, match="EXIF") if tag == 3 else pytest.raises(ValueError, match=words):
            read_coco(folder / "boxes.json", tmp_path / str(tag))
        with pytest.warns(UserWarning, match="10 images, the first in row 0, are turned by their EXIF tag"):
            read_yolo(folder / "labels", tmp_path / str(tag), NAMES)


def test_class_ids_beyond_the_names_are_refused(folder):
    with pytest.raises(ValueError, match="holds the class id 2: there are 1 names"):
        read_voc(folder / "xml", folder / "images", folder / "ids", ["cat"])
