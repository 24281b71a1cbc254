"""A user's augmentation: one geometry for an image and its masks, and pixels that are still 8 bits afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

Augment = Callable[[dict[str, Any]], dict[str, Any]]

_WAYS = (
    "give a `torchvision.transforms.v2` transform (`v2.RandomResizedCrop`, `v2.ColorJitter`, ...) or an albumentations"
    " `Compose`"
)


def checked_augment(augment: Any) -> Augment | None:
    """Returns what a collator calls: a torchvision v2 transform as it is, an albumentations one as such a transform.

    Raises:
        ValueError: If it is known not to move masks with their image.

    Example:
        >>> from torchvision.transforms import RandomHorizontalFlip
        >>> checked_augment(RandomHorizontalFlip())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: `augment`: RandomHorizontalFlip of torchvision v1 knows nothing of masks: give a `torchvision...
    """
    for part in _parts(augment):
        name = type(part).__name__
        for module in (base.__module__ for base in type(part).__mro__):
            library = module.partition(".")[0]
            if module.startswith("torchvision.transforms.v2._auto_augment"):
                raise ValueError(f"`augment`: {name} moves an image without its masks: {_WAYS}")
            if module.startswith("torchvision.transforms.") and not module.startswith("torchvision.transforms.v2."):
                raise ValueError(f"`augment`: {name} of torchvision v1 knows nothing of masks: {_WAYS}")
            if library in ("timm", "transformers"):
                raise ValueError(f"`augment`: {name} of {library} knows nothing of masks: {_WAYS}")
    if augment is not None and not callable(augment):
        raise ValueError(f"`augment` is {type(augment).__name__}, which cannot be called: {_WAYS}")
    return _Albumentations(augment) if type(augment).__module__.startswith("albumentations") else augment


def _parts(augment: Any) -> Iterator[Any]:
    """A transform and those inside it."""
    yield augment
    inner = getattr(augment, "transforms", None)
    for part in inner if isinstance(inner, (list, tuple, torch.nn.ModuleList)) else ():
        yield from _parts(part)


class _Albumentations:
    """An albumentations transform that draws from torch's generator, so that a resumed run draws the same."""

    def __init__(self, compose: Any):
        self.compose = compose

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        image, masks = sample["image"], sample["masks"]
        key = "images" if image.ndim == 4 else "image"
        self.compose.set_random_seed(int(torch.randint(2**31, ())))
        known = {"masks": [mask.numpy() for mask in masks]} if len(masks) else {}
        out = self.compose(**{key: np.ascontiguousarray(image.movedim(-3, -1).numpy())}, **known)
        moved = out[key]
        if not isinstance(moved, torch.Tensor):  # without a ToTensorV2 at the end
            moved = torch.from_numpy(np.ascontiguousarray(moved)).movedim(-1, -3)
        if not len(masks):
            return {"image": moved, "masks": torch.zeros(0, *moved.shape[-2:])}
        return {"image": moved, "masks": torch.stack([torch.as_tensor(mask) for mask in out["masks"]])}


def augment_sample(augment: Augment, image: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Augments an image ([T,] 3, H, W) uint8 and its masks (K * T, H, W) float32 in [0, 1] together; K may be 0.

    Raises:
        ValueError: If it fails, returns something else than image and masks of one size, or returns pixels that are
            scaled or normalised already, which the collator does.

    Example:
        >>> from torchvision.transforms.v2 import CenterCrop
        >>> [part.shape for part in augment_sample(CenterCrop(4), torch.zeros(3, 8, 8).byte(), torch.zeros(1, 8, 8))]
        [torch.Size([3, 4, 4]), torch.Size([1, 4, 4])]
    """
    kind = tv_tensors.Image if image.ndim == 3 else tv_tensors.Video
    try:
        out = augment({"image": kind(image), "masks": tv_tensors.Mask(masks)})
        pixels, moved = (torch.Tensor(out[name].as_subclass(torch.Tensor)) for name in ("image", "masks"))
    except Exception as error:  # the user's code
        raise ValueError(
            f"`augment` failed ({type(error).__name__}: {error}): it is called with a dict of 'image' and 'masks' and"
            f" returns both; {_WAYS}"
        ) from error
    if pixels.dtype != torch.uint8:
        raise ValueError(
            f"`augment` returned {str(pixels.dtype).removeprefix('torch.')} pixels from {pixels.min():g} to"
            f" {pixels.max():g}: the collator scales and normalises; leave `Normalize` and `ToDtype(torch.float32)`"
            " out, or end with `v2.ToDtype(torch.uint8, scale=True)`"
        )
    if pixels.max() <= 1 and image.float().mean() > 32:
        raise ValueError("`augment` returned black: it scales to [0, 1] and then rounds; give `scale=True` to both")
    expected = (*image.shape[:-2], *pixels.shape[-2:]), (len(masks), *pixels.shape[-2:])
    if (tuple(pixels.shape), tuple(moved.shape)) != expected:
        raise ValueError(
            f"`augment` returned an image of {tuple(pixels.shape)} and masks of {tuple(moved.shape)}, where"
            f" {expected[0]} and {expected[1]} go together: {_WAYS}"
        )
    return pixels, moved
