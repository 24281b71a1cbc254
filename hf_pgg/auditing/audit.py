"""`audit`: how much the background decides what an image classifier answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from hf_pgg.auditing.variants import Pool, footprint
from hf_pgg.data.annotations import add_provenance
from hf_pgg.data.images import to_rgb, undecoded
from hf_pgg.data.labels import class_label
from hf_pgg.data.provenance import IMAGE, PROVENANCE, naming_row, sources_of
from hf_pgg.guidance.modes import evaluation_mode
from hf_pgg.localization.classifier import Classifier, load_classifier
from hf_pgg.metrics.reliance import Reliance

_CROPPED = "object or background lost by the crop"
_LEAST = 1e-3  # share of the input that an object, and its background, must cover to be exchanged


@dataclass(frozen=True)
class AuditSettings:
    """Which columns an audit reads, and how it exchanges.

    Args:
        image_column, label_column (`str`): Columns of the image and of its class.
        mask_column, box_column (`str`, *optional*): Column of the object's mask, or box; by default the provenance.
        box_format, target_value, ignore_value, channel (*optional*): What boxes and masks hold, see
            [`~hf_pgg.add_provenance`].
        group_column (`str`, *optional*): Column by whose values results are listed, too.
        max_rows (`int`): Rows that are drawn where there are more.
        fill (`str`): What stands in for the background of an object alone, see [`~hf_pgg.auditing.variants.Pool`].
        draws (`int`): Random backgrounds of each row.
        batch_size (`int`): Images in a forward pass.
        seed (`int`): Of the rows drawn, of their partners, and of the intervals.

    Example:
        >>> AuditSettings(mask_column="mask", target_value=1).draws
        4
    """

    image_column: str = IMAGE
    label_column: str = "label"
    mask_column: str | None = None
    box_column: str | None = None
    box_format: str | None = None
    target_value: float | None = None
    ignore_value: float | None = None
    channel: str | None = None
    group_column: str | None = None
    max_rows: int = 1000
    fill: str = "grey"
    draws: int = 4
    batch_size: int = 32
    seed: int = 0


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        model (`str`): Name of the checkpoint.
        classes (`list[str]`): Names of the data's classes.
        labels (`dict[int, str]`): Names of the checkpoint's.
        rows (`list[int]`): Index in the dataset of each row that was measured.
        left_out (`dict[str, int]`): Why rows were left out, and how many.
        reliance ([`~hf_pgg.metrics.reliance.Reliance`]): The margins and answers of every row.
        results (`dict`): Each figure with its interval, see [`~hf_pgg.metrics.reliance.Reliance`].
        pool ([`~hf_pgg.auditing.variants.Pool`]): The rows as the model reads them.
        display (`Callable`): What turns pixels into an image.

    Example:
        >>> found = audit(Classifier("tiny", model, spec, labels={0: "cat", 1: "dog"}), rows)
        >>> found.results["flip_rate"]["value"] <= 1
        True
    """

    model: str
    classes: list[str]
    labels: dict[int, str]
    rows: list[int]
    left_out: dict[str, int]
    reliance: Reliance
    settings: AuditSettings
    pool: Pool = field(repr=False)
    display: Callable[[torch.Tensor], torch.Tensor] = field(repr=False)
    results: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.results = self.results or self.reliance.result(seed=self.settings.seed)

    @property
    def by_class(self) -> list[dict[str, Any]]:
        """The figures of every class, those whose answers the background changes most first."""
        return self.reliance.by(self.reliance.labels, dict(self.labels))

    @property
    def by_group(self) -> list[dict[str, Any]]:
        """The figures of every group, where a column of groups was given."""
        return [] if self.reliance.groups is None else self.reliance.by(self.reliance.groups)

    @property
    def verdict(self) -> str:
        """One sentence: what the background does to the answers."""
        answers = np.unique(self.reliance.answers("original"))
        if len(answers) == 1:
            return f"Every answer is {self.labels[int(answers[0])]}: this classifier tells nothing apart."
        effect, noise = self.results["background_effect"], self.results["fill_effect"]["value"]
        ratio, flips = self.results["effect_ratio"]["value"], self.results["flip_rate"]
        if not np.isfinite(effect["value"]):
            return "The margin is the same on every row: this classifier tells nothing apart."
        if effect["low"] <= noise:
            return (
                f"The background is not seen to decide: another one moves the margin by {effect['value']:.2f} of its"
                f" spread, no more than filling alone ({noise:.2f})."
            )
        ends = ((0.25, "little"), (0.75, "in part"), (1.25, "as much as the object"))
        grade = next((words for end, words in ends if ratio < end), "more than the object")  # or no object counts
        beside = f", {ratio:.2f} times as far as another object does" if np.isfinite(ratio) else ""
        return (
            f"The background decides {grade}: another one changes {flips['value']:.0%} of the answers"
            f" ({flips['low']:.0%} to {flips['high']:.0%}) and moves the margin by {effect['value']:.2f} of its"
            f" spread{beside}."
        )

    def most_decided(self, count: int = 8) -> list[int]:
        """Places in `rows` of those that the background decides most: whose answer changes, then by the effect."""
        flips = (self.reliance.answers("random") != self.reliance.answers("original")).mean(1)
        return np.lexsort((-self.reliance.row_effects(), -flips))[:count].tolist()


