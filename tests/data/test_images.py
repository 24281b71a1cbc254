"""Images as people have them: every range that is stated or provable is read, the rest is refused with its row."""

import io

import cv2
import numpy as np
import pytest
import tifffile
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import EpsImagePlugin
from PIL import Image as PILImage
from transformers import ViTImageProcessor

from hf_pgg import CutMix, Edit, PGGCollator, ProvenanceError
from hf_pgg.data.images import encode_mask, encode_png, open_image, resize, to_rgb, to_uint8, undecoded
from hf_pgg.data.loading import eight_bit, named_images
from hf_pgg.data.validation import validate_row
from hf_pgg.data.video import open_clip
from hf_pgg.reports.sheets import sheet_samples

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"


def file_of(array, suffix=".tiff", **options):
    """An image file that other programs write: TIFF by tifffile, the others by OpenCV."""
    if suffix != ".tiff":
        return {"bytes": cv2.imencode(suffix, array)[1].tobytes(), "path": None}
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def ramp(highest, dtype):
    """From 0 to the highest value, in steps that are whole numbers."""
    return np.rint(np.linspace(0, highest, 64)).astype(dtype).reshape(8, 8)


GREY = np.rint(np.linspace(0, 255, 64)).astype(int).reshape(8, 8)

# ---------------------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    "value",
    {
        "uint8": ramp(255, np.uint8),
        "whole numbers of 0..255 in 64 bits": ramp(255, np.int64),
        "whole numbers of 0..255 in floats": ramp(255, np.float32),
        "whole numbers of 0..255 in half precision": ramp(255, np.float16),
        "floats of 0..1": np.linspace(0, 1, 64).reshape(8, 8),
        "floats with rounding errors": np.linspace(-1e-4, 1 + 1e-4, 64).reshape(8, 8),
        "16 bits": ramp(65535, np.uint16),
        "a tensor": torch.from_numpy(ramp(255, np.uint8))[None],
        "PIL I of 0..255": PILImage.fromarray(ramp(255, np.int32)),
        "PIL I of 0..65535": PILImage.fromarray(ramp(65535, np.int32)),
        "PIL I;16": PILImage.fromarray(ramp(65535, np.uint16)),
        "PIL F of 0..255": PILImage.fromarray(ramp(255, np.float32)),
        "PIL F of 0..1": PILImage.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)),
        "TIFF of 32-bit integers": file_of(ramp(255, np.int32)),
        "TIFF of 16-bit signed integers": file_of(ramp(255, np.int16)),
        "TIFF of floats of 0..255": file_of(ramp(255, np.float32)),
        "TIFF of 16 bits": file_of(ramp(65535, np.uint16)),
        "TIFF of 16-bit colour": file_of(np.dstack([ramp(65535, np.uint16)] * 3), photometric="rgb"),
        "PNG of 16 bits": file_of(ramp(65535, np.uint16), ".png"),
        "PNG of 16-bit colour": file_of(np.dstack([ramp(65535, np.uint16)] * 3), ".png"),
        "PGM, which states its range": file_of(ramp(65535, np.uint16), ".pgm"),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_stated_or_provable_range_is_read(value):
    image = to_rgb(value[1]).astype(int)
    assert image.shape == (8, 8, 3) and np.abs(image - GREY[..., None]).max() <= 1


