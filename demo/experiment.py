"""What the demo page computes: an image read safely, the object in it, and what a checkpoint answers with and without
its background.

There is no page in this file: functions take and return arrays, and refuse with a sentence that a visitor can read.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from PIL import ImageOps
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab
from skimage.segmentation import random_walker

from hf_pgg.data.images import open_image, resize, to_rgb
from hf_pgg.data.provenance import PROVENANCE
from hf_pgg.demo_data import PHOTOGRAPHS, digits, photographs
from hf_pgg.localization import classifier as classifiers
from hf_pgg.localization.attribution import input_gradient_map
from hf_pgg.localization.classifier import CheckpointError, Classifier
from hf_pgg.localization.score_maps import score_maps
from hf_pgg.synthesis import Composite
from hf_pgg.synthesis.composite import composite

MEGAPIXELS = 50  # more is refused before it is decoded
LONGER_SIDE = 1024  # pixels; larger images are reduced to it
SHORTER_SIDE = 8
ANSWERS = 4
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # not all of PIL's: some of them start other programs
_CLIPS = ("GIF", "PNG", "WEBP")  # the formats that move; a second image in a JPEG or TIFF is a thumbnail or a page


class Refused(ValueError):
    """A file or a name that the page cannot use. The message tells a visitor what it is and what to do instead."""


# ---------------------------------------------------------------------------------------------- images


def read_image(path: str | Path) -> np.ndarray:
    """A visitor's image as (H, W, 3) uint8, its longer side at most `LONGER_SIDE`.

    Raises:
        Refused: If it is no image, broken, a clip, or too large or small. Size is read before any pixel is.
    """
    return _reduced(to_rgb(_open(Path(path))))


def read_mask(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """A visitor's mask as (H, W) bool of `shape`: the transparent image's opaque part, or the brighter half.

    Raises:
        Refused: As [`read_image`], or if its proportions are not the image's, or it marks nothing or everything.
    """
    path = Path(path)
    image = _open(path)
    band = image.convert("RGBA").getchannel("A") if image.mode in ("RGBA", "LA", "PA") else image.convert("L")
    values = _reduced(np.array(band))
    if abs(values.shape[0] * shape[1] - values.shape[1] * shape[0]) > 0.03 * values.shape[0] * shape[1]:
        raise Refused(
            f"The mask {path.name} is {image.width} x {image.height} pixels, which are not the proportions of the"
            " image. Upload a mask of the image's own size."
        )
    return _object_of(resize(values, shape) > 127, f"The mask {path.name}")


def painted_mask(layers: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray | None:
    """What a visitor painted, as (H, W) bool of `shape`, from RGBA layers of the editor; None if it is nothing."""
    touched = [resize(np.ascontiguousarray(layer[..., 3]), shape) > 127 for layer in layers]
    painted = np.any(touched, axis=0) if touched else np.zeros(shape, bool)
    return _object_of(painted, "The paint") if painted.any() else None


def find_object(image: np.ndarray, seed: np.ndarray | None = None, side: int = 128) -> np.ndarray:
    """The object's pixels (H, W) bool by a random walker (Grady, PAMI 2006) between a seed and the image's border.

    On 40 photographs of the Oxford-IIIT pets its mean IoU with the true masks is 0.48 from the middle alone and 0.71
    from strokes through the object's inside.

    Args:
        image (`np.ndarray`): (H, W, 3) uint8.
        seed (`np.ndarray`, *optional*): (H, W) bool, pixels of the object; by default a disc in the middle.
        side (`int`, *optional*, defaults to 128): The longer side that the walker works at, in pixels.
    """
    scale = min(1.0, side / max(image.shape[:2]))
    shape = (max(round(image.shape[0] * scale), 1), max(round(image.shape[1] * scale), 1))
    rows, columns = (np.linspace(-1, 1, length) for length in shape)
    if seed is None:
        start = np.add.outer(rows**2, columns**2) < 0.25**2
    else:
        start = resize(seed.astype(np.float32), shape) > 0.25  # thin strokes survive the reduction
    marks = np.full(shape, 2)
    marks[1:-1, 1:-1] = 0
    marks[start] = 1
    if not {0, 1, 2} <= set(np.unique(marks)):  # nothing is left to decide
        return np.ones(image.shape[:2], bool) if seed is None else seed
    inside = random_walker(rgb2lab(resize(image, shape)), marks, beta=50, mode="bf", channel_axis=-1) == 1
    return resize(inside.astype(np.float32), image.shape[:2]) > 0.5


def move(image: np.ndarray, mask: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The object at its own place on another background, which is cropped to the image's proportions.

    Args:
        image, background: (H, W, 3) uint8 each, of any two sizes. mask: (H, W) bool of the image.
    """
    height, width = image.shape[:2]
    scene = np.asarray(ImageOps.fit(PILImage.fromarray(background), (width, height), PILImage.Resampling.BILINEAR))
    alpha = gaussian_filter(mask.astype(np.float32), 0.7)  # the edge of `Composite`
    return composite(image, alpha, scene, 0, 0)[0]


