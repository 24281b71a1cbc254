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

import torch
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from hf_pgg.cli.arguments import PromptedDataArguments
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.generation.conditioning import Conditioner
from hf_pgg.generation.pipelines import diffusers_library, load_pipeline, revision_of
from hf_pgg.generation.prompts import PROMPT, Prompts
from hf_pgg.generation.training import GeneratorConfig, GeneratorTrainer, LatentEncoder, PromptedImages, add_lora
from hf_pgg.reports.record import environment

METHOD = ("min_snr_gamma", "matching_weight", "matching_reduction", "lora_rank", "flip", "seed", "learning_rate",
          "train_batch_size", "gradient_accumulation_steps", "world_size")  # fmt: skip


@dataclass
class DiffusionArguments:
    model_name_or_path: str = field(metadata={"help": "Latent diffusion model: Hub id or local folder."})
    model_revision: str | None = field(default=None, metadata={"help": "Its revision on the Hub."})
    clip_model: str | None = field(
        default="openai/clip-vit-large-patch14",
        metadata={"help": "CLIP whose image feature replaces the last text state; '' for text alone."},
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that the model's repository holds."})
    resolution: int = field(default=512, metadata={"help": "Side of the images, in pixels."})


@dataclass
class LoraConfig(GeneratorConfig):
    """`GeneratorConfig` with the published settings."""

    output_dir: str | None = field(default="out/generator", metadata={"help": "Folder that everything is written to."})
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
    groups = {"data": PromptedDataArguments, "model": DiffusionArguments, "loss": LoraConfig}
    data, model, config = parse_options(groups, description=__doc__)
    rows = data.open_rows()
    prompts = Prompts.read(data.prompts, data.prompt_file, default=PROMPT, label_column=data.label_column)
    prompts.check(rows)  # before minutes of loading

    set_seed(config.seed)
    frozen = torch.float16 if config.fp16 else torch.bfloat16 if config.bf16 else torch.float32
    pipeline = load_pipeline(
        model.model_name_or_path,
        revision=model.model_revision,
        dtype=frozen,
        trust_remote_code=model.trust_remote_code,
    )
    conditioner = Conditioner.of(pipeline, model.clip_model).to(config.device)
    pipeline.vae.requires_grad_(False).to(config.device)
    add_lora(pipeline.unet, config.lora_rank)
    trainer = GeneratorTrainer(
        pipeline.unet,
        config,
        # the forward process that the model was trained with, whatever scheduler it samples with
        scheduler=diffusers_library().DDPMScheduler.from_config(pipeline.scheduler.config),
        encode=LatentEncoder(pipeline.vae, conditioner, flip=config.flip),
        train_dataset=rows,
        data_collator=PromptedImages(
            prompts=prompts, features=rows.features, size=model.resolution, image_column=data.image_column
        ),
    )
    out = Path(config.output_dir)
    last = get_last_checkpoint(out) if out.exists() else None
    print(f"--- {len(rows)} images, {'from ' + last if last else 'from the start'}", flush=True)
    result = trainer.train(resume_from_checkpoint=last)
    trainer.save_model()
    if trainer.is_world_process_zero():
        revision = revision_of(model.model_name_or_path, model.model_revision)
        record = {
            "data": asdict(data),
            "model": {**asdict(model), "revision": revision},
            "method": {name: getattr(config, name) for name in METHOD},
            "steps": trainer.state.global_step,
            "metrics": result.metrics,
            "history": trainer.state.log_history,
            "environment": environment(),
        }
        (out / "results.json").write_text(json.dumps(record, indent=1) + "\n")
        print(f"written: {out}/pytorch_lora_weights.safetensors, results.json")


if __name__ == "__main__":
    run_recipe(main)
