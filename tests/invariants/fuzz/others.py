"""Rows that no `datasets` holds, skeletons, pools with faults and editors that return what they should not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features
from PIL import Image as PILImage

from hf_pgg import PGGCollator
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import encode_png
from hf_pgg.skeletons.rows import KEYPOINT_FEATURE, SkeletonCollator
from hf_pgg.synthesis import BackgroundExchange, BatchMix, CutMix, Edit, FreshDraws, PuzzleMix, ResizeMix
from tests.invariants.fuzz import steps
from tests.invariants.fuzz.oracle import check_batch, check_mix
from tests.invariants.fuzz.rows import CLASSES, LABEL, Case, Columns, contract_case, pool_of, simple_truth
from tests.invariants.fuzz.scenes import NO_IMAGES, draw_target
from tests.invariants.fuzz.verdicts import Fault, Finding, outcome, plain, stored, wrong

# an image (H, W, 3) uint8 as it may stand in a row; each is read as that image
IN_MEMORY: dict[str, Callable[[np.ndarray], Any]] = {
    "uint8": lambda image: image,
    "PIL": PILImage.fromarray,
    "floats in [0, 1]": lambda image: image / 255,
    "whole floats": lambda image: image.astype(np.float32),
    "int64": lambda image: image.astype(np.int64),
    "a tensor": lambda image: torch.from_numpy(image).movedim(-1, 0),
    "a tensor of floats": lambda image: torch.from_numpy(image).movedim(-1, 0) / 255,
    "an opaque array": lambda image: np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]),
    "bytes": lambda image: encode_png(image)["bytes"],
    "a view": lambda image: np.ascontiguousarray(image[::-1, ::-1])[::-1, ::-1],
}
NOT_IN_MEMORY: dict[str, Callable[[np.ndarray], Any]] = {
    "channels first": lambda image: image.transpose(2, 0, 1),
    "fractions of 0..255": lambda image: image + 0.25,
    "normalised": lambda image: image / 64 - 1.7,
    "NaN": lambda image: image * np.nan,
    "five channels": lambda image: np.dstack([image, image])[..., :5],
    "no pixel": lambda image: image[:0],
    "one line": lambda image: image[0, :, 0],
    "a batch": lambda image: image[None],
    "text": lambda image: "nowhere.png",
    "a number": lambda image: 7,
    "complex": lambda image: image * 1j,
    "None": lambda image: None,
}


def check_plain_rows(rng: np.random.Generator, folder: Path) -> int:
    """Rows as a user's own loop makes them, straight to the collator."""
    rows, truths, count, fault = [], [], int(rng.integers(2, 6)), None
    faulty = int(rng.integers(count)) if rng.random() < 0.4 else None
    for i in range(count):
        target = draw_target(rng, (int(rng.integers(9, 30)), int(rng.integers(9, 30))))
        shown = np.array([[30, 60, 90], [200, 170, 40]], np.uint8)[target.astype(int)]
        choice = NOT_IN_MEMORY if i == faulty else IN_MEMORY
        kind = str(rng.choice(list(choice)))
        if i == faulty:
            fault = Fault(frozenset({i}), frozenset({"image"}), f"image in memory: {kind}")
        label, mask = int(rng.integers(3)), target.astype(np.uint8) * np.uint8(255)
        masks: list[Any] = [mask, torch.from_numpy(mask), PILImage.fromarray(mask), target]
        known = None if rng.random() < 0.2 else [masks[rng.integers(4)]]
        number: Any = (label, np.int64(label), torch.tensor(label))[rng.integers(3)]
        rows.append({"image": choice[kind](shown), "labels": [number], "label_weights": [1.0], "provenance": known})
        truths.append(simple_truth(shown, target, label, None if known is None else target.astype(np.float32), 1 / 255))
    batch = outcome(lambda: PGGCollator(steps.PROCESSOR)(rows), fault)
    if batch is not None:
        if fault is not None:
            raise wrong(f"{fault.what} came through to a batch")
        check_batch(batch, truths, groups=False)
    return count


