"""Small datasets of images in one convention each, sometimes with one fault, and the truth about every row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from hf_pgg.data.images import encode_mask, encode_png
from tests.invariants.fuzz.boxes import FORMATS, NO_BOX, as_format, covered, draw_corners
from tests.invariants.fuzz.masks import MASKS, NO_MASK, NO_MEANING, MaskKind
from tests.invariants.fuzz.scenes import NO_IMAGES, draw_target, image_kinds, stored_turned, turned_file
from tests.invariants.fuzz.verdicts import Fault

CLASSES = ["ant", "bee", "cat", "dog", "elk", "fox"]
LABEL = ClassLabel(names=CLASSES)
POOL_LABELS = (3, 4, 5)  # a partner is known by its label: rows of a case have the others


@dataclass
class Truth:
    """What a row holds. Of each source: label, weight, mask (None: unknown), and the colours of its object."""

    shown: np.ndarray
    labels: list[int]
    weights: list[float]
    targets: list[np.ndarray | None] | None
    inside: list[list[np.ndarray]]
    outside: list[np.ndarray]
    tolerance: float = 1 / 255
    group: int = 0

    @property
    def colours(self) -> list[np.ndarray]:
        return [colour for own in self.inside for colour in own] + self.outside


@dataclass
class Case:
    """A dataset, what is to be done with it, and the truth."""

    name: str
    rows: Dataset
    truths: list[Truth]
    provenance: Mapping[str, Any] | None  # arguments of `add_provenance`; None where rows keep the contract
    fault: Fault | None = None
    options: dict[str, Any] = field(default_factory=dict)  # label_column, row_id_column: of methods
    masks: Mapping[str, Any] = field(default_factory=dict)  # mask_column and its settings, for composites
    groups: tuple[str, ...] = ()
    is_clip: bool = False

    def row_name(self, index: int) -> object:
        column = self.options.get("row_id_column")
        return index if column is None else self.rows[column][index]


def colours_of(shown: np.ndarray, where: np.ndarray) -> list[np.ndarray]:
    """The pure colour of an area, none if it is empty."""
    return [np.median(shown[where], axis=0).astype(int)] if where.any() else []


def simple_truth(
    shown: np.ndarray, painted: np.ndarray, label: int, mask: np.ndarray | None, tolerance: float
) -> Truth:
    """The truth of a row of one label whose object is painted at `painted`."""
    inside, outside = colours_of(shown, painted), colours_of(shown, ~painted)
    return Truth(shown, [label], [1.0], None if mask is None else [mask], [inside], outside, tolerance)


class Columns(dict[str, list[Any]]):
    """Columns that are filled value by value."""

    def append(self, **values: Any) -> None:
        for name, value in values.items():
            self.setdefault(name, []).append(value)


def labelled(
    rng: np.random.Generator, columns: Columns, labels: Sequence[int], features: dict[str, Any]
) -> tuple[dict[str, Any], Fault | None]:
    """Adds the column of labels, under one of three names, and sometimes a fault. Returns the methods' options."""
    name = str(rng.choice(["label", "label", "animal", "labels"]))
    options = {"label_column": "animal"} if name == "animal" else {}
    columns[name], features[name] = list(labels), LABEL
    if rng.random() > 0.12:
        return options, None
    bad = int(rng.integers(len(labels)))
    kind = str(rng.choice(["missing", "minus one", "names", "numbers", "fractions", "multi-hot"]))
    whole: dict[str, tuple[list[Any], Any]] = {
        "names": ([CLASSES[label] for label in labels], Value("string")),
        "numbers": (list(labels), Value("int64")),
        "fractions": ([label + 0.5 for label in labels], Value("float64")),
        "multi-hot": (np.eye(6, dtype=int)[list(labels)].tolist(), List(Value("int64"))),
    }
    if kind in whole:
        columns[name], features[name] = whole[kind]
        return options, Fault(None, frozenset({name}), f"label: {kind}")
    columns[name][bad] = None if kind == "missing" else -1
    return options, Fault(frozenset({bad}), frozenset({name, "labels", "label"}), f"label: {kind}")


