"""What `PGGTrainer` refuses before the first step: configurations, models and datasets that it cannot train."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, IterableDataset, List
from transformers.utils import logging

from hf_pgg.data.collator import Collator
from hf_pgg.data.images import undecoded
from hf_pgg.data.labels import is_scalar, own_label_column, with_classes
from hf_pgg.data.provenance import LABELS, PROVENANCE, guided_rows
from hf_pgg.guidance.forward import input_name
from hf_pgg.synthesis.base import FreshDraws, check_row_ids
from hf_pgg.training.config import PGGConfig

logger = logging.get_logger(__name__)
_FIRST_ROWS = 4  # of a stream


def base_model(model: Any) -> Any:
    """Returns the model under a peft wrapper, or the model.

    Example:
        >>> base_model(model) is model
        True
    """
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def model_config(model: Any) -> Any:
    """Returns the model's `transformers` config, through a peft wrapper where there is one; None for a plain module.

    Example:
        >>> model_config(model).num_labels
        2
    """
    return getattr(base_model(model), "config", None)


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
    base = base_model(model)
    parameters = inspect.signature(base.forward).parameters
    name = input_name(parameters, base)
    if name not in parameters or name == "input_ids":
        raise ValueError(
            f"{type(base).__name__}.forward takes {', '.join(parameters)}, not `pixel_values`: guidance needs a model"
            " that reads images, clips or another array of floats (named by its `main_input_name`)"
        )
    problem = getattr(model_config(model), "problem_type", None)
    if problem not in (None, "single_label_classification"):
        raise ValueError(
            f"the model's `config.problem_type` is '{problem}', and PGGTrainer trains a softmax over classes: set it to"
            " 'single_label_classification', or train with `Trainer`"
        )
    if args.alpha == 0:
        return
    if args.n_gpu > 1:
        raise ValueError("guidance does not run under DataParallel: start one process a GPU with `accelerate launch`")
    checkpointing = args.gradient_checkpointing_kwargs
    if args.gradient_checkpointing and isinstance(checkpointing, dict) and checkpointing.get("use_reentrant"):
        raise ValueError(
            "reentrant checkpointing forbids input gradients: set"
            f" {args.checkpointing_argument}={{'use_reentrant': False}}"
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

    Of a stream, and of rows that a transform makes, the first rows are looked at; of a `synthesis` none, since its rows
    do not exist yet. The collator checks every batch's labels, and names a bad row.

    Raises:
        ValueError: If the dataset is empty, a column is missing, or guidance is asked for and no row has provenance.
        ProvenanceError: If a row does not keep the contract.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> args = PGGConfig("out", use_cpu=True)
        >>> collator = args.collator(ViTImageProcessor(size={"height": 16, "width": 16}))
        >>> check_dataset(rows.remove_columns("image"), "training", 2, args, collator)
        Traceback (most recent call last):
        ValueError: the training dataset has no column 'image' but ...: set `image_column`
    """
    if isinstance(dataset, IterableDataset) or _is_transformed(dataset):
        _check_first_rows(dataset, name, num_classes, args, collator)
    if not isinstance(dataset, Dataset):
        return
    if len(dataset) == 0:
        raise ValueError(f"the {name} dataset is empty")
    if collator.synthesis is not None or _is_transformed(dataset):
        return
    _check_columns(dataset, name, args, collator)
    dataset = dataset.with_format(None)
    rows = undecoded(dataset.select_columns([column for column in collator.columns if column in dataset.column_names]))
    count = min(len(rows), args.validate_rows)
    if count < len(rows):
        logger.warning(f"{count} of the {len(rows)} rows of the {name} dataset are checked (`validate_rows`)")
    for i in np.linspace(0, len(rows) - 1, count).astype(int) if count else []:
        collator.validate_row(rows[int(i)], f"{i} of the {name} dataset", num_classes, args.allow_overlap)
    if name == "training" and args.alpha > 0 and not _any_provenance(dataset):
        raise ValueError(
            f"alpha is {args.alpha:g}, but no row of the training dataset has '{PROVENANCE}', so none would be guided:"
            " give the rows theirs with `add_provenance` or a synthesis method, or set alpha=0"
        )


