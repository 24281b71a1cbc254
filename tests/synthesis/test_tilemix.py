"""Whole clips side by side."""

import numpy as np
import pytest

from hf_pgg.synthesis.tilemix import TileMix, _tile_places
from tests.synthesis.conftest import GREY, WIDTH, frames_of, masks_of


def test_tiles_cover_the_image_once():
    for grid in ((1, 2), (2, 2), (3, 1), (2, 5)):
        covered = np.zeros((23, 31), int)
        for rows, columns in _tile_places(23, 31, grid):
            covered[rows, columns] += 1
        assert (covered == 1).all()


def test_every_tile_holds_a_whole_clip(clips):
    rows = TileMix(source=clips, grid=(1, 2), seed=1).map(clips)
    own = []
    for i, row in enumerate(rows):
        frames, masks = frames_of(row), masks_of(row)
        greys = [np.unique(frames[mask == 255][:, 0]) for mask in masks]
        assert (sum(mask.astype(int) for mask in masks) == 255).all()
        assert [len(grey) for grey in greys] == [1, 1]
        assert row["labels"] == [np.flatnonzero(grey == GREY)[0] % 3 for grey in greys]
        assert GREY[i] in (greys[0][0], greys[1][0])
        assert row["label_weights"] == [0.5, 0.5]
        own.append(int(greys[1][0] == GREY[i]))
        # the actor, 8 of 32 columns wide, is there whole and half as wide
        actor = frames[0, :, : WIDTH // 2, 2] < GREY[0] / 2
        assert 2 <= actor.any(0).sum() <= 6 and actor.any(1).sum() == 12
    assert {0, 1} == set(own)


def test_weights_are_the_shares_of_uneven_tiles(clips):
    row = TileMix(source=clips, grid=(1, 3)).map(clips)[0]
    assert row["label_weights"] == pytest.approx([(mask == 255).mean() for mask in masks_of(row)])
    assert len(set(row["label_weights"])) == 2
