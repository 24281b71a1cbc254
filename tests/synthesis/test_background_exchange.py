"""The target stays, everything else comes from elsewhere."""

import numpy as np

from hf_pgg import BackgroundExchange
from hf_pgg.data.images import to_rgb
from hf_pgg.synthesis.background_exchange import fill_target


def test_exchange_keeps_the_target_and_changes_the_rest(guided_photos):
    rows = BackgroundExchange(source=guided_photos, seed=1).map(guided_photos)
    for before, after in zip(guided_photos, rows, strict=True):
        inside = np.asarray(before["provenance"][0]) == 255
        assert (to_rgb(after["image"])[inside] == to_rgb(before["image"])[inside]).all()
        assert (to_rgb(after["image"])[~inside] != to_rgb(before["image"])[~inside]).any()


def test_filling_removes_the_object():
    image = np.full((32, 32, 3), 50, np.uint8)
    inside = np.zeros((32, 32), np.float32)
    inside[8:20, 8:20] = 1
    image[inside == 1] = 250
    assert np.abs(fill_target(image, inside).astype(int) - 50).max() <= 1
