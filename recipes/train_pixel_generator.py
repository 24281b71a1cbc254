"""A small class-conditional diffusion model of pixels, trained from scratch on the rows at hand; and its images.

    accelerate launch recipes/train_pixel_generator.py
    accelerate launch recipes/train_pixel_generator.py --dataset_name my/faces --conditions label gender --size 64 \\
        --mask_column mask --bias_column gender

By default it learns the 1,077 handwritten training digits (8 x 8), draws versions of each, and generates images for
`train_ffr.py --synthetic_dataset` in two layers: a drawn digit, whose ink is the mask, on a crop of either photograph.
On a data set of one's own the image and its mask, where there is one, are drawn together, as channels; of every row
under every value of `--bias_column`, so also of pairs that training hardly shows.

Written are the UNet, `results.json`, `images` with provenance, and contact sheets. Drawing goes on where it was
stopped. The loss is Real-Fake's; `--matching_weight 0` is plain Min-SNR training.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, load_dataset
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.groups import GROUP, add_groups, column_values, under_every_value
from hf_pgg.data.images import to_rgb
from hf_pgg.data.loading import open_dataset
from hf_pgg.demo_data import cut_outs, handwritten_digits
from hf_pgg.demo_parity import even_or_odd, paste_on_photographs
from hf_pgg.generation.distribution_matching import REDUCTIONS
from hf_pgg.generation.pipelines import diffusers_library, revision_of
from hf_pgg.generation.pixels import MaskedGeneration, PixelSampler, PixelSpace
from hf_pgg.generation.prompts import Prompts
from hf_pgg.generation.resumable import Generation, source_digest
from hf_pgg.generation.training import GeneratorConfig, GeneratorTrainer
from hf_pgg.reports.record import environment
from hf_pgg.reports.sheets import write_contact_sheets

METHOD = ("matching_weight", "matching_reduction", "min_snr_gamma", "learning_rate", "lr_scheduler_type",
          "warmup_steps", "weight_decay", "max_steps", "num_train_epochs", "train_batch_size",
          "gradient_accumulation_steps", "widths", "seed", "world_size")  # fmt: skip


@dataclass
class DataArguments:
    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id, local folder or parquet file; default: the embedded digits."}
    )
    split: str = field(default="train", metadata={"help": "Split to learn from."})
    conditions: list[str] = field(default_factory=lambda: ["label"], metadata={"help": "ClassLabels to draw under."})
    bias_column: str | None = field(
        default=None, metadata={"help": "One of them: every row is drawn under each of its values; default: its own."}
    )
    image_column: str = field(default="image", metadata={"help": "The images."})
    mask_column: str | None = field(default=None, metadata={"help": "Mask of the object, drawn with the image."})
    size: int = field(default=32, metadata={"help": "Side of the images, in pixels; the embedded digits have 8."})
    patch: int = field(default=1, metadata={"help": "Side of the squares of pixels that are folded into channels."})


@dataclass
class SamplingArguments:
    versions: int = field(default=2, metadata={"help": "Images of each row, and of each value of the bias."})
    num_inference_steps: int = field(default=20, metadata={"help": "Steps from noise to an image."})
    guidance_scale: float = field(default=2.0, metadata={"help": "Scale of classifier-free guidance."})


@dataclass
class PixelConfig(GeneratorConfig):
    """`GeneratorConfig` with the defaults of this recipe."""

    output_dir: str | None = field(default="out/pixel_generator", metadata={"help": "Where everything is written."})
    label_column: str = field(default="label", metadata={"help": "ClassLabel of the rows."})
    widths: list[int] = field(default_factory=lambda: [32, 64], metadata={"help": "Channels of the UNet's levels."})
    max_steps: int = field(default=1500, metadata={"help": "Steps of training."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images a step and device."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak step size of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the step size."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of warm-up, or their share if below 1."})
    weight_decay: float = field(default=1e-2, metadata={"help": "Weight decay of AdamW."})
    matching_weight: float = field(default=0.192, metadata={"help": "Weight of the matching term; published on means."})
    matching_reduction: str = field(default="unbiased", metadata={"help": "Its form.", "choices": REDUCTIONS})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two logs."})
    save_strategy: str = field(default="no", metadata={"help": "Checkpoints while training: no, epoch, steps."})
    report_to: list[str] | None = field(default_factory=lambda: ["none"], metadata={"help": "Trackers to log to."})


def main() -> None:
    groups = {"data": DataArguments, "sampling": SamplingArguments, "model and loss": PixelConfig}
    data, sampling, config = parse_options(groups, description=__doc__)
    torch.set_flush_denormal(True)
    state = PartialState(cpu=not torch.accelerator.is_available())
    out, embedded = Path(str(config.output_dir)), data.dataset_name is None
    for name in filter(None, (config.label_column, data.bias_column)):
        if data.dataset_name and name not in data.conditions:
            raise ValueError(f"column '{name}' is not among --conditions {data.conditions}: images would not follow it")
    with config.main_process_first(desc="data"):
        known = {"label_column": config.label_column, "class_columns": data.conditions}
        rows = handwritten_digits("train") if embedded else open_dataset(data.dataset_name, data.split, **known)
    shape = {name: getattr(data, name) for name in ("size", "patch", "image_column", "mask_column")}
    space = digit_space(rows) if embedded else PixelSpace.of(rows, data.conditions, **shape)
    source = rows if data.bias_column is None else under_every_value(rows, data.bias_column)
    prompts_of(space, config.label_column).check(source)  # before minutes of training
    unet = trained_before(out, rows, space, asdict(data), config)
    if unet is None:
        unet, record = train_generator(rows, space, config)
        if state.is_main_process:
            unet.save_pretrained(out / "unet")
            digest = {"rows": len(rows), "rows_digest": source_digest(rows, space.image_column)}
            record = {"data": asdict(data), **digest, **record}
            (out / "results.json").write_text(json.dumps(record, indent=1) + "\n")  # last: it says that all is there
    state.wait_for_everyone()
    generation = draw(
        source,
        unet,
        space,
        str(out / ("digits" if embedded else "images")),
        label_column=config.label_column,
        model=str(out / "unet"),
        seed=config.seed,
        **asdict(sampling),
    )
    if state.is_main_process and embedded:
        compose(load_dataset(generation.folder, split="train"), out / "images", config.seed)
    if state.is_main_process:
        print(f"written: {out}/unet, results.json; for --synthetic_dataset: {out}/images")


def digit_space(rows: Dataset) -> PixelSpace:
    """The space of the digits as they were recorded."""
    return PixelSpace.of(rows, ["label"], size=8, grey=True)


def compose(drawn: Dataset, folder: Path, seed: int) -> None:
    """Drawn digits as FFR's synthetic rows: each on either photograph, its ink as provenance."""
    images = np.stack([to_rgb(image)[..., 0] for image in drawn["image"]]) / 255
    keys = [[8, seed, i] for i in range(len(drawn))]
    rows = paste_on_photographs(even_or_odd(cut_outs(images, drawn["label"], keys)), "bias", seed + 1_000_000)
    rows.to_parquet(folder / "train.parquet")
    rows = add_groups(rows, ["label", "bias"])
    names = rows.features[GROUP].names
    write_contact_sheets(rows.select, column_values(rows, GROUP), names, folder.parent)


