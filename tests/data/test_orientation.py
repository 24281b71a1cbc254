"""EXIF: an image turned by its tag while its annotation is not is refused where sizes show it, else warned of."""

import io
import warnings

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from PIL import ImageOps

from hf_pgg import add_provenance
from hf_pgg.data.images import encode_png
from hf_pgg.data.masks import read_mask
from hf_pgg.data.orientation import is_turned_apart
from hf_pgg.localization.images import LocalizationSettings, _rows_to_measure
from hf_pgg.synthesis import Composite


def stored(array, tag=1, format="PNG"):
    """An image file whose pixels are as given, and whose tag turns it when it is shown."""
    buffer, exif = io.BytesIO(), PILImage.Exif()
    exif[274] = tag
    PILImage.fromarray(array).save(buffer, format, exif=exif)
    return {"bytes": buffer.getvalue(), "path": None}


def scene(shape):
    """An image, and the mask of an object in its upper left corner."""
    mask = np.zeros(shape, np.uint8)
    mask[2:9, 3:14] = 255
    return np.dstack([mask, mask // 2, 255 - mask]), mask


def table(image, mask):
    features = Features(image=Image(), mask=Image(), label=ClassLabel(names=["a"]))
    return Dataset.from_dict({"image": [image], "mask": [mask], "label": [0]}, features=features)


@pytest.mark.parametrize("tag", range(1, 9))
def test_a_mask_is_read_with_its_own_tag(tag):
    pixels, mask = scene((20, 30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = add_provenance(table(stored(pixels, tag), stored(mask, tag)), mask_column="mask")
    shown = np.asarray(ImageOps.exif_transpose(PILImage.open(io.BytesIO(stored(mask, tag)["bytes"]))))
    assert (np.asarray(known[0]["provenance"][0]) == shown).all()
    red = np.asarray(known[0]["image"].convert("RGB"))[..., 0]
    assert (red == shown).all(), "the mask lies on the object"


@pytest.mark.parametrize("tag", [5, 6, 7, 8])
@pytest.mark.parametrize("turned", ["image", "mask"])
def test_sizes_show_that_one_of_the_two_is_turned(tag, turned):
    pixels, mask = scene((20, 30))
    tags = (tag, 1) if turned == "image" else (1, tag)
    rows = table(stored(pixels, tags[0]), stored(mask, tags[1]))
    with pytest.raises(ValueError, match=r"row 0, column 'mask': a mask of .*turned by its EXIF tag, turn the other"):
        add_provenance(rows, mask_column="mask")
    backgrounds = Dataset.from_dict({"image": [encode_png(pixels)]}, features=Features(image=Image()))
    with pytest.raises(ValueError, match=r"row 0, column 'mask': a mask of .*turned by its EXIF tag, turn the other"):
        Composite(backgrounds=backgrounds, size=16, mask_column="mask").map(rows)


@pytest.mark.parametrize(("shape", "tag"), [((20, 20), 6), ((20, 20), 3), ((20, 30), 3), ((20, 30), 2)])
@pytest.mark.parametrize("turned", ["image", "mask"])
def test_what_sizes_cannot_show_is_warned_of(shape, tag, turned):
    pixels, mask = scene(shape)
    tags = (tag, 1) if turned == "image" else (1, tag)
    rows = table(stored(pixels, tags[0]), stored(mask, tags[1]))
    with pytest.warns(UserWarning, match="EXIF tags of 1 images in column 'image', the first in row 0.*'mask' differ"):
        add_provenance(rows, mask_column="mask")
    backgrounds = Dataset.from_dict({"image": [encode_png(pixels)]}, features=Features(image=Image()))
    with pytest.warns(UserWarning, match="'image' and masks of 'mask' differently"):
        Composite(backgrounds=backgrounds, size=16, mask_column="mask").map(rows)
    boxed = rows.add_column("bbox", [[3.0, 2.0, 2.0, 2.0]])
    with pytest.warns(UserWarning, match="EXIF tags of 1 images"):
        _rows_to_measure(boxed, LocalizationSettings(mask_column="mask", box_format="xywh"))


def test_a_mask_of_the_shown_image_fits_and_nothing_is_said():
    pixels, mask = scene((20, 30))
    rows = table(stored(pixels, 6), stored(np.rot90(mask, -1).copy()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = add_provenance(rows, mask_column="mask")
    assert (np.asarray(known[0]["provenance"][0]) == np.rot90(mask, -1)).all()
    assert not is_turned_apart(None, None) and not is_turned_apart({"bytes": b"no image"}, "absent.png")
    assert read_mask(stored(mask, 6)).target.shape == (30, 20)
