"""Compositing: a cut-out pasted on a background; its alpha is its provenance."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from datasets import ClassLabel, Dataset
from scipy.ndimage import gaussian_filter

from hf_pgg.data.boxes import mask_to_box
from hf_pgg.data.images import open_image, resize, to_rgb
from hf_pgg.data.labels import class_feature
from hf_pgg.data.loading import read_row
from hf_pgg.data.masks import MaskSettings, read_mask
from hf_pgg.data.orientation import is_turned_apart
from hf_pgg.data.provenance import IMAGE, PROVENANCE, ColumnError, naming_row, row_labels, sources_of
from hf_pgg.synthesis.base import Row, Sample
from hf_pgg.synthesis.images import Synthesizer
from hf_pgg.synthesis.pasting import blend, crop_to_aspect


def composite(
    cutout: np.ndarray, alpha: np.ndarray, background: np.ndarray, top: int, left: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pastes a cut-out on a background; what falls over the border is lost.

    Images are uint8; `alpha` (h, w), float in [0, 1], is 1 where the cut-out is solid; `top` and `left` are the row and
    column of its corner, which may be negative. Returned are the image (H, W, 3) and the placed alpha (H, W) float32.
    A cut-out of which no pixel lies on the background is a ValueError.

    Example:
        >>> white, black = np.full((1, 2, 3), 255, np.uint8), np.zeros((1, 4, 3), np.uint8)
        >>> image, placed = composite(white, np.array([[1, 0.2]]), black, top=0, left=1)
        >>> image[0, :, 0]
        array([  0, 255,  51,   0], dtype=uint8)
    """
    height, width = background.shape[:2]
    placed, image = np.zeros((height, width), np.float32), background.copy()
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + alpha.shape[0], height), min(left + alpha.shape[1], width)
    if y0 >= y1 or x0 >= x1:
        raise ValueError(
            f"a cut-out of {alpha.shape} at row {top}, column {left} lies outside the background of {height, width}"
        )
    part, window = np.s_[y0 - top : y1 - top, x0 - left : x1 - left], np.s_[y0:y1, x0:x1]
    placed[window] = alpha[part]
    image[window] = blend(cutout[part], background[window], placed[window])
    return image, placed


def background_classes(backgrounds: Dataset, column: str | None) -> dict[str, ClassLabel]:
    """The output column `background` of a composite and its classes; nothing if no `column` of the pool is named.

    Example:
        >>> background_classes(scenes, "label")
        {'background': ClassLabel(names=['beach', 'forest'])}
    """
    if column is None:
        return {}
    try:
        return {"background": class_feature(backgrounds.features, column)}
    except ValueError as error:
        raise ValueError(f"`backgrounds`: {error}") from error


