"""Small diffusion models of pixels, trained from scratch under the classes and attributes of their rows.

At a low resolution no pretrained generator is needed: [`PixelSpace`] says how rows become what a UNet of diffusers
denoises, [`~hf_pgg.generation.training.GeneratorTrainer`] trains it, [`PixelSampler`] answers a
[`~hf_pgg.generation.resumable.Generation`]. Where the rows have a mask of the object, it is one more channel, denoised
with the image: the generator then makes the mask with each image, and [`MaskedGeneration`] stores it as provenance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional

from hf_pgg.data.images import decode_mask, encode_mask, encode_png, to_rgb
from hf_pgg.data.labels import class_feature, class_label
from hf_pgg.data.masks import read_mask
from hf_pgg.data.provenance import IMAGE, LABEL_WEIGHTS, LABELS, PROVENANCE, provenance_features
from hf_pgg.generation.pipelines import diffusers_library
from hf_pgg.generation.resumable import Generation
from hf_pgg.generation.sampling import Request, check_strength, middle_square


@dataclass(frozen=True, kw_only=True)
class PixelSpace:
    """Rows as a pixel diffusion model sees them.

    Args:
        conditions (`dict[str, int]`): `ClassLabel` columns that images are drawn under, and their numbers of classes.
            The condition is one-hot for each, so that what is learned of a class is shared by all attributes: a pair
            that training never shows can be asked for.
        size (`int`): Side of the images in pixels; the middle square is resized to it.
        patch (`int`): Side of the squares of pixels that are folded into channels: the UNet works at `size` / `patch`.
        mask_column (`str`, *optional*): Mask of the object, (H, W), which is denoised with the image; or the
            contract's provenance of rows with one label.
        dropout (`float`): Share of the training images without condition, for classifier-free guidance (Ho and
            Salimans, "Classifier-Free Diffusion Guidance", 2022).

    Raises:
        ValueError: If there is no condition, or `patch` does not divide `size`.

    Example:
        >>> space = PixelSpace.of(rows, ["label"], size=8, mask_column="mask")
        >>> space.collate([rows[0], rows[1]])["pixel_values"].shape  # three colours and the mask
        torch.Size([2, 4, 8, 8])
    """

    conditions: Mapping[str, int]
    size: int
    patch: int = 1
    image_column: str = IMAGE
    mask_column: str | None = None
    grey: bool = False
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ValueError("conditions is empty: name the ClassLabel columns that images are drawn under")
        if self.size % self.patch:
            raise ValueError(f"patch {self.patch} does not divide size {self.size}: take one that does")

    @classmethod
    def of(cls, rows: Dataset, conditions: Sequence[str], **fields: Any) -> PixelSpace:
        """The space of a data set's rows; ValueError if a condition is not a `ClassLabel` column."""
        return cls(conditions={name: class_feature(rows.features, name).num_classes for name in conditions}, **fields)

    @property
    def channels(self) -> int:
        """The channels of an image with its mask."""
        return (1 if self.grey else 3) + (self.mask_column is not None)

    def unet(self, widths: Sequence[int] = (32, 64), layers: int = 1) -> Any:
        """A `UNet2DConditionModel` without attention to text, of random weights, with `layers` blocks a resolution.

        Args:
            widths (`Sequence[int]`): Channels at each resolution, multiples of 8; each halves the resolution.

        Raises:
            ValueError: If the first width is below the folded channels: noise of as many dimensions could not pass.
        """
        folded = self.channels * self.patch**2
        if widths[0] < folded:
            raise ValueError(
                f"a first width of {widths[0]} cannot carry the noise of {folded} channels ({self.channels} of an"
                f" image, patch {self.patch}): take wider layers or a smaller patch"
            )
        return diffusers_library().UNet2DConditionModel(
            sample_size=self.size // self.patch,
            in_channels=folded,
            out_channels=folded,
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            down_block_types=("DownBlock2D",) * len(widths),
            mid_block_type="UNetMidBlock2D",
            up_block_types=("UpBlock2D",) * len(widths),
            norm_num_groups=8,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=sum(self.conditions.values()),
        )

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """`pixel_values` (B, channels, size, size) float32 in [-1, 1] and `condition` (B, all classes) float32."""
        pixels = np.stack([self.pixels(row) for row in rows]).transpose(0, 3, 1, 2)
        return {"pixel_values": torch.from_numpy(pixels).float() / 127.5 - 1, "condition": self.condition(rows)}

    def pixels(self, row: Mapping[str, Any]) -> np.ndarray:
        """Reads a row's image and mask, (size, size, channels) uint8."""
        image = middle_square(to_rgb(row[self.image_column]), self.size)
        if self.grey:
            image = np.rint(image.mean(2, keepdims=True)).astype(np.uint8)
        if self.mask_column is None:
            return image
        stored = row[self.mask_column]
        of_contract = isinstance(stored, list)
        mask = decode_mask(stored[0]) if of_contract else read_mask(stored, may_be_empty=True).target * 255
        return np.concatenate([image, middle_square(np.rint(mask).astype(np.uint8)[..., None], self.size)], axis=2)

    def condition(self, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """(B, all classes) float32, one-hot for each condition."""
        parts = [
            functional.one_hot(torch.tensor([int(row[name]) for row in rows]), count)
            for name, count in self.conditions.items()
        ]
        return torch.cat(parts, dim=1).float()

    def encode(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
        """A batch of `collate` as the trainer takes it; some conditions, drawn by torch, are zero."""
        condition = batch["condition"]
        kept = torch.rand(len(condition), 1, device=condition.device) >= self.dropout
        return self.fold(batch["pixel_values"]), self.arguments(condition * kept)

    def fold(self, pixels: torch.Tensor) -> torch.Tensor:
        """Folds (B, C, H, W) pixels to what is denoised, (B, C * patch^2, H / patch, W / patch)."""
        return functional.pixel_unshuffle(pixels, self.patch)

    def arguments(self, condition: torch.Tensor) -> dict[str, Any]:
        """The UNet's arguments beside samples and timesteps."""
        return {"encoder_hidden_states": None, "class_labels": condition}

    def decode(self, samples: torch.Tensor) -> list[np.ndarray]:
        """Returns images (size, size, 3) uint8, with the mask as a fourth channel if there is one."""
        pixels = (functional.pixel_shuffle(samples, self.patch).clamp(-1, 1) + 1) * 127.5
        images = pixels.round().byte().permute(0, 2, 3, 1).cpu().numpy()
        if self.grey:
            images = np.concatenate([images[..., :1].repeat(3, axis=3), images[..., 1:]], axis=3)
        return list(images)


@dataclass(frozen=True, kw_only=True)
class PixelSampler:
    """Draws images of a pixel diffusion model under the conditions of their rows.

    With a `strength` below 1 it starts from the row's own image, noised, as Real-Fake does; that share of the steps is
    run.

    Args:
        unet: The trained UNet, in evaluation mode.
        space ([`PixelSpace`]): What it was trained in.
        model, revision (`str`): What tells the weights from others; stored with the images.
        guidance_scale (`float`): Scale of classifier-free guidance; 1 is none.

    Raises:
        ValueError: If `strength` is not in (0, 1] or leaves no step.

    Example:
        >>> PixelSampler(unet=None, space=None, scheduler=None, strength=0.01)
        Traceback (most recent call last):
        ValueError: strength 0.01 of 30 steps leaves none: give a strength in (0, 1], or more steps
    """

    unet: Any
    space: PixelSpace
    scheduler: Any
    model: str = ""
    revision: str = ""
    strength: float = 1.0
    num_inference_steps: int = 30
    guidance_scale: float = 2.0

    def __post_init__(self) -> None:
        check_strength(self.strength, self.num_inference_steps)

    @property
    def parameters(self) -> dict[str, Any]:
        names = ["model", "revision", "strength", "num_inference_steps", "guidance_scale"]
        values = {name: getattr(self, name) for name in names}
        return {**values, "size": self.space.size, "scheduler": type(self.scheduler).__name__}

    @torch.no_grad()
    def __call__(self, requests: Sequence[Request]) -> list[np.ndarray]:
        device = self.unet.device
        shape = (self.unet.config.in_channels, *[self.space.size // self.space.patch] * 2)
        # on the CPU and one an image: it is the same on any device, whatever its neighbours
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)
        self.scheduler.set_timesteps(self.num_inference_steps, device=device)
        run = int(self.strength * self.num_inference_steps)
        timesteps = self.scheduler.timesteps[self.num_inference_steps - run :]
        samples = noise * self.scheduler.init_noise_sigma
        rows = [request.row for request in requests]
        if self.strength < 1:
            clean = self.space.fold(self.space.collate(rows)["pixel_values"]).to(device)
            samples = self.scheduler.add_noise(clean, noise, timesteps[:1].repeat(len(rows)))
        condition = self.space.condition(rows).to(device)
        guided = self.guidance_scale != 1
        if guided:
            condition = torch.cat([condition, torch.zeros_like(condition)])
        for timestep in timesteps:
            inputs = self.scheduler.scale_model_input(samples.repeat(2 if guided else 1, 1, 1, 1), timestep)
            predicted = self.unet(inputs, timestep, **self.space.arguments(condition)).sample
            if guided:
                with_condition, without = predicted.chunk(2)
                predicted = without + self.guidance_scale * (with_condition - without)
            samples = self.scheduler.step(predicted, timestep, samples).prev_sample
        if not torch.isfinite(samples).all():
            raise ValueError(f"the UNet of '{self.model}' returned NaN: its training has diverged, train it again")
        return self.space.decode(samples)


@dataclass(frozen=True, kw_only=True)
class MaskedGeneration(Generation):
    """A generation whose sampler's images hold the object's mask as a fourth channel; it is stored as provenance.

    Example:
        >>> from hf_pgg.generation.prompts import Prompts
        >>> made = MaskedGeneration(source=rows, sampler=None, prompts=Prompts(("a {class}",)), folder="out")
        >>> list(made.sample_features())
        ['image', 'labels', 'label_weights', 'provenance']
    """

    def sample_features(self) -> dict[str, Any]:
        label = class_label(self.source.features, self.label_column)
        return {**super().sample_features(), **provenance_features(label)}

    def sample_columns(self, request: Request, image: np.ndarray) -> dict[str, Any]:
        return {
            IMAGE: encode_png(image[..., :3]),
            PROVENANCE: [encode_mask(image[..., 3].astype(np.float32) / 255)],
            LABELS: [int(request.row[self.label_column])],
            LABEL_WEIGHTS: [1.0],
        }
