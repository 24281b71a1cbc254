"""Actions of skeletons, and who acts: a keypoint classifier trained on clip labels alone.

    accelerate launch recipes/train_skeletons.py --compare

trains on skeletons of the embedded clips (digits in motion) plainly, with BatchMix, and with BatchMix and guidance;
prints one table, and writes a checkpoint for each method and `results.json`. `--data my/clips` takes clips with masks.

Skeletons are points on the medial axis of each frame's mask: no real keypoints. Measured are the accuracy on test clips
of one person, and, on scenes that hold the persons of two test clips of different classes, what the pooling switch
says of each person: the class ("person accuracy", and "frame accuracy" of a person in one frame), and which of the two
shows a given action ("who acts", chance 0.5).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from medial_axis import NUM_POINTS, add_skeletons
from torch.utils.data import DataLoader
from transformers import set_seed

from hf_pgg import BatchMix, PGGTrainer
from hf_pgg.cli.arguments import CompareArguments, RecipeConfig
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.labels import class_label
from hf_pgg.data.loading import open_dataset
from hf_pgg.demo_data import digits_in_motion
from hf_pgg.metrics.compute_metrics import metrics_for
from hf_pgg.reports.comparison import methods_of, result_cells, results_table, run_comparison, step_budget
from hf_pgg.reports.record import environment
from hf_pgg.skeletons.model import SkeletonClassifier, SkeletonConfig
from hf_pgg.skeletons.rows import KEYPOINTS, SkeletonCollator
from hf_pgg.training.models import head_options

EMBEDDED = "digits in motion"
REPORTED = {
    "accuracy": ("clip accuracy", 1),
    "person_accuracy": ("person accuracy", 1),
    "frame_accuracy": ("frame accuracy", 1),
    "who_acts": ("who acts", 1),
    "target_gradient_share": ("target gradient share", 1),
}


@dataclass
class DataArguments:
    data: str | None = field(default=None, metadata={"help": "Clips: Hub id, folder or parquet file (embedded clips)."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    test_split: str = field(default="test", metadata={"help": "Split to report on."})
    mask_column: str = field(default="masks", metadata={"help": "The actor's masks, of which the skeletons are made."})


@dataclass
class SynthesisArguments:
    synthesis_copies: int = field(default=2, metadata={"help": "Mixed clips for each training clip."})
    num_clips: int = field(default=2, metadata={"help": "Clips in a mix."})


@dataclass
class ModelArguments:
    hidden_sizes: list[int] = field(
        default_factory=lambda: [64, 128, 256], metadata={"help": "Widths of points, frames and persons."}
    )


@dataclass
class SkeletonArguments(ModelArguments, SynthesisArguments, DataArguments):
    """Everything that tells one run from another, beside the settings of training."""


@dataclass
class SkeletonRecipeConfig(RecipeConfig):
    """The recipe's defaults for skeletons."""

    video_column: str | None = field(default="video", metadata={"help": "Column of the clips."})
    num_frames: int | None = field(default=8, metadata={"help": "Frames taken evenly from each clip."})
    num_train_epochs: float = field(default=1, metadata={"help": "Passes over the training clips with their mixes."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Clips a step and device."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak step size of AdamW."})
    # form and alpha were chosen among five on a quarter of JHMDB's training clips, one seed
    guidance_form: str = field(default="l2", metadata={"help": "Form of the guidance loss."})
    alpha: float = field(default=0.005, metadata={"help": "Weight of the guidance loss."})


def main() -> None:
    groups = {
        "data": DataArguments,
        "synthesis": SynthesisArguments,
        "model": ModelArguments,
        "methods": CompareArguments,
        "guidance": SkeletonRecipeConfig,
    }
    *asked, compare, config = parse_options(groups, description=__doc__)
    task = SkeletonArguments(**{name: value for part in asked for name, value in vars(part).items()})
    torch.set_flush_denormal(True)
    with config.main_process_first(desc="skeletons"):
        data = load_data(task, config)
        scenes = two_person_scenes(data["test"], config)
    config.max_steps = step_budget(config, (1 + task.synthesis_copies) * len(data["train"]))

    def run(name: str, args: SkeletonRecipeConfig) -> dict[str, Any]:
        with args.main_process_first(desc="synthesis"):
            rows = data["train"] if name == "plain" else synthesize(data["train"], task, args)
        trainer, seconds = train(rows, args, task)
        record = record_of(trainer, data, scenes, task, name, seconds)
        trainer.save_model()
        return record

    records = run_comparison(config, methods_of("batchmix", config.alpha, compare.compare), compare.seeds, run)
    if config.process_index == 0:
        path = Path(config.output_dir) / "results.json"
        path.write_text(json.dumps(records, indent=1) + "\n")
        print(results_table(records, result_cells(REPORTED, digits=3)))
        print(f"written: {path}")