def numbered(
    rng: np.random.Generator, columns: Columns, count: int, features: dict[str, Any], options: dict[str, Any]
) -> Fault | None:
    """Adds a column of groups and, half the time, one of row ids; sometimes with a fault."""
    columns["group"], features["group"] = rng.integers(0, 4, count).tolist(), Value("int64")
    if rng.random() < 0.5:
        texts = rng.random() < 0.5
        ids = rng.permutation(1000)[:count].tolist()
        columns["id"] = [f"photo-{i}" for i in ids] if texts else ids
        features["id"], options["row_id_column"] = Value("string" if texts else "int64"), "id"
    if rng.random() > 0.08:
        return None
    bad = int(rng.integers(count))
    kind = str(rng.choice(["fraction", "missing", "name"]))
    if kind == "missing":
        columns["group"][bad] = None
    elif kind == "fraction":
        columns["group"], features["group"] = [float(value) for value in columns["group"]], Value("float64")
        columns["group"][bad] += 0.3
    else:
        columns["group"], features["group"] = [f"{value}" for value in columns["group"]], Value("string")
        return Fault(frozenset(range(count)), frozenset({"group"}), "group: names")
    return Fault(frozenset({bad}), frozenset({"group"}), f"group: {kind}")


def spoil_image(rng: np.random.Generator, columns: Columns, truths: Sequence[Truth], column: str = "image") -> Fault:
    bad, kind = int(rng.integers(len(truths))), str(rng.choice(list(NO_IMAGES)))
    grey = np.full(truths[bad].shown.shape[:2], 190, np.uint8)
    grey[0, 0] = 30
    columns[column][bad] = NO_IMAGES[kind](grey)
    return Fault(frozenset({bad}), frozenset({column}), f"image: {kind}")


def masked_case(rng: np.random.Generator, folder: Path) -> Case:
    """Images with masks of one convention."""
    kind = str(rng.choice(list(MASKS)))
    convention, kinds = MASKS[kind], image_kinds(folder)
    columns, truths, count = Columns(), [], int(rng.integers(4, 8))
    fate = rng.random()
    faulty = int(rng.integers(count)) if fate < 0.3 else None
    for i in range(count):
        target = draw_target(rng, (int(rng.integers(12, 20)), int(rng.integers(21, 30))) if i == faulty else None)
        stored, shown = kinds[str(rng.choice(list(kinds)))](rng, target)
        mask, means = (None, None) if rng.random() < 0.12 and i != faulty else convention.encode(target, rng)
        columns.append(image=stored, mask=mask)
        truths.append(simple_truth(shown, target, int(rng.integers(3)), means, convention.tolerance))
    features: dict[str, Any] = {"image": Image(), "mask": convention.feature}
    options, fault = labelled(rng, columns, [truth.labels[0] for truth in truths], features)
    case_fault = fault or numbered(rng, columns, count, features, options)
    if case_fault is not None and "group" not in columns:
        columns["group"], features["group"] = [0] * count, Value("int64")
    if case_fault is None and faulty is not None:
        case_fault = spoil_mask(rng, columns, truths, faulty, kind)
    elif case_fault is None and fate < 0.42:
        case_fault = spoil_image(rng, columns, truths)
    elif case_fault is None and fate < 0.47 and convention.feature == Image():
        case_fault = turn_apart(rng, columns, truths, convention)
    settings = {"mask_column": "mask", **convention.options}
    rows = Dataset.from_dict(dict(columns), features=Features(features))
    name = f"masks: {kind}" + (f", {case_fault.what}" if case_fault else "")
    return Case(name, rows, truths, {**settings, **_label(options)}, case_fault, options, settings, ("group",))


def turn_apart(rng: np.random.Generator, columns: Columns, truths: Sequence[Truth], convention: MaskKind) -> Fault:
    """An image that its tag turns by a quarter, with a mask of the pixels as they are stored."""
    bad, orientation = int(rng.integers(len(truths))), int(rng.integers(5, 9))
    target = draw_target(rng, (int(rng.integers(12, 20)), int(rng.integers(21, 30))))
    columns["image"][bad] = turned_file(np.dstack([target * np.uint8(200)] * 3), orientation)
    columns["mask"][bad] = convention.encode(stored_turned(target, orientation), rng)[0]
    return Fault(frozenset({bad}), frozenset({"mask", "image"}), "mask: not turned with its image")


def _label(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key == "label_column"}


def spoil_mask(
    rng: np.random.Generator, columns: Columns, truths: Sequence[Truth], bad: int, kind: str, column: str = "mask"
) -> Fault:
    """Replaces a row's mask by one that says nothing, in its convention or in any."""
    target = truths[bad].targets[0] > 0.5  # type: ignore[index]
    if not isinstance(MASKS[kind].feature, Image):
        numbers = {
            "empty": target * 0,
            "smaller": target[::2, ::2],
            "one pixel": np.ones((1, 1)),
            "lying": target.T,
        }
        if MASKS[kind].feature.feature.feature.dtype != "bool":
            numbers |= {"NaN": np.where(target, 1, np.nan), "ids": target * 2, "fractions": target * 0.3 + 0.1}
        what = str(rng.choice(list(numbers)))
        dtype = MASKS[kind].feature.feature.feature.dtype
        columns[column][bad] = numbers[what].astype(dtype).tolist()
    else:
        unclear = {} if MASKS[kind].options else NO_MEANING
        square = target.shape[0] == target.shape[1]  # of which no size shows that it lies
        what = str(rng.choice([kind for kind in (*NO_MASK, *unclear) if not (square and kind == "lying")]))
        columns[column][bad] = {**NO_MASK, **unclear}[what](target)
    return Fault(frozenset({bad}), frozenset({column}), f"mask: {what}")