def _crop_to_mask(image: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and alpha (H, W) cropped to the box of alpha >= 1/2 (of alpha > 0 if it is faint)."""
    solid = alpha >= 0.5 if (alpha >= 0.5).any() else alpha > 0
    if not solid.any():
        raise ValueError("the cut-out is empty: its mask has no target pixel")
    x, y, width, height = mask_to_box(solid)
    window = (slice(y, y + height), slice(x, x + width))
    return image[window], alpha[window]


@dataclass(frozen=True, kw_only=True)
class Composite(Synthesizer):
    """Pastes each row's object on an image from a pool of backgrounds. One source: the provenance is the placed alpha.

    The object is cut out by `mask_column`, or else by the row's own provenance, or else by the alpha channel of its
    RGBA image. It is resized and placed at random.

    Args:
        backgrounds (`Dataset`): Pool of background images (column `image`, and `background_column` if it is used).
        mask_column (`str`, *optional*): Masks of the object, of any kind that [`hf_pgg.data.masks`] lists.
        target_value, ignore_value, channel (*optional*): See [`~hf_pgg.data.masks.MaskSettings`].
        size (`int`): Side of the square output, in pixels.
        scale (`tuple[float, float]`): Bounds of the uniform draw of the object's
            longer side, relative to `size`.
        placement (`"random"` or `"center"`): Anywhere inside the image, or in its middle.
        flip (`float`): Probability of a horizontal flip of the object.
        feather (`float`): Standard deviation, in output pixels, of the edge's blur; the
            blurred alpha is the provenance.
        background_column (`str`, *optional*): `ClassLabel` of `backgrounds`, kept in the output as `background`.
        cooccurrence (`tuple` of `tuple[float, ...]`, *optional*): Row c gives the probabilities of the background
            classes for label c; by default every image of the pool is equally likely.

    Example:
        >>> tied = ((1.0, 0.0), (0.0, 1.0))  # cats on the beach, dogs in the forest
        >>> method = Composite(backgrounds=scenes, size=16, background_column="label", cooccurrence=tied)
        >>> method.map(rows)["background"][:]
        [0, 1, 0, 1]
    """

    backgrounds: Dataset
    mask_column: str | None = None
    target_value: float | None = None
    ignore_value: float | None = None
    channel: str | None = None
    size: int = 224
    scale: tuple[float, float] = (0.5, 0.9)
    placement: Literal["random", "center"] = "random"
    flip: float = 0.5
    feather: float = 0.7
    background_column: str | None = None
    cooccurrence: tuple[tuple[float, ...], ...] | None = None
    _pools: tuple[np.ndarray, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.backgrounds) == 0:
            raise ValueError("`backgrounds` has no row: give at least one image")
        if self.cooccurrence is None:
            return
        if self.background_column is None:
            raise ValueError("`cooccurrence` needs `background_column`, the classes of the backgrounds")
        classes = self.extra_features()["background"].num_classes
        for label, row in enumerate(self.cooccurrence):
            if len(row) != classes or abs(sum(row) - 1) > 1e-6 or min(row) < 0:
                raise ValueError(f"cooccurrence[{label}] = {row} is not {classes} probabilities that sum to 1")
        of = np.asarray(self.backgrounds[self.background_column])
        object.__setattr__(self, "_pools", tuple(np.flatnonzero(of == scene) for scene in range(classes)))

    @property
    def columns(self) -> tuple[str, ...]:
        return super().columns if self.mask_column is None else (*super().columns, self.mask_column)

    def extra_features(self) -> dict[str, Any]:
        return background_classes(self.backgrounds, self.background_column)

    def synthesize(self, row: Row, rng: np.random.Generator) -> Sample:
        column, labels, _ = row_labels(row, self.label_column)
        if len(labels) > 1:
            raise ColumnError(column, f"{len(labels)} labels for one object to cut out", "Composite rows of one label.")
        label = labels[0]
        image, alpha = _crop_to_mask(*self._cutout(row))
        if rng.random() < self.flip:
            image, alpha = image[:, ::-1], alpha[:, ::-1]
        longer = rng.uniform(*self.scale) * self.size
        height, width = (max(round(side * longer / max(alpha.shape)), 1) for side in alpha.shape)
        image, alpha = resize(image, (height, width)), resize(alpha, (height, width))
        if self.feather > 0:
            alpha = gaussian_filter(alpha, self.feather, mode="constant")
        down, right = (0.5, 0.5) if self.placement == "center" else (rng.random(), rng.random())
        top, left = round(down * (self.size - height)), round(right * (self.size - width))
        index = self._background_index(label, rng)
        with naming_row(index, "backgrounds"):
            scene = read_row(self.backgrounds, index)
            canvas = crop_to_aspect(to_rgb(scene[IMAGE]), (self.size, self.size), rng)
        mixed, placed = composite(image, alpha, canvas, top, left)
        extra = {} if self.background_column is None else {"background": scene[self.background_column]}
        return Sample(mixed, [label], [1.0], [placed], extra)

    def _background_index(self, label: int, rng: np.random.Generator) -> int:
        if self.cooccurrence is None:
            return int(rng.integers(len(self.backgrounds)))
        drawn = int(rng.choice(len(self._pools), p=self.cooccurrence[label]))
        pool = self._pools[drawn]
        if len(pool) == 0:
            raise ValueError(f"`backgrounds` has no image of class {drawn}, which `cooccurrence` gives label {label}")
        return int(pool[rng.integers(len(pool))])

    def _cutout(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """The row's image (H, W, 3) uint8 and its object's alpha (H, W) float32."""
        image = to_rgb(row[self.image_column])
        if self.mask_column is not None:
            settings = MaskSettings(self.target_value, self.ignore_value, self.channel)
            try:
                size, named = image.shape[1::-1], self.target_value is not None
                alpha = read_mask(row[self.mask_column], size, settings, may_be_empty=not named).target
                if is_turned_apart(row[self.image_column], row[self.mask_column]):
                    warnings.warn(
                        f"EXIF tags turn images of '{self.image_column}' and masks of '{self.mask_column}' differently,"
                        " and sizes do not show whether they fit: each is taken as it is shown",
                        stacklevel=2,
                    )
            except (ValueError, OSError) as error:
                raise ColumnError(self.mask_column, str(error), "Mend the mask, or remove the row.") from error
        elif row.get(PROVENANCE) and row[PROVENANCE][0] is not None:
            alpha = np.asarray(sources_of(row, image.shape[:2], self.label_column).masks[0])
        else:
            cutout = open_image(row[self.image_column])
            if cutout.mode not in ("RGBA", "LA", "PA"):
                raise ValueError("no cut-out: give an RGBA image, a `mask_column`, or rows with provenance")
            rgba = np.array(cutout.convert("RGBA"))
            # the colours under the alpha are wanted here, not the image laid on black
            image, alpha = rgba[..., :3], rgba[..., 3] / 255
        return image, alpha.astype(np.float32)