@cache
def scenes(side: int = 384) -> dict[str, np.ndarray]:
    """Backgrounds (side, side, 3) uint8 by name: a square of each photograph of scikit-image's wheel."""
    rows = photographs(crops=1, side=side)
    names = rows.features["label"].names
    return {names[row["label"]].partition("_")[0]: to_rgb(row["image"]) for row in rows}


def example_digits(folder: Path) -> list[tuple[Path, Path]]:
    """Writes test digits of the embedded data, each on its own class's photograph; returns (image, mask) files."""
    cutouts = digits("test")
    first = [cutouts["label"].index(digit) for digit in range(len(PHOTOGRAPHS))]
    own = tuple(tuple(float(a == b) for b in range(len(PHOTOGRAPHS))) for a in range(len(PHOTOGRAPHS)))
    method = Composite(
        backgrounds=photographs(crops=4),
        mask_column="mask",
        size=48,
        scale=(0.6, 0.9),
        flip=0.0,
        feather=0.5,
        background_column="label",
        cooccurrence=own,
    )
    files = []
    for index in first:
        row = method({name: [value] for name, value in cutouts[index].items()}, [index])
        pair = (folder / f"digit-{row['labels'][0][0]}.png", folder / f"digit-{row['labels'][0][0]}-mask.png")
        pair[0].write_bytes(row["image"][0]["bytes"])
        pair[1].write_bytes(row[PROVENANCE][0][0]["bytes"])
        files.append(pair)
    return files


def _open(path: Path) -> PILImage.Image:
    try:
        with PILImage.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MEGAPIXELS * 1_000_000:
                raise Refused(_too_large(path, f"{width} x {height} pixels"))
            if image.format in _CLIPS and getattr(image, "n_frames", 1) > 1:
                raise Refused(f"{path.name} moves: it is a clip. This page takes one still image; save a frame of it.")
            if min(width, height) < SHORTER_SIDE:
                raise Refused(f"{path.name} is {width} x {height} pixels: too small to hold an object.")
            return open_image(image)
    except PILImage.DecompressionBombError:
        raise Refused(_too_large(path, "far too many pixels")) from None
    except PILImage.UnidentifiedImageError:
        kind = mimetypes.guess_type(path.name)[0] or ""
        if kind.startswith("video/"):
            raise Refused(f"{path.name} is a clip. This page takes one still image; save a frame of it.") from None
        raise Refused(
            f"{path.name} is not an image, whatever its name says. Take a PNG, JPEG, WebP, BMP, GIF or TIFF file."
        ) from None
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises SyntaxError for some broken PNGs
        if isinstance(error, Refused):
            raise
        raise Refused(f"{path.name} is broken: it ends early or is damaged. Save or download it again.") from None


def _too_large(path: Path, size: str) -> str:
    return f"{path.name} has {size}; {MEGAPIXELS} megapixels are the most. Reduce it, the models see far fewer anyway."


def _reduced(array: np.ndarray) -> np.ndarray:
    scale = LONGER_SIDE / max(array.shape[:2])
    height, width = (max(round(side * scale), 1) for side in array.shape[:2])
    return array if scale >= 1 else resize(array, (height, width))


def _object_of(mask: np.ndarray, what: str) -> np.ndarray:
    if not mask.any():
        raise Refused(f"{what} marks nothing. The object has to be white (or opaque), the background black.")
    if mask.mean() > 0.98:
        raise Refused(f"{what} covers the whole image: there is no background left to change.")
    return mask


# ---------------------------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True)
class Answer:
    """What a classifier says of one image.

    ranking: the most probable classes with their probabilities, best first.
    gradient: (h, w) float32 of the model's input size, norm over the channels of the best class's input gradient.
    inside: share of that gradient's energy on the object, in [0, 1] (NaN where the gradient is zero).
    """

    ranking: list[tuple[str, float]]
    gradient: np.ndarray
    inside: float

    @property
    def label(self) -> str:
        return self.ranking[0][0]


@lru_cache(maxsize=4)
def load_classifier(name: str) -> Classifier:
    """[`hf_pgg.localization.classifier.load_classifier`], on the accelerator if there is one.

    Raises:
        Refused: If there is no such checkpoint, or it cannot be loaded safely.
    """
    try:
        classifier = classifiers.load_classifier(name)
    except CheckpointError as error:
        raise Refused(f"{error}. Give a local folder or a Hub id such as owner/name.") from error
    classifier.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return classifier


def ask(classifier: Classifier, images: Sequence[np.ndarray], mask: np.ndarray) -> list[Answer]:
    """A classifier's answer on each image (H, W, 3) uint8, as `pipeline` gives it, and its map of the whole image.

    Args:
        mask (`np.ndarray`): (H, W) bool, where the object is in every one of them.
    """
    weight = resize(mask.astype(np.float32), classifier.spec.size)
    answers = []
    for scored in score_maps(classifier.model, classifier.spec, images, input_gradient_map, batch_size=16):
        best = np.argsort(scored.probabilities)[::-1][:ANSWERS]
        energy = scored.score_map.astype(np.float64) ** 2
        total = energy.sum()
        answers.append(
            Answer(
                [(classifier.labels[int(index)], float(scored.probabilities[index])) for index in best],
                scored.score_map,
                float((energy * weight).sum() / total) if total > 0 else float("nan"),
            )
        )
    return answers
