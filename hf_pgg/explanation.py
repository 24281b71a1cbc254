"""Attribution maps of one or two checkpoints on the same pictures, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from hf_pgg.classifiers import Classifier
from hf_pgg.localization import ScoredPicture, score_maps, with_smoothing
from hf_pgg.visualization import heat_overlay

Explanation = Mapping[tuple[str, str], Sequence[ScoredPicture]]
"""(checkpoint, method) -> one map a picture."""


def explain(
    classifiers: Sequence[Classifier],
    pictures: Sequence[np.ndarray],
    methods: Sequence[str],
    target: str | None = None,
    smoothing: float = 0.03,
) -> Explanation:
    """The maps of every checkpoint and method on every picture.

    Args:
        classifiers: See [`hf_pgg.classifiers.load_classifier`].
        pictures: (H, W, 3) uint8 each, of any sizes.
        methods: Names in [`hf_pgg.attribution.METHODS`].
        target (`str`, *optional*): The class to explain, by name or number; by default what each checkpoint answers.
        smoothing (`float`, *optional*, defaults to 0.03): Of gradient maps, see [`with_smoothing`].

    Raises:
        ValueError: If a checkpoint has no such class.
        AttributionError: If a method does not fit a checkpoint.
    """
    maps = {}
    for classifier in classifiers:
        targets = None if target is None else [class_number(classifier, target)] * len(pictures)
        for name in methods:
            scored = score_maps(
                classifier.model, classifier.spec, pictures, with_smoothing(name, smoothing), targets, batch_size=8
            )
            maps[classifier.name, name] = list(scored)
    return maps


def class_number(classifier: Classifier, target: str) -> int:
    """The number of a class given by name or number.

    Raises:
        ValueError: If the checkpoint has no such class.
    """
    by_name = {label: number for number, label in classifier.labels.items()}
    if target in by_name:
        return by_name[target]
    if target.isdigit() and int(target) in classifier.labels:
        return int(target)
    some = ", ".join(list(by_name)[:10]) + (", ..." if len(by_name) > 10 else "")
    raise ValueError(f"{classifier.name} has no class '{target}'; its {len(by_name)} classes are {some}")


def top_answers(classifier: Classifier, result: ScoredPicture, count: int = 3) -> str:
    """The most probable classes in words: `cat 0.93, dog 0.05, fox 0.01`."""
    order = np.argsort(-result.probabilities, kind="stable")[:count]
    return ", ".join(f"{classifier.labels[int(i)]} {result.probabilities[i]:.2f}" for i in order)


def explanation_sheet(
    classifiers: Sequence[Classifier], names: Sequence[str], pictures: Sequence[np.ndarray], maps: Explanation
) -> Figure:
    """A line for each picture; beside it the map of each checkpoint and method, with the class it explains.

    Args:
        names: Of the pictures.
        maps: What [`explain`] returns for them.
    """
    titles = dict(zip((c.name for c in classifiers), short_names([c.name for c in classifiers]), strict=True))
    labels = {c.name: c.labels for c in classifiers}
    figure = Figure(figsize=(1.9 * (1 + len(maps)), 2.05 * len(pictures) + 0.4), layout="constrained")
    grid = figure.subplots(len(pictures), 1 + len(maps), squeeze=False)
    for line, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        grid[line, 0].imshow(picture)
        grid[line, 0].set_title(name, fontsize=7)
        for axes, (key, results) in zip(grid[line, 1:], maps.items(), strict=True):
            checkpoint, method = key
            result, of = results[line], labels[checkpoint]
            explained = f"{of[result.target]} ({result.probabilities[result.target]:.2f})"
            answer = "" if result.target == result.predicted else f", says {of[result.predicted]}"
            heading = f"{titles[checkpoint]}\n{method.replace('_', ' ')}\n" if line == 0 else ""
            axes.set_title(f"{heading}{explained}{answer}", fontsize=7)
            axes.imshow(heat_overlay(picture, result.score_map))
    for axes in grid.flat:
        axes.set_axis_off()
    return figure


def short_names(names: Sequence[str]) -> list[str]:
    """Each name from the last part in which they all differ on: `plain` and `guided`, `a/out` and `b/out`."""
    parts = [name.rstrip("/").split("/") for name in names]
    for depth in range(1, max(map(len, parts)) + 1):
        short = ["/".join(part[-depth:]) for part in parts]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)
