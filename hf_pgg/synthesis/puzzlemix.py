"""PuzzleMix: two images mixed block by block, so that the salient blocks of both survive.

J.-H. Kim et al., "Puzzle Mix: Exploiting Saliency and Local Statistics for Optimal Mixup", ICML 2020, arXiv 2009.06962.
On a grid of n x n blocks, the mask z in {0, 1/2, 1} (the row's share of a block, 1 - z its partner's) minimises

    E(z) =   sum_b  (1 - z_b) s_b + z_b s'_b - eta / n^2 log p(2 z_b)
           + beta / 16n sum_(b, c)  (z_b - z_c)^2 + gamma D_bc(z_b, z_c)

whose terms, and the deviations from the authors' code, are in the method's card (`docs/methods/puzzlemix.md`). As E is
convex in z_b - z_c, the mask is one minimum cut (H. Ishikawa, "Exact Optimization for Markov Random Fields with Convex
Priors", TPAMI 2003). Provenance is z in the coordinates of the mix.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow
from torch import nn

from hf_pgg.data.images import resize
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.provenance import Sources
from hf_pgg.synthesis.base import Row, Sample
from hf_pgg.synthesis.images import PairSynthesizer
from hf_pgg.synthesis.pasting import blend

Saliency = Callable[[np.ndarray, int], np.ndarray]
"""saliency(image (H, W, 3) uint8, label) -> (H, W), finite and not negative; its scale does not matter."""

_PATCH = 4  # pixels: borders are compared by the mean colours of patches of this side, halved until they tile a block
_PRIOR_FLOOR = 1e-8  # keeps log p finite for lambda 0 and 1


@dataclass(frozen=True)
class InputGradientSaliency:
    """The saliency of PuzzleMix: the root mean square over channels of d cross entropy / d input.

    The image is squashed to the model's input size, so that no part of it is cropped away. Where the cross entropy
    has no gradient left, the saliency is 0 everywhere and counts as uniform.

    Args:
        model (`nn.Module`): A `transformers` classifier. A copy in evaluation mode is kept, on the same device: further
            training of the model changes nothing here. On a GPU, `map` in one process.
        spec (`InputSpec`): The model's input, `InputSpec.from_processor(image_processor)`.

    Example:
        >>> from transformers import ConvNextConfig, ConvNextForImageClassification
        >>> config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[4, 4, 4, 4], image_size=32)
        >>> spec = InputSpec((32, 32), (32, 32), (0.5,) * 3, (0.5,) * 3)
        >>> saliency = InputGradientSaliency(ConvNextForImageClassification(config), spec)
        >>> saliency(np.zeros((20, 30, 3), np.uint8), label=1).shape
        (20, 30)
    """

    model: nn.Module
    spec: InputSpec

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", copy.deepcopy(self.model).eval().requires_grad_(False))

    def __call__(self, image: np.ndarray, label: int) -> np.ndarray:
        """(H, W, 3) uint8 and a class to (H, W) float64."""
        weight = next(self.model.parameters())
        fitted = self.spec.squash(torch.from_numpy(image).permute(2, 0, 1))
        pixels = self.spec.normalize(fitted)[None].to(weight.device, weight.dtype).requires_grad_()
        with torch.enable_grad():
            logits = self.model(pixel_values=pixels).logits.float()
            loss = nn.functional.cross_entropy(logits, torch.tensor([label], device=logits.device))
        gradient = torch.autograd.grad(loss, pixels)[0][0].double()  # squares of small gradients underflow in float32
        return resize(gradient.square().mean(0).sqrt().cpu().numpy(), image.shape[:2])


def _block_saliency(saliency: np.ndarray, n: int) -> np.ndarray:
    """(H, W) saliency to the (n, n) shares of the blocks, which sum to 1; uniform if it is 0 everywhere."""
    height, width = saliency.shape
    blocks = saliency.astype(np.float64).reshape(n, height // n, n, width // n).sum((1, 3))
    total = blocks.sum()
    return blocks / total if total > 0 else np.full((n, n), 1 / n**2)


def _expand_blocks(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(n, n) values of blocks to their pixels, (H, W) float32."""
    n = len(values)
    return values.astype(np.float32).repeat(shape[0] // n, 0).repeat(shape[1] // n, 1)


def _permute_blocks(array: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(H, W[, C]) array whose block i, counted row by row, is block `order[i]` of the given one."""
    n = math.isqrt(len(order))
    height, width = array.shape[:2]
    blocks = array.reshape(n, height // n, n, width // n, -1).swapaxes(1, 2).reshape(n * n, -1)
    moved = blocks[order].reshape(n, n, height // n, width // n, -1).swapaxes(1, 2)
    return moved.reshape(array.shape)


def _mask_costs(
    images: Sequence[np.ndarray], shares: Sequence[np.ndarray], lam: float, *, beta: float, gamma: float, eta: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The energy of a mask, but for a constant, as costs: sum_b unary[b, 2 z_b] + sum_(b, c) weight_bc (z_b - z_c)^2.

    D, known where z is 0 or 1, is continued to 1/2 as in the authors' code: linear in z_b and in z_c, plus a multiple
    of (z_b - z_c)^2. The images are (H, W, 3), their saliencies `shares` (n, n) of sum 1. Returns unary (n, n, 3), and
    the weights of vertical neighbours (n - 1, n) and of horizontal ones (n, n - 1).
    """
    n = len(shares[0])
    smoothness = beta / (16 * n)
    take = np.stack([shares[1], shares[0]])  # what taking a block from one image loses of the other
    patches = [_patch_means(image, n) for image in images]
    weights = []
    for costs, sides in ((take, patches), (take.swapaxes(1, 2), [side.swapaxes(0, 1) for side in patches])):
        # [i, j]: block b from image i, the next one, c, from image j
        difference = np.array([[_border_difference(first, second, n) for second in sides] for first in sides])
        costs[:, :-1] += smoothness * gamma * difference.mean(1)
        costs[:, 1:] += smoothness * gamma * difference.mean(0)
        mixed, same = difference[0, 1] + difference[1, 0], difference[0, 0] + difference[1, 1]
        weights.append(smoothness * (1 + gamma * (mixed - same) / 2))
    prior = -eta / n**2 * np.log(np.array([(1 - lam) ** 2, 2 * lam * (1 - lam), lam**2]) + _PRIOR_FLOOR)
    levels = np.array([0.0, 0.5, 1.0])
    unary = take[0][..., None] * levels + take[1][..., None] * (1 - levels) + prior
    return unary, weights[0], weights[1].T


def _patch_means(image: np.ndarray, n: int) -> np.ndarray:
    """Mean colours, in [0, 1], of patches that tile every block."""
    height, width = image.shape[:2]
    tall, wide = math.gcd(height // n, _PATCH), math.gcd(width // n, _PATCH)
    return image.astype(np.float32).reshape(height // tall, tall, width // wide, wide, 3).mean(1).mean(2) / 255


def _border_difference(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    """(n - 1, n) mean absolute difference between the last patches of a block of `first` and the next of `second`."""
    rows = len(first) // n
    return np.abs(first[rows - 1 : -1 : rows] - second[rows::rows]).mean(2).reshape(n - 1, n, -1).mean(2)


def _solve_mask(unary: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The mask z (n, n) of the least energy, by one minimum cut; costs are rounded to 2^-30 of their sum.

    A block has two nodes, u for z >= 1/2 and v for z = 1, on the source's side (1, else 0) where that holds. For two
    blocks, 4 (z - z')^2 = |u - u'| + |u - v'| + |v - u'| + |v - v'| - u + v - u' + v'.
    """
    if min(down.min(), right.min()) < 0:
        raise ValueError("neighbouring blocks have a negative weight: `beta` must be at least 0 and `gamma` at most 1")
    n, count = len(unary), len(unary) ** 2
    block = np.arange(count).reshape(n, n)
    first = np.concatenate([block[:-1].ravel(), block[:, :-1].ravel()])
    second = np.concatenate([block[1:].ravel(), block[:, 1:].ravel()])
    weight = np.concatenate([down.ravel(), right.ravel()]) / 4
    around = np.bincount(first, weight, count) + np.bincount(second, weight, count)

    nodes, source, sink = np.arange(2 * count), 2 * count, 2 * count + 1
    step = np.diff(unary.reshape(count, 3), axis=1)
    step = np.concatenate([step[:, 0] - around, step[:, 1] + around])  # the cost of a node's being 1
    edges = [
        (nodes, np.full(2 * count, sink), step.clip(min=0)),
        (np.full(2 * count, source), nodes, (-step).clip(min=0)),
    ]
    for i in (0, count):
        for j in (0, count):
            edges += [(first + i, second + j, weight), (second + j, first + i, weight)]
    total = sum(capacity.sum() for _, _, capacity in edges)
    edges.append((nodes[count:], nodes[:count], np.full(count, total)))  # z = 1 implies z >= 1/2
    tails, heads, capacities = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    tails, heads = tails.astype(np.int32), heads.astype(np.int32)  # maximum_flow takes no int64 before scipy 1.15
    capacities = np.rint(capacities * (2**30 / (total or 1)))
    graph = csr_array((capacities, (tails, heads)), shape=(2 * count + 2, 2 * count + 2), dtype=np.int32)

    residual = graph - maximum_flow(graph, source, sink).flow
    residual.eliminate_zeros()
    ones = np.zeros(2 * count + 2)
    ones[breadth_first_order(residual, source, return_predecessors=False)] = 1
    return ((ones[:count] + ones[count : 2 * count]) / 2).reshape(n, n)


def _transport(saliency: np.ndarray, kept: np.ndarray, cost: float = 0.8) -> np.ndarray:
    """The order of an image's blocks that keeps the most saliency for the least movement, by linear assignment.

    It maximises the sum over places i of kept_i saliency_order[i] - cost distance(i, order[i])^2 / (n - 1)^2, given
    `kept` (n, n) bool, where the mask shows the image. The order (n * n,) says which block comes to lie at each place:
    the identity for uniform saliency.
    """
    n = len(saliency)
    y, x = np.divmod(np.arange(n * n), n)
    distance = ((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2) / (n - 1) ** 2
    return linear_sum_assignment(cost * distance - kept.reshape(-1, 1) * saliency.reshape(1, -1))[1]


def _puzzlemix(
    images: Sequence[np.ndarray],
    saliencies: Sequence[np.ndarray],
    lam: float,
    n: int,
    *,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
    transport_cost: float = 0.8,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The mix (H, W, 3) uint8, z (n, n), and for each image the order (n * n,) of its blocks, as `_transport` gives it.

    The images are (H, W, 3) uint8, of sides divisible by n; their saliencies (H, W) are not negative.
    """
    shares = [_block_saliency(saliency, n) for saliency in saliencies]
    z = _solve_mask(*_mask_costs(images, shares, lam, beta=beta, gamma=gamma, eta=eta))
    orders = _transport(shares[0], z > 0, transport_cost), _transport(shares[1], z < 1, transport_cost)
    ours, theirs = (_permute_blocks(image, order) for image, order in zip(images, orders, strict=True))
    return blend(ours, theirs, _expand_blocks(z, ours.shape[:2])), z, orders


@dataclass(frozen=True, kw_only=True)
class PuzzleMix(PairSynthesizer):
    """Mixes each row's image with that of a partner from `source`, block by block, by what is salient in either.

    The row's image is resized to the nearest sides that are multiples of n, its partner to the same. A source with
    several labels is as salient as the weighted mean over them; one with an object mask keeps its part, moved along.
    torch runs in one thread meanwhile: `num_proc` spreads the rows.

    Args:
        saliency (`Callable`): `(image (H, W, 3) uint8, label) -> (H, W)`, picklable and deterministic:
            [`InputGradientSaliency`], or your own.
        blocks (`tuple[int, ...]`): n is drawn from these.
        alpha (`float`): lambda, the expected share that stays, is drawn from
            Beta(alpha, alpha).
        beta, gamma, eta (`float`): Weights of the smoothness of the mask, of
            that of the colours across its borders (at most 1), and of the prior by lambda.
        transport_cost (`float`): Cost of moving a block by the side of the image. At the authors' 0.8 next to no block
            moves where saliency is smooth; at 0.05 one in twenty did (photographs of pets, a trained EfficientNet).

    Example:
        >>> def redness(image, label):
        ...     return image[..., 0].astype(float)
        >>> mixed = PuzzleMix(source=rows, saliency=redness, blocks=(4,)).map(rows)
        >>> mixed[0]["labels"], mixed[0]["label_weights"]
        ([0, 1], [0.625, 0.375])
    """

    saliency: Saliency
    blocks: tuple[int, ...] = (2, 4, 8, 16)
    alpha: float = 1.0
    beta: float = 1.2
    gamma: float = 0.5
    eta: float = 0.2
    transport_cost: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.blocks or min(self.blocks) < 2:
            raise ValueError(f"`blocks` holds numbers of blocks a side, each at least 2, not {self.blocks}")
        if not (self.alpha > 0 and min(self.beta, self.eta, self.transport_cost) >= 0 and 0 <= self.gamma <= 1):
            raise ValueError("give `alpha` > 0, `beta`, `eta` and `transport_cost` >= 0, and `gamma` in [0, 1]")

    def synthesize(self, row: Row, rng: np.random.Generator) -> Sample:
        n, lam = int(rng.choice(self.blocks)), float(rng.beta(self.alpha, self.alpha))
        image, sources = self.read(row)
        height, width = (max(round(side / n), 1) * n for side in image.shape[:2])
        other, other_sources = self.partner(rng, (height, width))
        images, parts = [resize(image, (height, width)), other], [sources.resized((height, width)), other_sources]
        saliencies = [self._saliency_of(*pair) for pair in zip(images, parts, strict=True)]
        options = {name: getattr(self, name) for name in ("beta", "gamma", "eta", "transport_cost")}
        mixed, z, orders = _puzzlemix(images, saliencies, lam, n, **options)
        ours, theirs = (
            part.with_masks(partial(_permute_blocks, order=order)) for part, order in zip(parts, orders, strict=True)
        )
        return Sample(mixed, *ours.mix(theirs, _expand_blocks(1 - z, (height, width))))

    def _saliency_of(self, image: np.ndarray, sources: Sources) -> np.ndarray:
        total = np.zeros(image.shape[:2])
        for label, weight in zip(sources.labels, sources.weights, strict=True):
            saliency = np.asarray(self.saliency(image.copy(), label))
            if saliency.shape != total.shape or not np.isfinite(saliency).all() or saliency.min() < 0:
                raise ValueError(
                    f"`saliency` must return finite numbers >= 0 of shape {total.shape}, the image's; it returned"
                    f" shape {saliency.shape}, from {saliency.min():.3g} to {saliency.max():.3g}"
                )
            total += weight * saliency
        return total