def _any_provenance(dataset: Dataset) -> bool:
    """Found in the first rows as a rule, before a large dataset is read."""
    starts = range(0, len(dataset), 1000)
    return any(guided_rows(dataset.select(range(start, min(start + 1000, len(dataset))))) for start in starts)


def _is_transformed(dataset: Any) -> bool:
    return isinstance(dataset, Dataset) and dataset.format["type"] == "custom"


def _check_first_rows(dataset: Any, name: str, num_classes: int, args: PGGConfig, collator: Collator) -> None:
    with torch.random.fork_rng(devices=[]):  # looking changes no draw of the run
        for i, row in enumerate(islice(dataset, min(_FIRST_ROWS, args.validate_rows))):
            if collator.input_column not in row:
                made = " A transform that makes `pixel_values` leaves no image for the masks: give it as `augment`."
                raise ValueError(
                    f"row {i} of the {name} dataset has {sorted(row)}, no column '{collator.input_column}'."
                    + (made if "pixel_values" in row else " Name it in the arguments.")
                )
            if collator.synthesis is None:
                absent = [group for group in args.group_columns or [] if group not in row and collator.labelled]
                if absent:
                    known = f"has {sorted(row)}, no group column '{absent[0]}'"
                    raise ValueError(f"row {i} of the {name} dataset {known}: set `group_columns`")
                collator.validate_row(row, f"{i} of the {name} dataset", num_classes, args.allow_overlap)


def class_order(model: Any, train_dataset: Any, label_column: str) -> list[str] | None:
    """Returns the names of the classes in the order that all datasets must have: the model's own, or the data's.

    Example:
        >>> class_order(model, rows, "label")  # the model's are LABEL_0 and LABEL_1
        ['cat', 'dog']
    """
    config: Any = model_config(model)
    own = [config.id2label[i] for i in range(config.num_labels)] if getattr(config, "id2label", None) else []
    if own and own != [f"LABEL_{i}" for i in range(len(own))]:
        return own
    features = getattr(train_dataset, "features", None)
    feature = features.get(own_label_column(features, label_column)) if features else None
    feature = feature.feature if isinstance(feature, List) else feature
    return feature.names if isinstance(feature, ClassLabel) else None


def refuse_arguments(args: Any, collator: Any, compute_loss_func: Any) -> None:
    """Refuses arguments of `Trainer` that `PGGTrainer` cannot serve, and says what does.

    Raises:
        TypeError: If the training arguments are not [`~hf_pgg.PGGConfig`], or the collator is not a
            [`~hf_pgg.data.collator.Collator`].
        ValueError: If there is a loss function.

    Example:
        >>> refuse_arguments(PGGConfig("out", use_cpu=True), None, compute_loss_func=len)
        Traceback (most recent call last):
        ValueError: PGGTrainer computes its own loss: `compute_loss_func` would be ignored, remove it
    """
    if not isinstance(args, PGGConfig):
        raise TypeError(
            f"args is a {type(args).__name__}: PGGTrainer needs `PGGConfig`, which takes the same arguments and those"
            " of guidance (alpha=0 trains without)"
        )
    if collator is not None and not isinstance(collator, Collator):
        raise TypeError(
            f"data_collator is a {type(collator).__name__}: PGGTrainer asks its collator which columns it reads and how"
            " rows are checked, so give a `PGGCollator`, or a subclass of `hf_pgg.data.collator.Collator`"
        )
    if compute_loss_func is not None:
        raise ValueError("PGGTrainer computes its own loss: `compute_loss_func` would be ignored, remove it")


