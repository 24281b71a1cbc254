"""Rows to a batch: decode, one geometric augmentation for picture and masks together, the model's own normalisation.

The geometry (resize, centre crop) is that of the image processor, done here so that the masks take part in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from hf_pgg.pictures import to_rgb
from hf_pgg.provenance import IMAGE, PROVENANCE, VIDEO, merge_sources, pad_sources, sources_of
from hf_pgg.synthesis.base import FreshDraws
from hf_pgg.video import FrameSampler, open_clip


@dataclass(frozen=True)
class InputSpec:
    """What a model wants: picture size, how it is reached, and the normalisation, read from its image processor.

    size: (height, width) of the model's input.
    resize_to: (height, width) to squash to, or the length of the shorter side, before the centre crop to `size`.
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
            image_size (`int`, *optional*): Another input size, in pixels; the processor's crop margin scales with it.

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

    def fit(self, picture: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Picture (C, H, W) and masks (K, H, W) brought to `size` by one geometry; unchanged where they fit already."""
        if tuple(picture.shape[-2:]) == self.size:
            return picture, masks
        resize_to = list(self.resize_to) if isinstance(self.resize_to, tuple) else [self.resize_to]
        picture = F.resize(picture, resize_to, interpolation=self.interpolation, antialias=True)
        picture = F.center_crop(picture, list(self.size))
        if masks.shape[0]:
            masks = F.center_crop(F.resize(masks, resize_to, antialias=True), list(self.size))
        return picture, masks

    def squash(self, pictures: torch.Tensor) -> torch.Tensor:
        """(..., C, H, W) brought to `size` without a crop, so that no part of a picture is lost."""
        return F.resize(pictures, list(self.size), interpolation=self.interpolation, antialias=True)

    def normalize(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 (..., C, H, W) to the model's float32 input."""
        mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        return pictures.float().mul_(self.scale).sub_(mean).div_(std)  # in place: a batch is large


class PGGCollator:
    """Turns rows into the batch that [`PGGTrainer`] reads.

    | key            | shape           | dtype                                                         |
    | -------------- | --------------- | ------------------------------------------------------------- |
    | `pixel_values` | (B, [T,] C, H, W)| float32                                                      |
    | `labels`       | (B, K)          | int64, distinct in a row, padded with -100                    |
    | `label_weights`| (B, K)          | float32, sum to 1                                             |
    | `provenance`   | (B, K, [T,] H, W)| float32 in [0, 1]; only where some row of the batch has it   |
    | `guided`       | (B,)            | bool: the row has provenance                                  |

    Rows keep the contract, or have a single label in `label_column`; both may be mixed. Pictures of any mode are
    converted to RGB (see `pictures.to_rgb`).

    Args:
        image_processor: The model's `transformers` image processor.
        image_size (`int`, *optional*): Input size other than the processor's, in pixels.
        video_column (`str`, *optional*): The column of the clips, where the samples are clips of T frames.
        sampler ([`FrameSampler`], *optional*): Which frames of a clip are taken; by default all, for clips that were
            sampled when they were made. `"window"` draws from torch's generator.
        augment (`Callable`, *optional*): A torchvision v2 transform of `{"image", "masks"}`, or of several of them;
            it draws from torch's generator. For training only.
        synthesis (`FreshDraws`, *optional*): A method applied to the rows, drawing afresh each epoch.
        extra_columns (`Sequence[str]`): Integer columns (groups) passed on as (B,) int64.
    """

    def __init__(
        self,
        image_processor: Any,
        *,
        image_size: int | None = None,
        augment: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        synthesis: FreshDraws | None = None,
        image_column: str = IMAGE,
        label_column: str = "label",
        extra_columns: Sequence[str] = (),
        video_column: str | None = None,
        sampler: FrameSampler | None = None,
    ):
        self.spec = InputSpec.from_processor(image_processor, image_size)
        self.augment = augment
        self.synthesis = synthesis
        self.image_column = image_column
        self.label_column = label_column
        self.extra_columns = tuple(extra_columns)
        self.video_column = video_column
        self.sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Makes `synthesis` draw for this epoch; workers see it too."""
        if self.synthesis is not None:
            self.synthesis.set_epoch(epoch)

    def without_augmentation(self) -> PGGCollator:
        """The same collator for evaluation: no augmentation, no synthesis."""
        twin = copy.copy(self)  # of a subclass, too
        twin.augment = twin.synthesis = None
        return twin

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        column = self.video_column or self.image_column
        if self.synthesis is not None:
            columns = self.synthesis({name: [row[name] for row in rows] for name in rows[0]})
            rows = [{name: values[i] for name, values in columns.items()} for i in range(len(rows))]
            column = VIDEO if self.video_column else IMAGE
        samples = [self._sample(row, column) for row in rows]
        pictures, row_labels, row_weights, row_masks = zip(*samples, strict=True)
        labels, weights = pad_sources(row_labels, row_weights)
        guided = torch.tensor([masks is not None for masks in row_masks])
        # ([T,] H, W); without any provenance a stand-in is merged, then dropped
        shape = (*pictures[0].shape[:-3], *self.spec.size) if guided.any() else (1,)
        provenance = torch.zeros(*labels.shape, *shape)
        for i, masks in enumerate(row_masks):
            if masks is not None:
                provenance[i, : len(masks)] = masks
        labels, weights, provenance = merge_sources(labels, weights, provenance)

        batch = {
            "pixel_values": self.spec.normalize(torch.stack(pictures)),
            "labels": labels,
            "label_weights": weights,
            "guided": guided,
        }
        if guided.any():
            batch[PROVENANCE] = provenance
        for name in self.extra_columns:
            batch[name] = torch.tensor([int(row[name]) for row in rows])
        return batch

    def _sample(
        self, row: Mapping[str, Any], column: str
    ) -> tuple[torch.Tensor, list[int], list[float], torch.Tensor | None]:
        """Picture ([T,] C, H, W) uint8 of the model's size, labels, weights, and masks (K, [T,] H, W) or None."""
        if self.video_column is None:
            array = to_rgb(row[column])
            labels, weights, masks = sources_of(row, array.shape[:2], self.label_column)
        else:
            array, indices, length = self._frames(row[column])
            labels, weights, masks = sources_of(row, (length, *array.shape[1:3]), self.label_column)
            masks = [mask[indices] for mask in masks]
        known = row.get(PROVENANCE) is not None
        picture = torch.from_numpy(array).movedim(-1, -3)
        # masks of a clip go through the transforms side by side, K * T of them
        stack = torch.from_numpy(np.stack(masks)).flatten(0, -3) if known else torch.zeros(0, *picture.shape[-2:])
        if self.augment is not None:
            kind = tv_tensors.Image if self.video_column is None else tv_tensors.Video
            out = self.augment({"image": kind(picture), "masks": tv_tensors.Mask(stack)})
            picture, stack = out["image"].as_subclass(torch.Tensor), out["masks"].as_subclass(torch.Tensor)
        picture, stack = self.spec.fit(picture, stack)
        if not known:
            return picture, labels, weights, None
        return picture, labels, weights, stack.unflatten(0, (len(labels), *picture.shape[:-3]))

    def _frames(self, value: Any) -> tuple[np.ndarray, np.ndarray, int]:
        """Frames (T, H, W, 3) uint8, their indices, and the length of the clip that they are from."""
        with open_clip(value) as clip:
            indices = np.arange(len(clip))
            if self.sampler is not None:
                rng = np.random.default_rng(int(torch.randint(2**31, ())))
                indices = self.sampler.indices(len(clip), rng)
            return clip.read(indices), indices, len(clip)