def trained_before(
    out: Path, rows: Dataset, space: PixelSpace, data: dict[str, Any], config: PixelConfig
) -> Any | None:
    """The UNet that an earlier start has trained on these rows by this method, in evaluation mode; else None."""
    if not (out / "results.json").exists():
        return None
    record = json.loads((out / "results.json").read_text())
    wanted = {"data": data, "rows_digest": source_digest(rows, space.image_column), "method": method_of(config)}
    if any(record.get(name) != value for name, value in wanted.items()):
        return None
    print(f"--- trained before: {out}/unet", flush=True)
    return diffusers_library().UNet2DConditionModel.from_pretrained(out / "unet", use_safetensors=True).eval()


def method_of(config: PixelConfig) -> dict[str, Any]:
    """What a training depends on, beside its rows."""
    return {name: getattr(config, name) for name in METHOD}


def train_generator(rows: Dataset, space: PixelSpace, config: PixelConfig) -> tuple[Any, dict[str, Any]]:
    """The trained UNet in evaluation mode; and what its training was. Goes on from a checkpoint, where there is one."""
    set_seed(config.seed)
    unet = space.unet(config.widths)
    trainer = GeneratorTrainer(
        unet, config, scheduler=noise_scheduler(), encode=space.encode, train_dataset=rows, data_collator=space.collate
    )
    print(f"--- {len(rows)} images, {unet.num_parameters() / 1e6:.1f} M parameters", flush=True)
    last = get_last_checkpoint(config.output_dir) if Path(str(config.output_dir)).exists() else None
    metrics = trainer.train(resume_from_checkpoint=last).metrics
    record = {
        "method": method_of(config),
        "steps": trainer.state.global_step,
        "metrics": metrics,
        "history": [entry for entry in trainer.state.log_history if "denoising_loss" in entry],
        "environment": environment(),
    }
    return unet.eval(), record


def noise_scheduler() -> Any:
    """The forward process: a cosine schedule, which leaves small images their signal for longer than a linear one."""
    return diffusers_library().DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def prompts_of(space: PixelSpace, label_column: str) -> Prompts:
    """What each image is asked for, in words; the UNet reads the conditions themselves."""
    words = ", ".join(f"{name} {{{name}}}" for name in space.conditions)
    return Prompts(("{class}, " + words,), label_column=label_column)


def draw(
    source: Dataset,
    unet: Any,
    space: PixelSpace,
    folder: str,
    *,
    label_column: str = "label",
    versions: int = 1,
    strength: float = 1.0,
    num_inference_steps: int = 30,
    guidance_scale: float = 2.0,
    model: str = "",
    seed: int = 0,
) -> Generation:
    """Images of every row of `source` under its conditions, in `folder`."""
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
        prompts=prompts_of(space, label_column),
        folder=folder,
        versions=versions,
        seed=seed,
        image_column=space.image_column,
        keep_columns=tuple(name for name in space.conditions if name != label_column),
        batch_size=128,
        part_size=1024,
        disk_size=space.size,
    )
    generation.complete()
    return generation


if __name__ == "__main__":
    run_recipe(main)
