"""The whole partner, made small, stands in its box."""

import numpy as np
import pytest

from hf_pgg import ResizeMix
from hf_pgg.data.images import decode_mask
from hf_pgg.synthesis.resizemix import _resizemix_box


def test_resizemix_pastes_the_whole_partner():
    assert _resizemix_box(20, 30, 0.5, 2, 29) == (0, 10, 15, 30)
    assert _resizemix_box(20, 30, 0.5, 10, 12) == (5, 15, 5, 20)
    for center in np.ndindex(33, 17):
        y0, y1, x0, x1 = _resizemix_box(33, 17, 0.8, *center)
        assert 0 <= y0 < y1 <= 33 and 0 <= x0 < x1 <= 17 and (y1 - y0, x1 - x0) == (26, 13)
    assert _resizemix_box(1, 3, 0.1, 0, 1) == (0, 1, 1, 2), "at least one pixel"


def test_as_many_boxes_touch_an_edge_as_in_the_authors_code():
    """Centres are uniform, boxes moved inside: along an axis a box of scale s touches with probability s."""
    rng = np.random.default_rng(0)
    touching = []
    for _ in range(4000):
        y0, y1, _, _ = _resizemix_box(224, 224, rng.uniform(0.1, 0.8), int(rng.integers(224)), int(rng.integers(224)))
        touching.append(y0 == 0 or y1 == 224)
    assert np.mean(touching) == pytest.approx(0.45, abs=0.03)


def test_masks_decode_to_what_was_mixed(photos):
    row = ResizeMix(source=photos, seed=1).map(photos)[0]
    total = sum(decode_mask(mask).astype(int) for mask in row["provenance"])
    assert (total == 255).all()
