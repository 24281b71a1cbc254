"""What a model wants of its input: size, geometry and values, measured on its image processor.

The fast path does in tensors what a processor does; it is taken where noise of several sizes comes out of both alike to
the last bit. Else images go through the processor itself ([`hf_pgg.data.processors`]).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hf_pgg.data.processors import (
    check_masks,
    noise,
    output_size,
    process,
    process_masks,
    sized,
    values_of,
    without_size,
)

_EXACT = 0.01  # levels of 8 bits by which two float computations of the same values differ, at most
_ROUNDING = 6.0  # levels by which two resizers of the same kind differ on noise, which is their worst case
_SHARES = ((0.6, 0.9), (0.9, 0.61), (1.0, 1.0), (1.31, 1.64), (2.3, 1.77), (1.03, 1.9), (1.9, 1.06), (3.1, 1.2))


@dataclass(frozen=True)
class InputSpec:
    """The size of a model's input, how it is reached, and the normalisation.

    Args:
        size (`tuple[int, int]`): (height, width) of the input.
        resize_to (`int` or `tuple[int, int]`, *optional*): (height, width) to squash to, or the length of the shorter
            side, before the centre crop to `size`; None where only the processor knows.
        mean, std (`tuple[float, ...]`): What is subtracted from each channel's scaled values, and what divides them.
        scale (`float`): Factor that brings stored values to the unit of `mean` and `std`.
        channels (`tuple[int, ...]`): The image's channel (0 red, 1 green, 2 blue) that stands at each place.
        crop_floor (`bool`): Whether an odd margin is rounded down at the left and top, else as torchvision does.
        processor (*optional*): The image processor, where an image must go through it to be exactly what it makes.

    Example:
        >>> spec = InputSpec((2, 2), 2, mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> spec.normalize(torch.tensor([0, 255]).view(2, 1, 1, 1).expand(2, 3, 2, 2)).unique()
        tensor([-1.,  1.])
    """

    size: tuple[int, int]
    resize_to: int | tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    interpolation: v2.InterpolationMode = v2.InterpolationMode.BILINEAR
    channels: tuple[int, ...] = (0, 1, 2)
    crop_floor: bool = False
    processor: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def from_processor(cls, processor: Any, image_size: int | None = None) -> InputSpec:
        """Measures a `transformers` image or video processor, timm's wrapper included.

        Args:
            image_size (`int`, *optional*): An input size in pixels in place of the processor's
                ([`~hf_pgg.data.processors.sized`]).

        Raises:
            ValueError: If not every image gets one size, or masks could not follow an image through the processor.
        """
        # a copy, which no later change of a field reaches
        processor = copy.deepcopy(processor) if image_size is None else sized(processor, image_size)
        size = output_size(processor)
        mean, std, channels = values_of(processor)
        images = [noise(round(size[0] * h) + 1, round(size[1] * w) + 2) for h, w in _SHARES]
        wanted = [process(processor, image) for image in images]
        if any(tuple(pixels.shape[-2:]) != size for pixels in wanted):
            raise without_size(processor)
        unit, nearest, least = torch.tensor(std)[:, None, None] * 255, None, _ROUNDING
        for resize_to, interpolation, floor in _geometries(processor, size):
            tried = cls(size, resize_to, mean, std, 1 / 255, interpolation, channels, floor)
            made = [tried.prepare(image)[0] for image in images]
            if any(pixels.shape[-2:] != size for pixels in made):
                continue
            off = max(float(((a - b) * unit).abs().max()) for a, b in zip(made, wanted, strict=True))
            if off < _EXACT:
                return tried
            if off < least:
                nearest, least = tried, off
        if nearest is not None:
            return replace(nearest, processor=processor)
        check_masks(processor)
        return cls(size, None, mean, std, channels=channels, processor=processor)

    @property
    def squashes(self) -> bool:
        """Whether an image is squashed to `size` without a crop."""
        return self.resize_to == self.size

    def prepare(
        self, image: torch.Tensor, masks: torch.Tensor | None = None, fitted: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turns an image or clip ([T,] C, H, W) uint8 and its masks (K, H, W) into the model's input, by one geometry.

        Returned are float32 pixels ([T,] C, h, w) and masks (K, h, w), of `size`. With `fitted` the geometry of an
        image that has this size already, from an augmentation, stays as it is.
        """
        masks = torch.zeros(0, *image.shape[-2:]) if masks is None else masks
        if fitted and tuple(image.shape[-2:]) == self.size:
            return self.normalize(image), masks
        if self.processor is None:
            pixels = self.normalize(self._geometry(image))
        else:
            pixels = process(self.processor, image)
            if tuple(pixels.shape[-2:]) != self.size:
                raise without_size(self.processor)
        if masks.shape[0]:
            masks = process_masks(self.processor, masks) if self.resize_to is None else self._geometry(masks)
        return pixels, masks

    def _geometry(self, image: torch.Tensor) -> torch.Tensor:
        """Resizes and crops as the processor does, without its values."""
        resize_to: Any = self.resize_to if isinstance(self.resize_to, tuple) else (self.resize_to,)
        mode = self.interpolation if image.shape[-3] == 3 else v2.InterpolationMode.BILINEAR
        image = F.resize(image, list(resize_to), interpolation=mode, antialias=True)
        if not self.crop_floor:
            return F.center_crop(image, list(self.size))
        (height, width), (top, left) = self.size, ((image.shape[i] - self.size[i]) // 2 for i in (-2, -1))
        return image[..., top : top + height, left : left + width]

    def squash(self, images: torch.Tensor) -> torch.Tensor:
        """Brings images (..., C, H, W) to `size` without a crop, so that no part of an image is lost."""
        return F.resize(images, list(self.size), interpolation=self.interpolation, antialias=True)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Turns images (..., C, H, W) uint8 into the model's float32 input."""
        if self.channels != (0, 1, 2):
            images = images[..., list(self.channels), :, :]
        mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        return images.to(torch.float32, copy=True).mul_(self.scale).sub_(mean).div_(std)  # in place: a batch is large

    def display(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turns the model's input (..., C, H, W) back into images (..., H, W, C) in [0, 1], red first."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        images = (pixels * std + mean) / (255 * self.scale)
        return images[..., np.argsort(self.channels).tolist(), :, :].movedim(-3, -1).clamp(0, 1)


def _geometries(processor: Any, size: tuple[int, int]) -> Iterator[tuple[Any, v2.InterpolationMode, bool]]:
    """What a processor's fields may mean: where to resize to, how, and whether a crop's odd margin is rounded down."""
    config = getattr(processor, "data_config", None)
    fields = dict(getattr(processor, "size", None) or {})
    name = config["interpolation"] if config else {0: "nearest", 1: "lanczos", 3: "bicubic"}.get(processor.resample)
    known = {mode.value: mode for mode in v2.InterpolationMode}
    interpolation = known.get(str(name), v2.InterpolationMode.BILINEAR)
    crop = (config or vars(processor)).get("crop_pct")
    targets: list[Any] = [size]
    if fields.get("height") and fields.get("width"):
        targets.append((fields["height"], fields["width"]))
    if fields.get("shortest_edge"):
        targets.append(fields["shortest_edge"])
    if crop:
        targets += [int(min(size) / crop), tuple(int(side / crop) for side in size)]
    for target in dict.fromkeys(targets):
        if min(target if isinstance(target, tuple) else (target,)) >= min(size):
            yield target, interpolation, False
            yield target, interpolation, True