def tell_classes(
    collator: Any, names: Sequence[str] | None, num_classes: int, train_dataset: Any, args: PGGConfig
) -> tuple[Any, Callable[..., Any]]:
    """Returns the collator, knowing the number of classes, and [`checked_dataset`], knowing their order (`names`).

    The pools of fresh draws take that order, too.

    Draws stand in the collator's `synthesis` or in the dataset's transform. Their rows' ids are checked, too.

    Raises:
        ValueError: If ids are not unique, a pool has other classes, or the collator hands on no such group column.

    Example:
        >>> from hf_pgg.skeletons.rows import SkeletonCollator
        >>> tell_classes(SkeletonCollator(), None, 2, skeletons, PGGConfig("out", use_cpu=True))[0].num_classes
        2
    """
    absent = [group for group in args.group_columns or [] if group not in collator.extra_columns]
    if absent:
        raise ValueError(
            f"no batch has the groups that `group_columns` names: give the collator extra_columns={absent}"
        )
    collator = copy.copy(collator)
    object.__setattr__(collator, "num_classes", num_classes)  # a dataclass of skeletons is frozen
    transform = train_dataset.format["format_kwargs"].get("transform") if _is_transformed(train_dataset) else None
    for draws in (collator.synthesis, transform):
        if isinstance(draws, FreshDraws):
            check_row_ids(train_dataset, draws.synthesizer.row_id_column)
            if names is not None:
                draws.for_classes(names)
    return collator, partial(checked_dataset, num_classes=num_classes, names=names, args=args)


def checked_dataset(
    dataset: Any, name: str, collator: Collator, *, num_classes: int, names: Sequence[str] | None, args: PGGConfig
) -> Any:
    """Returns a dataset, or each of a dictionary, with its classes in the order of `names`, after [`check_dataset`].

    Raises:
        ValueError: If its classes are not those of `names`; and see [`check_dataset`].

    Example:
        >>> from hf_pgg.skeletons.rows import SkeletonCollator
        >>> order = {"num_classes": 2, "names": ["run", "walk"], "args": PGGConfig("out", use_cpu=True)}
        >>> checked_dataset(skeletons, "test", SkeletonCollator(), **order)["label"][:]
        [1, 0, 1, 0]
    """
    if isinstance(dataset, dict):
        known: dict[str, Any] = {"num_classes": num_classes, "names": names, "args": args}
        return {key: checked_dataset(own, key, collator, **known) for key, own in dataset.items()}
    if isinstance(dataset, IterableDataset):
        dataset = undecoded(dataset)  # the collator reads the images, and names a row that it cannot read
    if names is not None and isinstance(dataset, (Dataset, IterableDataset)):
        dataset = with_classes(dataset, names, collator.label_column, f"the {name} dataset")
    check_dataset(dataset, name, num_classes, args, collator)
    return dataset


def _check_columns(dataset: Dataset, name: str, args: PGGConfig, collator: Collator) -> None:
    columns, sample = dataset.column_names, collator.input_column
    if sample not in columns:
        option = {args.video_column: "video_column", args.image_column: "image_column"}.get(sample, "input_column")
        raise ValueError(f"the {name} dataset has no column '{sample}' but {columns}: set `{option}`")
    if collator.labelled and LABELS not in columns and collator.label_column not in columns:
        raise ValueError(
            f"the {name} dataset has neither '{LABELS}' nor '{collator.label_column}' but {columns}: set `label_column`"
        )
    for group in (args.group_columns or []) if collator.labelled else []:
        if group not in columns:
            raise ValueError(f"the {name} dataset has no group column '{group}' but {columns}: set `group_columns`")
        feature = dataset.features[group]
        if not is_scalar(feature, "int", "uint", "bool"):
            raise ValueError(
                f"group column '{group}' of the {name} dataset is {feature}, not integers: number its values over all"
                f" splits at once with `hf_pgg.data.labels.encode_classes(splits, '{group}')`"
            )
