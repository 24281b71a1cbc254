"""Every voxel of a VideoMix against the clip that its masks name."""

import numpy as np
import pytest

from hf_pgg.synthesis.pasting import paste_window
from hf_pgg.synthesis.videomix import VideoMix, _videomix_cuboid
from tests.synthesis.conftest import GREY, HEIGHT, WIDTH, frames_of, masks_of


@pytest.mark.parametrize("mode", ["spatial", "temporal", "spatiotemporal"])
def test_videomix_takes_every_voxel_from_the_clip_its_mask_names(clips, mode):
    rows = VideoMix(source=clips, mode=mode, seed=3).map(clips)
    shares = []
    for i, row in enumerate(rows):
        frames = frames_of(row)
        ours, theirs = (mask == 255 for mask in masks_of(row))
        assert frames.shape == (8, HEIGHT, WIDTH, 3) and (ours ^ theirs).all()
        assert set(np.unique(frames[ours][:, 0])) <= {GREY[i]}
        partner = np.unique(frames[theirs][:, 0])
        assert len(partner) <= 1
        assert row["labels"] == [clips[i]["label"], row["labels"][1]]
        if len(partner):
            assert row["labels"][1] == np.flatnonzero(partner[0] == GREY)[0] % 3
        assert row["label_weights"] == pytest.approx([ours.mean(), theirs.mean()], abs=1e-6)
        shares.append(theirs.mean())
        if mode == "spatial":
            assert (theirs == theirs[:1]).all()
        if mode == "temporal":
            assert (theirs == theirs[:, :1, :1]).all()
    assert 0.1 < np.mean(shares) < 0.9


@pytest.mark.parametrize("mode", ["spatial", "temporal", "spatiotemporal"])
def test_a_cuboid_has_the_share_drawn_where_it_fits_and_is_clipped_elsewhere(mode):
    shape = (64, 80, 96)
    middle = (32, 40, 48)
    for lam in (0.2, 0.5, 0.9):
        mixed, mask = paste_window(
            np.zeros((*shape, 3), np.uint8),
            np.ones((*shape, 3), np.uint8),
            _videomix_cuboid(shape, lam, middle, mode),
        )
        assert mask.mean() == pytest.approx(1 - lam, abs=0.02) and (mixed == mask[..., None]).all()
        corner = _videomix_cuboid(shape, lam, (0, 79, 0), mode)
        assert all(0 <= span.start <= span.stop <= length for span, length in zip(corner, shape, strict=True))
    assert _videomix_cuboid(shape, 0.0, middle, mode) == (slice(0, 64), slice(0, 80), slice(0, 96))
    none = _videomix_cuboid(shape, 1.0, middle, mode)
    assert any(span.start == span.stop for span in none)
