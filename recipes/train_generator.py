"""Real-Fake's generator: LoRA layers of a latent diffusion model, fine-tuned on real images and their classes.

    accelerate launch recipes/train_generator.py --dataset_name my/photos --model_name_or_path my/stable-diffusion \\
        --prompts "photo of {class}, {caption}, best quality" --fp16

Every training image is used. The loss is Min-SNR denoising and the distribution-matching term, in its published form
(`--matching_reduction sum --matching_weight 0.003`, at 8 images a step) or in one that is the same at every batch
size (`unbiased`). The last of the text's states is the image's CLIP feature. Checkpoints hold the LoRA weights
alone; started again, a run goes on from the last one. `recipes/synthesize.py` draws images.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from train_cls import open_dataset
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection, HfArgumentParser, set_seed
from transformers.trainer_utils import get_last_checkpoint

from hf_pgg.generation import (
    Conditioner,
    GeneratorConfig,
    GeneratorTrainer,
    LatentEncoder,
    PromptedImages,
    Prompts,
    add_lora,
    load_pipeline,
    read_prompts,
    revision_of,
)
from hf_pgg.generation.pipelines import diffusers_library
from hf_pgg.reports.record import environment

PROMPT = "photo of {class}, best quality"


@dataclass
class DataArguments:
    dataset_name: str = field(metadata={"help": "Hub id, local folder or parquet file of real images."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    split: str = field(default="train", metadata={"help": "Split to learn from."})
    image_column: str = field(default="image", metadata={"help": "The images."})
    label_column: str = field(default="label", metadata={"help": "ClassLabel of the images."})
    prompts: list[str] = field(
        default_factory=list,
        metadata={"help": f"Templates with {{class}} and columns, e.g. {{caption}}; default: '{PROMPT}'."},
    )
    prompt_file: str | None = field(default=None, metadata={"help": "Templates from a text file, one a line."})


@dataclass
class ModelArguments:
    model_name_or_path: str = field(metadata={"help": "Latent diffusion model: Hub id or local folder."})
    model_revision: str | None = field(default=None, metadata={"help": "Its revision on the Hub."})
    clip_model: str | None = field(
        default="openai/clip-vit-large-patch14",
        metadata={"help": "CLIP whose image feature replaces the last text state; '' for text alone."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that the model's repository holds."})
    resolution: int = field(default=512, metadata={"help": "Side of the images, in pixels."})


@dataclass
class RecipeConfig(GeneratorConfig):
    """`GeneratorConfig` with the published settings."""

    output_dir: str | None = field(default="out/generator", metadata={"help": "Where everything is written."})
    lora_rank: int = field(default=4, metadata={"help": "Rank of the LoRA layers."})
    flip: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip; 0 for digits."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Images a step and device."})
    num_train_epochs: float = field(default=100, metadata={"help": "Passes over the images."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Step size of AdamW."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Schedule of the step size."})
    weight_decay: float = field(default=1e-2, metadata={"help": "Weight decay of AdamW."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two logs."})
    save_steps: float = field(default=1000, metadata={"help": "Steps between two checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints that are kept."})
    report_to: list[str] | None = field(default_factory=lambda: ["none"], metadata={"help": "Trackers to log to."})


def main() -> None:
    parser = HfArgumentParser((DataArguments, ModelArguments, RecipeConfig))
    data_args, model_args, config = parser.parse_args_into_dataclasses()
    rows = open_dataset(data_args.dataset_name, data_args.split, data_args.dataset_config_name)
    prompts = prompts_of(data_args.prompts, data_args.prompt_file, data_args.label_column)
    prompts.check(rows)

    set_seed(config.seed)
    frozen = torch.float16 if config.fp16 else torch.bfloat16 if config.bf16 else torch.float32
    pipeline, conditioner = load_generator(model_args, frozen)
    pipeline.vae.requires_grad_(False).to(config.device)
    conditioner.to(config.device)
    add_lora(pipeline.unet, config.lora_rank)
    trainer = GeneratorTrainer(
        pipeline.unet,
        config,
        scheduler=noise_scheduler(pipeline),
        encode=LatentEncoder(pipeline.vae, conditioner, flip=config.flip),
        train_dataset=rows,
        data_collator=PromptedImages(
            prompts=prompts,
            features=rows.features,
            size=model_args.resolution,
            image_column=data_args.image_column,
        ),
    )
    out = Path(config.output_dir)
    last = get_last_checkpoint(out) if out.exists() else None
    print(f"--- {len(rows)} images, {'from ' + last if last else 'from the start'}", flush=True)
    result = trainer.train(resume_from_checkpoint=last)
    trainer.save_model()
    if trainer.is_world_process_zero():
        revision = revision_of(model_args.model_name_or_path, model_args.model_revision)
        record = {
            "data": asdict(data_args),
            "model": {**asdict(model_args), "revision": revision},
            "method": {
                name: getattr(config, name)
                for name in (
                    "min_snr_gamma",
                    "matching_weight",
                    "matching_reduction",
                    "lora_rank",
                    "flip",
                    "seed",
                    "learning_rate",
                    "train_batch_size",
                    "gradient_accumulation_steps",
                    "world_size",
                )
            },
            "steps": trainer.state.global_step,
            "metrics": result.metrics,
            "history": trainer.state.log_history,
            "environment": environment(),
        }
        (out / "results.json").write_text(json.dumps(record, indent=1) + "\n")
        print(f"written: {out}/pytorch_lora_weights.safetensors, results.json")


def prompts_of(templates: list[str], file: str | None, label_column: str) -> Prompts:
    """Templates from the command line or from a file, or the default one."""
    if not templates and file is None:
        templates = [PROMPT]
    return read_prompts(templates or None, file, label_column=label_column)


def load_generator(args: Any, dtype: torch.dtype) -> tuple[Any, Conditioner]:
    """The pipeline and what conditions it, of `model_name_or_path` and `clip_model`."""
    pipeline = load_pipeline(
        args.model_name_or_path,
        revision=args.model_revision,
        dtype=dtype,
        trust_remote_code=args.trust_remote_code,
    )
    encoder = processor = None
    if args.clip_model:
        encoder = CLIPVisionModelWithProjection.from_pretrained(args.clip_model, dtype=dtype, use_safetensors=True)
        processor = CLIPImageProcessor.from_pretrained(args.clip_model)
    text = pipeline.text_encoder.requires_grad_(False)
    return pipeline, Conditioner(
        tokenizer=pipeline.tokenizer, text_encoder=text, image_encoder=encoder, image_processor=processor
    )


def noise_scheduler(pipeline: Any) -> Any:
    """The forward process that the model was trained with, whatever scheduler it samples with."""
    return diffusers_library().DDPMScheduler.from_config(pipeline.scheduler.config)


if __name__ == "__main__":
    main()