UNKNOWN = {
    "12 bits in 16": ramp(4095, np.uint16),
    "8 bits in 16": ramp(255, np.uint16),
    "a value above 255": np.array([[0, 270]]),
    "below zero": np.array([[-1, 200]]),
    "0 and 1 in 64 bits": np.array([[0, 1]]),
    "fractions up to 254.5": np.linspace(0, 254.5, 64).reshape(8, 8),
    "normalised": np.linspace(-2.1, 2.6, 64).reshape(8, 8),
    "PIL I;16 of 12 bits": PILImage.fromarray(ramp(4095, np.uint16)),
    "PNG of 12 bits in 16": file_of(ramp(4095, np.uint16), ".png"),
    "PNG of 12-bit colour in 16": file_of(np.dstack([ramp(4095, np.uint16)] * 3), ".png"),
    "TIFF of 12 bits in 16": file_of(ramp(4095, np.uint16)),
    "TIFF of 16 bits in 32": file_of(ramp(4095, np.int32)),
    "TIFF whose zero is white": file_of(ramp(65535, np.uint16), photometric="miniswhite"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_range_that_is_not_known_is_refused_with_what_was_found_and_the_argument_to_give(name):
    with pytest.raises(ValueError, match=r"8 bits|which of them is white is not known: give .*`white=`"):
        to_rgb(UNKNOWN[name])


def test_the_value_that_is_white_can_be_stated():
    for value in (ramp(4095, np.uint16), file_of(ramp(4095, np.uint16)), PILImage.fromarray(ramp(4095, np.uint16))):
        assert np.abs(to_rgb(value, white=4095)[..., 0].astype(int) - GREY).max() <= 1
    assert to_uint8(np.array([[0.0, 127.5, 255.0]]), white=255).tolist() == [[0, 128, 255]]
    with pytest.raises(ValueError, match="from 0 to 5000, and white is stated as 4095"):
        to_rgb(ramp(5000, np.uint16), white=4095)
    assert to_rgb(ramp(255, np.uint8), white=4095).max() == 255, "8 bits state their own range"


def test_a_column_of_12_bits_is_rewritten_once_and_names_a_bad_row():
    scans = Dataset.from_dict(
        {"image": [file_of(ramp(4095, np.uint16)), None], "label": [0, 1]},
        features=Features(image=Image(), label=ClassLabel(names=["a", "b"])),
    )
    with pytest.raises(ProvenanceError, match=r"row 0, column 'image': .*`eight_bit`"):
        list(named_images(scans, "image"))
    rewritten = eight_bit(scans, "image", white=4095)
    assert np.asarray(rewritten[0]["image"]).max() == 255 and rewritten[1]["image"] is None
    with pytest.raises(ProvenanceError, match=r"row 0, column 'image': .*white is stated as 1023"):
        eight_bit(scans, "image", white=1023)


def test_the_range_of_a_clip_is_that_of_all_its_frames():
    frames = np.zeros((2, 8, 8, 3), np.float32)
    frames[0], frames[1, 0] = 200, 1  # the second frame alone would pass for floats of 0..1
    with open_clip(frames) as clip:
        assert clip.read([0, 1])[1].max() == 1
    with pytest.raises(ValueError, match="which of them is white is not known"):
        open_clip(frames + 0.5)


def test_what_an_editor_returns_is_read_by_the_same_rule(photos):
    as_float = Edit(editor=lambda image: image.astype(np.float32)).map(photos.select([1]))[0]["image"]
    assert np.array_equal(np.asarray(as_float), np.asarray(photos[1]["image"]))
    with pytest.raises(ProvenanceError, match=r"row 0, column 'image': .*from 0 to 382.* is not known: give uint8"):
        Edit(editor=lambda image: image * 1.5).map(photos.select([1]))


def test_a_mask_of_0_and_1_is_written_as_black_and_white():
    for dtype in (bool, np.uint8, np.int64, np.float32):
        assert np.unique(np.asarray(open_image(encode_mask(np.eye(4, dtype=dtype))))).tolist() == [0, 255], dtype


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((3, 32, 32), np.uint8), r"shape \(3, 32, 32\) is no image: give \(H, W\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \(2, 8, 8, 3\) is no image"),
        (np.array([[None]]), "array of object is no image"),
        (np.array([[np.inf, 0]]), "NaN or infinity"),
        ([[0, 1]], r"there is no image \(found list\)"),
        ({"bytes": None, "path": None}, "there is no image"),
        ({"bytes": b"no image at all", "path": "a.png"}, "cannot be decoded .it is no PNG, JPEG"),
        ("/nowhere/a.png", "cannot be decoded .*/nowhere/a.png"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(value, words):
    with pytest.raises(ValueError, match=words):
        to_rgb(value)


def test_broken_bytes_raise_nothing_but_a_sentence():
    """300 files with random bytes changed or cut off: read, or refused with ValueError."""
    rng = np.random.default_rng(0)
    noise = PILImage.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    files = []
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        buffer = io.BytesIO()
        noise.save(buffer, kind)
        files.append(buffer.getvalue())
    refused = 0
    for i in range(300):
        content = bytearray(files[i % 6])
        for _ in range(rng.integers(1, 6)):
            content[rng.integers(0, 80 if i % 2 else len(content))] = rng.integers(256)
        try:
            image = to_rgb({"bytes": bytes(content[: rng.integers(1, len(content))] if i % 5 == 0 else content)})
            assert image.dtype == np.uint8 and image.shape[2] == 3
        except ValueError:
            refused += 1
    assert 50 < refused < 300


def test_a_flipped_array_one_pixel_wide_is_resized():
    assert resize(np.full((5, 1, 3), 7, np.uint8)[:, ::-1], (4, 4)).tolist() == np.full((4, 4, 3), 7).tolist()


# ---------------------------------------------------------------------------------------------- bad files in data


def data_with(photos, content):
    """The photos of one size, whose third image is this file."""
    images = [{"bytes": content, "path": "photo.png"} if i == 2 else encode_png(np.asarray(row["image"])) for i, row in
              enumerate(photos.select(range(1, 9, 2)))]  # fmt: skip
    features = Features(image=Image(), label=photos.features["label"])
    return Dataset.from_dict({"image": images, "label": [0, 1, 2, 0]}, features=features)


@pytest.fixture
def bomb(monkeypatch):
    """A file of more pixels than PIL reads."""
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 40 * 40)
    return encode_png(np.zeros((100, 100), np.uint8))["bytes"]


@pytest.fixture
def no_ghostscript(monkeypatch):
    def started(*arguments, **options):
        pytest.fail("a PostScript interpreter was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)


def places_that_read(data, processor):
    """What reads images, each with how it names the row: by its number, in a batch, or in the pool."""
    stored = undecoded(data)
    return {
        "row 2, column 'image'": lambda: validate_row(stored[2], 2, 3),
        "row 2, column 'image': ": lambda: CutMix(source=data.select([0, 1, 3])).map(data),
        "row 2, column 'image':": lambda: data.map(
            CutMix(source=data.select([0, 1, 3])), batched=True, with_indices=True, remove_columns=data.column_names
        ),
        "row 2, column 'source'": lambda: [CutMix(source=data, seed=s).map(data.select([0, 1])) for s in range(9)],
        "row 2 of the batch": lambda: PGGCollator(processor)([stored[i] for i in range(4)]),
        "row 2, column 'image' ?": lambda: sheet_samples(data),
    }


def test_a_decompression_bomb_names_its_row_wherever_it_is_read(photos, processor, bomb):
    for words, read in places_that_read(data_with(photos, bomb), processor).items():
        with pytest.raises(ProvenanceError, match=f"{words}.*too large.*MAX_IMAGE_PIXELS"):
            read()


def test_postscript_named_png_never_reaches_an_interpreter(photos, processor, no_ghostscript):
    for words, read in places_that_read(data_with(photos, POSTSCRIPT), processor).items():
        with pytest.raises(ProvenanceError, match=f"{words}.*it is no PNG"):
            read()
    with pytest.raises(ValueError, match="it is no PNG"):
        to_rgb(PILImage.open(io.BytesIO(POSTSCRIPT)))  # opened by PIL, not yet decoded


def test_a_stream_names_its_bad_row_and_starts_no_interpreter(photos, no_ghostscript):
    data = data_with(photos, POSTSCRIPT).add_column("row_id", list(range(4)))
    method = CutMix(source=data.select([0, 1, 3]), row_id_column="row_id")
    with pytest.raises(ProvenanceError, match=r"row 2, column 'image'.*it is no PNG"):
        list(method.map(data.to_iterable_dataset()))


def test_tensors_of_a_torch_format_are_images(guided_photos):
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    plain = PGGCollator(processor)([guided_photos[i] for i in range(2)])
    formatted = guided_photos.with_format("torch")
    assert torch.equal(PGGCollator(processor)([formatted[i] for i in range(2)])["pixel_values"], plain["pixel_values"])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [None, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 7), (29, 1), (1, 29), (5, 8)])
def test_resizing_to_one_pixel_is_right_for_images_and_masks(dtype, channels, shape):
    rng = np.random.default_rng(0)
    for size in ((27, 35), (5, 31), (31, 5), (1, 9), (9, 1)):
        array = rng.integers(0, 256, (*size, *([] if channels is None else [channels]))).astype(dtype)
        planes = np.moveaxis(array[..., None] if channels is None else array, -1, 0).astype(np.float32)
        wanted = [np.asarray(PILImage.fromarray(plane).resize(shape[::-1], 2)) for plane in planes]
        found = resize(array, shape)
        assert found.dtype == dtype and found.shape == (*shape, *array.shape[2:])
        assert np.abs(found.reshape(*shape, -1) - np.stack(wanted, -1)).max() <= 1.01
