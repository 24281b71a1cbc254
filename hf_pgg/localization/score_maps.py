"""Attribution maps of one or two checkpoints on the same images, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.guidance.modes import evaluation_mode
from hf_pgg.localization.attribution import METHODS, Method, blurred_over_time
from hf_pgg.localization.classifier import Classifier, class_number


def explain(
    classifiers: Sequence[Classifier],
    images: Sequence[np.ndarray],
    methods: Sequence[str],
    target: str | None = None,
    smoothing: float = 0.03,
) -> Explanation:
    """The maps of every checkpoint and method on every image.

    Args:
        classifiers: See [`hf_pgg.localization.classifier.load_classifier`].
        images: (H, W, 3) uint8 each, of any sizes.
        methods: Names in [`hf_pgg.localization.attribution.METHODS`].
        target (`str`, *optional*): The class to explain, by name or number; by default what each checkpoint answers.
        smoothing (`float`, *optional*, defaults to 0.03): Of gradient maps, see [`with_smoothing`].

    Raises:
        ValueError: If a checkpoint has no such class.
        AttributionError: If a method does not fit a checkpoint.
    """
    maps = {}
    for classifier in classifiers:
        targets = None if target is None else [class_number(classifier, target)] * len(images)
        for name in methods:
            scored = score_maps(
                classifier.model, classifier.spec, images, with_smoothing(name, smoothing), targets, batch_size=8
            )
            maps[classifier.name, name] = list(scored)
    return maps


@dataclass(frozen=True)
class ScoredImage:
    """An image's map (H, W) float32 of the model's input size, the class it is of, and what the model predicts.

    Of a clip the map is (T, H, W). probabilities: (classes,) float32.
    """

    score_map: np.ndarray
    target: int
    predicted: int
    probabilities: np.ndarray

    @property
    def probability(self) -> float:
        """Of the predicted class."""
        return float(self.probabilities[self.predicted])


Explanation = Mapping[tuple[str, str], Sequence[ScoredImage]]
"""(checkpoint, method) -> one map an image."""


def score_maps(
    model: nn.Module,
    spec: InputSpec,
    images: Iterable[np.ndarray],
    method: Method,
    targets: Sequence[int] | None = None,
    batch_size: int = 32,
) -> Iterator[ScoredImage]:
    """One map an image, in order.

    Args:
        model (`nn.Module`): A classifier; its device is used.
        spec ([`InputSpec`]): Its input, `InputSpec.from_processor(image_processor)`.
        images: (H, W, 3) uint8 each, of any sizes; or clips (T, H, W, 3), of one T.
        method: One of [`hf_pgg.localization.attribution.METHODS`], or any function of its signature.
        targets (*optional*): The class to explain of each image; by default the predicted one.
        batch_size (`int`): Images a forward pass.
    """
    device = next(model.parameters()).device
    batch: list[torch.Tensor] = []
    done = 0

    def flush() -> Iterator[ScoredImage]:
        nonlocal done
        pixels = spec.normalize(torch.stack(batch)).to(device)
        with evaluation_mode(model), torch.no_grad():
            probabilities = model(pixel_values=pixels).logits.float().softmax(1)
        predicted = probabilities.argmax(1).tolist()
        chosen = predicted if targets is None else [int(t) for t in targets[done : done + len(batch)]]
        maps = method(model, pixels, torch.tensor(chosen, device=device)).cpu().numpy()
        for fields in zip(maps, chosen, predicted, probabilities.cpu().numpy(), strict=True):
            yield ScoredImage(*fields)
        done += len(batch)
        batch.clear()

    for image in images:
        batch.append(spec.squash(torch.from_numpy(image).movedim(-1, -3)))
        if len(batch) == batch_size:
            yield from flush()
    if batch:
        yield from flush()


SMOOTHED = ("input_gradient", "smooth_gradient", "guided_grad_cam")


def with_smoothing(name: str, smoothing: float, over_time: float = 0.0) -> Method:
    """A method by name; those that follow the input gradient are blurred by `smoothing`.

    Args:
        over_time (`float`, *optional*, defaults to 0.0): Of clips' maps, whatever the method: see
            [`~hf_pgg.localization.attribution.blurred_over_time`].
    """
    method: Any = METHODS[name]
    if name in SMOOTHED:
        method = partial(method, smoothing=smoothing)
    if over_time <= 0:
        return method
    return lambda model, pixel_values, target: blurred_over_time(method(model, pixel_values, target), over_time)
