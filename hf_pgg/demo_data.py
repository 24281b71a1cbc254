"""The embedded default: real handwritten digits on real photographs, from wheels that are installed anyway.

Digits: UCI optical recognition of handwritten digits (scikit-learn's wheel, 8 x 8). Photographs: scikit-image's wheel.
Each of the ten classes has a photograph of its own, on which its training digits stand with probability `bias`; in
validation and test every photograph is equally likely. Nothing is downloaded or generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hf_pgg.data.boxes import mask_to_box
from hf_pgg.data.images import decode_mask, encode_mask, encode_png, resize, to_rgb
from hf_pgg.synthesis import Composite

PHOTOGRAPHS = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
               "gravel.png", "motorcycle_left.png", "rocket.jpg")  # fmt: skip
OTHER_PHOTOGRAPHS = ("hubble_deep_field.jpg", "page.png", "moon.png", "ihc.png")  # no class stands on these
MOTIONS = ("left", "right", "up", "down")
_DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # rows, columns
_ALIGNED = ClassLabel(names=["conflicting", "aligned"])
_DIGITS = ClassLabel(names=[str(digit) for digit in range(10)])


def photographs(names: Sequence[str] = PHOTOGRAPHS, crops: int = 60, side: int = 96) -> Dataset:
    """Square crops of photographs: `image`, and `label`, which photograph. They are the same in every call.

    Args:
        names: Files of scikit-image's wheel; by default the ten that the classes stand on.
        crops (`int`): Crops of each photograph, at random places, a quarter to the whole of its shorter side wide.

    Example:
        >>> pool = photographs(("coffee.png", "rocket.jpg"), crops=2, side=32)
        >>> pool["label"][:], pool.features["label"].names, pool[0]["image"].size
        ([0, 0, 1, 1], ['coffee', 'rocket'], (32, 32))
    """
    images, labels = [], []
    for label, name in enumerate(names):
        with PILImage.open(str(files("skimage.data") / name)) as photo:
            image = np.asarray(photo.convert("RGB"))
        rng = np.random.default_rng([label, crops])
        for _ in range(crops):
            edge = int(min(image.shape[:2]) * rng.uniform(0.25, 1.0))
            top, left = (int(rng.integers(length - edge + 1)) for length in image.shape[:2])
            images.append(encode_png(resize(image[top : top + edge, left : left + edge], (side, side))))
            labels.append(label)
    features = Features(image=Image(), label=ClassLabel(names=[name.partition(".")[0] for name in names]))
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


def digits(split: str, side: int = 32) -> Dataset:
    """Handwritten digits as cut-outs: `image` (ink of one colour a digit), `mask` (the ink), `label`, `digit_id`.

    Splits are `train` (1,077), `validation` (360) and `test` (360 of the 1,797 digits); the 8 x 8 originals are
    enlarged to `side` pixels.

    Example:
        >>> rows = digits("test")
        >>> len(rows), rows.column_names
        (360, ['image', 'mask', 'label', 'digit_id'])
    """
    data, chosen = load_digits(), _digits_of(split)
    # the colour says nothing of the class: it is drawn from the digit's own number
    rows = cut_outs(data.images[chosen] / 16, data.target[chosen], [[7, int(index)] for index in chosen], side)
    return rows.add_column("digit_id", chosen.tolist(), feature=Value("int64"))


def cut_outs(images: np.ndarray, labels: Sequence[int], keys: Sequence[Sequence[int]], side: int = 32) -> Dataset:
    """Grey digits as cut-outs: `image` (ink of one colour), `mask` (the ink), `label`.

    Args:
        images (`np.ndarray`): (N, H, W) float in [0, 1], bright ink.
        keys: (N,) seeds of the colours, which are bright enough to be read.

    Example:
        >>> cut_outs(np.eye(8)[None], [7], keys=[[0]])[0]["mask"].size
        (32, 32)
    """
    rows: dict[str, list[Any]] = {"image": [], "mask": [], "label": [int(label) for label in labels]}
    for image, key in zip(images, keys, strict=True):
        # a steep ramp around one half keeps the edge soft and the stroke solid
        mask = np.clip((resize(image.astype(np.float32), (side, side)) - 0.35) / 0.3, 0, 1)
        colour = np.random.default_rng(list(key)).integers(160, 256, 3)
        rows["image"].append(encode_png(np.broadcast_to(colour.astype(np.uint8), (side, side, 3)).copy()))
        rows["mask"].append(encode_mask(mask))
    return Dataset.from_dict(rows, features=Features(image=Image(), mask=Image(), label=_DIGITS))


def handwritten_digits(split: str) -> Dataset:
    """The digits of a split (see [`digits`]) as they were recorded: `image` (8 x 8 pixels, bright ink) and `label`.

    Example:
        >>> handwritten_digits("test")[0]["image"].size
        (8, 8)
    """
    data, chosen = load_digits(), _digits_of(split)
    images = np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8)
    rows = {"image": [encode_png(image) for image in images], "label": data.target[chosen].tolist()}
    return Dataset.from_dict(rows, features=Features(image=Image(), label=_DIGITS))


def _digits_of(split: str) -> np.ndarray:
    """Indices of a split's digits, every class in the same proportion."""
    target = load_digits().target
    rest, test = train_test_split(np.arange(len(target)), test_size=0.2, random_state=0, stratify=target)
    train, validation = train_test_split(rest, test_size=0.25, random_state=0, stratify=target[rest])
    return np.sort({"train": train, "validation": validation, "test": test}[split])


