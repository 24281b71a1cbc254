"""Every pixel of a CutMix against the source that its masks name."""

import numpy as np
import pytest

from hf_pgg import CutMix
from hf_pgg.data.images import to_rgb
from hf_pgg.synthesis.cutmix import _cutmix_box
from hf_pgg.synthesis.pasting import paste_window


def test_cutmix_takes_every_pixel_from_the_source_its_mask_names(photos):
    mixed = CutMix(source=photos.filter(lambda row: row["label"] == 0), seed=3).map(photos)
    same_size = [i for i in range(len(photos)) if photos[i]["image"].size == (32, 32)]
    pool = [to_rgb(row["image"]) for row in photos if row["label"] == 0]
    for i in same_size:
        row, own = mixed[i], to_rgb(photos[i]["image"])
        ours, theirs = (np.asarray(mask) == 255 for mask in row["provenance"])
        image = to_rgb(row["image"])
        assert (ours ^ theirs).all()
        assert (image[ours] == own[ours]).all()
        partners = [other for other in pool if other.shape == own.shape]
        if theirs.any() and any((image[theirs] == other[theirs]).all() for other in partners):
            assert row["labels"][1] == 0
        assert row["label_weights"] == pytest.approx([ours.mean(), theirs.mean()], abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_the_cutmix_box_is_clipped_and_lambda_exact(seed):
    rng = np.random.default_rng(seed)
    y, x = int(rng.integers(20)), int(rng.integers(30))
    box = _cutmix_box(20, 30, rng.random(), y, x)
    assert 0 <= box[0] <= box[1] <= 20 and 0 <= box[2] <= box[3] <= 30
    image, other = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    mixed, mask = paste_window(image, other, np.s_[box[0] : box[1], box[2] : box[3]])
    assert (mixed[mask == 1] == other[mask == 1]).all() and (mixed[mask == 0] == image[mask == 0]).all()


def test_mixing_keeps_earlier_provenance(guided_photos):
    row = CutMix(source=guided_photos, seed=2).map(guided_photos)[1]
    box = np.asarray(row["provenance"][1]) > 0
    own = np.asarray(guided_photos[1]["provenance"][0]) > 0
    assert not (np.asarray(row["provenance"][0]) > 0)[~own].any()
    assert not ((np.asarray(row["provenance"][0]) > 0) & box).any()
