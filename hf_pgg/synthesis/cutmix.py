"""CutMix: a rectangle of one image replaced by the same rectangle of another.

S. Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_pgg.data.images import resize, to_rgb
from hf_pgg.data.provenance import sources_of
from hf_pgg.synthesis.base import PairSynthesizer, Sample

Box = tuple[int, int, int, int]


def cutmix_box(height: int, width: int, lam: float, center_y: int, center_x: int) -> Box:
    """Rows y0..y1 and columns x0..x1 (exclusive) of a box of share 1 - lam of the image, clipped at its border."""
    cut = np.sqrt(1.0 - lam)
    half_height, half_width = int(height * cut) // 2, int(width * cut) // 2
    return (
        max(center_y - half_height, 0),
        min(center_y + half_height, height),
        max(center_x - half_width, 0),
        min(center_x + half_width, width),
    )


def paste_box(image: np.ndarray, other: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """`image` (H, W, 3) with the box taken from `other` (of the box's size or of the image's).

    Returns:
        The mixed image, and the float mask (H, W) of what stems from `other`.
    """
    y0, y1, x0, x1 = box
    mixed, mask = image.copy(), np.zeros(image.shape[:2], np.float32)
    mixed[y0:y1, x0:x1] = other[y0:y1, x0:x1] if other.shape == image.shape else other
    mask[y0:y1, x0:x1] = 1
    return mixed, mask


def mix_sources(
    sources: tuple[list[int], list[float], list[np.ndarray]],
    other_sources: tuple[list[int], list[float], list[np.ndarray]],
    mask: np.ndarray,
) -> tuple[list[int], list[float], list[np.ndarray]]:
    """Labels, weights and masks of a mix in which `mask` says what stems from the other image.

    Weights are the exact shares of the pixels (the paper's lambda, corrected for clipping); a source that already
    has an object mask keeps its part of it.
    """
    share = float(mask.mean())
    labels, weights, masks = sources
    other_labels, other_weights, other_masks = other_sources
    return (
        [*labels, *other_labels],
        [w * (1 - share) for w in weights] + [w * share for w in other_weights],
        [m * (1 - mask) for m in masks] + [m * mask for m in other_masks],
    )


@dataclass(frozen=True, kw_only=True)
class CutMix(PairSynthesizer):
    """CutMix with a partner from `source`, which is resized to the row's image.

    Args:
        alpha (`float`, *optional*, defaults to 1.0): lambda, the share that stays, is drawn from Beta(alpha, alpha).
    """

    alpha: float = 1.0

    def synthesize(self, row: Mapping[str, Any], rng: np.random.Generator) -> Sample:
        image = to_rgb(row[self.image_column])
        height, width = image.shape[:2]
        lam = rng.beta(self.alpha, self.alpha)
        box = cutmix_box(height, width, lam, int(rng.integers(height)), int(rng.integers(width)))
        partner = self.partner(rng)
        other = to_rgb(partner[self.image_column])
        theirs = sources_of(partner, other.shape[:2], self.label_column)
        mixed, mask = paste_box(image, resize(other, (height, width)), box)
        theirs = theirs.resized((height, width))
        return Sample(mixed, *mix_sources(sources_of(row, (height, width), self.label_column), theirs, mask))
