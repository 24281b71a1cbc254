"""Rows to a batch: decode, one geometric augmentation for image and masks together, the model's own normalisation.

The geometry and the values are those of the image processor ([`~hf_pgg.data.preprocessing.InputSpec`] proves it when
the collator is made); the masks take part in the geometry.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from hf_pgg.data.augmentation import Augment, augment_sample, checked_augment
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import to_rgb
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.processors import sized
from hf_pgg.data.provenance import (
    CONTRACT_COLUMNS,
    IMAGE,
    LABEL_WEIGHTS,
    LABELS,
    PADDING_LABEL,
    PROVENANCE,
    VIDEO,
    ProvenanceError,
    Sources,
    merge_sources,
    naming_row,
    row_labels,
    sources_of,
    whole_number,
)
from hf_pgg.data.validation import validate_row
from hf_pgg.data.video import sample_clip


class _Synthesis(Protocol):
    """What a collator needs of a method that draws afresh each epoch ([`~hf_pgg.synthesis.base.FreshDraws`])."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    def set_epoch(self, epoch: int) -> None: ...

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]: ...


class Collator(ABC):
    """Turns rows into a batch, and says what [`~hf_pgg.training.trainer.PGGTrainer`] must know of it.

    A subclass checks a row and makes the model's inputs: [`PGGCollator`] of images and clips,
    [`~hf_pgg.skeletons.rows.SkeletonCollator`] of keypoints.

    Attributes:
        input_column (`str`): The column of the samples, which every dataset must have.
        label_column (`str`): The column of single labels, for rows that do not keep the contract.
        extra_columns (`tuple[str, ...]`): Integer columns (groups) passed on as (B,) int64.
        num_classes (`int`, *optional*): The model's classes, where they are known: no label may lie above.
        spec ([`~hf_pgg.data.preprocessing.InputSpec`], *optional*): The preprocessing, where the inputs are images.
        image_processor (*optional*): What the inputs were made with, which is saved with the model.
        synthesis (*optional*): A method applied to the rows of a batch, which draws afresh each epoch.
        labelled (`bool`): Whether rows must have labels; without, a batch holds the model's inputs alone.

    Example:
        >>> class Numbers(Collator):
        ...     input_column, label_column, extra_columns = "number", "label", ()
        ...     def for_evaluation(self):
        ...         return self
        ...     def validate_row(self, row, name, num_classes, allow_overlap=False):
        ...         pass
        ...     def __call__(self, rows):
        ...         inputs = {"number": torch.tensor([row["number"] for row in rows])}
        ...         return self.batch(rows, inputs, [Sources([row["label"]], [1.0], []) for row in rows], shape=())
        >>> Numbers()([{"number": 0.5, "label": 1}, {"number": 2.5, "label": 0}])["labels"]
        tensor([[1],
                [0]])
    """

    input_column: str
    label_column: str
    extra_columns: tuple[str, ...]
    num_classes: int | None = None
    spec: InputSpec | None = None
    image_processor: Any = None
    synthesis: _Synthesis | None = None
    labelled: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Every dataset column that may be read."""
        own = (*CONTRACT_COLUMNS, self.input_column, self.label_column, *self.extra_columns)
        return tuple(dict.fromkeys(own + (() if self.synthesis is None else self.synthesis.columns)))

    def set_epoch(self, epoch: int) -> None:
        """Makes `synthesis`, where there is one, draw for this epoch; the workers of a loader see it too."""
        if self.synthesis is not None:
            self.synthesis.set_epoch(epoch)

    @abstractmethod
    def for_evaluation(self) -> Collator:
        """Returns the same collator without augmentation and synthesis."""

    @abstractmethod
    def validate_row(self, row: Mapping[str, Any], name: object, num_classes: int, allow_overlap: bool = False) -> None:
        """Checks a row before the first step, see [`~hf_pgg.data.validation.validate_row`]."""

    @abstractmethod
    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns the model's inputs, and beside them the keys that [`PGGCollator`] lists."""

    def batch(
        self,
        rows: Sequence[Mapping[str, Any]],
        inputs: Mapping[str, torch.Tensor],
        sources: Sequence[Sources],
        shape: tuple[int, ...],
    ) -> dict[str, torch.Tensor]:
        """Adds to the inputs the labels, weights and masks of every row's sources, merged and padded.

        A row without provenance has sources without masks, or None for each; where some are known, NaN stands for the
        others, whose labels are then not guided. Masks smaller than `shape` are padded with zeros.
        """
        guided = torch.tensor([any(mask is not None for mask in found.masks) for found in sources])
        places = max(len(found.labels) for found in sources)
        labels = torch.full((len(rows), places), PADDING_LABEL, dtype=torch.int64)
        weights = torch.zeros(len(rows), places)
        # without any provenance a stand-in is merged, then dropped
        provenance = torch.zeros(len(rows), places, *(shape if guided.any() else (1,)))
        for i, found in enumerate(sources):
            if self.num_classes is not None and max(found.labels) >= self.num_classes:
                problem = f"label {max(found.labels)} is outside 0..{self.num_classes - 1}"
                column = row_labels(rows[i], self.label_column)[0]
                raise ProvenanceError(f"{i} of the batch", column, problem, "Set `num_labels` of the model.")
            labels[i, : len(found.labels)] = torch.tensor(found.labels)
            weights[i, : len(found.weights)] = torch.tensor(found.weights)
            for k, mask in enumerate(found.masks if guided[i] else ()):
                if mask is None:
                    provenance[i, k] = torch.nan
                else:
                    provenance[i, k][tuple(map(slice, mask.shape))] = torch.as_tensor(mask)
        labels, weights, provenance = merge_sources(labels, weights, provenance)
        batch = {**inputs, LABELS: labels, LABEL_WEIGHTS: weights, "guided": guided}
        if guided.any():
            batch[PROVENANCE] = provenance
        for name in self.extra_columns:
            values = []
            for i, row in enumerate(rows):
                with naming_row(f"{i} of the batch", name):
                    values.append(whole_number(row.get(name), name))
            batch[name] = torch.tensor(values)
        return batch


