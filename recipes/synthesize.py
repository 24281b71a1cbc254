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

from hf_pgg.cli.arguments import GenerationArguments, PromptedDataArguments
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.groups import under_every_value
from hf_pgg.generation.conditioning import Conditioner
from hf_pgg.generation.pipelines import diffusers_library, load_lora, load_pipeline, revision_of
from hf_pgg.generation.prompts import PROMPT, Prompts
from hf_pgg.generation.resumable import Generation
from hf_pgg.generation.sampling import PairedSampler, TextSampler


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
    dtype: str = field(
        default="float32", metadata={"help": "Precision.", "choices": ("float32", "bfloat16", "float16")}
    )


@dataclass
class SamplingArguments:
    sampler: str = field(
        default="paired",
        metadata={"help": "From the row's image and prompt, or from its prompt alone.", "choices": ("paired", "text")},
    )
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
        default=None, metadata={"help": "Scale of classifier-free guidance; default: 2, and 7.5 of text."}
    )
    negative_prompt: str | None = field(
        default=None, metadata={"help": "What to avoid; default: Real-Fake's, and nothing of text."}
    )


def main() -> None:
    groups = {"data": PromptedDataArguments, "model": GeneratorArguments, "sampling": SamplingArguments}
    data, model, sampling, run = parse_options({**groups, "output": GenerationArguments}, description=__doc__)
    # on a CPU, too, where Accelerate must be told to look for other processes
    state = PartialState(cpu=not torch.accelerator.is_available())
    rows = data.open_rows(*filter(None, [sampling.bias_column]))
    prompts = Prompts.read(data.prompts, data.prompt_file, default=PROMPT, label_column=data.label_column)
    prompts.check(rows)  # before minutes of loading
    keep, bias = dict.fromkeys(run.keep_columns), sampling.bias_column
    if bias is not None:
        if any(f"{{{bias}}}" not in template for template in prompts.templates):
            raise ValueError(f"--bias_column {bias}: every prompt must name {{{bias}}}")
        rows, keep[bias] = under_every_value(rows, bias), None
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
    generation.complete()


def load_sampler(
    data: PromptedDataArguments, model: GeneratorArguments, sampling: SamplingArguments, state: PartialState
) -> PairedSampler | TextSampler:
    """The pipeline with its LoRA weights on this process's device, as the sampler that is asked for."""
    paired = sampling.sampler == "paired"
    pipeline = load_pipeline(
        model.model_name_or_path,
        "StableDiffusionImg2ImgPipeline" if paired else "StableDiffusionPipeline",
        revision=model.model_revision,
        dtype=getattr(torch, model.dtype),
        trust_remote_code=model.trust_remote_code,
    )
    options: dict[str, Any] = {"size": sampling.resolution}
    if paired:
        conditioner = Conditioner.of(pipeline, model.clip_model).to(state.device)
        options |= {"conditioner": conditioner, "image_column": data.image_column}
        options |= {"strength": sampling.strength, "clip_model": model.clip_model or ""}
        options["clip_revision"] = revision_of(model.clip_model) if model.clip_model else ""
        pipeline.scheduler = diffusers_library().UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
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


if __name__ == "__main__":
    run_recipe(main)
