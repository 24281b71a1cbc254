"""How much the background decides: logits of an image beside those of the same image on other backgrounds.

The variants are those of the backgrounds challenge (K. Xiao et al., "Noise or Signal: The Role of Image Backgrounds in
Object Recognition", ICLR 2021); effects are measured on the margin of the true label, so that they show what the answer
does not yet. A gradient is local and can be small where the background decides: this is measured by intervention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

ORIGINAL = "original"
VARIANTS = {
    ORIGINAL: "as it is",
    "only_foreground": "the object alone",
    "no_foreground": "the background alone",
    "same_class": "on a background of its own class",
    "other_class": "on a background of another class",
    "random": "on the background of any row",
    "random_object": "any row's object on its background",
    "refilled": "the object put back on its own filled background",
}
"""What is shown of a row, by name: the key of its logits, and what it is."""
HEADLINES = ("background_effect", "foreground_effect", "effect_ratio", "flip_rate", "bg_gap", "fill_effect")
_CHUNK = 2_000_000  # counts of a bootstrap that are held at once


def margins(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Returns the margin of the true label: its logit less the largest of the others, positive where it is right.

    Of logits (N, ..., classes) and labels (N,) the margins are (N, ...) float64. A logit that is not finite, or a label
    that is none of the classes, is a ValueError.

    Example:
        >>> margins([[2.0, 0.5, 1.0], [2.0, 0.5, 1.0]], [0, 1])
        array([ 1. , -1.5])
    """
    values, own = np.array(logits, np.float64), np.asarray(labels, np.int64)
    if values.ndim < 2 or own.shape != values.shape[:1] or values.shape[-1] < 2:
        raise ValueError(
            f"logits {values.shape} and labels {own.shape}: give (N, classes) of two classes or more, (N,)"
        )
    if len(own) and not 0 <= own.min() <= own.max() < values.shape[-1]:
        raise ValueError(f"labels go from {own.min()} to {own.max()}, and there are {values.shape[-1]} classes")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(f"row {row} has a logit that is not finite: the model's output cannot be compared")
    index = own.reshape(-1, *[1] * (values.ndim - 1))
    true = np.take_along_axis(values, np.broadcast_to(index, (*values.shape[:-1], 1)), -1)[..., 0]
    np.put_along_axis(values, np.broadcast_to(index, (*values.shape[:-1], 1)), -np.inf, -1)
    return true - values.max(-1)


