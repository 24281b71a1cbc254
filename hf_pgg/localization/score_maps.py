"""Attribution maps of many images: of one model, or of several checkpoints side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.guidance.modes import evaluation_mode
from hf_pgg.localization.attribution import METHODS, Method, blurred_over_time
from hf_pgg.localization.classifier import Classifier, class_number


@dataclass(frozen=True)
class ScoredImage:
    """An image's map, the class that it explains (`target`), and what the model predicts.

    Attributes:
        score_map: The map (H, W) float32, of the model's input size; (T, H, W) of a clip.
        probabilities: Probability of each class, (classes,) float32.

    Example:
        >>> ScoredImage(np.zeros((16, 16)), target=0, predicted=1, probabilities=np.array([0.25, 0.75])).probability
        0.75
    """

    score_map: np.ndarray
    target: int
    predicted: int
    probabilities: np.ndarray

    @property
    def probability(self) -> float:
        """The probability of the predicted class."""
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
    """Yields one map an image, in order.

    The prediction is the checkpoint's own, after its own preprocessing, which may crop. The map is of the whole image,
    squashed to the model's input: what the prediction looks at may lie anywhere.

    Args:
        model (`nn.Module`): A classifier; its device is used.
        images (`Iterable[np.ndarray]`): Images (H, W, 3) uint8 of any sizes; or clips (T, H, W, 3), of one T.
        method: One of [`~hf_pgg.localization.attribution.METHODS`], or any function of its signature.
        targets (`Sequence[int]`, *optional*): The class to explain of each image; by default the predicted one.

    Example:
        >>> images = [np.zeros((20, 30, 3), np.uint8), np.ones((9, 9, 3), np.uint8)]
        >>> [scored.score_map.shape for scored in score_maps(model, spec, images, METHODS["grad_cam"])]
        [(16, 16), (16, 16)]
    """
    device = next(model.parameters()).device
    stream, done = (torch.from_numpy(image).movedim(-1, -3) for image in images), 0
    while batch := list(islice(stream, batch_size)):
        pixels = own = torch.stack([spec.prepare(image)[0] for image in batch]).to(device)
        if not spec.squashes:
            pixels = spec.normalize(torch.stack([spec.squash(image) for image in batch])).to(device)
        with evaluation_mode(model), torch.no_grad():
            probabilities = model(pixel_values=own).logits.float().softmax(1)
        predicted = probabilities.argmax(1).tolist()
        chosen = predicted if targets is None else [int(t) for t in targets[done : done + len(batch)]]
        maps = method(model, pixels, torch.tensor(chosen, device=device)).cpu().numpy()
        for fields in zip(maps, chosen, predicted, probabilities.cpu().numpy(), strict=True):
            yield ScoredImage(*fields)
        done += len(batch)


SMOOTHED = ("input_gradient", "smooth_gradient", "guided_grad_cam")


def with_smoothing(name: str, smoothing: float, over_time: float = 0.0) -> Method:
    """Returns a method by its name, whose maps are blurred by `smoothing` if they follow the input gradient.

    `over_time` blurs clips' maps of any method, see [`~hf_pgg.localization.attribution.blurred_over_time`].

    Example:
        >>> with_smoothing("input_gradient", 0.05)(model, torch.rand(1, 3, 16, 16), torch.tensor([0])).shape
        torch.Size([1, 16, 16])
    """
    method: Any = METHODS[name]
    if name in SMOOTHED:
        method = partial(method, smoothing=smoothing)
    if over_time <= 0:
        return method
    return lambda model, pixel_values, target: blurred_over_time(method(model, pixel_values, target), over_time)


def explain(
    classifiers: Sequence[Classifier],
    images: Sequence[np.ndarray],
    methods: Sequence[str],
    target: str | None = None,
    smoothing: float = 0.03,
) -> Explanation:
    """Computes the maps of every checkpoint and method on every image.

    Args:
        images (`Sequence[np.ndarray]`): Images (H, W, 3) uint8, of any sizes.
        methods (`Sequence[str]`): Names in [`~hf_pgg.localization.attribution.METHODS`].
        target (`str`, *optional*): The class to explain, by name or number; by default what each checkpoint answers.

    A checkpoint without this class is a ValueError, one that a method does not fit an AttributionError.

    Example:
        >>> tiny = Classifier("tiny", model, spec, labels={0: "cat", 1: "dog"})
        >>> maps = explain([tiny], [np.zeros((16, 16, 3), np.uint8)], ["grad_cam"], target="dog")
        >>> maps["tiny", "grad_cam"][0].target
        1
    """
    maps = {}
    for each in classifiers:
        targets = None if target is None else [class_number(each, target)] * len(images)
        for name in methods:
            method = with_smoothing(name, smoothing)
            maps[each.name, name] = list(score_maps(each.model, each.spec, images, method, targets, batch_size=8))
    return maps
