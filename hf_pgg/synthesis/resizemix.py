"""ResizeMix: the whole of one image, made small, pasted onto another.

J. Qin et al., "ResizeMix: Mixing Data with Preserved Object Information and True Labels", arXiv 2012.11101. As in
the authors' code (JayQine/ResizeMix) the box's centre is drawn over the whole image, and a box that sticks out is moved
inside, so that many boxes touch an edge. Deviation: that code draws one scale a batch; here each row draws its own, so
that it does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hf_pgg.synthesis.base import Row, Sample
from hf_pgg.synthesis.images import PairSynthesizer
from hf_pgg.synthesis.pasting import paste_window, place_sources


def _resizemix_box(height: int, width: int, scale: float, center_y: int, center_x: int) -> tuple[int, int, int, int]:
    """A box of `scale` times the image's sides (at least one pixel) around a centre, moved inside the image."""
    box_height, box_width = max(int(height * scale), 1), max(int(width * scale), 1)
    y0 = min(max(center_y - box_height // 2, 0), height - box_height)
    x0 = min(max(center_x - box_width // 2, 0), width - box_width)
    return y0, y0 + box_height, x0, x0 + box_width


@dataclass(frozen=True, kw_only=True)
class ResizeMix(PairSynthesizer):
    """Pastes the whole image of a partner from `source`, made small, at a random place of each row's image.

    Args:
        min_scale, max_scale (`float`): Bounds of the uniform draw of the pasted
            image's side relative to the row's (tau in the paper).

    Example:
        >>> mixed = ResizeMix(source=rows, min_scale=0.5, max_scale=0.5).map(rows)
        >>> mixed[0]["label_weights"]  # half as high and half as wide
        [0.75, 0.25]
    """

    min_scale: float = 0.1
    max_scale: float = 0.8
    version: int = field(default=2, init=False, repr=False)  # 2: the authors' place of the box

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.min_scale <= self.max_scale <= 1:
            raise ValueError(f"scales {self.min_scale} and {self.max_scale}: give 0 < min_scale <= max_scale <= 1")

    def synthesize(self, row: Row, rng: np.random.Generator) -> Sample:
        image, sources = self.read(row)
        height, width = image.shape[:2]
        scale = rng.uniform(self.min_scale, self.max_scale)
        y0, y1, x0, x1 = _resizemix_box(height, width, scale, int(rng.integers(height)), int(rng.integers(width)))
        other, other_sources = self.partner(rng, (y1 - y0, x1 - x0))
        window = np.s_[y0:y1, x0:x1]
        mixed, mask = paste_window(image, other, window)
        return Sample(mixed, *sources.mix(place_sources([(other_sources, window, 1.0)], mask.shape), mask))
