"""Objects annotated on images, as rows with image, label and provenance: what every reader of annotations ends in."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_pgg.data.boxes import mask_to_box
from hf_pgg.data.images import encode_mask
from hf_pgg.data.orientation import warn_of_turned
from hf_pgg.data.provenance import LABEL_WEIGHTS, LABELS, PROVENANCE, provenance_features


class FoundObject(NamedTuple):
    """An object on an image: the name of its class, and its mask (H, W), bool.

    Example:
        >>> FoundObject("cat", np.eye(2, dtype=bool)).name
        'cat'
    """

    name: str
    mask: np.ndarray


class AnnotatedImage(NamedTuple):
    """An image, as `datasets` stores it, and its objects; `where` names it in an error.

    Example:
        >>> AnnotatedImage("row 7", "cat.png", []).where
        'row 7'
    """

    where: str
    image: Any
    objects: list[FoundObject]


@contextmanager
def reading(where: object) -> Iterator[None]:
    """Within it, whatever an annotation cannot be read for becomes a ValueError that names the place.

    Example:
        >>> with reading("instances.json"):
        ...     {}["images"]
        Traceback (most recent call last):
        ValueError: instances.json: there is no 'images'
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ElementTree.ParseError) as error:
        text = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(text if text.startswith(str(where)) else f"{where}: {text}") from error


def objects_to_rows(found: Iterable[AnnotatedImage], names: Sequence[str], sized: bool = False) -> Dataset:
    """Returns the images that show an object, with label, provenance, and the box around each object.

    The objects of an image are one target, of one class.

    Args:
        names (`Sequence[str]`): The classes, in the order of their numbers.
        sized (`bool`): Whether the annotations state the sizes of the images, which show as a rule that a tag turns
            them; where none would show it, a warning names the rows.

    Raises:
        ValueError: If an image shows several classes or one that is not named, or none shows an object.

    Example:
        >>> cat = FoundObject("cat", np.eye(2, dtype=bool))
        >>> objects_to_rows([AnnotatedImage("row 0", encode_mask(cat.mask), [cat])], ["dog", "cat"])["bbox"][:]
        [[[0, 0, 2, 2]]]
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("image", LABELS, LABEL_WEIGHTS, PROVENANCE, "label", "bbox")}
    number = {name: i for i, name in enumerate(names)}
    if len(number) < len(names):
        raise ValueError(f"the classes {list(names)} are not distinct")
    for where, image, objects in found:
        shown = sorted({item.name for item in objects})
        if not shown:
            continue  # no object, hence no class
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
    rows = Dataset.from_dict(columns, features=Features(features))
    warn_of_turned(rows, "image", "the annotations", sized=sized)
    return rows
