"""Edited images with provenance: pipelines of diffusers as the editors of [`hf_pgg.Edit`], batched and resumable.

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

from hf_pgg.data.images import decode_mask, encode_mask, encode_png, resize, to_rgb
from hf_pgg.data.labels import class_label
from hf_pgg.data.provenance import IMAGE, LABEL_WEIGHTS, LABELS, PROVENANCE, provenance_features, sources_of
from hf_pgg.generation.pipelines import run_pipeline
from hf_pgg.generation.resumable import Generation
from hf_pgg.generation.sampling import Request, check_strength, described
from hf_pgg.synthesis.edit import Editor, unedited_mask


@dataclass(frozen=True, kw_only=True)
class DiffusionEditor(ABC):
    """A pipeline as a `Sampler` of edits.

    Args:
        pipeline: Of diffusers.
        model, revision (`str`): What it was loaded from; stored with the edits.
        image_column (`str`): The images to edit.
        size (`int`): Shorter side at which the pipeline works, in pixels; both sides are rounded to what it takes.
        num_inference_steps (`int`), guidance_scale (`float`), negative_prompt (`str`): Of its call.
        radius, min_difference: Of Otsu's mask, see [`hf_pgg.synthesis.edit.unedited_mask`].
    """

    pipeline: Any
    model: str = ""
    revision: str = ""
    image_column: str = IMAGE
    size: int = 512
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    negative_prompt: str = ""
    radius: int = 2
    min_difference: float = 4.0

    @property
    def parameters(self) -> dict[str, Any]:
        names = ["model", "revision", "size", "num_inference_steps", "guidance_scale", "negative_prompt"]
        return {**described(self, [*names, "radius", "min_difference"]), **self.own_parameters}

    @property
    @abstractmethod
    def own_parameters(self) -> dict[str, Any]:
        """Those of this kind of pipeline, stored as columns."""

    def arguments(self, images: np.ndarray, requests: Sequence[Request]) -> dict[str, Any]:
        """Of the pipeline's call, beside prompts and steps; images are (B, H, W, 3) float32 in [0, 1]."""
        return self.own_parameters

    def __call__(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Edits (H, W, 3) uint8 of the sources' sizes; sources of one working size share a call."""
        sources = [to_rgb(request.row[self.image_column]) for request in requests]
        by_shape: dict[tuple[int, int], list[int]] = {}
        for place, source in enumerate(sources):
            by_shape.setdefault(self.working_shape(source.shape), []).append(place)
        edits: dict[int, np.ndarray] = {}
        for shape, places in by_shape.items():
            asked = [requests[place] for place in places]
            images = np.stack([resize(sources[place], shape) for place in places]).astype(np.float32) / 255
            made = run_pipeline(
                self.pipeline,
                [request.seed for request in asked],
                prompt=[request.prompt for request in asked],
                negative_prompt=[self.negative_prompt] * len(asked),
                image=images,
                num_inference_steps=self.num_inference_steps,
                guidance_scale=self.guidance_scale,
                **self.arguments(images, asked),
            )
            for place, edit in zip(places, made, strict=True):
                edits[place] = resize(edit, sources[place].shape[:2])
        return [edits[place] for place in range(len(requests))]

    def working_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(height, width) for an image of a shape: shorter side `size`, both multiples of what the UNet halves."""
        halvings = len(self.pipeline.unet.config.block_out_channels) - 1
        multiple = self.pipeline.vae_scale_factor * 2**halvings
        scale = self.size / min(shape[:2])
        height, width = (max(round(length * scale / multiple), 1) * multiple for length in shape[:2])
        return height, width

    def unedited(self, source: np.ndarray, edit: np.ndarray) -> np.ndarray:
        """(H, W) bool: which pixels the edit left alone."""
        return unedited_mask(source, edit, radius=self.radius, min_difference=self.min_difference)

    def under(self, prompt: str) -> Editor:
        """This pipeline under one prompt as the `editor` of [`hf_pgg.Edit`], an image at a time.

        `Edit(editor=..., random=True, takes_row=True)`: an inpainting reads the row's masks.
        """

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

    Args:
        strength (`float`): How much of the way to noise; ALIA: 0.6 for birds, 0.5 for camera traps.
    """

    strength: float = 0.6

    def __post_init__(self) -> None:
        check_strength(self.strength, self.num_inference_steps)

    @property
    def own_parameters(self) -> dict[str, Any]:
        return {"strength": self.strength}


@dataclass(frozen=True, kw_only=True)
class InstructionEditor(DiffusionEditor):
    """InstructPix2Pix: the prompt says what to change.

    Args:
        image_guidance_scale (`float`): How close to stay to the source; ALIA: 1.2, with a guidance scale of 5.
    """

    guidance_scale: float = 5.0
    image_guidance_scale: float = 1.2

    @property
    def own_parameters(self) -> dict[str, Any]:
        return {"image_guidance_scale": self.image_guidance_scale}


@dataclass(frozen=True, kw_only=True)
class InpaintingEditor(DiffusionEditor):
    """Inpainting of everything but the row's targets; these are put back, so that the mask is exact.

    Rows need provenance (`add_provenance`): it says what stays.

    Args:
        strength (`float`): How much of the way to noise the repainted part goes.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        check_strength(self.strength, self.num_inference_steps)

    @property
    def own_parameters(self) -> dict[str, Any]:
        return {"strength": self.strength}

    def arguments(self, images: np.ndarray, requests: Sequence[Request]) -> dict[str, Any]:
        height, width = images.shape[1:3]
        repaint = [1 - resize(self.target(request.row), (height, width)) for request in requests]
        masks = np.rint(np.stack(repaint)).astype(np.float32)
        return {"mask_image": masks, "height": height, "width": width, **self.own_parameters}

    def __call__(self, requests: Sequence[Request]) -> list[np.ndarray]:
        edits = super().__call__(requests)
        # a struck edit stays black: with its target put back, nobody would see that it was
        return [
            self.restore(request.row, edit) if edit.any() else edit
            for request, edit in zip(requests, edits, strict=True)
        ]

    def restore(self, row: Mapping[str, Any], edit: np.ndarray) -> np.ndarray:
        """The edit under the row's targets, by their masks; (H, W, 3) uint8."""
        weight = self.target(row)[..., None]
        return np.rint(weight * to_rgb(row[self.image_column]) + (1 - weight) * edit).astype(np.uint8)

    def target(self, row: Mapping[str, Any]) -> np.ndarray:
        """(H, W) float32 in [0, 1]: what any of the row's labels owns."""
        if not row.get(PROVENANCE):
            raise ValueError("inpainting needs rows with provenance, which says what stays: see `add_provenance`")
        masks = [decode_mask(mask).astype(np.float32) / 255 for mask in row[PROVENANCE]]
        return np.minimum(np.sum(masks, axis=0, dtype=np.float32), 1)

    def unedited(self, source: np.ndarray, edit: np.ndarray) -> np.ndarray:
        return np.ones(source.shape[:2], bool)  # of the targets, which are put back


@dataclass(frozen=True, kw_only=True)
class EditGeneration(Generation):
    """`versions` edits of each row, in the columns of the contract of `hf_pgg.data.provenance`.

    Each label's mask is its mask in the source, or the whole image where there is none, less what was edited.

    Args:
        sampler ([`DiffusionEditor`]): Makes the edits and knows what they left alone.
    """

    sampler: DiffusionEditor

    def sample_features(self) -> dict[str, Any]:
        return dict(provenance_features(class_label(self.source.features, self.label_column)))

    def sample_columns(self, request: Request, image: np.ndarray) -> dict[str, Any]:
        source = to_rgb(request.row[self.sampler.image_column])
        labels, weights, masks = sources_of(request.row, source.shape[:2], self.label_column)
        unedited = self.sampler.unedited(source, image)
        return {
            IMAGE: encode_png(image),
            LABELS: labels,
            LABEL_WEIGHTS: weights,
            PROVENANCE: [encode_mask(mask * unedited) for mask in masks],
        }
