"""ResizeMix: the whole of one image, made small, pasted onto another.

J. Qin et al., "ResizeMix: Mixing Data with Preserved Object Information and True Labels", arXiv 2012.11101. Deviation:
the paper's code draws one scale a batch; here each row draws its own, so that it does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_pgg.data.images import resize, to_rgb
from hf_pgg.data.provenance import sources_of
from hf_pgg.synthesis.base import PairSynthesizer, Sample
from hf_pgg.synthesis.cutmix import Box, mix_sources, paste_box


def resizemix_box(height: int, width: int, scale: float, top: float, left: float) -> Box:
    """A box of `scale` times the image's sides (at least one pixel); `top`, `left` in [0, 1] place it inside."""
    box_height, box_width = max(round(height * scale), 1), max(round(width * scale), 1)
    y0, x0 = round(top * (height - box_height)), round(left * (width - box_width))
    return y0, y0 + box_height, x0, x0 + box_width


@dataclass(frozen=True, kw_only=True)
class ResizeMix(PairSynthesizer):
    """ResizeMix with a partner from `source`.

    Args:
        min_scale, max_scale (`float`, *optional*, defaults to 0.1 and 0.8): Bounds of the uniform draw of the pasted
            image's side relative to the row's (tau in the paper).
    """

    min_scale: float = 0.1
    max_scale: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.min_scale <= self.max_scale <= 1:
            raise ValueError(f"scales must satisfy 0 < min <= max <= 1, not {self.min_scale} and {self.max_scale}")

    def synthesize(self, row: Mapping[str, Any], rng: np.random.Generator) -> Sample:
        image = to_rgb(row[self.image_column])
        height, width = image.shape[:2]
        box = resizemix_box(height, width, rng.uniform(self.min_scale, self.max_scale), rng.random(), rng.random())
        y0, y1, x0, x1 = box
        partner = self.partner(rng)
        other = to_rgb(partner[self.image_column])
        labels, weights, masks = sources_of(partner, other.shape[:2], self.label_column)
        mixed, mask = paste_box(image, resize(other, (y1 - y0, x1 - x0)), box)
        placed = [np.zeros((height, width), np.float32) for _ in masks]
        for target, source in zip(placed, masks, strict=True):
            target[y0:y1, x0:x1] = resize(source, (y1 - y0, x1 - x0))
        ours = sources_of(row, (height, width), self.label_column)
        return Sample(mixed, *mix_sources(ours, (labels, weights, placed), mask))
