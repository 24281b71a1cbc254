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
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hf_pgg.pictures import encode_mask, encode_png
from hf_pgg.synthesis import Composite
from hf_pgg.synthesis.base import resize

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
            picture = np.asarray(photo.convert("RGB"))
        rng = np.random.default_rng([label, crops])
        for _ in range(crops):
            edge = int(min(picture.shape[:2]) * rng.uniform(0.25, 1.0))
            top, left = (int(rng.integers(length - edge + 1)) for length in picture.shape[:2])
            images.append(encode_png(resize(picture[top : top + edge, left : left + edge], (side, side))))
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


def cut_outs(pictures: np.ndarray, labels: Sequence[int], keys: Sequence[Sequence[int]], side: int = 32) -> Dataset:
    """Grey digits as cut-outs: `image` (ink of one colour), `mask` (the ink), `label`.

    Args:
        pictures (`np.ndarray`): (N, H, W) float in [0, 1], bright ink.
        labels: (N,) which digit.
        keys: (N,) seeds of the colours, bright enough to be read.
        side (`int`): Pixels.
    """
    rows: dict[str, list[Any]] = {"image": [], "mask": [], "label": [int(label) for label in labels]}
    for picture, key in zip(pictures, keys, strict=True):
        # a steep ramp around one half keeps the edge soft and the stroke solid
        mask = np.clip((resize(picture.astype(np.float32), (side, side)) - 0.35) / 0.3, 0, 1)
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
    pictures = np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8)
    return Dataset.from_dict(
        {"image": [encode_png(picture) for picture in pictures], "label": data.target[chosen].tolist()},
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
        size (`int`): Side of the pictures, in pixels.
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
