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

from hf_pgg.data.annotations import mask_to_box
from hf_pgg.data.images import decode_mask, encode_mask, encode_png, resize, to_rgb
from hf_pgg.synthesis import Composite

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
OTHER_PHOTOGRAPHS = ("hubble_deep_field.jpg", "page.png", "moon.png", "ihc.png")  # no class stands on these
_DIGITS = ClassLabel(names=[str(digit) for digit in range(10)])


def photographs(names: Sequence[str] = PHOTOGRAPHS, crops: int = 60, side: int = 96) -> Dataset:
    """Square crops of photographs (columns `image`, `label`: which photograph), at random places and scales.

    Args:
        names: Files of scikit-image's wheel; by default the ten that the classes stand on.
        crops (`int`): Of each photograph, a quarter to the whole of its shorter side, the same in every call.
        side (`int`): Of each crop, in pixels.
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
    names_of = ClassLabel(names=[name.partition(".")[0] for name in names])
    return Dataset.from_dict(
        {"image": images, "label": labels}, features=Features({"image": Image(), "label": names_of})
    )


def digits(split: str, side: int = 32) -> Dataset:
    """Handwritten digits as cut-outs: `image` (ink of one colour a digit), `mask` (the ink), `label`.

    Args:
        split (`str`): `"train"` (1,077), `"validation"` (360) or `"test"` (360 of the 1,797 digits).
        side (`int`): Pixels; the 8 x 8 originals are enlarged.
    """
    data, chosen = load_digits(), _digits_of(split)
    # the colour says nothing of the class: it is drawn from the digit's own number
    rows = cut_outs(data.images[chosen] / 16, data.target[chosen], [[7, int(index)] for index in chosen], side)
    return rows.add_column("digit_id", chosen.tolist(), feature=Value("int64"))


def cut_outs(images: np.ndarray, labels: Sequence[int], keys: Sequence[Sequence[int]], side: int = 32) -> Dataset:
    """Grey digits as cut-outs: `image` (ink of one colour), `mask` (the ink), `label`.

    Args:
        images (`np.ndarray`): (N, H, W) float in [0, 1], bright ink.
        labels: (N,) which digit.
        keys: (N,) seeds of the colours, bright enough to be read.
        side (`int`): Pixels.
    """
    rows: dict[str, list[Any]] = {"image": [], "mask": [], "label": [int(label) for label in labels]}
    for image, key in zip(images, keys, strict=True):
        # a steep ramp around one half keeps the edge soft and the stroke solid
        mask = np.clip((resize(image.astype(np.float32), (side, side)) - 0.35) / 0.3, 0, 1)
        colour = np.random.default_rng(list(key)).integers(160, 256, 3)
        rows["image"].append(encode_png(np.broadcast_to(colour.astype(np.uint8), (side, side, 3)).copy()))
        rows["mask"].append(encode_mask(mask))
    return Dataset.from_dict(rows, features=Features({"image": Image(), "mask": Image(), "label": _DIGITS}))


def handwritten_digits(split: str) -> Dataset:
    """The digits as they were recorded: `image` (8 x 8 pixels of 17 grey levels, bright ink) and `label`.

    Args:
        split (`str`): As in [`digits`].
    """
    data, chosen = load_digits(), _digits_of(split)
    images = np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8)
    return Dataset.from_dict(
        {"image": [encode_png(image) for image in images], "label": data.target[chosen].tolist()},
        features=Features({"image": Image(), "label": _DIGITS}),
    )


def _digits_of(split: str) -> np.ndarray:
    """Indices of a split's digits, every class in the same proportion."""
    target = load_digits().target
    rest, test = train_test_split(np.arange(len(target)), test_size=0.2, random_state=0, stratify=target)
    train, validation = train_test_split(rest, test_size=0.25, random_state=0, stratify=target[rest])
    return np.sort({"train": train, "validation": validation, "test": test}[split])


