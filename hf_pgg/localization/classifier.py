"""Image classifiers from the Hub or a folder, for tools that take any name a user gives.

Safetensors only, and no code from the repository: loading a checkpoint runs nothing of its author's.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from hf_pgg.data.preprocessing import InputSpec

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class CheckpointError(ValueError):
    """A name is not that of an image classifier that can be loaded. The message is one sentence.

    Example:
        >>> load_classifier("./none")
        Traceback (most recent call last):
        hf_pgg.localization.classifier.CheckpointError: ./none is not a folder with a checkpoint
    """


@dataclass(frozen=True)
class Classifier:
    """A model in evaluation mode, its input, and the names of its classes.

    Example:
        >>> Classifier("tiny", model, spec, labels={0: "cat", 1: "dog"}).labels[1]
        'dog'
    """

    name: str
    model: nn.Module
    spec: InputSpec
    labels: dict[int, str]


def load_classifier(name: str, revision: str = "main", image_size: int | None = None) -> Classifier:
    """Loads an image classification checkpoint with its image processor.

    Args:
        name (`str`): Hub id or local folder.
        image_size (`int`, *optional*): Input size other than the checkpoint's, in pixels.

    Raises:
        CheckpointError: If there is no such checkpoint, it is no image classifier, its weights are pickled, or its code
            would have to be run.

    Example:
        >>> import tempfile, transformers
        >>> folder = tempfile.TemporaryDirectory()
        >>> model.save_pretrained(folder.name)
        >>> _ = transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder.name)
        >>> load_classifier(folder.name).spec.size
        (16, 16)
    """
    folder = Path(name)
    options: Any = {"revision": revision, "trust_remote_code": False}
    if folder.is_dir():
        _check_folder(folder)
    try:
        if not folder.is_dir():
            validate_repo_id(name)  # the Hub is not asked for what cannot be a name
        config = AutoConfig.from_pretrained(name, **options)
        architectures = list(getattr(config, "architectures", None) or [])
        if not any(a.endswith("ForImageClassification") for a in architectures):
            found = f"a {', '.join(architectures)}" if architectures else "of no stated architecture"
            raise CheckpointError(f"{name} is {found}, not an image classifier")
        model, report = AutoModelForImageClassification.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
        processor = AutoImageProcessor.from_pretrained(name, **options)
    except (OSError, HFValidationError, pickle.UnpicklingError, SafetensorError, RuntimeError, KeyError) as error:
        raise CheckpointError(_sentence(name, folder, error)) from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{name} cannot be loaded as an image classifier: {_first_line(error)}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(f"{name} lacks the weights of {missing[0]} ({len(missing)} in all): it was not trained")
    labels = {int(number): label for number, label in model.config.id2label.items()}
    return Classifier(name, model.eval(), InputSpec.from_processor(processor, image_size), labels)


def _check_folder(folder: Path) -> None:
    """Raises unless the folder holds a config and weights that are not pickled."""
    files = [file.name for file in folder.iterdir()]
    if "config.json" not in files:
        raise CheckpointError(f"{folder} is not a checkpoint: it holds no config.json")
    if not any(file.endswith(".safetensors") for file in files):
        pickled = [file for file in files if file.endswith(PICKLES) and file != "training_args.bin"]
        why = f"{pickled[0]} is pickled, and unpickling can run any code" if pickled else "it holds no weights"
        raise CheckpointError(f"{folder} has no model.safetensors: {why}")


def _sentence(name: str, folder: Path, error: Exception) -> str:
    """What went wrong, in one sentence."""
    if folder.is_absolute() or name.startswith((".", "~")) or folder.is_file():
        return f"{name} is not a folder with a checkpoint"
    if not folder.is_dir():
        return f"{name} is neither a folder nor a checkpoint that could be had from the Hub: {_first_line(error)}"
    return f"{name} cannot be loaded: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def class_number(classifier: Classifier, target: str) -> int:
    """Returns the number of a class given by its name or number; ValueError if the checkpoint has no such class.

    Example:
        >>> class_number(Classifier("tiny", model, spec, labels={0: "cat", 1: "dog"}), "dog")
        1
    """
    by_name = {label: number for number, label in classifier.labels.items()}
    if target in by_name:
        return by_name[target]
    if target.isdigit() and int(target) in classifier.labels:
        return int(target)
    some = ", ".join(list(by_name)[:10]) + (", ..." if len(by_name) > 10 else "")
    raise ValueError(f"{classifier.name} has no class '{target}'; its {len(by_name)} classes are {some}")