class Reliance:
    """Collects what a classifier answers on the variants of each row; a few numbers of a row are kept.

    Results are, with the margin's standard deviation over the rows as unit of the effects:

    | name | meaning |
    | --- | --- |
    | `accuracy`, of each variant | share of the answers that are right |
    | `background_effect` | mean absolute change of the margin when the background is a random row's |
    | `foreground_effect` | the same, when the object is a random row's |
    | `effect_ratio` | background effect over foreground effect |
    | `flip_rate` | how often the answer changes on a random background |
    | `bg_gap` | accuracy on backgrounds of the same class less that on random ones |
    | `adversarial_accuracy` | share of the rows right on every random background that was drawn |
    | `fill_effect` | mean absolute change of the margin by filling alone: no effect below it means anything |

    Example:
        >>> reliance = Reliance()
        >>> logits = np.array([[2.0, 0.0], [0.0, 1.0]])
        >>> reliance.update([0, 1], {"original": logits, "random": logits, "same_class": logits})
        >>> reliance.result(resamples=0)["background_effect"]["value"]
        0.0
    """

    def __init__(self) -> None:
        self._labels: list[np.ndarray] = []
        self._groups: list[np.ndarray] = []
        self._margins: dict[str, list[np.ndarray]] = {}
        self._answers: dict[str, list[np.ndarray]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._labels))

    def update(self, labels: ArrayLike, logits: Mapping[str, ArrayLike], groups: Sequence[Any] | None = None) -> None:
        """Adds a batch.

        Args:
            labels: (B,) integers, the true classes.
            logits: Of each variant (B, classes), or (B, draws, classes) where several backgrounds were drawn;
                `original` and one more at least. Every batch holds the same variants.
            groups (*optional*): A value of each row, (B,), by which results are listed, too.

        Raises:
            ValueError: If a variant is unknown or missing, or the shapes do not fit.
        """
        unknown = [name for name in logits if name not in VARIANTS]
        if unknown or ORIGINAL not in logits or len(logits) < 2:
            raise ValueError(f"variants are {list(logits)}: give 'original' and others of {list(VARIANTS)}")
        if self._margins and set(logits) != set(self._margins):
            raise ValueError(
                f"variants are {list(logits)}, and {list(self._margins)} before: give every batch the same"
            )
        found = {name: margins(values, labels) for name, values in logits.items()}
        if groups is not None and len(groups) != len(np.asarray(labels)):
            raise ValueError(f"{len(groups)} groups for {len(np.asarray(labels))} rows: give every row one")
        if self._labels and (groups is None) != (not self._groups):
            raise ValueError("groups were given for some batches alone: give every batch its groups, or none")
        self._labels.append(np.asarray(labels, np.int64))
        if groups is not None:
            self._groups.append(np.asarray(groups))
        for name, margin in found.items():
            answer = np.asarray(logits[name]).argmax(-1)
            flat = (len(margin), -1)
            self._margins.setdefault(name, []).append(margin.reshape(flat))
            self._answers.setdefault(name, []).append(answer.reshape(flat))

    def margins(self, variant: str) -> np.ndarray:
        """The margins of a variant, (N, draws)."""
        return np.concatenate(self._margins[variant])

    def answers(self, variant: str) -> np.ndarray:
        """The predicted classes on a variant, (N, draws)."""
        return np.concatenate(self._answers[variant])

    @property
    def labels(self) -> np.ndarray:
        """The true classes (N,)."""
        return np.concatenate(self._labels)

    @property
    def groups(self) -> np.ndarray | None:
        """The groups (N,), where they were given."""
        return np.concatenate(self._groups) if self._groups else None

    def row_effects(self, variant: str = "random") -> np.ndarray:
        """How far a variant moves each row's margin: (N,), mean over draws, in units of the margin's spread."""
        return self._moments()[f"moved {variant}"] / self.spread

    def result(self, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> dict[str, dict[str, float]]:
        """Returns of each figure its `value`, and the `low` and `high` end of its interval.

        Args:
            confidence (`float`): Of the interval, which is the percentiles of a bootstrap over the rows.
            resamples (`int`): Number of bootstrap samples; with 0 there are no intervals.
            seed (`int`): Of the samples: two models measured on the same rows are resampled alike.
        """
        self._check_rows()
        values = _figures(self._moments(), np.ones((1, len(self))))
        drawn = self._resampled(resamples, seed)
        return {name: _with_interval(float(value[0]), drawn.get(name), confidence) for name, value in values.items()}

    def by(self, keys: ArrayLike, names: Mapping[Any, str] | None = None) -> list[dict[str, Any]]:
        """Lists the figures of the rows that share a key (N,) (their class, their group), the most at risk first."""
        keys, moments = np.asarray(keys), self._moments()
        spread, rows = self.spread, []
        for key in np.unique(keys):
            chosen = keys == key
            found = {name: float(value[chosen].mean()) for name, value in moments.items() if name.startswith("right")}
            entry: dict[str, Any] = {"name": str(key if names is None else names[key]), "rows": int(chosen.sum())}
            entry |= {name.replace("right ", "accuracy_"): value for name, value in found.items()}
            if "moved random" in moments:
                entry["background_effect"] = float(moments["moved random"][chosen].mean() / spread)
                entry["flip_rate"] = float(moments["flipped"][chosen].mean())
            rows.append(entry)
        return sorted(rows, key=lambda row: -row.get("flip_rate", 0.0))

    def compared(
        self, other: Reliance, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> dict[str, dict[str, float]]:
        """Returns of each figure this model's less the other's, with the interval of a paired bootstrap.

        Raises:
            ValueError: If they were not measured on the same rows.
        """
        if len(self) != len(other) or (self.labels != other.labels).any():
            raise ValueError("two models are compared on the same rows: measure both on one data set, in one order")
        whole = np.ones((1, len(self)))
        mine, theirs = _figures(self._moments(), whole), _figures(other._moments(), whole)
        drawn, others = self._resampled(resamples, seed), other._resampled(resamples, seed)
        return {
            name: _with_interval(
                float(mine[name][0] - theirs[name][0]), drawn[name] - others[name] if drawn else None, confidence
            )
            for name in mine
            if name in theirs
        }

    def _check_rows(self) -> None:
        if len(self) < 2:
            raise ValueError(f"there are {len(self)} rows: effects are measured in the margin's spread over rows")

    @property
    def spread(self) -> float:
        """The standard deviation of the original margin over the rows; NaN where every row has the same."""
        return float(_spread(*(np.atleast_1d(self.margins(ORIGINAL)[:, 0] ** power).mean() for power in (1, 2))))

    def _moments(self) -> dict[str, np.ndarray]:
        """What each row adds to a mean, (N,) each: every figure is a function of such means."""
        original = self.margins(ORIGINAL)[:, :1]
        found = {"margin": original[:, 0], "margin squared": original[:, 0] ** 2}
        labels = self.labels[:, None]
        for name in self._margins:
            found[f"right {name}"] = (self.answers(name) == labels).mean(1)
            if name != ORIGINAL:
                found[f"moved {name}"] = np.abs(self.margins(name) - original).mean(1)
        if "random" in self._margins:
            found["flipped"] = (self.answers("random") != self.answers(ORIGINAL)[:, :1]).mean(1)
            found["always right"] = (self.answers("random") == labels).all(1).astype(float)
        return found

    def _resampled(self, resamples: int, seed: int) -> dict[str, np.ndarray]:
        """The figures of bootstrap samples of the rows, (resamples,) each."""
        self._check_rows()
        rng, moments, parts = np.random.default_rng(seed), self._moments(), []
        while resamples > 0:
            count = min(resamples, max(_CHUNK // len(self), 1))
            parts.append(_figures(moments, rng.multinomial(len(self), np.full(len(self), 1 / len(self)), count)))
            resamples -= count
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _figures(moments: Mapping[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every figure, (samples,), of rows that count `weights` (samples, N) times."""
    total = weights.sum(1)
    mean = {name: weights @ values / total for name, values in moments.items()}
    spread = _spread(mean["margin"], mean["margin squared"])
    found = {name.replace("right ", "accuracy_"): value for name, value in mean.items() if name.startswith("right ")}
    for figure, variant in (("background", "random"), ("foreground", "random_object"), ("fill", "refilled")):
        if f"moved {variant}" in mean:
            found[f"{figure}_effect"] = mean[f"moved {variant}"] / spread
    if "background_effect" in found and "foreground_effect" in found:
        moved = mean["moved random_object"]
        found["effect_ratio"] = mean["moved random"] / np.where(moved > 0, moved, np.nan)
    if "flipped" in mean:
        found["flip_rate"], found["adversarial_accuracy"] = mean["flipped"], mean["always right"]
    if "right random" in mean and "right same_class" in mean:
        found["bg_gap"] = mean["right same_class"] - mean["right random"]
    return found


def _spread(mean: np.ndarray, of_squares: np.ndarray) -> np.ndarray:
    spread = np.sqrt(np.maximum(of_squares - mean**2, 0))
    return np.where(spread > 1e-6 * np.abs(mean), spread, np.nan)  # every row alike, up to rounding: no unit


def _with_interval(value: float, drawn: np.ndarray | None, confidence: float) -> dict[str, float]:
    if drawn is None or not np.isfinite(drawn).any():
        return {"value": value}
    low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"value": value, "low": float(low), "high": float(high)}