def check_pool(rng: np.random.Generator, folder: Path) -> int:
    """Mixes with a pool whose classes stand in another order, or of which a row is broken; as rows, stream or draws."""
    case = contract_case(rng, folder)
    pool, partners = pool_of(rng)
    count, seed = len(case.truths), int(rng.integers(1000))
    if case.fault is not None:
        return 0
    case.rows = case.rows.add_column("key", rng.permutation(500)[:count].tolist())
    case.options["row_id_column"] = "key"
    what, fault = str(rng.choice(["as it is", "another order", "other classes", "no image", "another size"])), None
    if what in ("another order", "other classes"):
        names = CLASSES[::-1] if what == "another order" else [*CLASSES[:5], "gnu"]
        numbers = [names.index(CLASSES[label]) if CLASSES[label] in names else 5 for label in (3, 4, 5)]
        fields = {**pool.features, "labels": type(pool.features["labels"])(ClassLabel(names=names))}
        spoiled: Columns = Columns(**{name: plain_column(pool, name) for name in pool.column_names})
        spoiled["labels"] = [[number] for number in numbers]
        pool = Dataset.from_dict(dict(spoiled), features=Features(fields))
        fault = Fault(None, frozenset({"labels"}), what) if what == "other classes" else None
    elif what != "as it is":
        spoiled = Columns(**{name: plain_column(pool, name) for name in pool.column_names})
        kinds = [kind for kind in NO_IMAGES if kind != "a bomb"]
        grey = np.full((9, 9), 190, np.uint8)
        spoiled["image"] = [
            NO_IMAGES[str(rng.choice(kinds))](grey) if what == "no image" else encode_png(grey) for _ in partners
        ]
        pool = Dataset.from_dict(dict(spoiled), features=pool.features)
        fault = Fault(frozenset(range(3)), frozenset({"source", "image", "provenance"}), f"pool: {what}")
    kind = (CutMix, ResizeMix, PuzzleMix, BackgroundExchange)[rng.integers(4)]
    extra: dict[str, Any] = {"saliency": steps.brightness, "blocks": (2,)} if kind is PuzzleMix else {}
    if kind is BackgroundExchange and what == "other classes":
        return 0  # the partners' labels are not read
    method = kind(source=pool, seed=seed, **extra, **case.options)
    made = outcome(lambda: applied(method, case.rows, int(rng.integers(3))), fault)
    if made is None or kind is BackgroundExchange:
        return count
    if fault is not None:
        raise wrong(f"{fault.what} came through a mix")
    for row, truth in zip(made, case.truths, strict=True):
        check_mix(row, stored(row["image"]), [truth, partners[row["labels"][-1] - 3]], kind.__name__)
    return count


def plain_column(rows: Dataset, name: str) -> list[Any]:
    return [row[name] for row in plain(rows)]


def applied(method: Any, rows: Dataset, how: int) -> list[dict[str, Any]]:
    """What a method makes of rows: by `map`, of a stream, or afresh in `with_transform`."""
    if how == 0:
        return plain(method.map(rows, **steps.QUIET))
    if how == 1:
        return list(method.map(rows.to_iterable_dataset()))
    fresh = FreshDraws(method)
    fresh.for_classes(CLASSES)
    return list(rows.with_transform(fresh))


NO_EDITS: dict[str, Callable[[np.ndarray], Any]] = {
    "None": lambda image: None,
    "a list": lambda image: image.tolist(),
    "fractions of 0..255": lambda image: image + 0.25,
    "normalised": lambda image: image / 64 - 1.7,
    "channels first": lambda image: image.transpose(2, 0, 1),
    "NaN": lambda image: image * np.nan,
    "a mask of another size": lambda image: (image, np.ones((2, 2))),
    "a mask of class ids": lambda image: (image, np.indices(image.shape[:2]).sum(0) % 3),
    "a mask of NaN": lambda image: (image, np.full(image.shape[:2], np.nan)),
    "a mask of fractions": lambda image: (image, np.full(image.shape[:2], 0.2)),
    "no mask": lambda image: (image, None, None),
}  # fmt: skip