def _check_bias(bias: float) -> None:
    if not 0 <= bias <= 1:
        raise ValueError(f"bias is {bias}: give a probability, from 0 to 1")


def digits_on_photographs(bias: float = 0.9, seed: int = 0, size: int = 48, copies: int = 2) -> DatasetDict:
    """Digits on photographs, in the splits `train`, `validation` and `test`.

    The rows keep the contract. Two more columns make groups: `background` is the photograph, `aligned` whether it is
    the class's own.

    Args:
        bias (`float`): Probability that a training digit stands on its class's photograph; 0.1 is no bias.
        seed (`int`): Seed of the composites; the digits of each split are fixed.
        copies (`int`): Composites of each training digit.

    Example:
        >>> digits_on_photographs(bias=90)  # a percentage; `bias=0.9` takes seconds
        Traceback (most recent call last):
        ValueError: bias is 90: give a probability, from 0 to 1
    """
    _check_bias(bias)
    pool, count = photographs(), len(PHOTOGRAPHS)
    tied = tuple(map(tuple, np.where(np.eye(count) == 1, bias, (1 - bias) / (count - 1)).tolist()))
    even = ((1 / count,) * count,) * count

    def paste(split: str, matrix: tuple[tuple[float, ...], ...], draws: int) -> Dataset:
        cutouts = digits(split)
        cutouts = cutouts.select([i for _ in range(draws) for i in range(len(cutouts))])
        method = Composite(
            backgrounds=pool,
            mask_column="mask",
            size=size,
            scale=(0.6, 0.9),
            flip=0.0,  # a mirrored digit is no digit
            feather=0.5,
            background_column="label",
            cooccurrence=matrix,
            seed=seed,
        )
        rows = method.map(cutouts).remove_columns(["mask", "digit_id"])
        own = [int(a == b) for a, b in zip(rows["label"], rows["background"], strict=True)]
        return rows.add_column("aligned", own, feature=_ALIGNED)

    splits = {"train": (tied, copies), "validation": (even, 1), "test": (even, 2)}
    return DatasetDict({split: paste(split, *how) for split, how in splits.items()})


