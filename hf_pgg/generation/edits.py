"""Edited images with provenance: pipelines of diffusers as the editors of [`~hf_pgg.Edit`], batched and resumable.

After ALIA (Dunlap et al., "Diversify Your Vision Datasets with Automatic Diffusion-based Augmentation", NeurIPS 2023):
image-to-image, instructions or inpainting under prompts of other domains. What an inpainting left alone is known
exactly; of the others it is what Otsu's threshold of the difference calls unedited.

An edit is made at a size that the pipeline takes and brought back to the source's, so that source, edit and masks lie
on one another pixel by pixel; whatever geometry training applies, it applies to image and masks together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_pgg.data.images import decode_mask, encode_png, open_image, resize, to_rgb
from hf_pgg.data.labels import class_label
from hf_pgg.data.provenance import IMAGE, LABEL_WEIGHTS, LABELS, PROVENANCE, provenance_features, sources_of
from hf_pgg.generation.resumable import Generation
from hf_pgg.generation.sampling import PipelineSampler, Request, check_strength
from hf_pgg.synthesis.base import stored_masks
from hf_pgg.synthesis.edit import Editor, unedited_mask


@dataclass(frozen=True, kw_only=True)
class DiffusionEditor(PipelineSampler, ABC):
    """A pipeline as a [`~hf_pgg.generation.sampling.Sampler`] of edits; the children say what their pipelines take.

    Args:
        size (`int`): Shorter side at which the pipeline works, in pixels; both sides are rounded to what it takes.
        radius, min_difference: Settings of the mask, see [`~hf_pgg.synthesis.edit.unedited_mask`].

    Example:
        >>> from types import SimpleNamespace as Fake
        >>> unet = Fake(config=Fake(block_out_channels=(320, 640, 1280, 1280)))
        >>> ImageEditor(pipeline=Fake(unet=unet, vae_scale_factor=8)).working_shape((375, 500))
        (512, 704)
    """

    image_column: str = IMAGE
    radius: int = 2
    min_difference: float = 4.0

    @abstractmethod
    def arguments(self, images: np.ndarray, requests: Sequence[Request]) -> dict[str, Any]:
        """The pipeline's own arguments, beside prompts and steps; images are (B, H, W, 3) float32 in [0, 1]."""

    def __call__(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Returns edits (H, W, 3) uint8 of the sources' sizes; sources of one working size share a call."""
        sources = [to_rgb(request.row[self.image_column]) for request in requests]
        by_shape: dict[tuple[int, int], list[int]] = {}
        for place, source in enumerate(sources):
            by_shape.setdefault(self.working_shape(source.shape), []).append(place)
        edits: dict[int, np.ndarray] = {}
        for shape, places in by_shape.items():
            asked = [requests[place] for place in places]
            images = np.stack([resize(sources[place], shape) for place in places]).astype(np.float32) / 255
            made = self.call_with_prompts(asked, image=images, **self.arguments(images, asked))
            for place, edit in zip(places, made, strict=True):
                edits[place] = resize(edit, sources[place].shape[:2])
        return [edits[place] for place in range(len(requests))]

    def working_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """The (height, width) at which an image is edited: shorter side `size`, both multiples that the UNet halves."""
        halvings = len(self.pipeline.unet.config.block_out_channels) - 1
        multiple = self.pipeline.vae_scale_factor * 2**halvings
        scale = self.size / min(shape[:2])
        height, width = (max(round(length * scale / multiple), 1) * multiple for length in shape[:2])
        return height, width

    def unedited(self, source: np.ndarray, edit: np.ndarray) -> np.ndarray:
        """The mask (H, W) bool of the pixels that the edit left alone."""
        return unedited_mask(source, edit, radius=self.radius, min_difference=self.min_difference)

    def under(self, prompt: str) -> Editor:
        """This pipeline under one prompt, for `Edit(editor=..., random=True, takes_row=True)`, an image at a time."""

        def edit(image: np.ndarray, rng: np.random.Generator, row: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
            asked = Request({**row, self.image_column: image}, prompt, int(rng.integers(2**63)))
            edited = self([asked])[0]
            if not edited.any():
                raise ValueError(f"the safety filter struck the edit '{prompt}'")
            return edited, self.unedited(image, edited)

        return edit


@dataclass(frozen=True, kw_only=True)
class ImageEditor(DiffusionEditor):
    """Image-to-image (`StableDiffusionImg2ImgPipeline` and its kin): the prompt describes the whole image.

    `strength` says how much of the way to noise an image goes; ALIA takes 0.6 for birds, 0.5 for camera traps. One that
    is not in (0, 1] or leaves no step is a ValueError.

    Example:
        >>> ImageEditor(pipeline=None, strength=1.2)
        Traceback (most recent call last):
        ValueError: strength 1.2 of 50 steps leaves none: give a strength in (0, 1], or more steps
    """

    strength: float = 0.6

    def __post_init__(self) -> None:
        check_strength(self.strength, self.num_inference_steps)

    def arguments(self, images: np.ndarray, requests: Sequence[Request]) -> dict[str, Any]:
        return {"strength": self.strength}


@dataclass(frozen=True, kw_only=True)
class InstructionEditor(DiffusionEditor):
    """InstructPix2Pix: the prompt says what to change.

    `image_guidance_scale` says how close to stay to the source; ALIA takes 1.2, with a guidance scale of 5.

    Example:
        >>> InstructionEditor(pipeline=None).guidance_scale
        5.0
    """

    guidance_scale: float = 5.0
    image_guidance_scale: float = 1.2

    def arguments(self, images: np.ndarray, requests: Sequence[Request]) -> dict[str, Any]:
        return {"image_guidance_scale": self.image_guidance_scale}


@dataclass(frozen=True, kw_only=True)
class InpaintingEditor(DiffusionEditor):
    """Inpainting of everything but the row's targets; these are put back, so that the mask is exact.

    Rows need provenance ([`~hf_pgg.add_provenance`]), which says what stays. `strength` says how much of the way to
    noise the rest goes.

    Example:
        >>> edit = InpaintingEditor(pipeline=None).restore(rows[0], edit=np.zeros((16, 16, 3), np.uint8))
        >>> edit[8, 8].tolist(), edit[0, 0].tolist()  # the object, as it was, and the background, as it was edited
        ([250, 0, 0], [0, 0, 0])
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        check_strength(self.strength, self.num_inference_steps)

    def arguments(self, images: np.ndarray, requests: Sequence[Request]) -> dict[str, Any]:
        height, width = images.shape[1:3]
        repaint = [1 - resize(self.target(request.row), (height, width)) for request in requests]
        masks = np.rint(np.stack(repaint)).astype(np.float32)
        return {"mask_image": masks, "height": height, "width": width, "strength": self.strength}

    def __call__(self, requests: Sequence[Request]) -> list[np.ndarray]:
        edits = super().__call__(requests)
        # a struck edit stays black: with its target put back, nobody would see that it was
        return [
            self.restore(request.row, edit) if edit.any() else edit
            for request, edit in zip(requests, edits, strict=True)
        ]

    def restore(self, row: Mapping[str, Any], edit: np.ndarray) -> np.ndarray:
        """Puts the row's targets back on the edit, by their masks; (H, W, 3) uint8."""
        weight = self.target(row)[..., None]
        return np.rint(weight * to_rgb(row[self.image_column]) + (1 - weight) * edit).astype(np.uint8)

    def target(self, row: Mapping[str, Any]) -> np.ndarray:
        """The mask (H, W) float32 in [0, 1] of what any of the row's labels owns."""
        stored, size = row.get(PROVENANCE), open_image(row[self.image_column]).size
        if not stored or any(mask is None for mask in stored):
            raise ValueError("inpainting needs rows with provenance, which says what stays: see `add_provenance`")
        masks = [decode_mask(mask).astype(np.float32) / 255 for mask in stored]
        if any(mask.shape != size[::-1] for mask in masks):
            raise ValueError(f"a mask of {masks[0].shape[::-1]} for an image of {size}: resize the mask with its image")
        return np.minimum(np.sum(masks, axis=0, dtype=np.float32), 1)

    def unedited(self, source: np.ndarray, edit: np.ndarray) -> np.ndarray:
        return np.ones(source.shape[:2], bool)  # all of the targets, which are put back


@dataclass(frozen=True, kw_only=True)
class EditGeneration(Generation):
    """`versions` edits of each row, in the columns of the provenance contract.

    Each label's mask is its mask in the source, or the whole image where there is none, less what was edited.

    Example:
        >>> from hf_pgg.generation.prompts import Prompts
        >>> made = EditGeneration(source=rows, sampler=None, prompts=Prompts(("a {class} at night",)), folder="out")
        >>> list(made.sample_features())
        ['image', 'labels', 'label_weights', 'provenance']
    """

    sampler: DiffusionEditor

    def sample_features(self) -> dict[str, Any]:
        return dict(provenance_features(class_label(self.source.features, self.label_column)))

    def sample_columns(self, request: Request, image: np.ndarray) -> dict[str, Any]:
        source = to_rgb(request.row[self.sampler.image_column])
        unedited = self.sampler.unedited(source, image)
        sources = sources_of(request.row, source.shape[:2], self.label_column).with_masks(lambda mask: mask * unedited)
        return {
            IMAGE: encode_png(image),
            LABELS: sources.labels,
            LABEL_WEIGHTS: sources.weights,
            PROVENANCE: stored_masks(sources.masks),
        }
