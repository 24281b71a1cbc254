"""tilemix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from hf_pgg.data.images import resize_frames
from hf_pgg.synthesis.base import Sample
from hf_pgg.synthesis.clips import PairClipSynthesizer


def tile_places(height: int, width: int, grid: tuple[int, int]) -> list[tuple[slice, slice]]:
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
    """Whole clips side by side in the tiles of a grid: the row's in a random one, partners from `source` in the others.

    Every source's weight is its tile's share of the image.

    Args:
        grid (`tuple[int, int]`, *optional*, defaults to (1, 2)): Rows and columns of tiles.
    """

    grid: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.grid) < 1 or self.grid[0] * self.grid[1] < 2:
            raise ValueError(f"a grid of {self.grid} does not hold two clips")

    def synthesize(self, row: Mapping[str, Any], rng: np.random.Generator) -> Sample:
        clip = self.sample(row, rng)
        height, width = clip.size
        places = tile_places(height, width, self.grid)
        own = int(rng.integers(len(places)))
        mixed = np.empty_like(clip.frames)
        labels: list[int] = []
        weights: list[float] = []
        masks: list[np.ndarray] = []
        for i, (rows, columns) in enumerate(places):
            tile = (rows.stop - rows.start, columns.stop - columns.start)
            frames, sources = (clip.frames, self.sources(row, clip)) if i == own else self.partner(rng, tile)
            mixed[:, rows, columns] = resize_frames(frames, tile)
            labels += sources[0]
            weights += [weight * tile[0] * tile[1] / (height * width) for weight in sources[1]]
            for mask in sources[2]:
                placed = np.zeros(mixed.shape[:3], np.float32)
                placed[:, rows, columns] = resize_frames(mask, tile)
                masks.append(placed)
        return Sample(mixed, labels, weights, masks)