class PGGCollator(Collator):
    """Turns rows of images or clips into the batch that [`~hf_pgg.training.trainer.PGGTrainer`] reads.

    | key            | shape           | dtype                                                         |
    | -------------- | --------------- | ------------------------------------------------------------- |
    | `pixel_values` | (B, [T,] C, H, W)| float32                                                      |
    | `labels`       | (B, K)          | int64, distinct in a row, padded with -100                    |
    | `label_weights`| (B, K)          | float32, sum to 1                                             |
    | `provenance`   | (B, K, [T,] H, W)| float32 in [0, 1], NaN for a label's target that is not known; |
    |                |                 | only where some row of the batch has provenance               |
    | `guided`       | (B,)            | bool: the row has provenance, of some label at least          |

    Rows keep the contract, or have a single label in `label_column`; both may be mixed. Images of any mode are
    converted to RGB (see [`~hf_pgg.data.images.to_rgb`]).

    Args:
        image_processor: The model's `transformers` image processor.
        image_size (`int`, *optional*): An input size in pixels in place of the processor's. The attribute
            `image_processor` is then a copy of that size, which is to be saved with the model.
        augment (`Callable`, *optional*): A torchvision v2 transform of `{"image", "masks"}`, or an albumentations
            `Compose`; it draws from torch's generator, and leaves scaling to the collator. For training only.
        synthesis ([`~hf_pgg.synthesis.base.FreshDraws`], *optional*): A method applied to the rows before all else.
        video_column (`str`, *optional*): The column of the clips, where the samples are clips of T frames.
        sampler ([`~hf_pgg.data.frame_sampling.FrameSampler`], *optional*): The frames to take; by default all, for
            clips that were sampled when they were made. `"window"` draws from torch's generator.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> batch = PGGCollator(ViTImageProcessor(size={"height": 8, "width": 8}))([rows[0], rows[1]])
        >>> {name: tuple(values.shape) for name, values in batch.items() if name != "guided"}
        {'pixel_values': (2, 3, 8, 8), 'labels': (2, 1), 'label_weights': (2, 1), 'provenance': (2, 1, 8, 8)}
    """

    spec: InputSpec

    def __init__(
        self,
        image_processor: Any,
        *,
        image_size: int | None = None,
        augment: Augment | None = None,
        synthesis: _Synthesis | None = None,
        image_column: str = IMAGE,
        label_column: str = "label",
        extra_columns: Sequence[str] = (),
        video_column: str | None = None,
        sampler: FrameSampler | None = None,
    ):
        self.image_processor = image_processor if image_size is None else sized(image_processor, image_size)
        self.spec = InputSpec.from_processor(self.image_processor)
        self.augment = checked_augment(augment)
        self.synthesis = synthesis
        self.image_column = image_column
        self.input_column = video_column or image_column
        self.label_column = label_column
        self.extra_columns = tuple(extra_columns)
        self.video_column = video_column
        self.sampler = sampler

    def for_evaluation(self) -> PGGCollator:
        twin = copy.copy(self)  # of a subclass, too
        twin.augment = twin.synthesis = None
        return twin

    def validate_row(self, row: Mapping[str, Any], name: object, num_classes: int, allow_overlap: bool = False) -> None:
        columns: dict[str, Any] = {"image_column": self.image_column, "video_column": self.video_column}
        validate_row(row, name, num_classes, **columns, label_column=self.label_column, allow_overlap=allow_overlap)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        column = self.input_column
        if self.synthesis is not None:
            columns = self.synthesis({name: [row[name] for row in rows] for name in rows[0]})
            rows = [{name: values[i] for name, values in columns.items()} for i in range(len(rows))]
            column = VIDEO if self.video_column else IMAGE
        samples = []
        for i, row in enumerate(rows):
            with naming_row(f"{i} of the batch", column):
                samples.append(self._sample(row, column))
        images, sources = zip(*samples, strict=True)
        pixels = torch.stack(images)
        return self.batch(rows, {"pixel_values": pixels}, sources, (*images[0].shape[:-3], *self.spec.size))

    def _sample(self, row: Mapping[str, Any], column: str) -> tuple[torch.Tensor, Sources]:
        """The model's input ([T,] C, H, W) of a row, and its sources; without masks where they are not known."""
        if row.get(column) is None:
            made = "; a transform that makes `pixel_values` leaves no image for the masks: give it as `augment`"
            raise ValueError(f"the row has {sorted(row)}, no {column}{made if 'pixel_values' in row else ''}")
        if self.video_column is None:
            array = to_rgb(row[column])
            sources = sources_of(row, array.shape[:2], self.label_column)
        else:
            rng = np.random.default_rng(int(torch.randint(2**31, ())) if self.sampler else 0)
            clip = sample_clip(row[column], self.sampler, rng)
            array, sources = clip.frames, sources_of(row, (clip.length, *clip.size), self.label_column)
            sources = sources.with_masks(lambda mask: mask[clip.indices])
        if row.get(PROVENANCE) is None:
            sources = sources._replace(masks=[None] * len(sources.labels))
        known = [mask for mask in sources.masks if mask is not None]
        image = torch.from_numpy(array).movedim(-1, -3)
        # masks of a clip go through the transforms side by side, K * T of them
        masks = torch.from_numpy(np.stack(known)).flatten(0, -3) if known else torch.zeros(0, *image.shape[-2:])
        if self.augment is not None:
            image, masks = augment_sample(self.augment, image, masks)
        image, masks = self.spec.prepare(image, masks, fitted=self.augment is not None)
        prepared = iter(masks.unflatten(0, (len(known), *image.shape[:-3])).numpy() if known else ())
        return image, sources.with_masks(lambda mask: next(prepared))
