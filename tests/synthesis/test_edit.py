"""What an edit left alone is the target's."""

import io

import numpy as np
import pytest
from PIL import Image as PILImage

from hf_pgg import Edit, ProvenanceError
from hf_pgg.data.images import decode_mask, to_rgb
from hf_pgg.synthesis.edit import unedited_mask
from tests.conftest import SIZE


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


@pytest.mark.parametrize("paint", ["noise", "grey", "inverted"])
def test_an_edit_inside_the_image_is_found(paint):
    rng = np.random.default_rng(0)
    for trial in range(20):
        height, width = rng.integers(64, 200, 2)
        coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        photo = np.asarray(PILImage.fromarray(coarse).resize((int(width), int(height)), PILImage.Resampling.BICUBIC))
        side = int(rng.integers(12, 40))
        top, left = int(rng.integers(4, height - side - 4)), int(rng.integers(4, width - side - 4))
        window = np.s_[top : top + side, left : left + side]
        edit = photo.copy()
        edit[window] = {"noise": rng.integers(0, 256, (side, side, 3)), "grey": 128, "inverted": 255 - photo[window]}[
            paint
        ]
        edited = np.abs(edit.astype(int) - photo).mean(2) >= 4
        kept = unedited_mask(photo, edit)
        assert (~kept)[edited].mean() >= 0.99, trial
        outside = np.ones_like(kept)
        outside[window] = False
        assert kept[outside].mean() >= 0.99


def test_an_object_in_an_edited_background_stays():
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    edit = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    edit[30:60, 40:70] = photo[30:60, 40:70]
    kept = unedited_mask(photo, edit)
    assert kept[30:60, 40:70].mean() > 0.99 and kept[:28].mean() < 0.01


def test_an_edit_of_everything_alike_leaves_nothing():
    grey = np.full((20, 20, 3), 90, np.uint8)
    assert not unedited_mask(grey, grey + 60).any()


@pytest.mark.parametrize("scale", [1, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_the_mask_of_an_editor_is_read_like_any_mask(photos, scale, dtype):
    def paint(image):
        kept = np.full(image.shape[:2], scale, dtype)
        kept[:8] = 0
        return image, kept

    mask = decode_mask(Edit(editor=paint).map(photos)[0]["provenance"][0])
    assert not mask[:8].any() and (mask[8:] == 255).all()


def test_an_editors_mask_of_another_size_or_meaning_is_refused(photos):
    for kept, words in ((np.ones((1, 1)), "a mask of 1x1"), (np.full((SIZE + 8, SIZE), 7), "the mask holds 7")):
        with pytest.raises(ProvenanceError, match=f"row 0.*{words}"):
            Edit(editor=lambda image, kept=kept: (image, kept)).map(photos)


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (20, 30), (96, 96)])
def test_an_edit_of_several_strengths_is_found_whole(shape):
    """White over dark and over light: the weaker half of the edit is no noise."""
    photo = np.full((*shape, 3), 60, np.uint8)
    photo[:, shape[1] // 2 :] = 200
    edit = photo.copy()
    edit[: (shape[0] + 1) // 2] = 255
    edited = (edit != photo).any(2)
    assert (unedited_mask(photo, edit) == ~edited).all()
