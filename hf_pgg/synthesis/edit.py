"""Edits: any image-to-image function; what it left unchanged is the target's.

Otsu's threshold on the difference between source and edit, cleaned by morphology, as in PGG (arXiv 2604.02946). Where
most pixels are left exactly alone, the edited areas that it finds are followed to their ends instead of cleaned, and
areas are never filled for being enclosed: an edit in the midst of an image is an edit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image as PILImage
from scipy.ndimage import binary_closing, binary_propagation, gaussian_filter, label
from skimage.filters import threshold_otsu
from skimage.morphology import disk

from hf_pgg.data.images import resize, to_rgb
from hf_pgg.data.masks import read_mask
from hf_pgg.synthesis.base import Row, Sample
from hf_pgg.synthesis.images import Synthesizer

Editor = Callable[..., Any]
_SPECKLE = 0.0005  # of the image's pixels: smaller areas, edited or not, are noise
_NOISE = 16.0  # of 255: differences that an editor's or a file's noise can have


def unedited_mask(source: np.ndarray, edit: np.ndarray, *, radius: int = 2, min_difference: float = 4.0) -> np.ndarray:
    """Finds the pixels that an edit left alone.

    The images are (H, W, 3) uint8, aligned; the mask is bool (H, W), True where the image is unchanged.

    Args:
        radius (`int`): Radius, in pixels, of the disk that closes gaps in edited areas where the rest of the image is
            noisy, as after recompression; 0 closes none.
        min_difference (`float`): Mean absolute difference (of 255) under which an image counts as unedited: Otsu's
            method always finds two classes, in recompression noise too.

    Example:
        >>> edit = np.zeros((32, 32, 3), np.uint8)
        >>> edit[16:] = 200
        >>> unedited_mask(np.zeros_like(edit), edit).sum(1)[[0, 10, 20, 31]]
        array([32, 32,  0,  0])
    """
    difference = np.abs(source.astype(np.float32) - edit.astype(np.float32)).mean(2)
    blurred = gaussian_filter(difference, 1, mode="nearest")
    if blurred.max() < min_difference:
        return np.ones(difference.shape, bool)
    if np.ptp(blurred) < 1:  # no two classes for Otsu: all has changed alike
        return np.zeros(difference.shape, bool)
    seeds = blurred > max(threshold_otsu(blurred), min_difference)
    low = difference[~seeds & (difference < _NOISE)]  # what differs more is an edit of another strength
    noise = np.median(low) if low.size else 0.0
    # where the rest has not changed at all, a blurred edge does not count
    reached = (seeds & (difference > 0)) | (difference > max(min_difference, 6 * noise))
    edited = binary_propagation(seeds & reached, mask=reached, structure=np.ones((3, 3)))
    if radius > 0 and noise > 0:
        padded = binary_closing(np.pad(edited, 2 * radius, mode="edge"), disk(radius))
        edited = padded[2 * radius : -2 * radius, 2 * radius : -2 * radius]
    smallest = _SPECKLE * edited.size
    return _without_specks(~_without_specks(edited, smallest), smallest)


def _without_specks(mask: np.ndarray, smallest: float) -> np.ndarray:
    """The mask without its connected areas of less than `smallest` pixels."""
    areas = label(mask, structure=np.ones((3, 3)))[0]
    return mask & (np.bincount(areas.ravel()) >= smallest)[areas]


@dataclass(frozen=True, kw_only=True)
class Edit(Synthesizer):
    """Edits each row's image and keeps as provenance what the edit left alone.

    Args:
        editor (`Callable`): `image -> image`, (H, W, 3) uint8 array in, array or PIL image out. One that knows what it
            left alone returns `(image, unedited)`, with a mask of any kind that [`hf_pgg.data.masks`] lists.
            It must be picklable and deterministic given its arguments.
        random (`bool`): Whether `editor` takes the row's random generator, too.
        takes_row (`bool`): Whether its last argument is the row, with its masks.
        radius, min_difference: See [`unedited_mask`].

    Example:
        >>> def darken_left(image):
        ...     return np.where(np.arange(16)[:, None] < 8, image // 4, image)
        >>> provenance = Edit(editor=darken_left).map(rows)[3]["provenance"][0]
        >>> [provenance.getpixel((x, 8)) for x in (4, 11)]  # of the target, the right half is left
        [0, 255]
    """

    editor: Editor
    random: bool = False
    takes_row: bool = False
    radius: int = 2
    min_difference: float = 4.0
    version: int = field(default=2, init=False, repr=False)  # 2: edits inside an image, and of several strengths

    def synthesize(self, row: Row, rng: np.random.Generator) -> Sample:
        source, sources = self.read(row)
        edited = self.editor(source.copy(), *([rng] if self.random else []), *([row] if self.takes_row else []))
        edited, kept = edited if isinstance(edited, tuple) else (edited, None)
        if not isinstance(edited, np.ndarray | PILImage.Image):
            raise ValueError(f"`editor` returned {type(edited).__name__}, not an array or a PIL image")
        edit = resize(to_rgb(edited), source.shape[:2])
        if kept is None:
            kept = unedited_mask(source, edit, radius=self.radius, min_difference=self.min_difference)
        else:
            try:
                kept = read_mask(kept, source.shape[1::-1], may_be_empty=True).target
            except ValueError as error:
                raise ValueError(f"what `editor` says it left alone: {error}") from error
        return Sample(edit, *sources.with_masks(lambda mask: mask * kept))
