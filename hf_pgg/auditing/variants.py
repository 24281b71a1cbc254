"""Images of one row for an audit: its object on other backgrounds, other objects on its background, and each alone.

Made on tensors at the model's input size, after its own preprocessing, so that the original is what the model reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F

FILLS = ("grey", "blur", "surroundings")


def fill(pixels: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Fills the masked part of images with what surrounds it: averages of ever larger blocks, the finest that saw any.

    The pixels are (B, C, H, W) float, normalised or not; `inside` (B, 1, H, W) is 1 where they are replaced, 0 where
    they stay unchanged. Where a mask covers all, there come zeros.

    Example:
        >>> image, mask = torch.full((1, 1, 4, 4), 50.0), torch.zeros(1, 1, 4, 4)
        >>> image[..., 1:3, 1:3], mask[..., 1:3, 1:3] = 250.0, 1.0
        >>> fill(image, mask).max()
        tensor(50.)
    """
    weight = 1 - inside
    levels = [(pixels * weight, weight)]
    while max(levels[-1][0].shape[-2:]) > 1:
        total, seen = levels[-1]
        levels.append((F.avg_pool2d(total, 2, ceil_mode=True), F.avg_pool2d(seen, 2, ceil_mode=True)))
    total, seen = levels.pop()
    filled = total / seen.clamp(min=1e-6)
    for total, seen in reversed(levels):
        filled = F.interpolate(filled, size=total.shape[-2:], mode="bilinear")
        trust = (seen / 0.25).clamp(max=1)  # a block that saw little of its surroundings says little
        filled = trust * total / seen.clamp(min=1e-6) + (1 - trust) * filled
    return weight * pixels + inside * filled


def footprint(masks: torch.Tensor) -> torch.Tensor:
    """Returns where any of an object can be seen, its soft edge and a margin of 1/75 of the side included: 0 or 1.

    Example:
        >>> footprint(torch.tensor([[[[0.0, 0, 0, 0, 0, 0.5, 1]]]]))
        tensor([[[[0., 0., 0., 0., 1., 1., 1.]]]])
    """
    margin = max(round(max(masks.shape[-2:]) / 75), 1)
    return (F.max_pool2d(masks, 2 * margin + 1, stride=1, padding=margin) > 0.02).float()


@dataclass(frozen=True)
class Pool:
    """The rows of an audit as the model reads them, from which backgrounds and objects are drawn.

    A row takes 0.9 MB of memory at 224 px.

    Args:
        pixels: (N, 3, H, W) float32.
        masks: (N, 1, H, W) float32 in [0, 1], 1 on the object.
        labels: (N,) the rows' classes; at least two, each of two rows or more.
        fill (`str`): What stands in for the background where the object is shown alone: `grey` (the images' mean),
            `blur` (the background itself, blurred) or `surroundings` (the object's own colours, carried outwards).
        draws (`int`): Random backgrounds of each row.
        seed (`int`): Of the draws, which depend on it and the row's place alone.

    Raises:
        ValueError: If there is one class only, or a class of one row.

    Example:
        >>> pool = Pool(torch.rand(4, 3, 8, 8), torch.ones(4, 1, 8, 8).triu(), np.array([0, 0, 1, 1]), draws=3)
        >>> {name: tuple(images.shape[:2]) for name, images in pool.variants([0, 2])}["random"]
        (2, 3)
    """

    pixels: torch.Tensor
    masks: torch.Tensor
    labels: np.ndarray
    fill: str = "grey"
    draws: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        classes, counts = np.unique(self.labels, return_counts=True)
        if len(classes) < 2 or counts.min() < 2:
            raise ValueError(
                f"{len(self.labels)} rows are of {len(classes)} classes, the rarest of {min(counts, default=0)}:"
                " give two classes and two rows of each, so that backgrounds of the same class and of another can be"
                " drawn"
            )
        if self.fill not in FILLS:
            raise ValueError(f"fill is {self.fill!r}: choose {', '.join(FILLS)}")
        if self.draws < 1:
            raise ValueError(f"draws is {self.draws}: give 1 or more")

    @cached_property
    def backgrounds(self) -> torch.Tensor:
        """Every row without its object, (N, 3, H, W) float16."""
        parts = zip(self.pixels.split(64), self.masks.split(64), strict=True)
        return torch.cat([fill(pixels, footprint(masks)).half() for pixels, masks in parts])

    def variants(self, rows: Sequence[int]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the name of each variant and its images, (B, draws, 3, H, W), one draw but for `random`."""
        pixels, masks = self.pixels[rows], self.masks[rows]
        own = torch.where(footprint(masks) > 0, self.backgrounds[rows].float(), pixels)  # outside, to the last bit
        partners = [self.partners(row) for row in rows]
        yield "original", pixels[:, None]
        yield "only_foreground", (masks * pixels + (1 - masks) * self._stand_in(pixels, masks))[:, None]
        yield "no_foreground", own[:, None]
        for name in ("same_class", "other_class", "random"):
            others = torch.stack([self.backgrounds[found[name]] for found in partners]).float()
            yield name, masks[:, None] * pixels[:, None] + (1 - masks[:, None]) * others
        chosen = [int(found["random_object"][0]) for found in partners]
        there = self.masks[chosen]
        yield "random_object", (there * self.pixels[chosen] + (1 - there) * own)[:, None]
        yield "refilled", (masks * pixels + (1 - masks) * own)[:, None]

    def partners(self, row: int) -> dict[str, np.ndarray]:
        """The rows whose background, or object, one row is shown with, drawn among the others."""
        rng = np.random.default_rng([self.seed, row])
        others = np.flatnonzero(np.arange(len(self.labels)) != row)
        alike = self.labels[others] == self.labels[row]
        return {
            "same_class": rng.choice(others[alike], 1),
            "other_class": rng.choice(others[~alike], 1),
            "random": rng.choice(others, self.draws, replace=len(others) < self.draws),
            "random_object": rng.choice(others, 1),
        }

    def _stand_in(self, pixels: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        if self.fill == "blur":
            small = F.adaptive_avg_pool2d(pixels, 8)
            return F.interpolate(small, size=pixels.shape[-2:], mode="bilinear")
        if self.fill == "surroundings":
            return fill(pixels, footprint(1 - masks))
        return self.pixels.mean((0, 2, 3))[None, :, None, None].expand_as(pixels)
