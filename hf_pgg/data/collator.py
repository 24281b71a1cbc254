"""Rows to a batch: decode, one geometric augmentation for image and masks together, the model's own normalisation.

The geometry (resize, centre crop) is that of the image processor, done here so that the masks take part in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import to_rgb
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.provenance import IMAGE, PROVENANCE, VIDEO, merge_sources, pad_sources, sources_of
from hf_pgg.data.video import open_clip
from hf_pgg.synthesis.base import FreshDraws


class PGGCollator:
    """Turns rows into the batch that [`PGGTrainer`] reads.

    | key            | shape           | dtype                                                         |
    | -------------- | --------------- | ------------------------------------------------------------- |
    | `pixel_values` | (B, [T,] C, H, W)| float32                                                      |
    | `labels`       | (B, K)          | int64, distinct in a row, padded with -100                    |
    | `label_weights`| (B, K)          | float32, sum to 1                                             |
    | `provenance`   | (B, K, [T,] H, W)| float32 in [0, 1]; only where some row of the batch has it   |
    | `guided`       | (B,)            | bool: the row has provenance                                  |

    Rows keep the contract, or have a single label in `label_column`; both may be mixed. Images of any mode are
    converted to RGB (see `images.to_rgb`).

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
        images, row_labels, row_weights, row_masks = zip(*samples, strict=True)
        labels, weights = pad_sources(row_labels, row_weights)
        guided = torch.tensor([masks is not None for masks in row_masks])
        # ([T,] H, W); without any provenance a stand-in is merged, then dropped
        shape = (*images[0].shape[:-3], *self.spec.size) if guided.any() else (1,)
        provenance = torch.zeros(*labels.shape, *shape)
        for i, masks in enumerate(row_masks):
            if masks is not None:
                provenance[i, : len(masks)] = masks
        labels, weights, provenance = merge_sources(labels, weights, provenance)

        batch = {
            "pixel_values": self.spec.normalize(torch.stack(images)),
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
        """Image ([T,] C, H, W) uint8 of the model's size, labels, weights, and masks (K, [T,] H, W) or None."""
        if self.video_column is None:
            array = to_rgb(row[column])
            labels, weights, masks = sources_of(row, array.shape[:2], self.label_column)
        else:
            array, indices, length = self._frames(row[column])
            labels, weights, masks = sources_of(row, (length, *array.shape[1:3]), self.label_column)
            masks = [mask[indices] for mask in masks]
        known = row.get(PROVENANCE) is not None
        image = torch.from_numpy(array).movedim(-1, -3)
        # masks of a clip go through the transforms side by side, K * T of them
        stack = torch.from_numpy(np.stack(masks)).flatten(0, -3) if known else torch.zeros(0, *image.shape[-2:])
        if self.augment is not None:
            kind = tv_tensors.Image if self.video_column is None else tv_tensors.Video
            out = self.augment({"image": kind(image), "masks": tv_tensors.Mask(stack)})
            image, stack = out["image"].as_subclass(torch.Tensor), out["masks"].as_subclass(torch.Tensor)
        image, stack = self.spec.fit(image, stack)
        if not known:
            return image, labels, weights, None
        return image, labels, weights, stack.unflatten(0, (len(labels), *image.shape[:-3]))

    def _frames(self, value: Any) -> tuple[np.ndarray, np.ndarray, int]:
        """Frames (T, H, W, 3) uint8, their indices, and the length of the clip that they are from."""
        with open_clip(value) as clip:
            indices = np.arange(len(clip))
            if self.sampler is not None:
                rng = np.random.default_rng(int(torch.randint(2**31, ())))
                indices = self.sampler.indices(len(clip), rng)
            return clip.read(indices), indices, len(clip)
