"""TileMix: several whole clips side by side.

The images' form of the mixing of whole clips that R. Hachiuma et al. train a weakly supervised localizer with
("Unified Keypoint-based Action Recognition Framework via Structured Keypoint Pooling", CVPR 2023): they join the
skeletons of several clips under a mixed label; here the clips themselves stand side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hf_pgg.data.images import resize_frames
from hf_pgg.synthesis.base import Row, Sample
from hf_pgg.synthesis.clips import PairClipSynthesizer
from hf_pgg.synthesis.pasting import place_sources


def _tile_places(height: int, width: int, grid: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Rows and columns of each tile of a `grid` (rows, columns), from left to right and top to bottom."""
    rows = np.linspace(0, height, grid[0] + 1).round().astype(int)
    columns = np.linspace(0, width, grid[1] + 1).round().astype(int)
    return [
        (slice(top, bottom), slice(left, right))
        for top, bottom in pairwise(rows.tolist())
        for left, right in pairwise(columns.tolist())
    ]


@dataclass(frozen=True, kw_only=True)
class TileMix(PairClipSynthesizer):
    """Puts each row's clip in a random tile of a grid, and partners from `source` in the other tiles.

    Every clip is shown whole; the weight of its label is its tile's share of the image.

    Args:
        grid (`tuple[int, int]`): Rows and columns of tiles.

    Example:
        >>> TileMix(source=clips, grid=(2, 2)).map(clips)[0]["label_weights"]
        [0.25, 0.25, 0.25, 0.25]
    """

    grid: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.grid) < 1 or self.grid[0] * self.grid[1] < 2:
            raise ValueError(f"a grid of {self.grid} does not hold two clips: give two tiles or more, as in (1, 2)")

    def synthesize(self, row: Row, rng: np.random.Generator) -> Sample:
        clip = self.sample(row, rng)
        height, width = clip.size
        places = _tile_places(height, width, self.grid)
        own = int(rng.integers(len(places)))
        mixed, parts = np.empty_like(clip.frames), []
        for i, (rows, columns) in enumerate(places):
            tile = (rows.stop - rows.start, columns.stop - columns.start)
            frames, sources = (clip.frames, self.sources(row, clip)) if i == own else self.partner(rng, tile)
            mixed[:, rows, columns] = resize_frames(frames, tile)
            share = tile[0] * tile[1] / (height * width)
            parts.append((sources.resized(tile), np.s_[:, rows, columns], share))
        return Sample(mixed, *place_sources(parts, mixed.shape[:3]))