def boxed_case(rng: np.random.Generator, folder: Path) -> Case:
    """Images with boxes of one stated format."""
    kinds, name = image_kinds(folder), str(rng.choice(FORMATS))
    columns, truths, count, several = Columns(), [], int(rng.integers(4, 8)), rng.random() < 0.5
    faulty = int(rng.integers(count)) if rng.random() < 0.35 else None
    fault, given = None, []
    for i in range(count):
        size = (int(rng.integers(12, 20)), int(rng.integers(21, 30))) if i == faulty else None
        first = draw_target(rng, size)
        boxes = [draw_corners(rng, first)]
        if boxes[0][2] <= 2 and boxes[0][3] <= 2:  # numbers up to 1 are taken for shares
            boxes = [[0.0, 0.0, float(first.shape[1]), float(first.shape[0])]]
        if several and rng.random() < 0.4:
            boxes.append(draw_corners(rng, draw_target(rng, first.shape)))
        mask = covered(boxes, first.shape)
        stored, shown = kinds[str(rng.choice(list(kinds)))](rng, mask > 0)
        value: Any = [as_format(box, name, first.shape) for box in boxes]
        if i == faulty:
            what = str(rng.choice([key for key in NO_BOX if several or key != "one of two outside"]))
            value = NO_BOX[what](boxes[0], name, first.shape)
            fault = Fault(frozenset({i}), frozenset({"bbox"}), f"box: {what}")
        value = value if several else value[0]
        unknown = rng.random() < 0.15 and i != faulty
        value = (None if rng.random() < 0.5 else []) if unknown else value
        given += value if several and value else [value] if value else []
        columns.append(image=stored, bbox=value)
        truths.append(simple_truth(shown, mask > 0, int(rng.integers(3)), None if unknown else mask, 1 / 255))
    number = Value("float64")
    features: dict[str, Any] = {"image": Image(), "bbox": List(List(number)) if several else List(number)}
    columns["label"], features["label"] = [truth.labels[0] for truth in truths], LABEL
    options: dict[str, Any] = {}
    if fault is None and rng.random() < 0.1:
        fault = spoil_image(rng, columns, truths)
    other = numbered(rng, columns, count, features, options) if fault is None else None
    rows = Dataset.from_dict(dict(columns), features=Features(features))
    found = fault or other
    groups = ("group",) if "group" in columns else ()
    settings = {"box_column": "bbox", "box_format": name}
    if found is None and given and name in ("xywh", "xyxy") and rng.random() < 0.3:
        del settings["box_format"]  # it can be told from boxes that are no corners alone
        if all(box[2] > box[0] and box[3] > box[1] for box in given):
            found = Fault(None, frozenset({"bbox"}), "boxes of an unknown format")
    title = f"boxes: {name}" + (f", {found.what}" if found else "")
    return Case(title, rows, truths, settings, found, options, {}, groups)


