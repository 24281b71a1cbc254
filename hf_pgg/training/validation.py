"""What `PGGTrainer` refuses before the first step: configurations, models and datasets that it cannot train."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from transformers.utils import logging

from hf_pgg.data.collator import PGGCollator
from hf_pgg.data.images import undecoded
from hf_pgg.data.provenance import CONTRACT_COLUMNS, LABELS
from hf_pgg.data.validation import validate_row
from hf_pgg.guidance.forward import input_name
from hf_pgg.training.config import PGGConfig

logger = logging.get_logger(__name__)


def _base(model: Any) -> Any:
    """The model under a peft wrapper, or the model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def model_config(model: Any) -> Any:
    """The model's `transformers` config, through a peft wrapper where there is one."""
    return _base(model).config


def refuse_unsupported(model: Any, args: PGGConfig) -> None:
    """Refuses, before anything is trained, a model or setting that guidance cannot serve; says what does.

    Raises:
        ValueError: If the model's forward takes no image, clip or array of floats, or exact mode cannot run.
    """
    base = _base(model)
    parameters = inspect.signature(base.forward).parameters
    name = input_name(parameters, base)
    if name not in parameters or name == "input_ids":
        raise ValueError(
            f"{type(base).__name__}.forward takes {', '.join(parameters)}, not `pixel_values`: guidance needs a model"
            " that reads images, clips or another array of floats (named by its `main_input_name`)"
        )
    if args.alpha == 0:
        return
    if args.n_gpu > 1:
        raise ValueError("guidance does not run under DataParallel: start one process a GPU with `accelerate launch`")
    checkpointing = args.gradient_checkpointing_kwargs
    if args.gradient_checkpointing and isinstance(checkpointing, dict) and checkpointing.get("use_reentrant"):
        raise ValueError(
            "reentrant checkpointing forbids input gradients: set"
            " gradient_checkpointing_kwargs={'use_reentrant': False}"
        )
    obstacle = _no_second_derivatives(args)
    if args.guidance_mode == "exact" and obstacle:
        raise ValueError(
            f"exact guidance differentiates twice, which {obstacle} does not support: set"
            " guidance_mode='finite_difference'"
        )


def _no_second_derivatives(args: PGGConfig) -> str | None:
    """What in the configuration forbids exact guidance."""
    for name, used in (
        ("torch_compile", args.torch_compile),
        ("FSDP", bool(args.fsdp)),
        ("DeepSpeed", bool(args.deepspeed)),
        ("ddp_static_graph", bool(getattr(args, "ddp_static_graph", False))),
    ):
        if used:
            return name
    return None


def is_exact(model: Any, args: PGGConfig) -> bool:
    """Whether guidance differentiates twice; `guidance_mode="auto"` is resolved here, and said once."""
    if args.guidance_mode != "auto":
        return args.guidance_mode == "exact"
    obstacle = _no_second_derivatives(args)
    exact = args.bf16 and not obstacle
    if exact:
        chosen, reason = "exact", "bfloat16 has too few digits for differences"
    elif obstacle:
        chosen, reason = "first-order", f"{obstacle} has no second derivatives"
    else:
        chosen, reason = "first-order", "it takes fewer operations than double backward and keeps fused attention"
    logger.warning_once(f"guidance_mode='auto': {chosen} guidance, since {reason}")
    return exact


def check_dataset(dataset: Dataset, name: str, num_classes: int, args: PGGConfig, collator: Any) -> None:
    """Checks a dataset's columns, and up to `args.validate_rows` of its rows, before the first step.

    Raises:
        ValueError: If the dataset is empty or a column is missing.
        ProvenanceError: If a row does not keep the contract.
    """
    if len(dataset) == 0:
        raise ValueError(f"the {name} dataset is empty")
    synthesized = getattr(collator, "synthesis", None) is not None or dataset.format["type"] == "custom"
    if synthesized:
        return  # the rows that reach the model do not exist yet; the synthesizer names a bad one
    columns = dataset.column_names
    sample, option = (args.video_column, "video") if args.video_column else (args.image_column, "image")
    own_check = (
        None if isinstance(collator, PGGCollator) else getattr(collator, "validate_row", None)
    )  # of a collator that reads neither images nor clips
    if own_check is not None:
        sample, option = collator.input_column, "input"
    if sample not in columns:
        raise ValueError(f"the {name} dataset has no column '{sample}' but {columns}: set `{option}_column`")
    if LABELS not in columns and args.label_column not in columns:
        raise ValueError(
            f"the {name} dataset has neither '{LABELS}' nor '{args.label_column}' but {columns}: set `label_column`"
        )
    for group in args.group_columns or []:
        if group not in columns:
            raise ValueError(f"the {name} dataset has no group column '{group}' but {columns}")
        if not isinstance(dataset.features[group], ClassLabel) and "int" not in str(dataset.features[group]):
            raise ValueError(
                f"group column '{group}' of the {name} dataset is {dataset.features[group]}, not integers: turn it into"
                f" classes with `dataset.class_encode_column('{group}')`"
            )
    read = [column for column in (*CONTRACT_COLUMNS, sample, args.label_column) if column in columns]
    rows = dataset.select_columns(list(dict.fromkeys(read)))
    rows = undecoded(rows)
    count = min(len(rows), args.validate_rows)
    if count < len(rows):
        logger.warning(f"{count} of the {len(rows)} rows of the {name} dataset are checked (`validate_rows`)")
    for i in np.linspace(0, len(rows) - 1, count).astype(int) if count else []:
        row, row_name = rows[int(i)], f"{i} of the {name} dataset"
        if own_check is not None:
            own_check(row, row_name, num_classes)
            continue
        validate_row(
            row,
            row_name,
            num_classes,
            image_column=args.image_column,
            video_column=args.video_column,
            label_column=args.label_column,
            allow_overlap=args.allow_overlap,
        )
