"""Exchange of backgrounds: everything outside a row's target is taken from another row's background.

The simple alternative to guidance when provenance is known. The partner's own object is first filled with the
colours around it, so that no second object is pasted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from hf_pgg.pictures import decode_mask, to_rgb
from hf_pgg.provenance import LABELS, PROVENANCE, sources_of
from hf_pgg.synthesis.base import PairSynthesizer, Sample, resize


def fill_target(picture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Fills the target (H, W, mask in [0, 1]) with a blur of what surrounds it, by normalised convolution.

    Blurs of doubling width are laid over each other from wide to narrow, each where it saw enough background.
    """
    outside = 1 - inside.astype(np.float32)
    filled = np.broadcast_to((picture * outside[..., None]).sum((0, 1)) / max(outside.sum(), 1), picture.shape).copy()
    sigma = max(picture.shape[:2]) / 4
    while sigma >= 1:
        weight = gaussian_filter(outside, sigma)
        blurred = np.stack([gaussian_filter(picture[..., c] * outside, sigma) for c in range(3)], -1)
        trust = np.clip(weight / 0.1, 0, 1)[..., None]
        filled = trust * blurred / np.maximum(weight, 1e-6)[..., None] + (1 - trust) * filled
        sigma /= 2
    return np.rint(outside[..., None] * picture + (1 - outside[..., None]) * filled).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class BackgroundExchange(PairSynthesizer):
    """Puts each row's target on the background of a row drawn from `source`; both need provenance.

    The labels stay the row's; a row without provenance is returned as it is. Columns that describe the background
    (a group, a scene) describe the *row's* old one afterwards.

    Args:
        probability (`float`, *optional*, defaults to 1.0): Share of the rows that are exchanged.
    """

    probability: float = 1.0

    def synthesize(self, row: Mapping[str, Any], rng: np.random.Generator) -> Sample:
        picture = to_rgb(row[self.image_column])
        labels, weights, masks = sources_of(row, picture.shape[:2], self.label_column)
        if row.get(PROVENANCE) is None:
            return Sample(picture, labels, weights, None)
        if rng.random() >= self.probability:
            return Sample(picture, labels, weights, masks)
        partner = self.partner(rng)
        if partner.get(PROVENANCE) is None:
            raise ValueError(
                f"a row of `source` (labels {partner.get(LABELS)}) has no provenance: filter such rows out"
            )
        other = to_rgb(partner[self.image_column])
        theirs = np.clip(sum(decode_mask(mask) / 255.0 for mask in partner[PROVENANCE]), 0, 1)
        background = resize(fill_target(other, theirs), picture.shape[:2])
        inside = np.clip(sum(masks), 0, 1)[..., None]
        return Sample(np.rint(inside * picture + (1 - inside) * background).astype(np.uint8), labels, weights, masks)
