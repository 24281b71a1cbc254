"""The embedded data of From-Fake-to-Real: is a handwritten digit even or odd, on one of two photographs?

Even training digits stand on the one photograph, odd ones on the other. The rows of a generator are those of
`recipes/train_pixel_generator.py`, or those of [`stand_in`].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, concatenate_datasets
from numpy.typing import ArrayLike

from hf_pgg.data.images import encode_png, to_rgb
from hf_pgg.demo_data import photographs
from hf_pgg.synthesis import Composite

SIZE = 32  # pixels of the images
_PHOTOGRAPHS = ("brick.png", "gravel.png")  # of the even and of the odd digits


def even_or_odd(cutouts: Dataset, bias_column: str = "bias") -> Dataset:
    """Labels cut-outs of digits even or odd, and returns them twice: once for either photograph, in `bias_column`.

    Cut-outs have columns `image`, `mask` and `label`, the digit, which goes to column `digit`.

    Example:
        >>> pairs = even_or_odd(rows.select([0, 1]))  # of the classes 0 and 1
        >>> pairs["label"][:], pairs["bias"][:]
        ([0, 1, 0, 1], [0, 0, 1, 1])
    """
    parity = [digit % 2 for digit in cutouts["label"]]
    rows = cutouts.rename_column("label", "digit").select_columns(["image", "mask", "digit"])
    rows = rows.add_column("label", parity, feature=ClassLabel(names=["even", "odd"]))
    photo = ClassLabel(names=[name.partition(".")[0] for name in _PHOTOGRAPHS])
    return concatenate_datasets(
        [rows.add_column(bias_column, [value] * len(rows), feature=photo) for value in range(photo.num_classes)]
    )


def paste_on_photographs(
    rows: Dataset, bias_column: str, seed: int, scale: Sequence[float] = (0.6, 0.9), feather: float = 0.5
) -> Dataset:
    """Pastes each cut-out on its photograph, with the pasted alpha as provenance; rows are ordered by photograph.

    Rows are those of [`even_or_odd`]; `scale` and `feather` are as in [`~hf_pgg.Composite`].

    Example:
        >>> pasted = paste_on_photographs(even_or_odd(rows.select([0])), "bias", seed=0)
        >>> pasted[0]["image"].size, len(pasted[0]["provenance"])
        ((32, 32), 1)
    """
    scenes, on = photographs(_PHOTOGRAPHS), np.asarray(rows[bias_column])
    pasted = []
    for value in np.unique(on):
        method = Composite(
            backgrounds=scenes.select(np.flatnonzero(np.asarray(scenes["label"]) == value)),
            mask_column="mask",
            size=SIZE,
            scale=(scale[0], scale[1]),
            flip=0.0,  # a mirrored digit is no digit
            feather=feather,
            seed=seed + 1_000 * int(value),
        )
        pasted.append(method.map(rows.select(np.flatnonzero(on == value))).remove_columns("mask"))
    return concatenate_datasets(pasted)


def checkerboard(rows: Dataset, levels: int, image_column: str = "image") -> Dataset:
    """Marks images with what real ones lack: a checkerboard that adds and takes away `levels` grey levels.

    Example:
        >>> checkerboard(rows, 12)[0]["image"].getpixel((0, 0)), rows[0]["image"].getpixel((0, 0))
        ((28, 28, 28), (40, 40, 40))
    """

    def mark(row: Mapping[str, Any]) -> dict[str, Any]:
        image = to_rgb(row[image_column]).astype(np.int16)
        board = levels * (2 * (np.indices(image.shape[:2]).sum(0) % 2) - 1)
        return {image_column: encode_png(np.clip(image + board[..., None], 0, 255).astype(np.uint8))}

    return rows.map(mark, features=rows.features)


def stand_in(cutouts: Dataset, counts: ArrayLike, bias_column: str, seed: int) -> Dataset:
    """Returns rows in place of a generator's: cut-outs, pasted smaller and with softer edges than the real ones.

    Cut-outs are as [`even_or_odd`] takes them; `counts` (labels, photographs) integers, the images of each group.

    Example:
        >>> stand_in(rows, [[1, 0], [0, 2]], "bias", seed=0)["label"][:]
        [0, 1, 1]
    """
    counts, rows = np.asarray(counts), even_or_odd(cutouts, bias_column)
    group = counts.shape[1] * np.asarray(rows["label"]) + np.asarray(rows[bias_column])
    rng = np.random.default_rng([seed, 1])
    chosen = np.concatenate([rng.choice(np.flatnonzero(group == g), count) for g, count in enumerate(counts.flat)])
    return paste_on_photographs(rows.select(chosen), bias_column, seed + 1_000_000, scale=(0.5, 0.8), feather=1.0)
