"""The steps that several methods are made of: pasting, blending and cropping arrays, and placing their sources."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from hf_pgg.data.images import resize
from hf_pgg.data.provenance import Sources


def paste_window(image: np.ndarray, other: np.ndarray, window: tuple[slice, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Replaces a window of an image, or of a clip, by another one.

    The image ([T,] H, W, 3) is left as it is; `other` is of its shape or of that of the window ([frames,] rows,
    columns). Returned are the mix, and the float32 mask ([T,] H, W) that is 1 where it stems from `other`.

    Example:
        >>> mixed, mask = paste_window(np.zeros((2, 3, 3)), np.ones((2, 3, 3)), np.s_[0:1, 1:3])
        >>> mask
        array([[0., 1., 1.],
               [0., 0., 0.]], dtype=float32)
    """
    mixed, mask = image.copy(), np.zeros(image.shape[:-1], np.float32)
    mixed[window] = other[window] if other.shape == image.shape else other
    mask[window] = 1
    return mixed, mask


def blend(image: np.ndarray, background: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Mixes two images, or clips, pixel by pixel: `image` where `alpha` is 1, `background` where it is 0.

    The images are ([T,] H, W, 3) in [0, 255], alpha ([T,] H, W) float in [0, 1]; the mix is uint8.

    Example:
        >>> blend(np.full((1, 2, 1), 200), np.full((1, 2, 1), 100), np.array([[1, 0.5]])).ravel()
        array([200, 150], dtype=uint8)
    """
    weight = alpha[..., None]
    return np.rint(weight * image + (1 - weight) * background).astype(np.uint8)


def crop_to_aspect(image: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Cuts the largest window with the aspect of `size` (height, width) at a random place, and resizes it to `size`.

    Example:
        >>> crop_to_aspect(np.zeros((20, 30, 3), np.uint8), (8, 8), np.random.default_rng(0)).shape
        (8, 8, 3)
    """
    scale = min(image.shape[0] / size[0], image.shape[1] / size[1])
    height, width = (max(round(side * scale), 1) for side in size)
    top = int(rng.integers(image.shape[0] - height + 1))
    left = int(rng.integers(image.shape[1] - width + 1))
    return resize(image[top : top + height, left : left + width], size)


def place_sources(parts: Sequence[tuple[Sources, Any, float]], shape: tuple[int, ...]) -> Sources:
    """The sources of samples that stand side by side in a larger one.

    Args:
        parts: For each sample its sources, its window (an index of an array of `shape`), and its share of the larger
            sample's label, by which the weights are multiplied.
        shape (`tuple[int, ...]`): Shape of the larger sample's masks; a source's mask is 0 outside its window.

    Example:
        >>> cat, dog = (Sources([label], [1.0], [np.ones((1, 1), np.float32)]) for label in (0, 1))
        >>> place_sources([(cat, np.s_[:, :1], 0.5), (dog, np.s_[:, 1:], 0.5)], (1, 2))[:2]
        ([0, 1], [0.5, 0.5])
    """
    joined = Sources([], [], [])
    for sources, window, share in parts:
        joined.labels.extend(sources.labels)
        joined.weights.extend(weight * share for weight in sources.weights)
        joined.masks.extend(sources.with_masks(partial(_placed, window=window, shape=shape)).masks)
    return joined


def _placed(mask: np.ndarray, window: Any, shape: tuple[int, ...]) -> np.ndarray:
    placed = np.zeros(shape, np.float32)
    placed[window] = mask
    return placed
