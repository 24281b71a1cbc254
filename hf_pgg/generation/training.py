"""Fine-tuning of a denoiser with the loss of Real-Fake, by the stock `Trainer`.

What is denoised and under which condition is one function, `encode`: latents under text and CLIP features
([`LatentEncoder`]), or pixels under their class ([`~hf_pgg.generation.pixels.PixelSpace`]).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Features
from safetensors.torch import load_file
from torch import nn
from transformers import TrainingArguments

from hf_pgg.data.images import to_rgb
from hf_pgg.data.provenance import IMAGE
from hf_pgg.generation.conditioning import Conditioner
from hf_pgg.generation.distribution_matching import REDUCTIONS, add_noise, distribution_matching_loss, min_snr_weights
from hf_pgg.generation.pipelines import LORA_WEIGHTS, diffusers_library
from hf_pgg.generation.prompts import Prompts
from hf_pgg.generation.sampling import middle_square
from hf_pgg.training.checkpoints import AtomicCheckpoints

Encode = Callable[[Mapping[str, Any]], tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclass
class GeneratorConfig(TrainingArguments):
    """Training arguments of a generator: those of `transformers.TrainingArguments`, and those of the loss.

    See [`~hf_pgg.generation.distribution_matching`]. A `matching_weight` of 0 is plain fine-tuning; the default is the
    published one for `"sum"` at a batch of 8.

    Example:
        >>> GeneratorConfig(output_dir="out", use_cpu=True).matching_weight
        0.003
    """

    min_snr_gamma: float = field(default=5.0, metadata={"help": "Min-SNR weights: min(SNR, gamma) / SNR."})
    matching_weight: float = field(default=0.003, metadata={"help": "Weight of the distribution-matching term."})
    matching_reduction: str = field(default="sum", metadata={"help": f"Its form: {', '.join(REDUCTIONS)}."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.remove_unused_columns = False  # the collator chooses
        if self.matching_reduction not in REDUCTIONS:
            raise ValueError(f"matching_reduction is '{self.matching_reduction}'; choose {', '.join(REDUCTIONS)}")
        if self.matching_reduction == "unbiased" and self.matching_weight and self.per_device_train_batch_size < 2:
            raise ValueError(
                "matching_reduction 'unbiased' compares samples with each other: take batches of 2 or more"
            )
        if self.min_snr_gamma <= 0 or self.matching_weight < 0:
            raise ValueError(
                f"min_snr_gamma must be positive (it is {self.min_snr_gamma}), matching_weight 0 or more"
                f" (it is {self.matching_weight})"
            )


class _Denoiser(nn.Module):
    """A UNet of diffusers as the Trainer calls it. (The Trainer would write into a config that refuses it.)"""

    def __init__(self, unet: Any):
        super().__init__()
        self.unet = unet

    def forward(self, samples: torch.Tensor, timesteps: torch.Tensor, **condition: torch.Tensor) -> torch.Tensor:
        return self.unet(samples, timesteps, **condition, return_dict=False)[0]

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """Recomputes the UNet's activations in the backward pass; the Trainer calls it."""
        self.unet.enable_gradient_checkpointing()


