"""What makes images of requests: Real-Fake's sampling, from the row's own real image, and FFR's, from text alone.

[`Generation`](hf_pgg.generation.resumable) is the loop that asks; any other [`Sampler`] may answer it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hf_pgg.data.images import resize, to_rgb
from hf_pgg.data.provenance import IMAGE
from hf_pgg.generation.conditioning import Conditioner
from hf_pgg.generation.pipelines import run_pipeline

NEGATIVE_PROMPT = "distorted, unrealistic, blurry, out of frame, cropped, deformed"  # of Real-Fake


@dataclass(frozen=True)
class Request:
    """One image to make: of a source row, with a prompt and a seed."""

    row: Mapping[str, Any]
    prompt: str
    seed: int


class Sampler(Protocol):
    """What makes images (H, W, 3) uint8 of requests, one each; black ones count as struck by a safety filter.

    An image depends on its own request alone. `parameters` (str, int, float or bool) are stored with every image.
    """

    @property
    def parameters(self) -> dict[str, Any]: ...

    def __call__(self, requests: Sequence[Request]) -> list[np.ndarray]: ...


@dataclass(frozen=True, kw_only=True)
class PairedSampler:
    """Real-Fake's sampling: image-to-image from the row's own real image, under its prompt and its CLIP feature.

    Args:
        pipeline: `StableDiffusionImg2ImgPipeline`, or another whose call takes `prompt_embeds` and `image`.
        conditioner ([`Conditioner`]): Of prompts and images.
        model, revision (`str`): What the pipeline was loaded from; stored with the images.
        lora, lora_revision (`str`), lora_scale (`float`): The same of its LoRA weights; empty without.
        clip_model, clip_revision (`str`): The same of the conditioner's CLIP; empty without.
        image_column (`str`): The real images; their middle square is taken.
        size (`int`): Side of the images, in pixels.
        strength (`float`): How much of the way to noise the latent goes; 0.75 as published.
        num_inference_steps (`int`): Of which `strength` are run.
        guidance_scale (`float`): Of classifier-free guidance; 1 is none.
        negative_prompt (`str`): Of its other branch.

    Raises:
        ValueError: If `strength` is not in (0, 1] or leaves no step.
    """

    pipeline: Any
    conditioner: Conditioner
    model: str = ""
    revision: str = ""
    lora: str = ""
    lora_revision: str = ""
    lora_scale: float = 0.0
    clip_model: str = ""
    clip_revision: str = ""
    image_column: str = IMAGE
    size: int = 512
    strength: float = 0.75
    num_inference_steps: int = 30
    guidance_scale: float = 2.0
    negative_prompt: str = NEGATIVE_PROMPT

    def __post_init__(self) -> None:
        check_strength(self.strength, self.num_inference_steps)

    @property
    def parameters(self) -> dict[str, Any]:
        names = ["model", "revision", "lora", "lora_revision", "lora_scale", "size", "strength"]
        names += ["num_inference_steps", "guidance_scale", "negative_prompt", "clip_model", "clip_revision"]
        return {**described(self, names), "image_feature": self.conditioner.image_encoder is not None}

    def __call__(self, requests: Sequence[Request]) -> list[np.ndarray]:
        images = [middle_square(to_rgb(request.row[self.image_column]), self.size) for request in requests]
        guided = self.guidance_scale > 1
        negative = self.conditioner([self.negative_prompt] * len(requests)) if guided else None
        return run_pipeline(
            self.pipeline,
            [request.seed for request in requests],
            prompt_embeds=self.conditioner([request.prompt for request in requests], images),
            negative_prompt_embeds=negative,
            image=np.stack(images).astype(np.float32) / 255,
            strength=self.strength,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
        )


@dataclass(frozen=True, kw_only=True)
class TextSampler:
    """Text-to-image, as From-Fake-to-Real draws each (label, bias) group: the prompt alone says what is shown.

    Args:
        pipeline: `StableDiffusionPipeline` or its kin.
        model, revision (`str`), lora, lora_revision (`str`), lora_scale (`float`): See [`PairedSampler`].
        size (`int`): Side of the images, in pixels.
        num_inference_steps (`int`), guidance_scale (`float`), negative_prompt (`str`): As published: 7.5, and 25 steps
            for faces, 50 for animals.
        refuse_grey (`bool`): Have an image without any colour drawn again, as published.
    """

    pipeline: Any
    model: str = ""
    revision: str = ""
    lora: str = ""
    lora_revision: str = ""
    lora_scale: float = 0.0
    size: int = 512
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    negative_prompt: str = ""
    refuse_grey: bool = True

    @property
    def parameters(self) -> dict[str, Any]:
        names = ["model", "revision", "lora", "lora_revision", "lora_scale", "size", "num_inference_steps"]
        return described(self, [*names, "guidance_scale", "negative_prompt", "refuse_grey"])

    def __call__(self, requests: Sequence[Request]) -> list[np.ndarray]:
        images = run_pipeline(
            self.pipeline,
            [request.seed for request in requests],
            prompt=[request.prompt for request in requests],
            negative_prompt=[self.negative_prompt] * len(requests),
            height=self.size,
            width=self.size,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
        )
        return [np.zeros_like(image) if self.refuse_grey and is_grey(image) else image for image in images]


def is_grey(image: np.ndarray) -> bool:
    """Whether an image (H, W, 3) uint8 has no colour: channels within 2 of each other everywhere."""
    return int(np.ptp(image.astype(np.int16), axis=2).max()) <= 2


def described(sampler: Any, names: Sequence[str]) -> dict[str, Any]:
    """The named fields of a sampler, and its `pipeline`'s class, scheduler and dtype (`float32`, ...)."""
    return {
        **{name: getattr(sampler, name) for name in names},
        "dtype": str(sampler.pipeline.dtype).removeprefix("torch."),
        "pipeline": type(sampler.pipeline).__name__,
        "scheduler": type(sampler.pipeline.scheduler).__name__,
    }


def check_strength(strength: float, num_inference_steps: int) -> None:
    """Raises ValueError if image-to-image would take no step."""
    if not 0 < strength <= 1 or int(strength * num_inference_steps) < 1:
        raise ValueError(
            f"strength {strength} of {num_inference_steps} steps leaves none: strength is in (0, 1], their product >= 1"
        )


def middle_square(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) to its middle square, resized to (size, size, 3)."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return resize(image[top : top + side, left : left + side], (size, size))
