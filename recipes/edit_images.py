"""ALIA's edits: real images under prompts of other domains, with the provenance that guidance needs, and filtered.

    accelerate launch recipes/edit_images.py --editor instruct --dataset_name my/birds \\
        --model_name_or_path my/instruct-pix2pix --prompt_file prompts.txt --versions 2 \\
        --filter_model out/baseline --clip_filter openai/clip-vit-large-patch14 \\
        --clip_positive "a photo of a bird" --clip_negative "a photo of a landscape" "an abstract pattern"

`--editor image` (image-to-image), `instruct` (InstructPix2Pix) or `inpaint` (everything but the rows' own provenance,
whose masks then stay exact). All edits are in the output folder; those that the filters keep, `--keep_per_source` of
each real image, in its folder `filtered`. Both are data sets of the provenance contract.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, load_dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification, CLIPModel, CLIPProcessor

from hf_pgg.cli.arguments import GenerationArguments, PromptedDataArguments
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.labels import class_feature
from hf_pgg.generation.edits import EditGeneration, ImageEditor, InpaintingEditor, InstructionEditor
from hf_pgg.generation.filtering import (
    FAILED,
    TOO_EASY,
    class_thresholds,
    classify,
    clip_agrees,
    filter_summary,
    judge_confidence,
    keep_per_source,
)
from hf_pgg.generation.pipelines import load_pipeline, revision_of
from hf_pgg.generation.prompts import Prompts

EDITORS = {
    "image": (ImageEditor, "StableDiffusionImg2ImgPipeline"),
    "instruct": (InstructionEditor, "StableDiffusionInstructPix2PixPipeline"),
    "inpaint": (InpaintingEditor, "StableDiffusionInpaintPipeline"),
}


@dataclass
class EditorArguments:
    model_name_or_path: str = field(metadata={"help": "Editing pipeline: Hub id or local folder."})
    editor: str = field(default="image", metadata={"help": "Kind of editing pipeline.", "choices": tuple(EDITORS)})
    pipeline_class: str | None = field(default=None, metadata={"help": "Class in diffusers; default: the editor's."})
    model_revision: str | None = field(default=None, metadata={"help": "Its revision on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that the model's repository holds."})
    dtype: str = field(
        default="float32", metadata={"help": "Precision.", "choices": ("float32", "bfloat16", "float16")}
    )
    versions: int = field(default=2, metadata={"help": "Edits of each real image."})
    resolution: int = field(default=512, metadata={"help": "Shorter side at which the pipeline works, in pixels."})
    num_inference_steps: int = field(default=50, metadata={"help": "Steps of the pipeline."})
    strength: float | None = field(default=None, metadata={"help": "Default: 0.6 of image, 1 of inpaint."})
    guidance_scale: float | None = field(default=None, metadata={"help": "Default: 7.5, and 5 of instruct."})
    image_guidance_scale: float | None = field(default=None, metadata={"help": "Of instruct alone; default: 1.2."})
    negative_prompt: str = field(default="", metadata={"help": "What to avoid."})


@dataclass
class FilterArguments:
    filter_model: str | None = field(
        default=None, metadata={"help": "Classifier trained on the real rows; drops edits that it is confident of."}
    )
    filter_split: str = field(
        default="validation", metadata={"help": "Real images that set its thresholds; it should not know them."}
    )
    clip_filter: str | None = field(default=None, metadata={"help": "CLIP; drops edits that fit a negative prompt."})
    clip_positive: list[str] = field(default_factory=list, metadata={"help": "What edits are meant to show."})
    clip_negative: list[str] = field(default_factory=list, metadata={"help": "What failed edits look like."})
    keep_per_source: int = field(default=1, metadata={"help": "Edits kept of each real image."})


def main() -> None:
    groups = {"data": PromptedDataArguments, "editing": EditorArguments, "filters": FilterArguments}
    data, editing, filters, run = parse_options({**groups, "output": GenerationArguments}, description=__doc__)
    if filters.clip_filter and not (filters.clip_positive and filters.clip_negative):
        raise ValueError("--clip_filter needs --clip_positive and --clip_negative, prompts to choose between")
    # on a CPU, too, where Accelerate must be told to look for other processes
    state = PartialState(cpu=not torch.accelerator.is_available())
    rows = data.open_rows()
    needs_class = editing.editor == "image"  # the others see what the image shows
    prompts = Prompts.read(data.prompts, data.prompt_file, label_column=data.label_column, needs_class=needs_class)
    prompts.check(rows)  # before minutes of loading

    generation = EditGeneration(
        source=rows,
        sampler=load_editor(editing, data.image_column, state),
        prompts=prompts,
        folder=run.output_dir,
        versions=editing.versions,
        seed=run.seed,
        image_column=data.image_column,
        keep_columns=tuple(run.keep_columns),
        batch_size=run.batch_size,
        part_size=run.part_size,
        max_attempts=run.max_attempts,
    )
    generation.complete()
    if state.is_main_process and (filters.filter_model or filters.clip_filter):
        known = None
        if filters.filter_model:
            known = data.open_rows(split=filters.filter_split)
            if filters.filter_split == data.split or Path(data.dataset_name).is_file():
                print("the filter's thresholds come from the split that was edited: a model that knows it is too sure")
        filter_edits(known, generation, filters, state)


def load_editor(args: EditorArguments, image_column: str, state: PartialState) -> Any:
    editor, pipeline_class = EDITORS[args.editor]
    pipeline = load_pipeline(
        args.model_name_or_path,
        args.pipeline_class or pipeline_class,
        revision=args.model_revision,
        dtype=getattr(torch, args.dtype),
        trust_remote_code=args.trust_remote_code,
    )
    given = {name: getattr(args, name) for name in ("strength", "guidance_scale", "image_guidance_scale")}
    return editor(
        pipeline=pipeline.to(state.device),
        model=args.model_name_or_path,
        revision=revision_of(args.model_name_or_path, args.model_revision),
        image_column=image_column,
        size=args.resolution,
        num_inference_steps=args.num_inference_steps,
        negative_prompt=args.negative_prompt,
        **{name: value for name, value in given.items() if value is not None},
    )


def filter_edits(known: Dataset | None, generation: EditGeneration, args: FilterArguments, state: PartialState) -> None:
    """Writes the edits that the filters keep to `filtered`, and prints what each filter strikes.

    Args:
        known: Real images that set the thresholds of `filter_model`.
    """
    edits = load_dataset(generation.folder, split="train")
    label_column, column = generation.label_column, generation.image_column
    labels = np.asarray(edits[label_column])
    struck: dict[str, np.ndarray] = {}
    if args.filter_model and known is not None:
        model = AutoModelForImageClassification.from_pretrained(args.filter_model, use_safetensors=True)
        processor = AutoImageProcessor.from_pretrained(args.filter_model)
        model = model.to(state.device)
        thresholds = class_thresholds(classify(model, processor, known, column), np.asarray(known[label_column]))
        verdicts = judge_confidence(classify(model, processor, edits), labels, thresholds)
        struck |= {verdict: verdicts == verdict for verdict in (TOO_EASY, FAILED)}
    if args.clip_filter:
        clip = CLIPModel.from_pretrained(args.clip_filter, use_safetensors=True).to(state.device)
        processor = CLIPProcessor.from_pretrained(args.clip_filter)
        struck["not what CLIP expects"] = ~clip_agrees(clip, processor, edits, args.clip_positive, args.clip_negative)
    good = ~np.any(list(struck.values()), axis=0)
    chosen = keep_per_source(np.asarray(edits["source_row"]), good, args.keep_per_source, generation.seed)
    table = filter_summary(struck, labels, class_feature(edits.features, label_column).names)
    print(table)
    out = Path(generation.folder) / "filtered"
    (out / "data").mkdir(parents=True, exist_ok=True)
    edits.select(chosen).to_parquet(str(out / "data" / "train-00000-of-00001.parquet"))
    counts = {name: int(verdict.sum()) for name, verdict in struck.items()}
    (out / "filter.json").write_text(json.dumps({"edits": len(edits), "struck": counts, "kept": len(chosen)}) + "\n")
    print(f"written: {len(chosen)} of {len(edits)} edits in {out}")


if __name__ == "__main__":
    run_recipe(main)
