"""The object inside its alpha, the background outside."""

import numpy as np
import pytest
from PIL import Image as PILImage

from hf_pgg import Composite, ProvenanceError
from hf_pgg.data.images import to_rgb
from hf_pgg.synthesis.composite import _crop_to_mask, composite


def test_a_composite_is_the_object_inside_and_the_background_outside():
    rng = np.random.default_rng(0)
    cutout, background = (
        rng.integers(0, 256, (6, 5, 3), dtype=np.uint8),
        rng.integers(0, 256, (12, 10, 3), dtype=np.uint8),
    )
    alpha = rng.random((6, 5)).astype(np.float32)
    mixed, placed = composite(cutout, alpha, background, top=9, left=-2)
    assert (mixed[placed == 0] == background[placed == 0]).all()
    assert placed[9:, :3] == pytest.approx(alpha[:3, 2:])
    expected = alpha[:3, 2:, None] * cutout[:3, 2:] + (1 - alpha[:3, 2:, None]) * background[9:, :3]
    assert np.abs(mixed[9:, :3] - expected).max() <= 0.5 + 1e-3


def test_a_cutout_comes_from_rgba_from_a_mask_or_from_provenance(photos, guided_photos, photo_scenes):
    mask = np.asarray(photos[1]["mask"])
    rgba = PILImage.fromarray(np.dstack([to_rgb(photos[1]["image"]), mask]))
    options = {"backgrounds": photo_scenes, "size": 40, "seed": 5}
    rows = [
        Composite(mask_column="mask", **options).synthesize(photos[1], np.random.default_rng(0)),
        Composite(**options).synthesize(guided_photos[1], np.random.default_rng(0)),
        Composite(**options).synthesize({"image": rgba, "label": 1}, np.random.default_rng(0)),
    ]
    assert all((row.image == rows[0].image).all() for row in rows)
    with pytest.raises(ProvenanceError, match=r"row 0.*no cut-out: give an RGBA image"):
        Composite(**options)({"image": [photos[1]["image"]], "label": [1]}, [0])


def test_cooccurrence_ties_labels_to_backgrounds(photos, photo_scenes):
    method = Composite(
        backgrounds=photo_scenes,
        mask_column="mask",
        size=24,
        background_column="label",
        cooccurrence=((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)),
    )
    rows = method.map(photos)
    for row in rows:
        assert row["label"] == 2 or row["background"] == row["label"]
    assert rows.features["background"] == photo_scenes.features["label"]
    with pytest.raises(ValueError, match=r"cooccurrence\[0\]"):
        Composite(backgrounds=photo_scenes, background_column="label", cooccurrence=((0.5, 0.6),))


@pytest.mark.parametrize("shape", [(9, 1), (1, 9), (1, 1)])
def test_a_cutout_one_pixel_wide_or_high_is_flipped_and_pasted(shape, photo_scenes):
    rgba = np.full((*shape, 4), 255, np.uint8)
    for feather in (0.0, 0.7):
        method = Composite(backgrounds=photo_scenes, size=24, flip=1.0, feather=feather)
        sample = method.synthesize({"image": PILImage.fromarray(rgba), "label": 1}, np.random.default_rng(0))
        assert sample.image.shape == (24, 24, 3) and sample.masks[0].max() > 0


def test_an_empty_cutout_is_named(photos, photo_scenes):
    empty = photos.map(lambda row: {"mask": PILImage.new("L", row["image"].size)})
    with pytest.raises(ProvenanceError, match=r"row 0.*cut-out is empty"):
        Composite(backgrounds=photo_scenes, mask_column="mask").map(empty)
    assert _crop_to_mask(np.zeros((4, 4, 3)), np.eye(4))[1].shape == (4, 4)
