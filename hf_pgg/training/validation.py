"""What `PGGTrainer` refuses before the first step: configurations, models and datasets that it cannot train."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from transformers.utils import logging

from hf_pgg.data.collator import Collator
from hf_pgg.data.images import undecoded
from hf_pgg.data.provenance import LABELS
from hf_pgg.guidance.forward import input_name
from hf_pgg.training.config import PGGConfig

logger = logging.get_logger(__name__)


def _base(model: Any) -> Any:
    """The model under a peft wrapper, or the model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def model_config(model: Any) -> Any:
    """Returns the model's `transformers` config, through a peft wrapper where there is one.

    Example:
        >>> model_config(model).num_labels
        2
    """
    return _base(model).config


def refuse_unsupported(model: Any, args: PGGConfig) -> None:
    """Refuses, before anything is trained, a model or setting that guidance cannot serve, and says what does.

    Raises:
        ValueError: If the model's forward takes no image, clip or array of floats, or exact mode cannot run.

    Example:
        >>> args = PGGConfig("out", guidance_mode="exact", torch_compile=True, use_cpu=True)
        >>> refuse_unsupported(model, args)
        Traceback (most recent call last):
        ValueError: exact guidance differentiates twice, which torch_compile does not support: set ...
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
    used = {
        "torch_compile": args.torch_compile,
        "FSDP": args.fsdp,
        "DeepSpeed": args.deepspeed,
        "ddp_static_graph": getattr(args, "ddp_static_graph", False),  # not an argument in every release
    }
    return next((name for name, value in used.items() if value), None)


def is_exact(model: Any, args: PGGConfig) -> bool:
    """Returns whether guidance differentiates twice.

    `guidance_mode="auto"` is resolved here, with one warning: exact in bfloat16, whose digits are too few for
    differences, first-order otherwise, and wherever there are no second derivatives.

    Example:
        >>> is_exact(model, PGGConfig("out", guidance_mode="exact", use_cpu=True))
        True
    """
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


def check_dataset(dataset: Any, name: str, num_classes: int, args: PGGConfig, collator: Collator) -> None:
    """Checks a dataset's columns, and up to `args.validate_rows` of its rows, before the first step.

    Only a map-style dataset is looked at, and its rows only where they are what reaches the model: the rows of a
    `synthesis` or a transform do not exist yet; the method itself names a bad one.

    Raises:
        TypeError: If the collator is not a [`~hf_pgg.data.collator.Collator`].
        ValueError: If the dataset is empty or a column is missing.
        ProvenanceError: If a row does not keep the contract.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> args = PGGConfig("out", use_cpu=True)
        >>> collator = args.collator(ViTImageProcessor(size={"height": 16, "width": 16}))
        >>> check_dataset(rows.remove_columns("image"), "training", 2, args, collator)
        Traceback (most recent call last):
        ValueError: the training dataset has no column 'image' but ...: set `image_column`
    """
    if not isinstance(collator, Collator):
        raise TypeError(
            f"data_collator is a {type(collator).__name__}: PGGTrainer asks its collator which columns it reads and how"
            " rows are checked, so give a `PGGCollator`, or a subclass of `hf_pgg.data.collator.Collator`"
        )
    if not isinstance(dataset, Dataset):
        return
    if len(dataset) == 0:
        raise ValueError(f"the {name} dataset is empty")
    if collator.synthesis is not None or dataset.format["type"] == "custom":
        return
    _check_columns(dataset, name, args, collator)
    rows = undecoded(dataset.select_columns([column for column in collator.columns if column in dataset.column_names]))
    count = min(len(rows), args.validate_rows)
    if count < len(rows):
        logger.warning(f"{count} of the {len(rows)} rows of the {name} dataset are checked (`validate_rows`)")
    for i in np.linspace(0, len(rows) - 1, count).astype(int) if count else []:
        collator.validate_row(rows[int(i)], f"{i} of the {name} dataset", num_classes, args.allow_overlap)


def _check_columns(dataset: Dataset, name: str, args: PGGConfig, collator: Collator) -> None:
    columns, sample = dataset.column_names, collator.input_column
    if sample not in columns:
        option = {args.video_column: "video_column", args.image_column: "image_column"}.get(sample, "input_column")
        raise ValueError(f"the {name} dataset has no column '{sample}' but {columns}: set `{option}`")
    if LABELS not in columns and collator.label_column not in columns:
        raise ValueError(
            f"the {name} dataset has neither '{LABELS}' nor '{collator.label_column}' but {columns}: set `label_column`"
        )
    for group in args.group_columns or []:
        if group not in columns:
            raise ValueError(f"the {name} dataset has no group column '{group}' but {columns}: set `group_columns`")
        if not isinstance(dataset.features[group], ClassLabel) and "int" not in str(dataset.features[group]):
            raise ValueError(
                f"group column '{group}' of the {name} dataset is {dataset.features[group]}, not integers: turn it into"
                f" classes with `dataset.class_encode_column('{group}')`"
            )
