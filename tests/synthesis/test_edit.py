"""What an edit left alone is the target's."""

import io

import numpy as np
import pytest
from PIL import Image as PILImage

from hf_pgg import Edit, ProvenanceError
from hf_pgg.data.images import to_rgb
from hf_pgg.synthesis.edit import unedited_mask


def grey_band(image):
    """An edit: the lower half becomes grey."""
    image[image.shape[0] // 2 :] = 128
    return image


def test_an_edit_keeps_what_it_left_alone(photos):
    row = Edit(editor=grey_band).map(photos)[0]
    kept = np.asarray(row["provenance"][0])
    height = kept.shape[0]
    # the threshold's blur and the morphology may move the edge by three pixels, not more
    assert (kept[: height // 2 - 3] == 255).all() and (kept[height // 2 + 3 :] == 0).all()


def test_an_edit_that_changes_nothing_keeps_everything():
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert unedited_mask(image, image).all()
    recompressed = io.BytesIO()
    PILImage.fromarray(np.full((20, 20, 3), 99, np.uint8)).save(recompressed, "JPEG", quality=90)
    assert unedited_mask(np.full((20, 20, 3), 99, np.uint8), to_rgb(PILImage.open(recompressed))).all()


def test_an_editor_that_returns_nothing_is_named(photos):
    with pytest.raises(ProvenanceError, match="`editor` returned NoneType"):
        Edit(editor=lambda image: None).map(photos)
