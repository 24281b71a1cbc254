"""Filtering of edits after ALIA: what a model finds too easy or takes for another class, and what CLIP does not see.

A base model, trained on the real rows, sets a threshold for each class: its mean probability of the class over the
class's real images (as in confident learning, Northcutt et al., 2021). An edit answered with at least the threshold
of the answer's class is dropped: the right answer says that nothing new is to be learned of it ("too easy"), a wrong
one that the edit has lost its label ("failed"). What the model doubts is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from hf_pgg.data.loading import named_images
from hf_pgg.data.provenance import IMAGE

KEPT, TOO_EASY, FAILED = "kept", "too easy", "failed"


def class_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns (classes,) the mean probability of each class over the class's real images; ValueError without any.

    `probabilities` are (N, classes), best of images that the model was not trained on, `labels` (N,) int.

    Example:
        >>> class_thresholds(np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6]]), np.array([0, 0, 1]))
        array([0.7, 0.6])
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    if (counts == 0).any():
        empty = np.flatnonzero(counts == 0).tolist()
        raise ValueError(f"no real image has label {empty}: add one, its threshold is measured on real images")
    own = probabilities[np.arange(len(labels)), labels]
    return np.bincount(labels, own, minlength=len(counts)) / counts


def judge_confidence(probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns (N,) verdicts on edits: `"kept"`, `"too easy"` or `"failed"`.

    `probabilities` are (N, classes) of the edits, `labels` (N,) int those of their sources.

    Example:
        >>> judge_confidence(np.array([[0.8, 0.2], [0.6, 0.4]]), np.array([0, 0]), thresholds=np.array([0.7, 0.7]))
        array(['too easy', 'kept'], dtype='<U8')
    """
    answers = probabilities.argmax(1)
    confident = probabilities.max(1) >= thresholds[answers]
    return np.where(~confident, KEPT, np.where(answers == labels, TOO_EASY, FAILED))


def keep_per_source(source_rows: np.ndarray, kept: np.ndarray, count: int = 1, seed: int = 0) -> np.ndarray:
    """Returns the indices, in order, of at most `count` kept edits of each source row, drawn at random; ALIA keeps one.

    `source_rows` is (N,) int, the row that each edit was made of, `kept` (N,) bool.

    Example:
        >>> keep_per_source(np.array([0, 0, 1, 2]), np.array([True, True, True, False])).tolist()
        [0, 2]
    """
    drawn: dict[int, list[int]] = {}
    for index in np.random.default_rng(seed).permutation(np.flatnonzero(kept)).tolist():
        drawn.setdefault(int(source_rows[index]), []).append(index)
    return np.sort(np.asarray([index for indices in drawn.values() for index in indices[:count]], np.int64))


@torch.no_grad()
def classify(model: Any, processor: Any, rows: Dataset, image_column: str = IMAGE, batch_size: int = 64) -> np.ndarray:
    """Returns the (N, classes) float32 probabilities of a `transformers` image classifier.

    Example:
        >>> from hf_pgg.training.models import image_classifier
        >>> model, processor = image_classifier(rows.features["label"], image_size=32)
        >>> classify(model, processor, rows).shape
        (4, 2)
    """
    found = []
    for images in _batches(rows, image_column, batch_size, "confidence"):
        pixels = processor(images=images, return_tensors="pt").pixel_values.to(model.device, model.dtype)
        found.append(model.eval()(pixel_values=pixels).logits.float().softmax(1).cpu().numpy())
    return np.concatenate(found)


@torch.no_grad()
def clip_agrees(
    model: Any,
    processor: Any,
    rows: Dataset,
    positive: Sequence[str],
    negative: Sequence[str],
    image_column: str = IMAGE,
    batch_size: int = 64,
) -> np.ndarray:
    """Returns (N,) bool: whether a `CLIPModel` finds an image closest to one of the positive prompts.

    The positive prompts say what the images are meant to show, such as "a photo of a bird", the negative ones what
    failed ones look like, such as "an abstract pattern"; it takes one of each at least (ValueError).

    Example:
        >>> clip_agrees(None, None, rows, positive=["a photo of a bird"], negative=[])
        Traceback (most recent call last):
        ValueError: the CLIP filter compares prompts: give at least one positive and one negative prompt
    """
    if not positive or not negative:
        raise ValueError("the CLIP filter compares prompts: give at least one positive and one negative prompt")
    agrees = []
    for images in _batches(rows, image_column, batch_size, "CLIP filter"):
        batch = processor(text=[*positive, *negative], images=images, return_tensors="pt", padding=True)
        logits = model.eval()(**batch.to(model.device)).logits_per_image
        agrees.append((logits.argmax(1) < len(positive)).cpu().numpy())
    return np.concatenate(agrees)


def _batches(rows: Dataset, image_column: str, batch_size: int, title: str) -> Iterator[list[np.ndarray]]:
    """The rows' images, batch by batch, under a progress bar."""
    images = named_images(rows, image_column)
    for _ in tqdm(range(0, len(rows), batch_size), desc=title, unit="batch"):
        yield list(islice(images, batch_size))


def filter_summary(verdicts: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> str:
    """Writes a table of how many edits of each class every verdict strikes: it shows a filter that empties a class.

    Example:
        >>> print(filter_summary({"failed": np.array([True, True, False])}, np.array([0, 0, 1]), ["cat", "dog"]))
        | class | edits | failed |
        | --- | --- | --- |
        | cat | 2 | 2 |
        | dog | 1 | 0 |
    """
    lines = ["| class | edits | " + " | ".join(verdicts) + " |", "|" + " --- |" * (2 + len(verdicts))]
    for label, name in enumerate(names):
        own = labels == label
        cells = [str(int(own.sum())), *(str(int((struck & own).sum())) for struck in verdicts.values())]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