class GeneratorTrainer(AtomicCheckpoints):
    """Trains a UNet of diffusers: its LoRA layers where it has some, else the whole of it.

    It logs `denoising_loss` and `matching_loss`. `save_model` writes LoRA weights as pipelines load them
    (`pytorch_lora_weights.safetensors`), or a folder for the UNet's `from_pretrained`; checkpoints hold the same,
    complete or not at all, and a resumed run draws what an uninterrupted one draws.

    Args:
        scheduler: Its noise scheduler.
        encode (`Callable`): Batch to what is denoised (B, C, H, W) and the UNet's further arguments.
        kwargs: Those of `transformers.Trainer`.

    Raises:
        ValueError: If nothing is trainable, or under FSDP or DeepSpeed, which shard what is saved here.

    Example:
        >>> GeneratorTrainer(torch.nn.Identity(), GeneratorConfig(use_cpu=True), scheduler=None, encode=None)
        Traceback (most recent call last):
        ValueError: the UNet has no trainable parameter: see `add_lora`
    """

    args: GeneratorConfig
    model: Any
    loss_is_scaled_for_ga = False  # a mean over the micro-batch

    def __init__(self, unet: Any, args: GeneratorConfig, *, scheduler: Any, encode: Encode, **kwargs: Any):
        if args.fsdp or args.deepspeed:
            raise ValueError("a generator trains in one piece a process: use DDP instead of FSDP or DeepSpeed")
        if not any(parameter.requires_grad for parameter in unet.parameters()):
            raise ValueError("the UNet has no trainable parameter: see `add_lora`")
        super().__init__(_Denoiser(unet), args=args, **kwargs)
        self.scheduler, self.encode = scheduler, encode
        self._sums = torch.zeros(3, dtype=torch.float64, device=args.device)
        self._last_step, self._micro_step = -1, 0

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        with self._own_draws():
            with torch.no_grad():
                clean, condition = self.encode(inputs)
            samples, timesteps, target, snr = add_noise(self.scheduler, clean)
            prediction = model(samples, timesteps, **condition)
        kind = self.scheduler.config.prediction_type
        parts = distribution_matching_loss(
            prediction,
            target,
            min_snr_weights(snr, self.args.min_snr_gamma, kind),
            matching_weight=self.args.matching_weight,
            reduction=self.args.matching_reduction,
        )
        if model.training:
            values = torch.stack([parts.denoising, parts.matching, torch.ones_like(parts.loss)])
            self._sums += values.detach().double()
        return (parts.loss, {"prediction": prediction}) if return_outputs else parts.loss

    @contextlib.contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Keys torch's generators by (seed, step, process, micro-step): a resumed run draws what it would have drawn.

        The global state would not do: the loader fetches a batch ahead, and a resumed one fetches it again.
        """
        step = self.state.global_step
        self._micro_step = self._micro_step + 1 if step == self._last_step else 0
        self._last_step = step
        key = np.random.SeedSequence([self.args.seed, step, self.args.process_index, self._micro_step])
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(key.generate_state(1)[0]))
            yield

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            sums = self.accelerator.reduce(self._sums, "sum") if self.args.world_size > 1 else self._sums
            denoising, matching, count = sums.tolist()
            logs.update({"denoising_loss": denoising / max(count, 1), "matching_loss": matching / max(count, 1)})
            self._sums = torch.zeros_like(self._sums)
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            _save_unet(self.accelerator.unwrap_model(self.model).unet, output_dir or str(self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        _load_unet(self.accelerator.unwrap_model(self.model).unet, resume_from_checkpoint)


# ---------------------------------------------------------------------------------------------- weights


def add_lora(unet: Any, rank: int = 4) -> None:
    """Freezes a UNet and adds trainable LoRA layers, in float32, to the projections of its attention.

    Example:
        >>> from diffusers import UNet2DConditionModel
        >>> unet = UNet2DConditionModel(block_out_channels=(8,) * 4, cross_attention_dim=8, norm_num_groups=4)
        >>> add_lora(unet, rank=2)
        >>> all("lora" in name for name, value in unet.named_parameters() if value.requires_grad)
        True
    """
    diffusers_library()
    from peft import LoraConfig

    unet.requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _save_unet(unet: Any, folder: str) -> None:
    """Writes the LoRA weights of a UNet, or the whole of one without, as safetensors."""
    diffusers = diffusers_library()
    if not hasattr(unet, "peft_config"):
        unet.save_pretrained(folder, max_shard_size="1TB")
        return
    from peft import get_peft_model_state_dict

    layers = diffusers.utils.convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    diffusers.StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)


def _load_unet(unet: Any, folder: str) -> None:
    """Loads what `_save_unet` wrote; OSError if the folder does not hold it, RuntimeError if it does not fit."""
    diffusers = diffusers_library()
    lora = hasattr(unet, "peft_config")
    file = Path(folder) / (LORA_WEIGHTS if lora else diffusers.utils.SAFETENSORS_WEIGHTS_NAME)
    if not file.is_file():
        raise OSError(f"{folder} has no {file.name}: it is not a checkpoint of this kind of training")
    state = load_file(file)
    if not lora:
        unet.load_state_dict(state)
        return
    from peft import set_peft_model_state_dict

    state = {name.removeprefix("unet."): value for name, value in state.items()}
    found = set_peft_model_state_dict(unet, diffusers.utils.convert_unet_state_dict_to_peft(state))
    if found is not None and found.unexpected_keys:
        raise RuntimeError(f"{file} has LoRA layers that the UNet lacks: {found.unexpected_keys[:3]}")


# ---------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True, kw_only=True)
class PromptedImages:
    """Turns rows into a batch for a [`LatentEncoder`], without any draw.

    A batch holds `pixel_values` (B, 3, size, size) float32 in [-1, 1], `labels` (B,) int64, `prompts` (B lists of
    strings, every template filled), and `images` (B arrays (size, size, 3) uint8) for the CLIP feature. The middle
    square of an image is resized to `size` pixels.

    Example:
        >>> collate = PromptedImages(prompts=Prompts(("a {class}",)), features=rows.features, size=8)
        >>> collate([rows[0], rows[1]])["prompts"]
        [['a cat'], ['a dog']]
    """

    prompts: Prompts
    features: Features
    size: int = 512
    image_column: str = IMAGE

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        images = [middle_square(to_rgb(row[self.image_column]), self.size) for row in rows]
        return {
            "pixel_values": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1,
            "labels": torch.tensor([int(row[self.prompts.label_column]) for row in rows]),
            "prompts": [self.prompts.fill(row, self.features) for row in rows],
            "images": images,
        }


@dataclass(frozen=True)
class LatentEncoder:
    """Turns a batch of [`PromptedImages`] into scaled latents of a frozen VAE and the states that the UNet attends to.

    `conditioner` encodes one prompt of each row, which is drawn, and the images. `flip` is the probability of a
    horizontal flip; the CLIP feature is that of the image as it is.

    Example:
        >>> from diffusers import AutoencoderKL
        >>> vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
        >>> batch = {"pixel_values": torch.zeros(1, 3, 16, 16), "prompts": [["a cat"]], "images": [None]}
        >>> latents, states = LatentEncoder(vae, conditioner=lambda prompts, images: torch.zeros(1, 77, 8))(batch)
        >>> latents.shape
        torch.Size([1, 4, 16, 16])
    """

    vae: Any
    conditioner: Conditioner
    flip: float = 0.5

    def __call__(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = batch["pixel_values"].to(self.vae.device, self.vae.dtype)
        mirrored = torch.rand(len(pixels), 1, 1, 1, device=pixels.device) < self.flip
        latents = self.vae.encode(torch.where(mirrored, pixels.flip(-1), pixels)).latent_dist.sample()
        prompts = [filled[int(torch.randint(len(filled), ()))] for filled in batch["prompts"]]
        states = self.conditioner(prompts, batch["images"])
        return latents * self.vae.config.scaling_factor, {"encoder_hidden_states": states}
