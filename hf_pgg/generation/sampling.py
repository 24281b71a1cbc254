"""What makes images of requests: Real-Fake's sampling, from the row's own real image, and FFR's, from text alone.

[`~hf_pgg.generation.resumable.Generation`] is the loop that asks; any other [`Sampler`] may answer it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch

from hf_pgg.data.images import resize, to_rgb
from hf_pgg.data.provenance import IMAGE
from hf_pgg.generation.conditioning import Conditioner

NEGATIVE_PROMPT = "distorted, unrealistic, blurry, out of frame, cropped, deformed"  # of Real-Fake


@dataclass(frozen=True)
class Request:
    """One image to make, for a source row, with a prompt and a seed.

    Example:
        >>> Request(row={"label": 0}, prompt="a photo of a cat", seed=7).prompt
        'a photo of a cat'
    """

    row: Mapping[str, Any]
    prompt: str
    seed: int


class Sampler(Protocol):
    """What makes one image (H, W, 3) uint8 for each request; a black image counts as struck by a safety filter.

    An image must depend on its own request alone. `parameters` (str, int, float or bool) are stored with every image.

    Example:
        >>> class Noise:
        ...     parameters = {"generator": "noise"}
        ...     def __call__(self, requests):
        ...         return [np.random.default_rng(r.seed).integers(1, 256, (8, 8, 3), np.uint8) for r in requests]
        >>> Noise()([Request({}, "a cat", seed=7)])[0].shape
        (8, 8, 3)
    """

    @property
    def parameters(self) -> dict[str, Any]: ...

    def __call__(self, requests: Sequence[Request]) -> list[np.ndarray]: ...


@dataclass(frozen=True, kw_only=True)
class PipelineSampler:
    """What the samplers that stand on a pipeline of diffusers have in common.

    Args:
        model, revision (`str`): What the pipeline was loaded from; stored with the images.
        size (`int`): Side of the images in pixels.
        guidance_scale (`float`): Scale of classifier-free guidance; 1 is none.
        negative_prompt (`str`): Prompt of the other branch of classifier-free guidance.

    Example:
        >>> from types import SimpleNamespace
        >>> sampler = PipelineSampler(pipeline=SimpleNamespace(dtype=torch.float16, scheduler=None), size=256)
        >>> sampler.parameters["size"], sampler.parameters["dtype"]
        (256, 'float16')
    """

    pipeline: Any
    model: str = ""
    revision: str = ""
    size: int = 512
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    negative_prompt: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        """What is stored with every image: the fields that are plain values, and what the pipeline is."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "image_column"}
        return {
            **{name: value for name, value in values.items() if isinstance(value, str | int | float)},
            "dtype": str(self.pipeline.dtype).removeprefix("torch."),
            "pipeline": type(self.pipeline).__name__,
            "scheduler": type(self.pipeline.scheduler).__name__,
        }

    def call_pipeline(self, requests: Sequence[Request], **arguments: Any) -> list[np.ndarray]:
        """Calls the pipeline on a batch; an image depends on its request's seed, on any device, not on its neighbours.

        Images are (H, W, 3) uint8, black where the pipeline's safety filter has struck; ValueError if they hold NaN.
        """
        output = self.pipeline(
            generator=[torch.Generator().manual_seed(request.seed) for request in requests],  # on the CPU
            output_type="np",
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            **arguments,
        )
        values = np.asarray(output.images)
        if not np.isfinite(values).all():
            name, dtype = type(self.pipeline).__name__, self.pipeline.dtype
            raise ValueError(f"{name} returned NaN in {dtype}: run it in bfloat16 or float32 instead")
        images = list(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(images)
        return [np.zeros_like(image) if struck else image for image, struck in zip(images, flagged, strict=True)]

    def call_with_prompts(self, requests: Sequence[Request], **arguments: Any) -> list[np.ndarray]:
        """Calls a pipeline that encodes the prompts itself."""
        negative = [self.negative_prompt] * len(requests)
        prompts = [request.prompt for request in requests]
        return self.call_pipeline(requests, prompt=prompts, negative_prompt=negative, **arguments)


@dataclass(frozen=True, kw_only=True)
class PairedSampler(PipelineSampler):
    """Real-Fake's sampling: image-to-image from the row's own real image, under its prompt and its CLIP feature.

    The defaults are the published ones. The middle square of the real image is taken.

    Args:
        pipeline: `StableDiffusionImg2ImgPipeline`, or another whose call takes `prompt_embeds` and `image`.
        lora, lora_revision (`str`), lora_scale (`float`): What its LoRA weights were loaded from, and their scale.
        clip_model, clip_revision (`str`): What the conditioner's CLIP was loaded from.
        strength (`float`): How much of the way to noise the latent goes; this share of the steps is run.

    Raises:
        ValueError: If `strength` is not in (0, 1] or leaves no step.

    Example:
        >>> PairedSampler(pipeline=None, conditioner=None, strength=0.02)
        Traceback (most recent call last):
        ValueError: strength 0.02 of 30 steps leaves none: give a strength in (0, 1], or more steps
    """

    conditioner: Conditioner
    lora: str = ""
    lora_revision: str = ""
    lora_scale: float = 0.0
    clip_model: str = ""
    clip_revision: str = ""
    image_column: str = IMAGE
    strength: float = 0.75
    num_inference_steps: int = 30
    guidance_scale: float = 2.0
    negative_prompt: str = NEGATIVE_PROMPT

    def __post_init__(self) -> None:
        check_strength(self.strength, self.num_inference_steps)

    @property
    def parameters(self) -> dict[str, Any]:
        return {**super().parameters, "image_feature": self.conditioner.image_encoder is not None}

    def __call__(self, requests: Sequence[Request]) -> list[np.ndarray]:
        images = [middle_square(to_rgb(request.row[self.image_column]), self.size) for request in requests]
        guided = self.guidance_scale > 1
        negative = self.conditioner([self.negative_prompt] * len(requests)) if guided else None
        return self.call_pipeline(
            requests,
            prompt_embeds=self.conditioner([request.prompt for request in requests], images),
            negative_prompt_embeds=negative,
            image=np.stack(images).astype(np.float32) / 255,
            strength=self.strength,
        )


@dataclass(frozen=True, kw_only=True)
class TextSampler(PipelineSampler):
    """Text-to-image, as From-Fake-to-Real draws each (label, bias) group: the prompt alone says what is shown.

    The paper takes 25 steps for faces and 50 for animals, at a guidance scale of 7.5, and draws an image without any
    colour again (`refuse_grey`).

    Example:
        >>> TextSampler(pipeline=None, model="my/stable-diffusion", size=256).guidance_scale
        7.5
    """

    lora: str = ""
    lora_revision: str = ""
    lora_scale: float = 0.0
    refuse_grey: bool = True

    def __call__(self, requests: Sequence[Request]) -> list[np.ndarray]:
        images = self.call_with_prompts(requests, height=self.size, width=self.size)
        return [np.zeros_like(image) if self.refuse_grey and _is_grey(image) else image for image in images]


def _is_grey(image: np.ndarray) -> bool:
    """Whether an image (H, W, 3) uint8 has no colour: its channels are within 2 of each other everywhere."""
    return int(np.ptp(image.astype(np.int16), axis=2).max()) <= 2


def check_strength(strength: float, num_inference_steps: int) -> None:
    """Raises ValueError if image-to-image would take no step.

    Example:
        >>> check_strength(0.75, num_inference_steps=30)  # 22 steps are run
    """
    if not 0 < strength <= 1 or int(strength * num_inference_steps) < 1:
        raise ValueError(
            f"strength {strength} of {num_inference_steps} steps leaves none: give a strength in (0, 1], or more steps"
        )


def middle_square(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the middle square of an image (H, W, C), resized to (size, size, C).

    Example:
        >>> middle_square(np.zeros((30, 20, 3), np.uint8), 8).shape
        (8, 8, 3)
    """
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return resize(image[top : top + side, left : left + side], (size, size))
