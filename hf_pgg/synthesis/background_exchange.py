"""Exchange of backgrounds: everything outside a row's target is taken from another row's background.

The simple alternative to guidance when provenance is known. The partner's own object is first filled with the
colours around it, so that no second object is pasted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from hf_pgg.data.images import decode_mask, resize, to_rgb
from hf_pgg.data.provenance import LABELS, PROVENANCE, sources_of
from hf_pgg.synthesis.base import PairSynthesizer, Sample


def fill_target(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Fills the target (H, W, mask in [0, 1]) with a blur of what surrounds it, by normalised convolution.

    Blurs of doubling width are laid over each other from wide to narrow, each where it saw enough background.
    """
    outside = 1 - inside.astype(np.float32)
    filled = np.broadcast_to((image * outside[..., None]).sum((0, 1)) / max(outside.sum(), 1), image.shape).copy()
    layers = np.dstack([image * outside[..., None], outside]).astype(np.float32)
    sigma = max(image.shape[:2]) / 4
    while sigma >= 1:
        blurred, weight = np.split(_blur(layers, sigma), [3], axis=2)
        weight = weight[..., 0]
        trust = np.clip(weight / 0.1, 0, 1)[..., None]
        filled = trust * blurred / np.maximum(weight, 1e-6)[..., None] + (1 - trust) * filled
        sigma /= 2
    return np.rint(outside[..., None] * image + (1 - outside[..., None]) * filled).clip(0, 255).astype(np.uint8)


def _blur(layers: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W, C) float32; a wide one on a smaller copy, which costs a fraction and looks the same."""
    shrink = max(int(sigma), 1)
    height, width = layers.shape[:2]
    small = resize(layers, (max(height // shrink, 1), max(width // shrink, 1)))
    scale = (small.shape[0] / height, small.shape[1] / width)
    return resize(gaussian_filter(small, (sigma * scale[0], sigma * scale[1], 0)), (height, width))


@dataclass(frozen=True, kw_only=True)
class BackgroundExchange(PairSynthesizer):
    """Puts each row's target on the background of a row drawn from `source`; both need provenance.

    The labels stay the row's; a row without provenance is returned as it is. Columns that describe the background
    (a group, a scene) describe the *row's* old one afterwards.

    Args:
        probability (`float`, *optional*, defaults to 1.0): Share of the rows that are exchanged.
    """

    probability: float = 1.0
    version: int = field(default=2, init=False, repr=False)  # 2: wide blurs on smaller copies

    def synthesize(self, row: Mapping[str, Any], rng: np.random.Generator) -> Sample:
        image = to_rgb(row[self.image_column])
        labels, weights, masks = sources_of(row, image.shape[:2], self.label_column)
        if row.get(PROVENANCE) is None:
            return Sample(image, labels, weights, None)
        if rng.random() >= self.probability:
            return Sample(image, labels, weights, masks)
        partner = self.partner(rng)
        if partner.get(PROVENANCE) is None:
            raise ValueError(
                f"a row of `source` (labels {partner.get(LABELS)}) has no provenance: filter such rows out"
            )
        other = to_rgb(partner[self.image_column])
        theirs = np.clip(sum(decode_mask(mask) / 255.0 for mask in partner[PROVENANCE]), 0, 1)
        background = resize(fill_target(other, theirs), image.shape[:2])
        inside = np.clip(sum(masks), 0, 1)[..., None]
        return Sample(np.rint(inside * image + (1 - inside) * background).astype(np.uint8), labels, weights, masks)
