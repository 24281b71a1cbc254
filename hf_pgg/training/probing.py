"""A dry forward of one row, when the trainer is made: it tells whether a model classifies what the collator makes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from hf_pgg.data.collator import Collator
from hf_pgg.data.images import undecoded
from hf_pgg.guidance.forward import input_name, read_logits
from hf_pgg.guidance.modes import evaluation_mode
from hf_pgg.training.validation import base_model

_WAY = "give a model that returns one logit a class, such as an `AutoModelForImageClassification`"


def first_batch(datasets: Sequence[Any], collator: Collator) -> dict[str, torch.Tensor] | None:
    """Returns the batch of the first row of the first dataset there is, or None; what it draws is drawn again.

    A row that cannot be read gives None, too: the checks of the dataset say what is wrong with it.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> from hf_pgg import PGGCollator
        >>> collator = PGGCollator(ViTImageProcessor(size={"height": 16, "width": 16}))
        >>> first_batch([None, rows], collator)["pixel_values"].shape
        torch.Size([1, 3, 16, 16])
    """
    for dataset in datasets:
        dataset = next(iter(dataset.values()), None) if isinstance(dataset, dict) else dataset
        if isinstance(dataset, (IterableDataset, Dataset)) or hasattr(dataset, "__getitem__"):
            drawn = collator.synthesis is not None and dataset is datasets[0]
            with torch.random.fork_rng(devices=[]):
                try:
                    return (collator if drawn else collator.for_evaluation())([_first_row(dataset, collator)])
                except (ValueError, OSError, LookupError, StopIteration):
                    return None
    return None


def _first_row(dataset: Any, collator: Collator) -> Any:
    if isinstance(dataset, IterableDataset):
        return next(iter(dataset))
    if isinstance(dataset, Dataset) and dataset.format["type"] != "custom":
        columns = [name for name in collator.columns if name in dataset.column_names]
        dataset = undecoded(dataset.with_format(None).select_columns(columns))
    return dataset[0]


def dry_forward(model: nn.Module, inputs: Mapping[str, Any], num_classes: int | None, *, guided: bool) -> int:
    """Runs a model on one row (1, ...), and returns the number of its classes; ValueError if it tells none, or fails.

    Its configuration says that they are `num_classes`; if `guided`, its logits must be differentiable in its input.

    Example:
        >>> dry_forward(model, {"pixel_values": torch.zeros(1, 3, 16, 16)}, 2, guided=True)
        2
    """
    base = base_model(model)
    name = input_name(inspect.signature(base.forward).parameters, base)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    own: dict[str, Any] = {key: values.to(device) for key, values in inputs.items()}
    shapes = ", ".join(f"{key} {tuple(values.shape)}" for key, values in own.items())
    told = f"{type(base).__name__}, tried on one row ({shapes}),"
    if name not in own:
        raise ValueError(f"{told} reads '{name}', which the collator does not make: {_WAY}, or another `data_collator`")
    own[name] = own[name].detach().requires_grad_(guided)
    with evaluation_mode(model), torch.inference_mode(False), torch.set_grad_enabled(guided):
        try:
            outputs = model(**own)
        except Exception as error:  # the model's own
            problem = " ".join(str(error).split())
            raise ValueError(f"{told} failed ({type(error).__name__}: {problem}): {_WAY}") from error
        logits = _logits(outputs, told, num_classes)
        if guided:
            gradient = (
                torch.autograd.grad(logits.sum(), own[name], allow_unused=True) if logits.requires_grad else [None]
            )
            if gradient[0] is None:
                raise ValueError(
                    f"{told} returns logits that cannot be differentiated in '{name}', so that nothing can be guided:"
                    " do not detach them (`torch.no_grad`), or set alpha=0"
                )
    return logits.shape[1]


def _logits(outputs: Any, told: str, num_classes: int | None) -> torch.Tensor:
    if isinstance(outputs, (tuple, list, torch.Tensor)):
        raise ValueError(
            f"{told} returned a {type(outputs).__name__}: return a dictionary with 'logits' (of a `transformers` model,"
            " set `config.return_dict=True`)"
        )
    try:
        logits = read_logits(outputs)
    except (KeyError, AttributeError):
        found = ", ".join(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
        raise ValueError(f"{told} returned {found}, no logits: {_WAY}") from None
    if logits.ndim != 2 or len(logits) != 1:
        raise ValueError(f"{told} returned logits of shape {tuple(logits.shape)}, not (1, classes): {_WAY}")
    if logits.shape[1] == 1:
        raise ValueError(f"{told} returned one logit, a regression: {_WAY}, of at least two")
    if num_classes is not None and logits.shape[1] != num_classes:
        raise ValueError(
            f"{told} returned {logits.shape[1]} logits, and its configuration says {num_classes} classes: set"
            " `num_labels`, with a head of as many outputs"
        )
    return logits


def can_run_alone(model: nn.Module) -> bool:
    """Returns whether a model has its parameters here: not on `meta`, nor spread over processes.

    Example:
        >>> can_run_alone(model), can_run_alone(torch.nn.Linear(2, 2, device="meta"))
        (True, False)
    """
    if is_deepspeed_zero3_enabled():
        return False
    return not any(p.is_meta or isinstance(p, DTensor) for p in model.parameters())
