"""A small class-conditional diffusion model of pixels, trained from scratch on the rows at hand; and its pictures.

    accelerate launch recipes/train_pixel_generator.py --bias 0.99
    accelerate launch recipes/train_pixel_generator.py --dataset_name my/faces --conditions label gender --size 64 \\
        --mask_column mask --bias_column gender

By default it learns the biased digits of `train_ffr.py`, from its biased training split alone: which digit, on which
photograph, and the digit's mask as a fourth channel. It then draws pictures of every row under every value of
`--bias_column`, also under pairs that training hardly shows, and writes them with their masks as provenance, as
`train_ffr.py --synthetic_dataset` takes them; with contact sheets. Drawing goes on where it was stopped.

The loss is Real-Fake's; `--matching_weight 0` is plain Min-SNR training.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import ClassLabel, Dataset, concatenate_datasets
from ffr_data import SIZE, DataArguments, real_rows
from synthesize import finish, process_state
from transformers import HfArgumentParser, set_seed

from hf_pgg.generation import (
    Generation,
    GeneratorConfig,
    GeneratorTrainer,
    MaskedGeneration,
    PixelSampler,
    PixelSpace,
    Prompts,
    revision_of,
)
from hf_pgg.generation.pipelines import diffusers_library
from hf_pgg.model_card import environment
from hf_pgg.provenance import PROVENANCE

CONDITIONS = ("digit", "bias")  # of the embedded data


@dataclass
class SpaceArguments:
    conditions: list[str] = field(
        default_factory=lambda: list(CONDITIONS), metadata={"help": "ClassLabel columns that pictures are drawn under."}
    )
    size: int = field(default=SIZE, metadata={"help": "Side of the pictures, in pixels."})
    patch: int = field(default=2, metadata={"help": "Side of the squares of pixels that are folded into channels."})
    mask_column: str | None = field(
        default=None, metadata={"help": "Mask of the object, drawn with the picture; embedded data: their provenance."}
    )
    widths: list[int] = field(default_factory=lambda: [32, 64, 64], metadata={"help": "Channels of the UNet's levels."})
    bias: float = field(default=0.99, metadata={"help": "Embedded data: share of the majority in the training rows."})


@dataclass
class SamplingArguments:
    versions: int = field(default=1, metadata={"help": "Pictures of each row under each value of the bias."})
    num_inference_steps: int = field(default=20, metadata={"help": "Steps from noise to a picture."})
    guidance_scale: float = field(default=2.0, metadata={"help": "Of classifier-free guidance."})


@dataclass
class RecipeConfig(GeneratorConfig):
    """`GeneratorConfig` with the defaults of this recipe."""

    output_dir: str | None = field(default="out/pixel_generator", metadata={"help": "Where everything is written."})
    label_column: str = field(default="label", metadata={"help": "ClassLabel of the rows."})
    max_steps: int = field(default=2500, metadata={"help": "Steps of training."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Pictures a step and device."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak step size of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the step size."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of warm-up, or their share if below 1."})
    weight_decay: float = field(default=1e-2, metadata={"help": "Weight decay of AdamW."})
    matching_weight: float = field(default=0.192, metadata={"help": "Weight of the distribution-matching term."})
    matching_reduction: str = field(default="unbiased", metadata={"help": "Its form: sum, mean, unbiased."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two logs."})
    save_strategy: str = field(default="no", metadata={"help": "Checkpoints while training: no, epoch, steps."})
    report_to: list[str] | None = field(default_factory=lambda: ["none"], metadata={"help": "Trackers to log to."})


def main() -> None:
    parser = HfArgumentParser((DataArguments, SpaceArguments, SamplingArguments, RecipeConfig))
    data, space_args, sampling, config = parser.parse_args_into_dataclasses()
    torch.set_flush_denormal(True)
    state = process_state()
    with config.main_process_first(desc="data"):
        embedded = data.dataset_name is None
        bias = space_args.bias if embedded else None
        rows = real_rows("train", data, config.label_column, bias, config.seed)
    mask_column = PROVENANCE if embedded else space_args.mask_column
    space = PixelSpace.of(
        rows, space_args.conditions, size=space_args.size, patch=space_args.patch, mask_column=mask_column
    )
    out = Path(str(config.output_dir))
    unet, record = train_generator(rows, space, config, space_args.widths)
    if state.is_main_process:
        unet.save_pretrained(out / "unet")
        settings = {"data": asdict(data), "space": asdict(space_args), "rows": len(rows)}
        (out / "results.json").write_text(json.dumps({**settings, **record}, indent=1) + "\n")
    state.wait_for_everyone()
    generation = draw(
        under_every_value(rows, data.bias_column),
        unet,
        space,
        str(out / "pictures"),
        state=state,
        label_column=config.label_column,
        keep_columns=tuple(name for name in {*space.conditions, data.bias_column} if name != config.label_column),
        versions=sampling.versions,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        model=str(out / "unet"),
        seed=config.seed,
    )
    if state.is_main_process:
        print(f"written: {out}/unet, results.json; pictures for --synthetic_dataset {generation.folder}")


def train_generator(
    rows: Dataset, space: PixelSpace, config: RecipeConfig, widths: list[int]
) -> tuple[Any, dict[str, Any]]:
    """The trained UNet in evaluation mode; and what its training was."""
    set_seed(config.seed)
    unet = space.unet(widths)
    trainer = GeneratorTrainer(
        unet, config, scheduler=noise_scheduler(), encode=space.encode, train_dataset=rows, data_collator=space.collate
    )
    print(f"--- {len(rows)} pictures, {unet.num_parameters() / 1e6:.1f} M parameters", flush=True)
    metrics = trainer.train().metrics
    names = ("matching_weight", "matching_reduction", "min_snr_gamma", "learning_rate", "train_batch_size", "seed")
    record = {
        "method": {name: getattr(config, name) for name in names} | {"world_size": config.world_size},
        "steps": trainer.state.global_step,
        "metrics": metrics,
        "history": [entry for entry in trainer.state.log_history if "denoising_loss" in entry],
        "environment": environment(),
    }
    return unet.eval(), record


def noise_scheduler() -> Any:
    """The forward process: a cosine schedule, which leaves small pictures their signal for longer than a linear one."""
    return diffusers_library().DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def draw(
    source: Dataset,
    unet: Any,
    space: PixelSpace,
    folder: str,
    *,
    state: PartialState | None = None,
    label_column: str = "label",
    keep_columns: tuple[str, ...] = (),
    versions: int = 1,
    strength: float = 1.0,
    num_inference_steps: int = 30,
    guidance_scale: float = 2.0,
    model: str = "",
    seed: int = 0,
) -> Generation:
    """Pictures of every row of `source` under its conditions, in `folder`."""
    # clipped samples, as pixels are; the last timestep is the first of training's, which is nearly clean
    scheduler = diffusers_library().DDIMScheduler.from_config(
        noise_scheduler().config, clip_sample=True, timestep_spacing="trailing"
    )
    sampler = PixelSampler(
        unet=unet,
        space=space,
        scheduler=scheduler,
        model=model,
        revision=revision_of(model) if model else "",
        strength=strength,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    kind = MaskedGeneration if space.mask_column else Generation
    generation = kind(
        source=source,
        sampler=sampler,
        prompts=Prompts(
            ("{class}, " + ", ".join(f"{name} {{{name}}}" for name in space.conditions),), label_column=label_column
        ),
        folder=folder,
        versions=versions,
        seed=seed,
        image_column=space.image_column,
        keep_columns=keep_columns,
        batch_size=128,
        part_size=1024,
        disk_size=space.size,
    )
    finish(generation, state or process_state())
    return generation


def under_every_value(rows: Dataset, column: str) -> Dataset:
    """The rows once for each value of a `ClassLabel` column, which is set to it."""
    label = rows.features[column]
    if not isinstance(label, ClassLabel):
        raise SystemExit(f"--bias_column {column} is {label}, not a ClassLabel")
    others = rows.remove_columns(column)
    return concatenate_datasets(
        [others.add_column(column, [value] * len(rows), feature=label) for value in range(label.num_classes)]
    )


if __name__ == "__main__":
    main()