def _moving_places(motion: str, num_frames: int, side: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """(T, 2) top left corners of a square of `side` that crosses most of an image of `size`, evenly, in pixels."""
    free = size - side
    travel = free * rng.uniform(0.6, 1.0)
    start = rng.uniform(0, free - travel)
    along = start + travel * np.linspace(0, 1, num_frames)
    across = np.full(num_frames, rng.uniform(0, free))
    rows, columns = _DIRECTIONS[motion]
    if rows + columns < 0:
        along = along[::-1]
    return np.rint(np.stack([across, along] if rows == 0 else [along, across], axis=1)).astype(int)


def digits_in_motion(bias: float = 0.9, seed: int = 0, size: int = 48, num_frames: int = 8) -> DatasetDict:
    """Clips of digits that move over photographs: splits `train` (1,077 clips), `validation` (360) and `test` (360).

    Columns: `video` (`List(Image())`), `label` (the motion), `masks` (the T masks stacked from top to bottom), `bboxes`
    (T boxes `[x, y, width, height]` in pixels), `background` (the photograph), `aligned` (whether it is the motion's).

    A training digit moves over its motion's photograph with probability `bias`; 0.25 is no bias.

    Example:
        >>> digits_in_motion(bias=90)  # a percentage; `bias=0.9` takes seconds
        Traceback (most recent call last):
        ValueError: bias is 90: give a probability, from 0 to 1
    """
    _check_bias(bias)
    scenes = photographs(PHOTOGRAPHS[: len(MOTIONS)], side=size)
    by_photo = [np.flatnonzero(np.asarray(scenes["label"]) == photo) for photo in range(len(MOTIONS))]
    features = Features(
        video=List(Image()),
        label=ClassLabel(names=list(MOTIONS)),
        masks=Image(),
        bboxes=List(List(Value("float32"))),
        background=scenes.features["label"],
        aligned=_ALIGNED,
    )
    parts = {}
    for number, (split, tied) in enumerate({"train": bias, "validation": None, "test": None}.items()):
        rows: dict[str, list[Any]] = {name: [] for name in features}
        for i, cutout in enumerate(digits(split)):
            rng = np.random.default_rng([seed, number, i])
            motion = i % len(MOTIONS)
            own = rng.random() < tied if tied is not None else rng.integers(len(MOTIONS)) == 0
            others = [photo for photo in range(len(MOTIONS)) if photo != motion]
            photo = motion if own else int(rng.choice(others))
            background = to_rgb(scenes[int(rng.choice(by_photo[photo]))]["image"])
            frames, masks, boxes = _clip(cutout, background, MOTIONS[motion], num_frames, size, rng)
            clip = [encode_png(frame) for frame in frames]
            values = (clip, motion, encode_mask(masks), boxes, photo, int(photo == motion))
            for name, value in zip(features, values, strict=True):
                rows[name].append(value)
        parts[split] = Dataset.from_dict(rows, features=features)
    return DatasetDict(parts)


def _clip(
    cutout: dict[str, Any], background: np.ndarray, motion: str, num_frames: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[list[float]]]:
    """Frames (T, H, W, 3) uint8, masks (T, H, W) float32 and boxes of a digit that moves over a photograph."""
    side = round(size * rng.uniform(0.35, 0.5))
    digit = resize(to_rgb(cutout["image"]), (side, side))
    ink = resize(decode_mask(cutout["mask"]).astype(np.float32) / 255, (side, side))
    x, y, width, height = mask_to_box(ink > 0.5)
    frames = np.broadcast_to(background, (num_frames, *background.shape)).copy()
    masks = np.zeros(frames.shape[:3], np.float32)
    boxes = []
    places = _moving_places(motion, num_frames, side, size, rng).tolist()
    for frame, mask, (top, left) in zip(frames, masks, places, strict=True):
        window = (slice(top, top + side), slice(left, left + side))
        frame[window] = np.rint(ink[..., None] * digit + (1 - ink[..., None]) * frame[window])
        mask[window] = ink
        boxes.append([float(value) for value in (left + x, top + y, width, height)])
    return frames, masks, boxes
