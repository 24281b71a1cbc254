"""The paper's ablations of provenance: masks grown, shrunk, put in the wrong place, or ignored.

A map transform over rows that already have provenance, of whatever method; the pictures stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.ndimage import distance_transform_edt

from hf_pgg.pictures import decode_mask, to_rgb
from hf_pgg.provenance import LABEL_WEIGHTS, LABELS, PROVENANCE
from hf_pgg.synthesis.base import Sample, Synthesizer

Kind = Literal["dilate", "erode", "random", "whole"]


def resize_mask_area(mask: np.ndarray, fraction: float) -> np.ndarray:
    """Grows (fraction > 0) or shrinks (< 0) a mask (H, W) evenly along its border by `fraction` of its area.

    The mask is cut at 1/2 first; the result is bool, and its area is exact while the picture has room for it.
    """
    solid = mask >= 0.5
    wanted = round(solid.sum() * (1 + fraction))
    if not solid.any() or wanted >= solid.size:
        return np.full(mask.shape, solid.any())
    # signed distance: positive outside, negative inside; the `wanted` smallest are the new mask
    distance = distance_transform_edt(~solid) - distance_transform_edt(solid)
    grown = np.zeros(solid.size, bool)
    grown[np.argsort(distance, axis=None, kind="stable")[:wanted]] = True
    return grown.reshape(mask.shape)


def misplaced_mask(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask shifted around the borders by a uniform offset: area and shape of the true one, a random place."""
    return np.roll(mask, (int(rng.integers(mask.shape[0])), int(rng.integers(mask.shape[1]))), axis=(0, 1))


@dataclass(frozen=True, kw_only=True)
class MaskAblation(Synthesizer):
    """Replaces each row's masks.

    Args:
        kind (`str`): `"dilate"`/`"erode"` by `fraction` of the area (dilated masks of several sources may overlap:
            set `allow_overlap` in the config), `"random"` (true shape, random place), or `"whole"`: I = 0, the
            penalty over the whole picture (for the form l2 alone: the share outside an empty mask is constant).
        fraction (`float`, *optional*, defaults to 0.1): For `"dilate"` and `"erode"`.
    """

    kind: Kind
    fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("dilate", "erode", "random", "whole"):
            raise ValueError(f"kind '{self.kind}' is none of dilate, erode, random, whole")

    def synthesize(self, row: Mapping[str, Any], rng: np.random.Generator) -> Sample:
        picture = to_rgb(row[self.image_column])
        masks = row[PROVENANCE]
        if masks is not None:
            masks = [self._replace(decode_mask(mask).astype(np.float32) / 255, rng) for mask in masks]
        return Sample(picture, row[LABELS], row[LABEL_WEIGHTS], masks)

    def _replace(self, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.kind == "random":
            return misplaced_mask(mask, rng)
        if self.kind == "whole":
            return np.zeros_like(mask)
        return resize_mask_area(mask, self.fraction if self.kind == "dilate" else -self.fraction)
