"""The whole partner, made small, stands in its box."""

from hf_pgg import ResizeMix
from hf_pgg.data.images import decode_mask
from hf_pgg.synthesis.resizemix import _resizemix_box


def test_resizemix_pastes_the_whole_partner():
    assert _resizemix_box(20, 30, 0.5, 0.0, 1.0) == (0, 10, 15, 30)
    box = _resizemix_box(33, 17, 0.8, 0.37, 0.91)
    assert 0 <= box[0] < box[1] <= 33 and 0 <= box[2] < box[3] <= 17


def test_masks_decode_to_what_was_mixed(photos):
    row = ResizeMix(source=photos, seed=1).map(photos)[0]
    total = sum(decode_mask(mask).astype(int) for mask in row["provenance"])
    assert (total == 255).all()
