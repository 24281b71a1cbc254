"""Filtering of edits after ALIA: what a model finds too easy or takes for another class, and what CLIP does not see.

A base model, trained on the real rows, sets a threshold for each class: its mean probability of the class over the
class's real images (as in confident learning, Northcutt et al., 2021). An edit answered with at least the threshold
of the answer's class is dropped: the right answer says that nothing new is to be learned of it ("too easy"), a wrong
one that the edit has lost its label ("failed"). What the model doubts is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from hf_pgg.data.images import to_rgb
from hf_pgg.data.provenance import IMAGE

KEPT, TOO_EASY, FAILED = "kept", "too easy", "failed"


def class_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(classes,) mean probability of each class over the real images of the class.

    Args:
        probabilities (`np.ndarray`): (N, classes) of real images that the model was not trained on, if possible.
        labels (`np.ndarray`): (N,) int.

    Raises:
        ValueError: If a class has no image.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    if (counts == 0).any():
        raise ValueError(f"no real image has label {np.flatnonzero(counts == 0).tolist()}: no threshold for it")
    own = probabilities[np.arange(len(labels)), labels]
    return np.bincount(labels, own, minlength=len(counts)) / counts


def judge_confidence(probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(N,) str verdicts on edits: `"kept"`, `"too easy"` or `"failed"`.

    Args:
        probabilities (`np.ndarray`): (N, classes) of the edits. labels (`np.ndarray`): (N,) of their sources.
        thresholds (`np.ndarray`): (classes,), see [`class_thresholds`].
    """
    answers = probabilities.argmax(1)
    confident = probabilities.max(1) >= thresholds[answers]
    return np.where(~confident, KEPT, np.where(answers == labels, TOO_EASY, FAILED))


def keep_per_source(source_rows: np.ndarray, kept: np.ndarray, count: int = 1, seed: int = 0) -> np.ndarray:
    """Indices, in order, of at most `count` kept edits of each source row, drawn at random; ALIA keeps one.

    Args:
        source_rows (`np.ndarray`): (N,) int. kept (`np.ndarray`): (N,) bool.
    """
    order = np.random.default_rng(seed).permutation(np.flatnonzero(kept))
    chosen: list[int] = []
    taken: dict[int, int] = {}
    for index in order.tolist():
        source = int(source_rows[index])
        if taken.get(source, 0) < count:
            taken[source] = taken.get(source, 0) + 1
            chosen.append(index)
    return np.sort(np.asarray(chosen, np.int64))


@torch.no_grad()
def classify(model: Any, processor: Any, rows: Dataset, image_column: str = IMAGE, batch_size: int = 64) -> np.ndarray:
    """(N, classes) float32 probabilities of a `transformers` image classifier."""
    found = []
    for start in tqdm(range(0, len(rows), batch_size), desc="confidence", unit="batch"):
        images = [to_rgb(image) for image in rows[start : start + batch_size][image_column]]
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
    """(N,) bool: whether CLIP finds an image closest to one of the positive prompts.

    Args:
        model, processor: `CLIPModel` and `CLIPProcessor`.
        positive: What the images are meant to show, such as "a photo of a bird".
        negative: What failed ones look like, such as "a photo of a landscape", "an abstract pattern".

    Raises:
        ValueError: If there is no positive or no negative prompt.
    """
    if not positive or not negative:
        raise ValueError("the CLIP filter compares prompts: give at least one positive and one negative prompt")
    agrees = []
    for start in tqdm(range(0, len(rows), batch_size), desc="CLIP filter", unit="batch"):
        images = [to_rgb(image) for image in rows[start : start + batch_size][image_column]]
        batch = processor(text=[*positive, *negative], images=images, return_tensors="pt", padding=True)
        logits = model.eval()(**batch.to(model.device)).logits_per_image
        agrees.append((logits.argmax(1) < len(positive)).cpu().numpy())
    return np.concatenate(agrees)


def filter_summary(verdicts: Mapping[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> str:
    """A table of how many edits of each class every verdict strikes: a filter that empties a class shows."""
    lines = ["| class | edits | " + " | ".join(verdicts) + " |", "|" + " --- |" * (2 + len(verdicts))]
    for label, name in enumerate(names):
        own = labels == label
        cells = [str(int(own.sum())), *(str(int((struck & own).sum())) for struck in verdicts.values())]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
