"""The steps that methods share: blending and cropping."""

import numpy as np

from hf_pgg.data.images import resize_frames
from hf_pgg.synthesis.pasting import blend, crop_to_aspect


def test_pasting_is_a_weighted_mean():
    rng = np.random.default_rng(0)
    frames, background = rng.integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8)
    alpha = rng.random((3, 4, 5)).astype(np.float32)
    expected = alpha[..., None] * frames + (1 - alpha[..., None]) * background
    assert np.abs(blend(frames, background, alpha) - expected).max() <= 0.5 + 1e-3


def test_windows_and_resizing():
    image = np.arange(10 * 20 * 3, dtype=np.uint8).reshape(10, 20, 3)
    window = crop_to_aspect(image, (10, 10), np.random.default_rng(0))
    assert any((window == image[:, left : left + 10]).all() for left in range(11))
    frames = np.full((2, 8, 6, 3), 9, np.uint8)
    assert (resize_frames(frames, (4, 3)) == 9).all() and resize_frames(frames, (4, 3)).shape == (2, 4, 3, 3)
    assert resize_frames(np.ones((2, 8, 6), np.float32), (4, 3)).dtype == np.float32