def striped(rng: np.random.Generator, count: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """An image with `count` objects side by side, each in a colour of its own; their masks; the colours."""
    height, width = int(rng.integers(8, 30)), int(rng.integers(8 * count, 12 * count))
    palette = np.array([[40, 40, 40], [190, 60, 60], [60, 190, 60], [60, 60, 190]], np.uint8)
    colours = palette[: count + 1]
    which, step = np.zeros((height, width), int), width // count
    for k in range(count):
        top, left = int(rng.integers(height // 2)), k * step + int(rng.integers(step // 3))
        which[top : top + height // 2, left : left + step // 2] = k + 1
    masks = [which == k + 1 for k in range(count)]
    return colours[which], masks, list(colours.astype(int))


Changed = dict[str, Any]
Contract = tuple[tuple[str, ...], Callable[[Mapping[str, Any], np.ndarray], Changed]]


def _other_mask(store: Callable[[np.ndarray], Any]) -> Contract:
    """The first mask (H, W) bool stored otherwise."""
    return ("provenance",), lambda row, mask: {"provenance": [store(mask), *row["provenance"][1:]]}


def _weights(change: Callable[[list[float]], list[float] | None]) -> Contract:
    return ("label_weights", "labels"), lambda row, mask: {"label_weights": change(row["label_weights"])}


def _labels(label: int | None) -> Contract:
    return ("labels", "label"), lambda row, mask: {"labels": [label] * len(row["labels"])}


# what a row of the contract may not be: columns that its refusal may name, and how the row is changed
NO_CONTRACT: dict[str, Contract] = {
    "weights of 0.9": _weights(lambda weights: [0.9 * weight for weight in weights]),
    "weights of NaN": _weights(lambda weights: [float("nan")] * len(weights)),
    "negative weights": _weights(lambda weights: [1.5, -0.5, *[0.0] * (len(weights) - 2)]),
    "a weight too many": _weights(lambda weights: [*weights, 0.0]),
    "no weights": _weights(lambda weights: None),
    "no labels": (("labels", "label"), lambda row, mask: {"labels": [], "label_weights": [], "provenance": None}),
    "labels of None": _labels(None),
    "labels of -1": _labels(-1),
    "a mask too many": (("provenance",), lambda row, mask: {"provenance": [*row["provenance"], encode_mask(mask)]}),
    "a mask of 0 and 1": _other_mask(lambda mask: encode_png(mask.astype(np.uint8))),
    "a mask with colours": _other_mask(lambda mask: encode_png(np.dstack([mask, mask, ~mask]) * np.uint8(255))),
    "a mask of another size": _other_mask(lambda mask: encode_mask(mask[:-1])),
    "a mask that is no image": _other_mask(lambda mask: {"bytes": b"none", "path": None}),
}


def contract_case(rng: np.random.Generator, folder: Path) -> Case:
    """Rows of one to three labels that keep the contract already, some with unknown sources."""
    columns, truths, count = Columns(), [], int(rng.integers(4, 8))
    faulty, fault = (int(rng.integers(count)) if rng.random() < 0.4 else None), None
    for i in range(count):
        sources = int(rng.integers(2, 4)) if i == faulty else int(rng.integers(1, 4))
        shown, masks, colours = striped(rng, sources)
        labels, weights = rng.integers(0, 3, sources).tolist(), rng.dirichlet(np.ones(sources)).tolist()
        fate = rng.random() if i != faulty else 1.0
        known: list[np.ndarray | None] | None = [mask.astype(np.float32) for mask in masks]
        if fate < 0.15:
            known = None
        elif fate < 0.35:
            known[int(rng.integers(sources))] = None  # type: ignore[index]
        stored = known and [None if mask is None else encode_mask(mask) for mask in known]
        row = {"image": encode_png(shown), "labels": labels, "label_weights": weights, "provenance": stored}
        if i == faulty:
            what = str(rng.choice(list(NO_CONTRACT)))
            named, change = NO_CONTRACT[what]
            row |= change(row, masks[0])
            fault = Fault(frozenset({i}), frozenset(named), f"contract: {what}")
        columns.append(**row)
        inside = [[colour] for colour in colours[1:]]
        truths.append(Truth(shown, labels, weights, known, inside, colours[:1]))
    features: dict[str, Any] = {
        "image": Image(),
        "labels": List(LABEL),
        "label_weights": List(Value("float32")),
        "provenance": List(Image(mode="L") if fault is None else Image()),
    }
    options: dict[str, Any] = {}
    other = numbered(rng, columns, count, features, options) if fault is None else None
    rows = Dataset.from_dict(dict(columns), features=Features(features))
    found = fault or other
    groups = ("group",) if "group" in columns else ()
    return Case("contract" + (f", {found.what}" if found else ""), rows, truths, None, found, options, {}, groups)


def pool_of(rng: np.random.Generator) -> tuple[Dataset, list[Truth]]:
    """Partners of one label each, in pure colours that no row has."""
    pure = np.array([[255, 0, 255], [0, 255, 255], [255, 255, 0], [0, 255, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    columns, truths = Columns(), []
    for i, label in enumerate(POOL_LABELS):
        target = draw_target(rng, (int(rng.integers(14, 40)), int(rng.integers(14, 40))))
        shown = pure[2 * i : 2 * i + 2][target.astype(int)]
        columns.append(image=encode_png(shown), labels=[label], label_weights=[1.0], provenance=[encode_mask(target)])
        truths.append(simple_truth(shown, target, label, target.astype(np.float32), 1 / 255))
    features = Features(
        image=Image(),
        labels=List(LABEL),
        label_weights=List(Value("float32")),
        provenance=List(Image(mode="L")),
    )
    return Dataset.from_dict(dict(columns), features=features), truths