def check_editors(rng: np.random.Generator, folder: Path) -> int:
    """Editors that return no image, or no mask: refused by the row."""
    case = contract_case(rng, folder)
    if case.fault is not None:
        return 0
    what = str(rng.choice(list(NO_EDITS)))
    fault = Fault(frozenset(range(len(case.truths))), frozenset({"image"}), f"editor: {what}")
    if outcome(lambda: Edit(editor=NO_EDITS[what]).map(case.rows, **steps.QUIET), fault) is not None:
        raise wrong(f"an editor returned {what}, and was believed")
    return len(case.truths)


# a person's frames (F, E) as a list, spoiled
NO_PERSON: dict[str, Callable[[list[Any]], Any]] = {
    "None": lambda persons: None,
    "nobody": lambda persons: [],
    "never seen": lambda persons: [[None] * len(person) for person in persons],
    "NaN": lambda persons: [[[float("nan")] * 6, *persons[0][1:]], *persons[1:]],
    "infinite": lambda persons: [[[float("inf")] * 6, *persons[0][1:]], *persons[1:]],
    "one frame less": lambda persons: [*persons, persons[0][1:]],
    "one number less": lambda persons: [[persons[0][0][:5], *persons[0][1:]], *persons[1:]],
    "no frames": lambda persons: [[]],
}


def check_skeletons(rng: np.random.Generator, folder: Path) -> int:
    """Skeletons through BatchMix and their collator: every clip's persons keep their numbers and their mask."""
    columns, count, fault = Columns(), int(rng.integers(3, 7)), None
    faulty = int(rng.integers(count)) if rng.random() < 0.4 else None
    for i in range(count):
        persons = (rng.normal(size=(int(rng.integers(1, 4)), int(rng.integers(2, 9)), 6)) + 10 * i).astype(np.float32)
        value: Any = [
            [None if rng.random() < 0.1 and f else frame.tolist() for f, frame in enumerate(p)] for p in persons
        ]
        if i == faulty:
            what = str(rng.choice(list(NO_PERSON)))
            value = NO_PERSON[what](value)
            fault = Fault(frozenset({i}), frozenset({"keypoints"}), f"skeleton: {what}")
        columns.append(keypoints=value, label=int(rng.integers(3)))
    rows = Dataset.from_dict(dict(columns), features=Features(keypoints=KEYPOINT_FEATURE, label=LABEL))
    pool_value = (rng.normal(size=(3, 2, 5, 6)) - 100).tolist()
    pool = Dataset.from_dict({"keypoints": pool_value, "label": [3, 4, 5]}, features=rows.features)
    case = Case("skeletons", rows, [], None, fault)
    made = steps.mapped(case, BatchMix(source=pool, sampler=FrameSampler(4), seed=int(rng.integers(99))), rows)
    batch = outcome(lambda: SkeletonCollator(sampler=FrameSampler(4))(plain(rows)), fault)
    if fault is not None:
        if made is not None or batch is not None:
            raise wrong(f"{fault.what} came through")
        return count
    for row, before in zip(plain(made), plain(rows), strict=True):
        own, (first, second) = len(before["keypoints"]), row["provenance"]
        places = np.array([[frame is None or frame[0] > -50 for frame in person] for person in row["keypoints"]])
        if not places[:own].all() or row["labels"][0] != before["label"] or row["labels"][1] < 3:
            raise wrong("the row's own persons do not come first, or have another label")
        masks = [stored(mask).reshape(len(row["keypoints"]), 4, 6) for mask in (first, second)]
        if (
            (masks[0][:own] != 255).any()
            or masks[0][own:].any()
            or (masks[1][own:] != 255).any()
            or masks[1][:own].any()
        ):
            raise wrong("a clip's mask is not that of its persons")
    if batch["labels"][:, 0].tolist() != columns["label"] or batch["guided"].any():
        raise wrong(f"labels {batch['labels'].tolist()}, guided {batch['guided'].tolist()}")
    return count


def check_other_case(rng: np.random.Generator, folder: Path) -> int:
    check = (check_plain_rows, check_pool, check_pool, check_editors, check_skeletons)[rng.integers(5)]
    try:
        return check(rng, folder)
    except Finding as finding:
        finding.__notes__ = [check.__name__]
        raise