def load_data(task: SkeletonArguments, config: SkeletonRecipeConfig) -> DatasetDict:
    """Skeletons with their labels, one person a clip: `train` and `test`."""
    if task.data is None:
        clips = digits_in_motion(seed=config.seed, num_frames=config.num_frames)
    else:
        splits, known = {"train": task.train_split, "test": task.test_split}, {"label_column": config.label_column}
        clips = {part: open_dataset(task.data, split, **known) for part, split in splits.items()}
    columns = [config.video_column, task.mask_column, config.label_column]
    return DatasetDict(
        {
            split: add_skeletons(
                clips[split].select_columns(columns),
                mask_column=task.mask_column,
                video_column=config.video_column,
                sampler=FrameSampler(config.num_frames),
            ).select_columns([KEYPOINTS, config.label_column])
            for split in ("train", "test")
        }
    )


def two_person_scenes(test: Dataset, config: SkeletonRecipeConfig) -> Dataset:
    """Each test clip with the person of another test clip, where the two are of different classes."""
    mix = BatchMix(source=test, sampler=FrameSampler(config.num_frames), label_column=config.label_column)
    return mix.map(test).filter(lambda labels: labels[0] != labels[1], input_columns="labels")


def synthesize(train: Dataset, task: SkeletonArguments, args: SkeletonRecipeConfig) -> Dataset:
    """The training clips, followed by mixed ones with provenance."""
    mix = BatchMix(
        source=train,
        num_clips=task.num_clips,
        sampler=FrameSampler(args.num_frames),
        label_column=args.label_column,
        seed=args.seed,
    )
    return concatenate_datasets([train, *(mix.at_epoch(copy).map(train) for copy in range(task.synthesis_copies))])


def train(rows: Dataset, args: SkeletonRecipeConfig, task: SkeletonArguments) -> tuple[PGGTrainer, float]:
    """Trains one classifier on clip labels; also the seconds it took."""
    set_seed(args.seed)
    head = head_options(class_label(rows.features, args.label_column))
    config = SkeletonConfig(num_keypoints=NUM_POINTS, hidden_sizes=task.hidden_sizes, **head)
    trainer = PGGTrainer(
        SkeletonClassifier(config),
        args,
        # a mirrored motion of a digit is another class
        data_collator=SkeletonCollator(flip=0.0 if task.data is None else 0.5, label_column=args.label_column),
        train_dataset=rows,
        compute_metrics=metrics_for(),
    )
    method = Path(args.output_dir).name
    print(f"--- {method}: {len(rows)} clips, {args.max_steps} steps, alpha {args.alpha}", flush=True)
    return trainer, trainer.train().metrics["train_runtime"]


@torch.no_grad()
def person_scores(trainer: PGGTrainer, scenes: Dataset, batch_size: int = 128) -> dict[str, float]:
    """What the pooling switch says of the persons in `scenes`; the p-th person's class is the p-th label."""
    model, right = trainer.model.eval(), []
    collator = trainer.data_collator.for_evaluation()
    for batch in DataLoader(scenes, batch_size, collate_fn=collator):
        labels = batch["labels"].to(model.device)
        found = model(batch[KEYPOINTS].to(model.device), batch["present"].to(model.device), score_frames=True)
        persons = torch.arange(labels.shape[1], device=model.device)
        of_labels = found.person_logits.gather(2, labels[:, None].expand(-1, len(persons), -1))  # (B, P, K)
        frames = (found.frame_logits.argmax(-1) == labels[..., None]).float().mean(-1)
        outcomes = (found.person_logits.argmax(-1) == labels, frames, of_labels.argmax(1) == persons)
        right.append(torch.stack([outcome.float().mean(1) for outcome in outcomes]).cpu())
    return dict(
        zip(("person_accuracy", "frame_accuracy", "who_acts"), torch.cat(right, 1).mean(1).tolist(), strict=True)
    )


def record_of(
    trainer: PGGTrainer, data: DatasetDict, scenes: Dataset, task: SkeletonArguments, name: str, seconds: float
) -> dict[str, Any]:
    """What `results.json` holds of one run."""
    args = trainer.args
    results = {
        "accuracy": trainer.evaluate(data["test"])["eval_accuracy"],
        **person_scores(trainer, scenes),
        "target_gradient_share": trainer.evaluate(scenes)["eval_target_gradient_share"],
    }
    return {
        "data": {
            "name": EMBEDDED if task.data is None else Path(task.data).name,
            "skeletons": f"{NUM_POINTS} points of the mask's medial axis a frame: no real keypoints",
            "train_rows": len(trainer.train_dataset),
            "test_rows": len(data["test"]),
            "scenes": len(scenes),
            "arguments": {key: value for key, value in asdict(task).items() if key != "data"},
        },
        "method": {
            "name": name,
            "alpha": args.alpha,
            "form": args.guidance_form,
            "mode": "exact" if trainer.guidance.exact else "finite_difference",
            "seed": args.seed,
            "num_frames": args.num_frames,
            "steps": trainer.state.global_step,
            "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "learning_rate": args.learning_rate,
            "train_seconds": seconds,
        },
        "results": results,
        "environment": environment(),
    }


if __name__ == "__main__":
    run_recipe(main)
