"""Annotations in the formats that people have: COCO, YOLO, Pascal VOC, and the `objects` columns of detection sets.

Polygons and run lengths are drawn by pycocotools, the reference of COCO, which is small and has wheels; supervision
reads the same files but brings OpenCV. Install it with `pip install 'hf-pgg[annotations]'`.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value
from numpy.typing import ArrayLike
from PIL import Image as PILImage

from hf_pgg.data.boxes import boxes_to_mask, mask_to_box, read_boxes
from hf_pgg.data.images import encode_mask, open_image
from hf_pgg.data.loading import image_files
from hf_pgg.data.provenance import LABEL_WEIGHTS, LABELS, PROVENANCE, provenance_features

FORMATS = ("coco", "yolo", "voc")


class _Object(NamedTuple):
    name: str
    mask: np.ndarray


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
        ValueError: If an annotation is no object of its image, or an image shows several classes; it names both.

    Example:
        >>> read_coco("instances.json", "photos")
        Traceback (most recent call last):
        ValueError: instances.json does not exist
    """
    content = json.loads(_existing(annotations).read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    of_image: dict[Any, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in of_image or annotation["category_id"] not in names:
            raise ValueError(f"{annotations}, annotation {annotation.get('id')}: its image or category is not listed")
        if annotation.get("segmentation") or not annotation.get("iscrowd"):
            of_image[annotation["image_id"]].append(annotation)

    def rows() -> Iterable[tuple[Path, list[_Object]]]:
        for image in content["images"]:
            path = Path(images) / image["file_name"]
            size = open_image(str(_existing(path))).size
            if size != (image["width"], image["height"]):
                stated = f"{image['width']}x{image['height']}"
                raise ValueError(
                    f"{annotations}: {path} is {size[0]}x{size[1]} as it is shown, and annotated as {stated}; if the"
                    " image is turned by its EXIF tag, store it upright"
                )
            found = of_image[image["id"]]
            yield (
                path,
                [
                    _Object(names[a["category_id"]], _coco_mask(a, size, f"{annotations}, annotation {a.get('id')}"))
                    for a in found
                ],
            )

    return _dataset(rows(), sorted(names.values()))


def _coco_mask(annotation: Mapping[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    shape = annotation.get("segmentation")
    if not shape:
        return _box_mask(annotation.get("bbox"), size, "xywh", where)
    from pycocotools import mask as coco  # the optional extra

    width, height = size
    if isinstance(shape, list):
        if any(len(polygon) < 6 or len(polygon) % 2 for polygon in shape):
            raise ValueError(f"{where}: a polygon has fewer than three points or half a point")
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in shape]).astype(float)
        if not (np.isfinite(points).all() and (points > -1).all() and (points < np.add(size, 1)).all()):
            raise ValueError(f"{where}: a polygon leaves the image of {width}x{height}")
        runs = coco.merge(coco.frPyObjects(shape, height, width))
    else:
        if list(shape["size"]) != [height, width]:
            raise ValueError(f"{where}: a mask of size {shape['size']} for an image of [{height}, {width}]")
        runs = coco.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape
    return _not_empty(coco.decode(runs).astype(bool), where)


def read_yolo(labels: str, images: str, names: Sequence[str]) -> Dataset:
    """Reads a folder of YOLO text files, one for each image and of its name; boxes or polygons become masks.

    A line is the number of a class, then centre and size of a box, or the points of a polygon, as shares of the image.

    Args:
        names (`Sequence[str]`): The classes, in the order of their numbers.

    Raises:
        ValueError: If a line is no object of its image, or an image shows several classes; it names both.

    Example:
        >>> read_yolo("labels", "photos", ["cat", "dog"])
        Traceback (most recent call last):
        ValueError: labels does not exist
    """
    root, folder = _existing(labels), Path(images)

    def rows() -> Iterable[tuple[Path, list[_Object]]]:
        for path in image_files([images]):
            file = root / path.relative_to(folder).with_suffix(".txt")
            lines = file.read_text().splitlines() if file.exists() else []
            size = open_image(str(path)).size
            numbered = [(f"{file}, line {n}", line.split()) for n, line in enumerate(lines, 1) if line.strip()]
            yield path, [_yolo_object(where, words, size, names) for where, words in numbered]

    return _dataset(rows(), names)


def _yolo_object(where: str, words: list[str], size: tuple[int, int], names: Sequence[str]) -> _Object:
    try:
        number, values = int(words[0]), [float(word) for word in words[1:]]
    except ValueError as error:
        raise ValueError(f"{where}: {error}; give a class number and shares of the image") from error
    if not 0 <= number < len(names):
        raise ValueError(f"{where}: class {number} is not one of the {len(names)} names")
    if len(values) == 4:
        return _Object(names[number], _box_mask(values, size, "yolo", where))
    if any(not 0 <= value <= 1 for value in values):
        raise ValueError(f"{where}: {len(values)} numbers of a polygon are not all shares of the image")
    points = (np.reshape(values, (-1, 2)) * size).ravel().tolist() if len(values) % 2 == 0 else values
    return _Object(names[number], _coco_mask({"segmentation": [points]}, size, where))


def read_voc(annotations: str, images: str, masks: str | None = None, names: Sequence[str] | None = None) -> Dataset:
    """Reads a folder of Pascal VOC XML files; boxes, or class-id PNGs of the same names in `masks`, become masks.

    Corners count pixels from 1 and include the last one. In a PNG 0 is background, 255 the uncertain border, which
    counts as outside, and n the n-th class.

    Args:
        names (`Sequence[str]`, *optional*): The classes in the order of their ids, without the background; for `masks`.

    Raises:
        ValueError: If a box or mask is none of its image, or an image shows several classes; it names the file.

    Example:
        >>> read_voc("Annotations", "JPEGImages")
        Traceback (most recent call last):
        ValueError: Annotations does not exist
    """
    if masks is not None and names is None:
        raise ValueError("give `names`, the classes in the order of their ids in the PNGs")
    found: list[tuple[Path, list[_Object]]] = []
    for file in sorted(_existing(annotations).glob("*.xml")):
        root = ElementTree.parse(file).getroot()
        path = _existing(Path(images) / (root.findtext("filename") or ""))
        size = open_image(str(path)).size
        stated = tuple(int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
        if stated != (0, 0) and stated != size:
            raise ValueError(f"{file}: {path} is of {size} pixels as it is shown, and annotated as {stated}")
        if masks is not None:
            found.append((path, _class_ids(_existing(Path(masks) / f"{path.stem}.png"), size, names or [])))
            continue
        objects = []
        for element in root.iter("object"):
            box = [float(element.findtext(f"bndbox/{key}") or "nan") for key in ("xmin", "ymin", "xmax", "ymax")]
            corners = [box[0] - 1, box[1] - 1, *box[2:]]
            objects.append(_Object(element.findtext("name") or "", _box_mask(corners, size, "xyxy", str(file))))
        found.append((path, objects))
    return _dataset(found, names or sorted({item.name for _, objects in found for item in objects}))


def _class_ids(path: Path, size: tuple[int, int], names: Sequence[str]) -> list[_Object]:
    with PILImage.open(path, formats=["PNG"]) as image:
        if image.size != size or image.mode not in ("P", "L"):
            raise ValueError(f"{path} is {image.mode} of {image.size}: give class ids (P or L) of the image's {size}")
        values = np.array(image)
    ids = sorted(set(np.unique(values).tolist()) - {0, 255})
    if ids and ids[-1] > len(names):
        raise ValueError(f"{path} holds the class id {ids[-1]}: there are {len(names)} names")
    return [_Object(names[number - 1], values == number) for number in ids]


def read_objects(
    dataset: Dataset, box_format: str, objects_column: str = "objects", image_column: str = "image"
) -> Dataset:
    """Reads a detection set of the Hub, whose column holds `bbox` and `category` (or `label`) of each object.

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
    columns = dataset.with_format(None)[objects_column]
    if isinstance(columns[0], list):
        columns = [{name: [item[name] for item in row] for name in ("bbox", key)} for row in columns]
    known = {value for row in columns for value in row[key]}
    names = kind.names if isinstance(kind, ClassLabel) else [str(i) for i in sorted(known)]

    def rows() -> Iterable[tuple[Any, list[_Object]]]:
        for i, (row, objects) in enumerate(zip(dataset.select_columns(image_column), columns, strict=True)):
            size, where = open_image(row[image_column]).size, f"row {i}, column '{objects_column}'"
            named = [names[value] if isinstance(kind, ClassLabel) else str(value) for value in objects[key]]
            boxes = zip(named, objects["bbox"], strict=True)
            yield row[image_column], [_Object(name, _box_mask(box, size, box_format, where)) for name, box in boxes]

    return _dataset(rows(), names)


def _box_mask(box: ArrayLike | None, size: tuple[int, int], box_format: str, where: str) -> np.ndarray:
    try:
        corners = read_boxes(box, size, box_format)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if corners is None:
        raise ValueError(f"{where}: an object has no box")
    return boxes_to_mask(corners, size[::-1])


def _not_empty(mask: np.ndarray, where: str) -> np.ndarray:
    if not mask.any():
        raise ValueError(f"{where}: the mask of an object covers no pixel")
    return mask


def _existing(path: str | Path) -> Path:
    if not Path(path).exists():
        raise ValueError(f"{path} does not exist")
    return Path(path)


def _dataset(found: Iterable[tuple[Any, list[_Object]]], names: Sequence[str]) -> Dataset:
    """The images that show an object, with label, provenance, and the box around each object."""
    columns: dict[str, list[Any]] = {name: [] for name in ("image", LABELS, LABEL_WEIGHTS, PROVENANCE, "label", "bbox")}
    number = {name: i for i, name in enumerate(names)}
    if len(number) < len(names):
        raise ValueError(f"the classes {list(names)} are not distinct")
    for image, objects in found:
        shown = sorted({item.name for item in objects})
        if not shown:
            continue  # no object, hence no class
        where = image if isinstance(image, Path) else f"row of class {shown[0]}"
        if len(shown) > 1 or shown[0] not in number:
            remedy = "leave in one class an image" if len(shown) > 1 else f"the classes are {', '.join(names)}"
            raise ValueError(f"{where} shows {', '.join(shown)}: {remedy}")
        label, mask = number[shown[0]], np.logical_or.reduce([item.mask for item in objects])
        values = ([label], [1.0], [encode_mask(mask)], label, [list(mask_to_box(item.mask)) for item in objects])
        for name, value in zip(columns, (str(image) if isinstance(image, Path) else image, *values), strict=True):
            columns[name].append(value)
    if not columns["image"]:
        raise ValueError("no image has an annotated object")
    classes = ClassLabel(names=list(names))
    features = {**provenance_features(classes), "label": classes, "bbox": List(List(Value("int64")))}
    return Dataset.from_dict(columns, features=Features(features))
