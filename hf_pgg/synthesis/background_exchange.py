"""Exchange of backgrounds: everything outside a row's target is taken from another row's background.

The simple alternative to guidance when provenance is known. The partner's own object is first filled with the
colours around it, so that no second object is pasted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter

from hf_pgg.data.images import resize
from hf_pgg.data.loading import read_row
from hf_pgg.data.provenance import LABELS, PROVENANCE, naming_row
from hf_pgg.synthesis.base import Row, Sample
from hf_pgg.synthesis.images import PairSynthesizer
from hf_pgg.synthesis.pasting import blend


def fill_target(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Fills the target of an image with a blur of what surrounds it, by normalised convolution.

    Blurs of doubling width are laid over each other from wide to narrow, each where it saw enough background.

    The image is (H, W, 3) uint8, and unchanged where `inside`, the mask of the target (H, W) in [0, 1], is 0.

    Example:
        >>> image = np.full((8, 8, 3), 50, np.uint8)
        >>> image[2:6, 2:6] = 250
        >>> fill_target(image, image[..., 0] == 250).max()
        np.uint8(50)
    """
    outside = 1 - inside.astype(np.float32)
    filled = np.broadcast_to((image * outside[..., None]).sum((0, 1)) / max(outside.sum(), 1), image.shape).copy()
    layers = np.dstack([image * outside[..., None], outside]).astype(np.float32)
    sigma = max(image.shape[:2]) / 4
    while sigma >= 1:
        blurred, weight = np.split(_blur(layers, sigma), [3], axis=2)
        trust = np.clip(weight / 0.1, 0, 1)
        filled = trust * blurred / np.maximum(weight, 1e-6) + (1 - trust) * filled
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
        source (`Dataset`): The pool: the mapped dataset itself or another with provenance, map-style.
        probability (`float`): Share of the rows that are exchanged.

    Example:
        >>> image = BackgroundExchange(source=rows, seed=1).map(rows)[0]["image"]
        >>> rows[0]["image"].getpixel((0, 0)), image.getpixel((0, 0))  # outside the target
        ((40, 40, 40), (160, 160, 160))
    """

    probability: float = 1.0
    version: int = field(default=2, init=False, repr=False)  # 2: wide blurs on smaller copies

    def for_classes(self, names: Sequence[str]) -> BackgroundExchange:
        return self  # the partners' labels are not read

    def synthesize(self, row: Row, rng: np.random.Generator) -> Sample:
        image, sources = self.read(row)
        if row.get(PROVENANCE) is None or sources.target is None:
            return Sample(image, *sources) if row.get(PROVENANCE) else Sample(image, *sources[:2], None)
        if rng.random() >= self.probability:
            return Sample(image, *sources)
        index = int(rng.integers(len(self.source)))
        with naming_row(index, "source"):
            partner = read_row(self.source, index)
            other, other_sources = self.read(partner)
            if partner.get(PROVENANCE) is None or other_sources.target is None:
                labels = partner.get(LABELS)
                raise ValueError(f"a row of `source` (labels {labels}) has no provenance: filter such rows out")
        background = resize(fill_target(other, other_sources.target), image.shape[:2])
        return Sample(blend(image, background, sources.target), *sources)
