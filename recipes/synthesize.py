"""Real-Fake's pictures: versions of each real picture, drawn from its own latent by a fine-tuned generator.

    accelerate launch recipes/synthesize.py --dataset_name my/photos --model_name_or_path my/stable-diffusion \\
        --lora out/generator --prompts "photo of {class}, {caption}, best quality" --versions 10 --dtype float16

writes a data set of exactly one picture for each (row, version), with its prompt, seed and every other parameter in
columns, and a contact sheet of each class. Stopped at any time and started again, with any number of processes, it
goes on where it stopped. `load_dataset("out/synthetic")` opens what is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from accelerate import PartialState
from datasets import disable_progress_bars
from train_cls import open_dataset
from train_generator import DataArguments, load_generator, prompts_of
from transformers import HfArgumentParser

from hf_pgg.generation import Generation, PairedSampler, load_lora, revision_of, write_contact_sheets
from hf_pgg.generation.pipelines import diffusers_library
from hf_pgg.generation.sampling import NEGATIVE_PROMPT


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
    versions: int = field(default=1, metadata={"help": "Pictures of each real one."})
    resolution: int = field(default=512, metadata={"help": "Side of the pictures, in pixels."})
    strength: float = field(default=0.75, metadata={"help": "How much of the way to noise the real latent goes."})
    num_inference_steps: int = field(default=30, metadata={"help": "Steps, of which `strength` are run."})
    guidance_scale: float = field(default=2.0, metadata={"help": "Of classifier-free guidance."})
    negative_prompt: str = field(default=NEGATIVE_PROMPT, metadata={"help": "Of its other branch."})
    keep_columns: list[str] = field(default_factory=list, metadata={"help": "Columns of the real rows to keep."})


@dataclass
class RunArguments:
    output_dir: str = field(default="out/synthetic", metadata={"help": "Where everything is written."})
    seed: int = field(default=0, metadata={"help": "Each picture's own seed is drawn from it."})
    batch_size: int = field(default=8, metadata={"help": "Pictures a call of the pipeline."})
    part_size: int = field(default=256, metadata={"help": "Pictures a file; what an interruption costs at most."})
    max_attempts: int = field(default=10, metadata={"help": "Seeds tried before a black picture is given up."})


def main() -> None:
    parser = HfArgumentParser((DataArguments, GeneratorArguments, SamplingArguments, RunArguments))
    data, model, sampling, run = parser.parse_args_into_dataclasses()
    state = process_state()
    rows = open_dataset(data.dataset_name, data.split, data.dataset_config_name)
    prompts = prompts_of(data.prompts, data.prompt_file, data.label_column)
    prompts.check(rows)  # before minutes of loading

    pipeline, conditioner = load_generator(model, getattr(torch, model.dtype))
    pipeline.scheduler = diffusers_library().UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    if model.lora:
        load_lora(pipeline, model.lora, model.lora_scale)
    pipeline.to(state.device)
    sampler = PairedSampler(
        pipeline=pipeline,
        conditioner=conditioner.to(state.device),
        model=model.model_name_or_path,
        revision=revision_of(model.model_name_or_path, model.model_revision),
        lora=model.lora,
        lora_revision=revision_of(model.lora) if model.lora else "",
        lora_scale=model.lora_scale if model.lora else 0.0,
        image_column=data.image_column,
        size=sampling.resolution,
        strength=sampling.strength,
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        negative_prompt=sampling.negative_prompt,
    )
    generation = Generation(
        source=rows,
        sampler=sampler,
        prompts=prompts,
        folder=run.output_dir,
        versions=sampling.versions,
        seed=run.seed,
        image_column=data.image_column,
        keep_columns=tuple(sampling.keep_columns),
        batch_size=run.batch_size,
        part_size=run.part_size,
        max_attempts=run.max_attempts,
        disk_size=sampling.resolution,
    )
    finish(generation, state)


def process_state() -> PartialState:
    """This process among those that were launched; on a CPU, too, where Accelerate must be told to look for others."""
    return PartialState(cpu=not torch.accelerator.is_available())


def finish(generation: Generation, state: PartialState) -> None:
    """Generates this process's share; then the main process publishes the data set and its contact sheets."""
    disable_progress_bars()  # those of `datasets`, one a file: the bar that stays counts pictures
    report = generation.run(state.process_index, state.num_processes)
    print(f"process {state.process_index}: {report.pictures} pictures, {report.redrawn} black ones redrawn", flush=True)
    state.wait_for_everyone()
    if state.is_main_process:
        generation.store().publish()
        sheets = write_contact_sheets(generation)
        print(f"written: {generation.folder} (load_dataset), {len(sheets)} contact sheets in {sheets[0].parent}")
    state.wait_for_everyone()


if __name__ == "__main__":
    main()
