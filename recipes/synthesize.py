"""Generated images, one for each (row, version): Real-Fake's, from the row's own latent, or FFR's, from text alone.

    accelerate launch recipes/synthesize.py --dataset_name my/photos --model_name_or_path my/stable-diffusion \\
        --lora out/generator --prompts "photo of {class}, {caption}, best quality" --versions 10 --dtype float16

draws versions of each real image from its latent and CLIP feature by a fine-tuned generator; and

    accelerate launch recipes/synthesize.py --dataset_name my/faces --model_name_or_path my/stable-diffusion \\
        --sampler text --label_column smiling --bias_column gender --prompts "a headshot of {gender} celebrity {class}"

images of every (label, bias) group, as many of a label under each bias value as it has rows, for
`train_ffr.py --synthetic_dataset`. Written are the data set, with every image's prompt, seed and other parameters in
columns, and a contact sheet of each class. Stopped at any time and started again, with any number of processes, it
goes on where it stopped. `load_dataset("out/synthetic")` opens what is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import PartialState
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from train_cls import open_dataset
from train_generator import DataArguments, load_generator, prompts_of
from transformers import HfArgumentParser

from hf_pgg.generation import (
    Generation,
    PairedSampler,
    TextSampler,
    load_lora,
    load_pipeline,
    revision_of,
    under_every_value,
    write_contact_sheets,
)
from hf_pgg.generation.pipelines import diffusers_library
from hf_pgg.generation.prompts import placeholders


@dataclass
class GeneratorArguments:
    model_name_or_path: str = field(metadata={"help": "Latent diffusion model: Hub id or local folder."})
    model_revision: str | None = field(default=None, metadata={"help": "Its revision on the Hub."})
    lora: str = field(default="", metadata={"help": "Output folder of train_generator.py; default: none."})
    lora_scale: float = field(default=0.5, metadata={"help": "Scale of the LoRA weights' effect."})
    clip_model: str | None = field(
        default="openai/clip-vit-large-patch14",
        metadata={"help": "CLIP whose image feature replaces the last text state; '' for text alone."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that the model's repository holds."})
    dtype: str = field(default="float32", metadata={"help": "Of the weights: float32, bfloat16 or float16."})


@dataclass
class SamplingArguments:
    sampler: str = field(default="paired", metadata={"help": "paired: from the row's image; text: from its prompt."})
    bias_column: str | None = field(
        default=None, metadata={"help": "ClassLabel, which prompts name: each row is drawn under each of its values."}
    )
    versions: int = field(default=1, metadata={"help": "Images of each row, and of each value of the bias."})
    resolution: int = field(default=512, metadata={"help": "Side of the images, in pixels."})
    strength: float = field(default=0.75, metadata={"help": "paired: how much of the way to noise the latent goes."})
    num_inference_steps: int | None = field(
        default=None, metadata={"help": "Steps; default: 30, of which `strength` are run, and 50 of text."}
    )
    guidance_scale: float | None = field(
        default=None, metadata={"help": "Of classifier-free guidance; default: 2, and 7.5 of text."}
    )
    negative_prompt: str | None = field(
        default=None, metadata={"help": "Of its other branch; default: Real-Fake's, and none of text."}
    )
    keep_columns: list[str] = field(default_factory=list, metadata={"help": "Columns of the real rows to keep."})


@dataclass
class RunArguments:
    output_dir: str = field(default="out/synthetic", metadata={"help": "Where everything is written."})
    seed: int = field(default=0, metadata={"help": "Each image's own seed is drawn from it."})
    batch_size: int = field(default=8, metadata={"help": "Images a call of the pipeline."})
    part_size: int = field(default=256, metadata={"help": "Images a file; what an interruption costs at most."})
    max_attempts: int = field(default=10, metadata={"help": "Seeds tried before a black image is given up."})


def main() -> None:
    parser = HfArgumentParser((DataArguments, GeneratorArguments, SamplingArguments, RunArguments))
    data, model, sampling, run = parser.parse_args_into_dataclasses()
    state = process_state()
    if sampling.sampler not in ("paired", "text"):
        raise SystemExit(f"--sampler {sampling.sampler}: choose paired or text")
    rows = open_dataset(data.dataset_name, data.split, data.dataset_config_name)
    prompts = prompts_of(data.prompts, data.prompt_file, data.label_column)
    prompts.check(rows)  # before minutes of loading
    keep = dict.fromkeys(sampling.keep_columns)
    if sampling.bias_column is not None:
        if any(sampling.bias_column not in placeholders(template) for template in prompts.templates):
            raise SystemExit(f"--bias_column {sampling.bias_column}: every prompt must name {{{sampling.bias_column}}}")
        rows, keep[sampling.bias_column] = under_every_value(rows, sampling.bias_column), None
    sampler = load_sampler(data, model, sampling, state)
    generation = Generation(
        source=rows,
        sampler=sampler,
        prompts=prompts,
        folder=run.output_dir,
        versions=sampling.versions,
        seed=run.seed,
        image_column=data.image_column,
        keep_columns=tuple(keep),
        batch_size=run.batch_size,
        part_size=run.part_size,
        max_attempts=run.max_attempts,
        disk_size=sampling.resolution,
    )
    finish(generation, state)


def load_sampler(
    data: DataArguments, model: GeneratorArguments, sampling: SamplingArguments, state: PartialState
) -> PairedSampler | TextSampler:
    """The pipeline with its LoRA weights on this process's device, as the sampler that is asked for."""
    dtype = getattr(torch, model.dtype)
    paired = sampling.sampler == "paired"
    options: dict[str, Any] = {"size": sampling.resolution}
    if paired:
        pipeline, conditioner = load_generator(model, dtype)
        options |= {"conditioner": conditioner.to(state.device), "image_column": data.image_column}
        options |= {"strength": sampling.strength, "clip_model": model.clip_model or ""}
        options["clip_revision"] = revision_of(model.clip_model) if model.clip_model else ""
        pipeline.scheduler = diffusers_library().UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    else:
        pipeline = load_pipeline(
            model.model_name_or_path,
            "StableDiffusionPipeline",
            revision=model.model_revision,
            dtype=dtype,
            trust_remote_code=model.trust_remote_code,
        )
    if model.lora:
        load_lora(pipeline, model.lora, model.lora_scale)
    given = {name: getattr(sampling, name) for name in ("num_inference_steps", "guidance_scale", "negative_prompt")}
    return (PairedSampler if paired else TextSampler)(
        pipeline=pipeline.to(state.device),
        model=model.model_name_or_path,
        revision=revision_of(model.model_name_or_path, model.model_revision),
        lora=model.lora,
        lora_revision=revision_of(model.lora) if model.lora else "",
        lora_scale=model.lora_scale if model.lora else 0.0,
        **options,
        **{name: value for name, value in given.items() if value is not None},
    )


def process_state() -> PartialState:
    """This process among those that were launched; on a CPU, too, where Accelerate must be told to look for others."""
    return PartialState(cpu=not torch.accelerator.is_available())


def finish(generation: Generation, state: PartialState) -> None:
    """Generates this process's share; then the main process publishes the data set and its contact sheets."""
    quiet = are_progress_bars_disabled()
    disable_progress_bars()  # those of `datasets`, one a file: the bar that stays counts images
    report = generation.run(state.process_index, state.num_processes)
    if not quiet:
        enable_progress_bars()
    print(f"process {state.process_index}: {report.images} images, {report.redrawn} black ones redrawn", flush=True)
    state.wait_for_everyone()
    if state.is_main_process:
        generation.store().publish()
        sheets = write_contact_sheets(generation)
        print(f"written: {generation.folder} (load_dataset), {len(sheets)} contact sheets in {sheets[0].parent}")
    state.wait_for_everyone()


if __name__ == "__main__":
    main()