def digits_on_photographs(bias: float = 0.9, seed: int = 0, size: int = 48, copies: int = 2) -> DatasetDict:
    """Splits `train`, `validation` and `test` that keep the contract, with `label` and two columns for groups.

    `background` is the photograph, `aligned` whether it is the class's own.

    Args:
        bias (`float`): Probability that a training digit stands on its class's photograph; 0.1 is no bias.
        seed (`int`): Of the composites; the digits of each split are fixed.
        size (`int`): Side of the images, in pixels.
        copies (`int`): Composites of each training digit.

    Raises:
        ValueError: If `bias` is not in [0, 1].
    """
    if not 0 <= bias <= 1:
        raise ValueError(f"bias is {bias}: it is a probability")
    pool = photographs()
    count = len(PHOTOGRAPHS)
    tied = tuple(
        tuple(bias if photo == digit else (1 - bias) / (count - 1) for photo in range(count)) for digit in range(count)
    )
    even = tuple(tuple(1 / count for _ in range(count)) for _ in range(count))

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
        return rows.add_column("aligned", own).cast_column("aligned", ClassLabel(names=["conflicting", "aligned"]))

    return DatasetDict(
        {
            "train": paste("train", tied, copies),
            "validation": paste("validation", even, 1),
            "test": paste("test", even, 2),
        }
    )


MOTIONS = ("left", "right", "up", "down")
_DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # rows, columns
_ALIGNED = ClassLabel(names=["conflicting", "aligned"])


def moving_places(motion: str, num_frames: int, side: int, size: int, rng: np.random.Generator) -> np.ndarray:
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
    """Splits `train` (1,077 clips), `validation` (360) and `test` (360).

    Columns: `video` (`List(Image())`), `label` (the motion), `masks` (the T masks stacked from top to bottom), `bboxes`
    (T boxes `[x, y, width, height]` in pixels), `background` (the photograph), `aligned` (whether it is the motion's).

    Args:
        bias (`float`): Probability that a training digit moves over its motion's photograph; 0.25 is no bias.
        seed (`int`): Of the clips; the digits of each split are fixed.
        size (`int`): Side of the frames, in pixels.
        num_frames (`int`): T.

    Raises:
        ValueError: If `bias` is not in [0, 1].
    """
    if not 0 <= bias <= 1:
        raise ValueError(f"bias is {bias}: it is a probability")
    scenes = photographs(PHOTOGRAPHS[: len(MOTIONS)], side=size)
    by_photo = [np.flatnonzero(np.asarray(scenes["label"]) == photo) for photo in range(len(MOTIONS))]
    parts = {}
    for number, (split, tied) in enumerate({"train": bias, "validation": None, "test": None}.items()):
        rows: dict[str, list[Any]] = {
            name: [] for name in ("video", "label", "masks", "bboxes", "background", "aligned")
        }
        for i, cutout in enumerate(digits(split)):
            rng = np.random.default_rng([seed, number, i])
            motion = i % len(MOTIONS)
            own = rng.random() < tied if tied is not None else rng.integers(len(MOTIONS)) == 0
            others = [photo for photo in range(len(MOTIONS)) if photo != motion]
            photo = motion if own else int(rng.choice(others))
            background = to_rgb(scenes[int(rng.choice(by_photo[photo]))]["image"])
            frames, masks, boxes = _clip(cutout, background, MOTIONS[motion], num_frames, size, rng)
            rows["video"].append([encode_png(frame) for frame in frames])
            rows["label"].append(motion)
            rows["masks"].append(encode_mask(masks))
            rows["bboxes"].append(boxes)
            rows["background"].append(photo)
            rows["aligned"].append(int(photo == motion))
        features = Features(
            {
                "video": List(Image()),
                "label": ClassLabel(names=list(MOTIONS)),
                "masks": Image(),
                "bboxes": List(List(Value("float32"))),
                "background": scenes.features["label"],
                "aligned": _ALIGNED,
            }
        )
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
    for frame, mask, (top, left) in zip(
        frames, masks, moving_places(motion, num_frames, side, size, rng).tolist(), strict=True
    ):
        window = (slice(top, top + side), slice(left, left + side))
        frame[window] = np.rint(ink[..., None] * digit + (1 - ink[..., None]) * frame[window])
        mask[window] = ink
        boxes.append([float(value) for value in (left + x, top + y, width, height)])
    return frames, masks, boxes
