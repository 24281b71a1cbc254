"""Image classifiers to train: a checkpoint with a new head, or a small network from scratch."""

from __future__ import annotations

from typing import Any

import torch
from datasets import ClassLabel
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_pgg.data.processors import output_size, sized

ARCHITECTURES = ("convnext", "vit")


def head_options(label: ClassLabel) -> dict[str, Any]:
    """Returns what a `transformers` configuration says of the classes: their number and their names.

    Example:
        >>> head_options(ClassLabel(names=["cat", "dog"]))
        {'num_labels': 2, 'id2label': {0: 'cat', 1: 'dog'}, 'label2id': {'cat': 0, 'dog': 1}}
    """
    names = label.names
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }


def image_classifier(
    label: ClassLabel,
    image_size: int | None = None,
    *,
    model_name_or_path: str | None = None,
    architecture: str = "convnext",
    model_revision: str = "main",
    squash: bool = False,
) -> tuple[Any, Any]:
    """Returns an image classifier in float32 and its image processor.

    Args:
        label (`ClassLabel`): The classes; a checkpoint of other classes gets a new head.
        model_name_or_path (`str`, *optional*): Hub id or folder of a checkpoint; by default a small network with random
            weights is made, for images of 48 pixels.
        architecture (`str`): Kind of the small network: `"convnext"` or `"vit"` (else ValueError).
        squash (`bool`): Have the image processor squash whole images to `image_size` (by default the checkpoint's
            size), where the checkpoint's own would crop.

    Example:
        >>> model, processor = image_classifier(ClassLabel(names=["cat", "dog"]), 16, architecture="vit")
        >>> model.config.id2label, processor.size["height"]
        ({0: 'cat', 1: 'dog'}, 16)
    """
    head = head_options(label)
    if model_name_or_path is not None:
        source = {"pretrained_model_name_or_path": model_name_or_path, "revision": model_revision}
        model = AutoModelForImageClassification.from_pretrained(
            **source, dtype=torch.float32, ignore_mismatched_sizes=True, **head
        )
        processor = AutoImageProcessor.from_pretrained(**source)
        if squash:
            processor = sized(processor, image_size or min(output_size(processor)), squash=True)
        return model, processor
    if architecture not in ARCHITECTURES:
        raise ValueError(f"there is no architecture '{architecture}': choose {', '.join(ARCHITECTURES)}")
    size = image_size or 48
    processor = ViTImageProcessor(size={"height": size, "width": size})
    # layer norm and GELU: nothing leaks between samples, and finite differences see a smooth function
    if architecture == "convnext":
        shape: dict[str, Any] = {"hidden_sizes": [32, 64, 128, 192], "depths": [1, 1, 2, 1]}
        config = ConvNextConfig(**shape, layer_scale_init_value=1.0, image_size=size, **head)
        return ConvNextForImageClassification(config), processor
    shape = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 576}
    return ViTForImageClassification(ViTConfig(**shape, image_size=size, patch_size=8, **head)), processor
