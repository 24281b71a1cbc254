"""CutMix: a rectangle of one image replaced by the same rectangle of another.

S. Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_pgg.synthesis.base import Row, Sample
from hf_pgg.synthesis.images import PairSynthesizer
from hf_pgg.synthesis.pasting import paste_window


def _cutmix_box(height: int, width: int, lam: float, center_y: int, center_x: int) -> tuple[int, int, int, int]:
    """Rows y0..y1 and columns x0..x1 (exclusive) of a box of share 1 - lam of the image, clipped at its border."""
    cut = np.sqrt(1.0 - lam)
    half_height, half_width = int(height * cut) // 2, int(width * cut) // 2
    return (
        max(center_y - half_height, 0),
        min(center_y + half_height, height),
        max(center_x - half_width, 0),
        min(center_x + half_width, width),
    )


@dataclass(frozen=True, kw_only=True)
class CutMix(PairSynthesizer):
    """Replaces a random rectangle of each row's image by that of a partner from `source`, resized to the image.

    The weight of the partner's label is the exact share of the pixels that were replaced.

    Args:
        alpha (`float`): lambda, the share that stays, is drawn from Beta(alpha, alpha).

    Example:
        >>> mixed = CutMix(source=rows, seed=2).map(rows)
        >>> mixed[0]["labels"], mixed[0]["label_weights"]
        ([0, 1], [0.6875, 0.3125])
    """

    alpha: float = 1.0

    def synthesize(self, row: Row, rng: np.random.Generator) -> Sample:
        image, sources = self.read(row)
        height, width = image.shape[:2]
        lam = rng.beta(self.alpha, self.alpha)
        y0, y1, x0, x1 = _cutmix_box(height, width, lam, int(rng.integers(height)), int(rng.integers(width)))
        other, other_sources = self.partner(rng, (height, width))
        mixed, mask = paste_window(image, other, np.s_[y0:y1, x0:x1])
        return Sample(mixed, *sources.mix(other_sources, mask))
