"""Conditioning of Real-Fake: the text's states, the last of which is replaced by the image's CLIP feature.

Stock pipelines of diffusers take the result as `prompt_embeds`: nothing of theirs is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection
from transformers.utils import logging

logger = logging.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Conditioner:
    """Turns prompts and images into the states (B, tokens, width) that a latent diffusion model attends to.

    Stable Diffusion 1.x has 77 states of width 768, the width of the feature of CLIP ViT-L/14. The feature is the
    projected one of a `CLIPVisionModelWithProjection`, before any normalisation; without it the text alone conditions.

    Raises:
        ValueError: If the feature and the states differ in width, or one of encoder and processor is missing.

    Example:
        >>> Conditioner(tokenizer=None, text_encoder=None, image_encoder="openai/clip-vit-large-patch14")
        Traceback (most recent call last):
        ValueError: the CLIP image encoder and its image processor come together: one of them is missing
    """

    tokenizer: Any
    text_encoder: Any
    image_encoder: Any = None
    image_processor: Any = None

    def __post_init__(self) -> None:
        if (self.image_encoder is None) != (self.image_processor is None):
            raise ValueError("the CLIP image encoder and its image processor come together: one of them is missing")
        if self.image_encoder is not None:
            feature = self.image_encoder.config.projection_dim
            width = self.text_encoder.config.hidden_size
            if feature != width:
                raise ValueError(
                    f"the CLIP feature has {feature} elements, the text's states {width}: take the CLIP model whose"
                    " projection is as wide (Stable Diffusion 1.x: openai/clip-vit-large-patch14)"
                )

    @classmethod
    def of(cls, pipeline: Any, clip_model: str | None = None) -> Conditioner:
        """The conditioner of a pipeline's text encoder, which is frozen, and of a CLIP model (Hub id or folder)."""
        encoder = processor = None
        if clip_model:
            encoder = CLIPVisionModelWithProjection.from_pretrained(
                clip_model, dtype=pipeline.dtype, use_safetensors=True
            )
            processor = CLIPImageProcessor.from_pretrained(clip_model)
        text = pipeline.text_encoder.requires_grad_(False)
        return cls(tokenizer=pipeline.tokenizer, text_encoder=text, image_encoder=encoder, image_processor=processor)

    def to(self, device: torch.device | str) -> Conditioner:
        """Moves the encoders to a device; returns itself."""
        for encoder in (self.text_encoder, self.image_encoder):
            if encoder is not None:
                encoder.to(device)
        return self

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], images: Sequence[np.ndarray] | None = None) -> torch.Tensor:
        """The states of B prompts, the last replaced by the feature of the images, B arrays (H, W, 3) uint8, if any."""
        states = self._text_states(prompts)
        if self.image_encoder is None or images is None:  # the negative branch has none
            return states
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images for {len(prompts)} prompts: give one image for each prompt")
        pixels = self.image_processor(images=list(images), return_tensors="pt").pixel_values
        pixels = pixels.to(self.image_encoder.device, self.image_encoder.dtype)
        states[:, -1] = self.image_encoder(pixel_values=pixels).image_embeds.to(states)
        return states

    def _text_states(self, prompts: Sequence[str]) -> torch.Tensor:
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        # the image feature takes the last place, so a prompt that reaches it has lost its end
        if self.image_encoder is not None and bool((tokens.attention_mask[:, -1] == 1).any()):
            logger.warning_once(f"a prompt of {length} tokens or more has lost its end, for example: {prompts[0]}")
        ids = tokens.input_ids.to(self.text_encoder.device)
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self.text_encoder.device) if masked else None
        return self.text_encoder(ids, attention_mask=mask).last_hidden_state
