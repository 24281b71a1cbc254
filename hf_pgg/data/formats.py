"""Annotations in the formats that people have: COCO, YOLO, Pascal VOC, and the `objects` columns of detection sets.

Polygons need pycocotools, see [`hf_pgg.data.outlines`]: `pip install 'hf-pgg[annotations]'`.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from numpy.typing import ArrayLike
from PIL import Image as PILImage

from hf_pgg.data.boxes import boxes_to_mask, read_boxes, refuse_ambiguous
from hf_pgg.data.images import image_files, open_image, undecoded
from hf_pgg.data.objects import AnnotatedImage, FoundObject, objects_to_rows, reading
from hf_pgg.data.outlines import polygons_to_mask, run_lengths_to_mask
from hf_pgg.data.provenance import whole_number

FORMATS = ("coco", "yolo", "voc", "objects")


def read_annotated(
    annotations: str, images: str, annotation_format: str, names: Sequence[str] | None = None
) -> Dataset:
    """Reads a folder of images and the annotations beside it in a format by its name, see `FORMATS`.

    Example:
        >>> read_annotated("labels", "photos", "yolo")
        Traceback (most recent call last):
        ValueError: YOLO files number the classes: give their names in the order of the numbers
    """
    if annotation_format not in FORMATS:
        raise ValueError(f"annotation_format is {annotation_format!r}: choose one of {', '.join(FORMATS)}")
    if annotation_format == "objects":
        raise ValueError(f"'{annotations}' is a column of objects, not beside a folder of images: see `read_objects`")
    if annotation_format == "coco":
        return read_coco(annotations, images)
    if annotation_format == "voc":
        return read_voc(annotations, images, names=names)
    if not names:
        raise ValueError("YOLO files number the classes: give their names in the order of the numbers")
    return read_yolo(annotations, images, names)


def read_coco(annotations: str, images: str) -> Dataset:
    """Reads a COCO JSON file and its folder of images: run lengths, else polygons, else boxes become masks.

    A crowd of which only the box is known is left out. Every image must show one class; its objects are one target.

    Raises:
        ValueError: If an annotation is no object of its image, an image is missing, or shows several classes; it names
            file and annotation.

    Example:
        >>> read_coco("instances.json", "photos")
        Traceback (most recent call last):
        ValueError: instances.json does not exist
    """
    path = _existing(annotations)
    with reading(annotations):
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        absent = [key for key in ("images", "categories", "annotations") if key not in content]
        if not isinstance(content, dict) or absent:
            raise ValueError(f"it is no COCO data set, which has {', '.join(absent)}, too")
        for what, key in (("images", "id"), ("images", "file_name"), ("categories", "id")):
            _distinct([item[key] for item in content[what]], f"{key} of the {what}")
        names = {category["id"]: category["name"] for category in content["categories"]}
        of_image: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            if annotation["image_id"] not in of_image or annotation["category_id"] not in names:
                raise ValueError(f"annotation {annotation.get('id')}: its image or category is not listed")
            if annotation.get("segmentation") or not annotation.get("iscrowd"):
                of_image[annotation["image_id"]].append(annotation)

    def rows() -> Iterable[AnnotatedImage]:
        for image in content["images"]:
            file = _existing(Path(images) / image["file_name"])
            with reading(annotations):
                size = _image_size(file, (image.get("width"), image.get("height")))
            objects = []
            for own in of_image[image["id"]]:
                with reading(f"{annotations}, annotation {own.get('id')}"):
                    objects.append(FoundObject(names[own["category_id"]], _coco_mask(own, size)))
            yield AnnotatedImage(str(file), file, objects)

    return objects_to_rows(rows(), sorted(names.values()), sized=all("width" in image for image in content["images"]))


def _coco_mask(annotation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    shape = annotation.get("segmentation")
    if not shape:
        return _box_mask(annotation.get("bbox"), size, "xywh")
    mask = polygons_to_mask(shape, size) if isinstance(shape, list) else run_lengths_to_mask(shape, size)
    if not mask.any():
        raise ValueError("the mask of an object covers no pixel")
    return mask


def read_yolo(labels: str, images: str, names: Sequence[str]) -> Dataset:
    """Reads a folder of YOLO text files, one for each image and of its name; boxes or polygons become masks.

    A line is the number of a class in `names`, then centre and size of a box, or the points of a polygon, as shares of
    the image.

    Raises:
        ValueError: If a line is no object of its image, an image shows several classes, or two images have one name;
            it names file and line.

    Example:
        >>> read_yolo("labels", "photos", ["cat", "dog"])
        Traceback (most recent call last):
        ValueError: labels does not exist
    """
    root, folder, files = _existing(labels), Path(images), image_files([images])
    with reading(images):
        _distinct([str(path.relative_to(folder).with_suffix("")) for path in files], "names without suffix")

    def rows() -> Iterable[AnnotatedImage]:
        for path in files:
            file, objects = root / path.relative_to(folder).with_suffix(".txt"), []
            with reading(file):
                lines = file.read_text(encoding="utf-8-sig").splitlines() if file.exists() else []
            size = _image_size(path)
            for number, line in enumerate(lines, 1):
                if line.strip():
                    with reading(f"{file}, line {number}"):
                        objects.append(_yolo_object(line.split(), size, names))
            yield AnnotatedImage(str(path), path, objects)

    return objects_to_rows(rows(), names)


def _yolo_object(words: list[str], size: tuple[int, int], names: Sequence[str]) -> FoundObject:
    try:
        number, values = int(words[0]), [float(word) for word in words[1:]]
    except ValueError as error:
        raise ValueError(f"{error}; give a class number and shares of the image") from error
    if not 0 <= number < len(names):
        raise ValueError(f"class {number} is not one of the {len(names)} names")
    if len(values) == 4:
        return FoundObject(names[number], _box_mask(values, size, "yolo"))
    if any(not 0 <= value <= 1 for value in values):
        raise ValueError(f"{len(values)} numbers of a polygon are not all shares of the image")
    points = (np.reshape(values, (-1, 2)) * size).ravel().tolist() if len(values) % 2 == 0 else values
    return FoundObject(names[number], _coco_mask({"segmentation": [points]}, size))


def read_voc(annotations: str, images: str, masks: str | None = None, names: Sequence[str] | None = None) -> Dataset:
    """Reads a folder of Pascal VOC XML files; boxes, or class-id PNGs of the same names in `masks`, become masks.

    Corners count pixels from 1 and include the last one. In a PNG 0 is background, 255 the uncertain border, which
    counts as outside, and n the n-th class of `names`.

    Raises:
        ValueError: If a box or mask is none of its image, or an image shows several classes; it names the file.

    Example:
        >>> read_voc("Annotations", "JPEGImages")
        Traceback (most recent call last):
        ValueError: Annotations does not exist
    """
    if masks is not None and names is None:
        raise ValueError("give `names`, the classes in the order of their ids in the PNGs")
    found, sized, files = [], True, sorted(_existing(annotations).glob("*.xml"))
    for file in files:
        with reading(file):
            root = ElementTree.parse(file).getroot()
            path = _existing(Path(images) / _text(root, "filename"))
            stated = [int(float(root.findtext(f"size/{side}") or 0)) or None for side in ("width", "height")]
            size, sized = _image_size(path, stated), sized and None not in stated
            objects = []
            for number, element in enumerate(root.findall("object"), 1):
                with reading(f"{file}, object {number}"):
                    objects.append(_voc_object(element, size))
            if masks is not None:
                known = {item.name for item in objects}
                objects = _class_ids(_existing(Path(masks) / f"{path.stem}.png"), size, names or [])
                shown = {item.name for item in objects}
                if known and shown - known:
                    problem = f"{', '.join(sorted(known))}, and its PNG shows {', '.join(sorted(shown - known))}"
                    raise ValueError(f"it names {problem}: give `names` in the order of the PNGs' ids")
        found.append(AnnotatedImage(str(path), path, objects))
    with reading(annotations):
        _distinct([item.where for item in found], "images of the XML files")
    return objects_to_rows(found, names or sorted({item.name for row in found for item in row.objects}), sized=sized)


def _voc_object(element: ElementTree.Element, size: tuple[int, int]) -> FoundObject:
    corners = [float(_text(element, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
    if min(corners[:2]) == 0:
        raise ValueError(f"box {corners} begins at 0, and VOC counts pixels from 1: add 1 to all xmin and ymin")
    return FoundObject(_text(element, "name"), _box_mask([corners[0] - 1, corners[1] - 1, *corners[2:]], size, "xyxy"))


def _text(element: ElementTree.Element, key: str) -> str:
    text = (element.findtext(key) or "").strip()
    if not text:
        raise ValueError(f"there is no <{key.replace('/', '><')}>")
    return text


def _class_ids(path: Path, size: tuple[int, int], names: Sequence[str]) -> list[FoundObject]:
    with PILImage.open(path, formats=["PNG"]) as image:
        if image.size != size or image.mode not in ("P", "L"):
            raise ValueError(f"{path} is {image.mode} of {image.size}: give class ids (P or L) of the image's {size}")
        values = np.array(image)
    ids = sorted(set(np.unique(values).tolist()) - {0, 255})
    if ids and ids[-1] > len(names):
        raise ValueError(f"{path} holds the class id {ids[-1]}: there are {len(names)} names")
    return [FoundObject(names[number - 1], values == number) for number in ids]


def read_objects(
    dataset: Dataset, box_format: str | None = None, objects_column: str = "objects", image_column: str = "image"
) -> Dataset:
    """Reads a detection set of the Hub, whose column holds `bbox` and `category` (or `label`) of each object.

    Without a `box_format` the boxes must prove that they are `[x, y, width, height]` in pixels.

    Raises:
        ValueError: If the column is none, a box leaves its image, or a row shows several classes; it names the row.

    Example:
        >>> objects = [{"bbox": [[4, 4, 8, 8]], "category": [i]} for i in (1, 0, 1, 1)]
        >>> known = read_objects(rows.select_columns("image").add_column("objects", objects), "xywh")
        >>> known["bbox"][0], known["label"][:]
        ([[4, 4, 8, 8]], [1, 0, 1, 1])
    """
    feature = dataset.features.get(objects_column)
    fields = getattr(feature, "feature", feature)
    key = next((name for name in ("category", "label", "category_id") if name in (fields or {})), None)
    if key is None or "bbox" not in fields:
        raise ValueError(f"column '{objects_column}' is {feature}: give the one that holds `bbox` and `category`")
    kind = getattr(fields[key], "feature", fields[key])
    columns: list[Any] = [row or [] for row in dataset.with_format(None)[objects_column]]
    columns = [row if isinstance(row, dict) else {name: [item[name] for item in row] for name in ("bbox", key)}
               for row in columns]  # fmt: skip
    boxes = [box for row in columns for box in row["bbox"] or [] if box is not None and len(box) == 4]
    if box_format is None and boxes:
        refuse_ambiguous(np.array(boxes, np.float64), objects_column)
    known = {value for row in columns for value in row[key] or [] if value is not None}
    names = kind.names if isinstance(kind, ClassLabel) else [str(value) for value in sorted(known)]

    def name_of(value: Any) -> str:
        if not isinstance(kind, ClassLabel):
            return str(value if isinstance(value, str) else whole_number(value, key))
        if value is None or not 0 <= value < len(names):
            raise ValueError(f"{value} in `{key}` is none of the {len(names)} classes")
        return names[value]

    def rows() -> Iterable[AnnotatedImage]:
        for i, (row, objects) in enumerate(zip(undecoded(dataset.select_columns(image_column)), columns, strict=True)):
            with reading(f"row {i}, column '{image_column}'"):
                size = open_image(row[image_column]).size
            with reading(f"row {i}, column '{objects_column}'"):
                pairs = zip(objects[key] or [], objects["bbox"] or [], strict=True)
                own = [FoundObject(name_of(value), _box_mask(box, size, box_format)) for value, box in pairs]
            yield AnnotatedImage(f"row {i}, column '{objects_column}'", row[image_column], own)

    return objects_to_rows(rows(), names)


def _image_size(path: Path, stated: Sequence[int | None] = (None, None)) -> tuple[int, int]:
    """Width and height of an image as it is shown, once they are those that its annotation states."""
    size = open_image(str(path)).size
    if None not in stated and tuple(stated) != size:
        raise ValueError(
            f"{path} is {size[0]}x{size[1]} as it is shown, and annotated as {stated[0]}x{stated[1]}; if the image is"
            " turned by its EXIF tag, store it upright"
        )
    return size


def _box_mask(box: ArrayLike | None, size: tuple[int, int], box_format: str | None) -> np.ndarray:
    corners = read_boxes(box, size, box_format)
    if corners is None:
        raise ValueError("an object has no box")
    return boxes_to_mask(corners, size[::-1])


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file() and not Path(path).is_dir():
        raise ValueError(f"{path} does not exist")
    return Path(path)


def _distinct(values: Sequence[Any], what: str) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise ValueError(
                f"{value!r} stands twice among the {what}: an annotation would belong to both, so rename one"
            )
