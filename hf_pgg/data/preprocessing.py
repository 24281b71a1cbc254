"""What a model wants of its input: size and normalisation, read from its image processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True)
class InputSpec:
    """The size of a model's input, how it is reached, and the normalisation.

    Args:
        size (`tuple[int, int]`): (height, width) of the input.
        resize_to (`int` or `tuple[int, int]`): (height, width) to squash to, or the length of the shorter side, before
            the centre crop to `size`.
        mean, std (`tuple[float, ...]`): What is subtracted from each channel's scaled values, and what divides them.
        scale (`float`): Factor that brings stored values to the unit of `mean` and `std`.

    Example:
        >>> spec = InputSpec((2, 2), 2, mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> spec.normalize(torch.tensor([0, 255]).view(2, 1, 1, 1).expand(2, 3, 2, 2)).unique()
        tensor([-1.,  1.])
    """

    size: tuple[int, int]
    resize_to: int | tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    interpolation: v2.InterpolationMode = v2.InterpolationMode.BILINEAR

    @classmethod
    def from_processor(cls, processor: Any, image_size: int | None = None) -> InputSpec:
        """Reads a `transformers` image processor, timm's wrapper included.

        Args:
            image_size (`int`, *optional*): An input size in pixels in place of the processor's, whose crop margin
                scales with it.

        Raises:
            ValueError: If the processor states no size.
        """
        if hasattr(processor, "data_config"):  # TimmWrapperImageProcessor
            config = processor.data_config
            height, width = config["input_size"][-2:]
            margin, squash = config["crop_pct"], config["crop_mode"] == "squash"
            mean, std, scale = config["mean"], config["std"], 1 / 255
            interpolation = v2.InterpolationMode(config["interpolation"])
        else:
            size = dict(processor.size) if getattr(processor, "size", None) else {}
            crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", None) else {}
            shorter = size.get("shortest_edge")
            height = crop.get("height", size.get("height", shorter))
            width = crop.get("width", size.get("width", shorter))
            if height is None or width is None:
                raise ValueError(f"{type(processor).__name__} states no input size (size={size}): pass `image_size`")
            squash = shorter is None
            margin = min(height, width) / shorter if shorter else 1.0
            if getattr(processor, "crop_pct", None) and shorter and shorter < 384:  # ConvNeXt crops small inputs itself
                margin = processor.crop_pct
            normalize = getattr(processor, "do_normalize", True)
            mean = processor.image_mean if normalize else (0.0, 0.0, 0.0)
            std = processor.image_std if normalize else (1.0, 1.0, 1.0)
            scale = processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0
            names = {0: "nearest", 2: "bilinear", 3: "bicubic"}
            interpolation = v2.InterpolationMode(names.get(getattr(processor, "resample", 2), "bilinear"))
        if image_size is not None:
            height = width = image_size
        resize_to = (height, width) if squash else int(min(height, width) / margin)
        return cls((height, width), resize_to, tuple(mean), tuple(std), scale, interpolation)

    def fit(self, image: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Brings an image (C, H, W) and its masks (K, H, W) to `size` by one geometry, unless they fit already."""
        if tuple(image.shape[-2:]) == self.size:
            return image, masks
        resize_to = list(self.resize_to) if isinstance(self.resize_to, tuple) else [self.resize_to]
        image = F.resize(image, resize_to, interpolation=self.interpolation, antialias=True)
        image = F.center_crop(image, list(self.size))
        if masks.shape[0]:
            masks = F.center_crop(F.resize(masks, resize_to, antialias=True), list(self.size))
        return image, masks

    def squash(self, images: torch.Tensor) -> torch.Tensor:
        """Brings images (..., C, H, W) to `size` without a crop, so that no part of an image is lost."""
        return F.resize(images, list(self.size), interpolation=self.interpolation, antialias=True)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Turns images (..., C, H, W) uint8 into the model's float32 input."""
        mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        return images.float().mul_(self.scale).sub_(mean).div_(std)  # in place: a batch is large
