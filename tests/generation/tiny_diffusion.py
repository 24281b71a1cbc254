"""Stable-Diffusion-shaped components of random weights, small enough for one core: 2 x 2 pixels a latent, width 16."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from hf_pgg.generation.conditioning import Conditioner

WIDTH = 16
TOKENS = 77


def unet(in_channels: int = 4, **options: Any) -> diffusers.UNet2DConditionModel:
    shape = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        "sample_size": 16,
    }
    return diffusers.UNet2DConditionModel(in_channels=in_channels, out_channels=4, **{**shape, **options})


def vae() -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )


def tokenizer() -> CLIPTokenizer:
    """Letters, digits and punctuation, each alone and at the end of a word; no merges."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)


def text_encoder() -> CLIPTextModel:
    size = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=190, bos_token_id=188, eos_token_id=189, pad_token_id=189, max_position_embeddings=TOKENS, **size
        )
    ).eval()


def vision_config(projection_dim: int = WIDTH) -> CLIPVisionConfig:
    size = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPVisionConfig(image_size=32, patch_size=16, projection_dim=projection_dim, **size)


def image_encoder(projection_dim: int = WIDTH) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(vision_config(projection_dim)).eval()


def image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def pipeline(
    name: str = "StableDiffusionImg2ImgPipeline", in_channels: int = 4, seed: int = 0, **components: Any
) -> Any:
    """A pipeline of diffusers of random weights, without a safety checker."""
    torch.manual_seed(seed)
    made = getattr(diffusers, name)(
        **{
            "vae": vae(),
            "text_encoder": text_encoder(),
            "tokenizer": tokenizer(),
            "unet": unet(in_channels),
            "scheduler": diffusers.UniPCMultistepScheduler(steps_offset=1),
            "safety_checker": None,
            "feature_extractor": image_processor(),
            **components,
        },
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def safety_checker(strikes: float) -> Any:
    """A checker that strikes images whose similarity to its concepts is above `strikes`: all at -2, none at 2."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    checker = StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=vision_config().to_dict(), projection_dim=WIDTH)
    ).eval()
    for weights in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
        weights.data.fill_(strikes)
    return checker


def conditioner(pipe: Any, seed: int = 1) -> Conditioner:
    torch.manual_seed(seed)
    return Conditioner(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        image_encoder=image_encoder(),
        image_processor=image_processor(),
    )


class NoiseSampler:
    """A sampler without a model: 8 x 8 images of noise, of the requests' seeds alone; black where `strikes` says.

    Args:
        strikes (`Callable`): Request -> whether a safety filter strikes it.
        fails_at (`int`): The call that is killed.
    """

    parameters = {"generator": "noise", "strength": 0.5}  # noqa: RUF012

    def __init__(self, strikes: Any = lambda request: False, fails_at: int | None = None):
        self.strikes, self.fails_at, self.calls = strikes, fails_at, 0

    def __call__(self, requests: Any) -> list[np.ndarray]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        draws = [np.random.default_rng(request.seed).integers(1, 256, (8, 8, 3), np.uint8) for request in requests]
        return [draw * (not self.strikes(request)) for draw, request in zip(draws, requests, strict=True)]
