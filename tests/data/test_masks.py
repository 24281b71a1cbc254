"""The one reader of masks: what it takes as it stands, what it needs to be told, and what it refuses."""

import io

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw
from scipy.ndimage import gaussian_filter

from hf_pgg.data.masks import MaskSettings, read_mask, read_masks

OBJECT = np.zeros((24, 30), bool)
OBJECT[6:16, 8:20] = True
VOC = np.zeros((24, 30), np.uint8)
VOC[4:18, 6:22] = 255
VOC[OBJECT] = 15
SOFT = gaussian_filter(OBJECT * 255.0, 1).round().astype(np.uint8)


def file(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def palette(indices, colours):
    image = PILImage.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([number for colour in colours for number in colour])
    return image


def rgba(colours, alpha):
    return PILImage.fromarray(np.dstack([np.broadcast_to(colours, (*alpha.shape, 3)), alpha]).astype(np.uint8))


NOISE = np.random.default_rng(0).integers(0, 256, (*OBJECT.shape, 3))
BINARY = {
    "bool": OBJECT,
    "0 and 1": OBJECT.astype(np.uint8),
    "0 and 255": 255 * OBJECT.astype(np.uint8),
    "int64": OBJECT.astype(np.int64),
    "float": OBJECT.astype(np.float64),
    "float of 0 and 255": 255 * OBJECT.astype(np.float32),
    "nested list": OBJECT.astype(int).tolist(),
    "one channel": OBJECT[..., None],
    "mode 1": file(PILImage.fromarray(OBJECT)),
    "mode L of 0 and 1": file(PILImage.fromarray(OBJECT.astype(np.uint8))),
    "16 bits of 0 and 1": file(PILImage.fromarray(OBJECT.astype(np.uint16))),
    "16 bits of 0 and 65535": file(PILImage.fromarray(65535 * OBJECT.astype(np.uint16))),
    "mode I": PILImage.fromarray(OBJECT.astype(np.int32)),
    "mode F of 0 and 1": file(PILImage.fromarray(OBJECT.astype(np.float32)), "TIFF"),
    "mode F of 0 and 255": file(PILImage.fromarray(255 * OBJECT.astype(np.float32)), "TIFF"),
    "grey RGB": file(PILImage.fromarray(np.dstack([255 * OBJECT.astype(np.uint8)] * 3))),
    "coloured palette, one object": file(palette(OBJECT, [(0, 0, 0), (128, 0, 0)])),
    "palette of white and black": file(palette(~OBJECT, [(255, 255, 255), (0, 0, 0)])),
    "alpha of a black image": file(rgba((0, 0, 0), 255 * OBJECT)),
    "alpha of a white LA image": file(rgba((255, 255, 255), 255 * OBJECT).convert("LA")),
    "opaque RGBA": file(rgba(np.dstack([255 * OBJECT] * 3), np.full(OBJECT.shape, 255))),
    "white on transparent black": file(rgba(np.dstack([255 * OBJECT] * 3), 255 * OBJECT)),
}


@pytest.mark.parametrize("name", BINARY)
def test_masks_that_say_what_they_mean_are_read_as_they_are(name):
    mask = read_mask(BINARY[name], (30, 24))
    assert mask.target.dtype == np.float32 and (mask.target == OBJECT).all() and not mask.ignored.any()


TWO_COLOURS = np.where(OBJECT[..., None], (128, 0, 0), (0, 0, 128)).astype(np.uint8)
IN_RED = np.dstack([255 * OBJECT, VOC, VOC]).astype(np.uint8)
JPEG = file(PILImage.fromarray(255 * OBJECT.astype(np.uint8)).resize((300, 240), PILImage.Resampling.NEAREST), "JPEG")
SOFTS = {
    "blurred": SOFT,
    "blurred 16 bits": SOFT.astype(np.uint16) * 257,
    "float": SOFT / 255,
    "float of 0 to 255": SOFT.astype(np.float32),
    "alpha": file(rgba((9, 9, 9), SOFT)),
    "named alpha of a photograph": (file(rgba(NOISE, SOFT)), MaskSettings(channel="alpha")),
}


@pytest.mark.parametrize("name", SOFTS)
def test_soft_masks_keep_their_shares(name):
    value, settings = SOFTS[name] if isinstance(SOFTS[name], tuple) else (SOFTS[name], None)
    assert np.allclose(read_mask(value, (30, 24), settings).target, SOFT / 255, atol=1e-6)


def test_antialiased_and_jpeg_masks_are_soft():
    drawn = PILImage.new("L", (400, 400))
    ImageDraw.Draw(drawn).ellipse((60, 100, 330, 290), fill=255)
    small = read_mask(drawn.resize((57, 57), PILImage.Resampling.BILINEAR)).target
    assert abs(small.mean() - (np.asarray(drawn) / 255).mean()) < 0.01
    noisy = read_mask(JPEG).target
    assert ((noisy > 0.5) == OBJECT.repeat(10, 0).repeat(10, 1)).mean() > 0.999


LABELS = [(0, 0, 0), *[(128, 64, i) for i in range(254)], (224, 224, 192)]
IDS = np.where(OBJECT, 2, np.arange(24)[:, None] > 18)
REFUSED = {
    "a palette with a border of 255": (palette(VOC, LABELS), "0, 15, 255"),
    "class ids and 255": (VOC, "0, 15, 255"),
    "small class ids and 255": (np.where(VOC == 15, 1, VOC), "0, 1, 255"),
    "class ids and 255, as floats": (VOC / 255, "0, 0.0588235, 1"),
    "class ids": (IDS, "0, 1, 2"),
    "class ids as floats": (IDS / 255, "0.00784314"),
    "a mask of 0 and 1 over 255": (OBJECT / 255, "0.00392157"),
    "one class id": (7 * OBJECT, "0, 7"),
    "large class ids": (np.where(OBJECT, 200, np.where(VOC == 255, 255, 90 * (np.arange(30) > 25))), "0, 90, 200, 255"),
    "an Oxford trimap": (np.where(OBJECT, 1, np.where(VOC == 255, 3, 2)), "1, 2, 3"),
    "a matting trimap": (np.where(OBJECT, 255, np.where(VOC == 255, 128, 0)), "0, 128, 255"),
    "12 bits": (4095 * OBJECT.astype(np.uint16), "0, 4095"),
    "a photograph": (NOISE[..., 0].astype(np.uint8), "values from 0 to 255"),
    "a palette that begins with a colour": (palette(OBJECT, [(9, 0, 0), (0, 9, 0)]), "0, 1"),
    "a palette of background and border": (palette(np.where(VOC == 255, 255, 0), LABELS), "0, 255"),
    "a cut-out": (rgba(NOISE, 255 * OBJECT), "channel"),
    "colours": (
        PILImage.fromarray(np.where(OBJECT[..., None], (128, 0, 0), (0, 0, 128)).astype(np.uint8)),
        "2 colours",
    ),
    "negative numbers": (-OBJECT.astype(int), "-1, 0"),
    "NaN": (np.where(OBJECT, np.nan, 0), "NaN"),
    "no object": (np.zeros((24, 30)), "no pixel of the object"),
    "no object in an alpha channel": (rgba((0, 0, 0), np.zeros((24, 30))), "no pixel of the object"),
    "another shape": (np.zeros((2, 24, 30)), "shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_mean_several_things_is_refused_with_what_was_found(name):
    value, words = REFUSED[name]
    with pytest.raises(ValueError, match=words):
        read_mask(value, (30, 24))


NAMED = {
    "palette": (file(palette(VOC, LABELS)), MaskSettings(15, 255)),
    "numbers": (VOC, MaskSettings(15)),
    "trimap": (np.where(OBJECT, 1, 2), MaskSettings(1)),
    "ignored alone": (np.where(VOC == 15, 1, VOC), MaskSettings(ignore_value=255)),
    "a matting trimap": (np.where(OBJECT, 255, np.where(VOC == 255, 128, 0)), MaskSettings(ignore_value=128)),
    "a channel": (file(PILImage.fromarray(IN_RED)), MaskSettings(channel="red")),
    "a cut-out": (file(rgba(NOISE, 255 * OBJECT)), MaskSettings(channel="alpha")),
    "a class of a channel": (np.dstack([VOC, VOC // 2, VOC]), MaskSettings(15, channel="blue")),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_settings_say_what_the_numbers_mean(name):
    value, settings = NAMED[name]
    mask = read_mask(value, (30, 24), settings)
    assert (mask.target == OBJECT).all()
    if settings.ignore_value is not None:
        assert (mask.ignored == (VOC == 255)).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_value": 3}, "no pixel of the mask is 3 .* it holds 0, 15, 255"),
        ({"channel": "alpha"}, "one channel only"),
        ({"channel": "luma"}, "give one of red"),
        ({"target_value": 255, "ignore_value": 255}, "both 255"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        read_mask(VOC, settings=MaskSettings(**settings))


def test_a_mask_of_another_size_is_refused():
    for shape in ((1, 1), (1, 30), (30, 24), (12, 15)):
        with pytest.raises(ValueError, match=f"a mask of {shape[1]}x{shape[0]} for an image of 30x24"):
            read_mask(np.ones(shape, bool), (30, 24))


def test_the_masks_of_a_clip_are_judged_together():
    frames = np.stack([np.zeros_like(OBJECT), OBJECT, OBJECT])
    for value in (frames.reshape(-1, 30), list(frames), [file(PILImage.fromarray(frame)) for frame in frames]):
        assert (read_masks(value, (3, 24, 30)) == frames).all()
    with pytest.raises(ValueError, match="0, 1, 2"):
        read_masks([frame * number for number, frame in enumerate(frames)], (3, 24, 30))
    with pytest.raises(ValueError, match="no pixel of the object"):
        read_masks(np.zeros((72, 30)), (3, 24, 30))
    with pytest.raises(ValueError, match="2 masks for a clip of 3 frames"):
        read_masks(list(frames[:2]), (3, 24, 30))


def test_the_noise_of_a_jpeg_is_no_class_id():
    """Beside 0 and 255 a good JPEG holds single 1s and 254s; a label map holds areas."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        target = np.zeros(rng.integers(8, 40, 2), bool)
        top, left = rng.integers(0, 5, 2)
        target[top : top + rng.integers(2, 20), left : left + rng.integers(2, 20)] = True
        stored = file(PILImage.fromarray(target), "JPEG", quality=int(rng.integers(88, 101)))
        assert np.abs(read_mask(stored).target - target).max() < 0.35
    for ids in ((1, 0, 255), (15, 0, 255)):
        labels = np.select([OBJECT, VOC == 255], [ids[0], ids[2]], ids[1]).astype(np.uint8)
        with pytest.raises(ValueError, match="does not say what the object is"):
            read_mask(file(PILImage.fromarray(labels).resize((150, 120), 0), "JPEG", quality=100))


@pytest.mark.parametrize("colour", [0, 76, 255])
def test_a_frame_without_the_object_means_what_its_clip_means(colour):
    """In an alpha channel, and in a palette, a frame that is all alike says nothing alone."""
    targets = np.stack([OBJECT, np.zeros_like(OBJECT), np.ones_like(OBJECT)])
    seen = [rgba(colour, 255 * target.astype(np.uint8)) for target in targets]
    coloured = [palette(target, [(colour, colour, 255 - colour), (200, 10, 10)]) for target in targets]
    for frames, settings in ((seen, None), (coloured, MaskSettings(target_value=1))):
        assert (read_masks(frames, targets.shape, settings) == targets).all()
    with pytest.raises(ValueError, match="no pixel of the object"):
        read_mask(seen[1])
    with pytest.raises(ValueError, match="stored in different ways"):
        read_masks([seen[0], PILImage.fromarray(OBJECT)], (2, *OBJECT.shape))


def test_an_alpha_channel_that_is_all_half_transparent_says_nothing():
    with pytest.raises(ValueError, match="in its colours or in its alpha channel"):
        read_mask(rgba(255, np.full(OBJECT.shape, 128)))