def audit(
    model: str | Classifier, dataset: Dataset, settings: AuditSettings = AuditSettings(), progress: bool = False
) -> Audit:
    """Exchanges backgrounds and objects of a dataset's rows, and measures what a classifier's answers follow.

    Args:
        model (`str` or [`~hf_pgg.localization.classifier.Classifier`]): Hub id or folder of an image classification
            checkpoint, or a loaded one; its device is used.
        dataset (`Dataset`): Rows with an image, one class, and provenance, or the settings' masks or boxes.
        settings ([`AuditSettings`]): Columns, number of rows, and how backgrounds are exchanged.
        progress (`bool`): Show a bar.

    Raises:
        ValueError: If masks are missing, classes are not the checkpoint's, or rows are too few.
        ProvenanceError: If an image or a mask cannot be read, or a mask covers all or nothing; it names the row.

    Example:
        >>> found = audit(Classifier("tiny", model, spec, labels={0: "cat", 1: "dog"}), rows)
        >>> sorted(found.results)[:2], len(found.rows)
        (['accuracy_no_foreground', 'accuracy_only_foreground'], 4)
    """
    classifier = load_classifier(model) if isinstance(model, str) else model
    names = class_label(dataset.features, settings.label_column).names
    numbers = _matched(names, classifier)
    rows, indices, left_out = _rows_with_objects(dataset, settings)
    pool, kept = _read(rows, indices, classifier, settings, left_out, progress)
    indices = [indices[place] for place in kept]
    groups = None
    if settings.group_column is not None:
        if settings.group_column not in dataset.column_names:
            columns = ", ".join(dataset.column_names)
            raise ValueError(f"column '{settings.group_column}' is not in the dataset; its columns are {columns}")
        groups = np.array([str(value) for value in dataset.select(indices)[settings.group_column]])
    reliance = Reliance()
    device = next(classifier.model.parameters()).device
    per_pass = max(settings.batch_size // settings.draws, 1)
    for batch in _batches(range(len(kept)), per_pass, progress, "images exchanged"):
        logits = {}
        with evaluation_mode(classifier.model), torch.no_grad():
            for name, images in pool.variants(batch):
                out = classifier.model(pixel_values=images.flatten(0, 1).to(device)).logits
                logits[name] = out.float().cpu().numpy().reshape(len(batch), images.shape[1], -1)
        reliance.update(numbers[pool.labels[batch]], logits, None if groups is None else groups[batch].tolist())
    display = classifier.spec.display
    return Audit(classifier.name, names, classifier.labels, indices, left_out, reliance, settings, pool, display)


def _batches(rows: Sequence[int], size: int, progress: bool, what: str) -> Iterable[list[int]]:
    with tqdm(total=len(rows), desc=what, unit="row", disable=not progress) as bar:
        for start in range(0, len(rows), size):
            batch = list(rows[start : start + size])
            yield batch
            bar.update(len(batch))


def _matched(names: Sequence[str], classifier: Classifier) -> np.ndarray:
    """The checkpoint's number of each of the data's classes, by name; by number where either has none."""

    def plain(name: str) -> str:
        return name.strip().lower().replace("_", " ").replace("-", " ")

    unnamed = [f"LABEL_{i}" for i in range(len(classifier.labels))]
    if [classifier.labels[i] for i in sorted(classifier.labels)] == unnamed and len(names) == len(unnamed):
        return np.arange(len(names))
    for key in (str, plain):
        known: dict[str, list[int]] = {}
        for number, label in classifier.labels.items():
            known.setdefault(key(label), []).append(number)
        found = [known.get(key(name), []) for name in names]
        if all(len(numbers) == 1 for numbers in found):
            return np.array([numbers[0] for numbers in found])
    missing = [name for name, numbers in zip(names, found, strict=True) if len(numbers) != 1]
    some = ", ".join(list(classifier.labels.values())[:8]) + (", ..." if len(classifier.labels) > 8 else "")
    raise ValueError(
        f"classes {', '.join(missing[:8])} of the data are not once among the {len(classifier.labels)} of"
        f" {classifier.name} ({some}): name the data's classes as the checkpoint does"
    )


def _rows_with_objects(dataset: Dataset, settings: AuditSettings) -> tuple[Dataset, list[int], dict[str, int]]:
    """Rows with provenance, their indices in the dataset, and how many were left out."""
    known = settings.mask_column or settings.box_column
    if known is None and PROVENANCE not in dataset.column_names:
        raise ValueError(
            f"there are no masks: the columns are {', '.join(dataset.column_names)}; name `mask_column` or `box_column`"
        )
    indices, left_out = np.arange(len(dataset)), {}
    if len(dataset) > settings.max_rows:
        indices = np.sort(np.random.default_rng(settings.seed).choice(len(dataset), settings.max_rows, replace=False))
        left_out["not drawn"] = len(dataset) - settings.max_rows
    rows = dataset.select(indices)
    if known is not None:
        rows = add_provenance(
            rows,
            mask_column=settings.mask_column,
            box_column=settings.box_column,
            box_format=settings.box_format,
            image_column=settings.image_column,
            label_column=settings.label_column,
            target_value=settings.target_value,
            ignore_value=settings.ignore_value,
            channel=settings.channel,
        )
    chosen = [place for place, masks in enumerate(undecoded(rows)[PROVENANCE]) if masks and masks[0] is not None]
    if len(chosen) < len(rows):
        left_out["without a mask"] = len(rows) - len(chosen)
    return undecoded(rows).select(chosen), indices[chosen].tolist(), left_out


def _read(
    rows: Dataset,
    indices: Sequence[int],
    classifier: Classifier,
    settings: AuditSettings,
    left_out: dict[str, int],
    progress: bool,
) -> tuple[Pool, list[int]]:
    """The rows as the model reads them, and the places of those that were kept."""
    pixels, masks, labels, kept = [], [], [], []
    for place, row in enumerate(tqdm(rows, desc="images read", unit="row", disable=not progress)):
        with naming_row(indices[place], settings.image_column):
            image = to_rgb(row[settings.image_column])
        with naming_row(indices[place], PROVENANCE):
            sources = sources_of(row, image.shape[:2], settings.label_column).merged()
            if len(sources.labels) > 1:
                raise ValueError(f"the row has {len(sources.labels)} labels: audit images of one class, not mixes")
            target = sources.target
            if target is None or not 0 < target.mean() < 1:
                covered = "all" if target is not None and target.mean() > 0 else "nothing"
                raise ValueError(f"the mask covers {covered} of the image: there is nothing to exchange")
        pixel, mask = classifier.spec.prepare(
            torch.from_numpy(image).movedim(-1, 0), torch.from_numpy(target.astype(np.float32))[None]
        )
        if float(mask.mean()) < _LEAST or float(footprint(mask[None]).mean()) > 1 - _LEAST:
            left_out[_CROPPED] = left_out.get(_CROPPED, 0) + 1
            continue
        pixels.append(pixel)
        masks.append(mask)
        labels.append(sources.labels[0])
        kept.append(place)
    counts = np.bincount(labels) if labels else np.zeros(1, int)
    paired = [i for i, label in enumerate(labels) if counts[label] > 1]
    if len(paired) < len(kept):
        left_out["alone in their class"] = len(kept) - len(paired)
    if len({labels[i] for i in paired}) < 2:
        raise ValueError(
            f"{len(paired)} rows of {len({labels[i] for i in paired})} classes can be measured: give two classes or"
            " more, and two rows of each"
        )
    stacked = torch.stack([pixels[i] for i in paired]), torch.stack([masks[i] for i in paired])
    of_rows = np.array([labels[i] for i in paired])
    pool = Pool(*stacked, of_rows, settings.fill, settings.draws, settings.seed)
    return pool, [kept[i] for i in paired]
