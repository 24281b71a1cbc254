"""The loss of Real-Fake: denoising with Min-SNR weights, and the distance between two means over the batch.

After Yuan et al., "Real-Fake: Effective Training Data Synthesis Through Distribution Matching" (ICLR 2024), and Hang
et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy" (ICCV 2023): L = mean_b w_b MSE_b + lambda * MMD.
With w_b the weight of sample b and d_b = w_b (prediction - target), the squared distance between the means (MMD) is

    "sum"       mean_chw (sum_b d_b)^2             as published, with lambda = 0.003 at a batch of 8
    "mean"      mean_chw (mean_b d_b)^2            the same at lambda * B^2 (0.192 at a batch of 8)
    "unbiased"  mean_chw of d_b d_c, averaged over the pairs b != c

The first two hold, beside the distance, the scatter of the samples, which grows with the batch size B in the first and
shrinks in the second. The expectation of the third is the same at every batch size, whatever the accumulation and the
number of processes; an estimate may be negative. All three see one micro-batch of one process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

REDUCTIONS = ("sum", "mean", "unbiased")
PREDICTION_TYPES = ("epsilon", "v_prediction")


class GeneratorLoss(NamedTuple):
    """The loss and its two parts, each () float32: `loss` = `denoising` + lambda * `matching`.

    Example:
        >>> GeneratorLoss(torch.tensor(1.5), torch.tensor(1.0), torch.tensor(0.5)).denoising
        tensor(1.)
    """

    loss: torch.Tensor
    denoising: torch.Tensor
    matching: torch.Tensor


def add_noise(scheduler: Any, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noises clean latents or pixels (B, C, H, W), each at a random step drawn from torch's global generator.

    Returns:
        The noised samples, their timesteps (B,) int64, what is to be predicted of them (B, C, H, W), and their
        signal-to-noise ratios alpha_bar / (1 - alpha_bar), (B,) float32.

    Raises:
        ValueError: If the scheduler's model predicts neither the noise nor the velocity.

    Example:
        >>> from diffusers import DDPMScheduler
        >>> samples, timesteps, target, snr = add_noise(DDPMScheduler(), torch.zeros(4, 3, 8, 8))
        >>> samples.shape, snr.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4]))
    """
    kind = scheduler.config.prediction_type
    if kind not in PREDICTION_TYPES:
        raise ValueError(f"the scheduler's prediction_type is '{kind}': take one of {', '.join(PREDICTION_TYPES)}")
    noise = torch.randn_like(clean)
    steps = scheduler.config.num_train_timesteps
    timesteps = torch.randint(0, steps, (len(clean),), device=clean.device)
    alpha_bar = scheduler.alphas_cumprod.to(clean.device)[timesteps].float()
    target = noise if kind == "epsilon" else scheduler.get_velocity(clean, noise, timesteps)
    return scheduler.add_noise(clean, noise, timesteps), timesteps, target, alpha_bar / (1 - alpha_bar)


def min_snr_weights(snr: torch.Tensor, gamma: float = 5.0, prediction_type: str = "epsilon") -> torch.Tensor:
    """Returns (B,) weights: min(SNR, gamma) / SNR where noise is predicted, / (SNR + 1) where velocity is; gamma > 0.

    Example:
        >>> min_snr_weights(torch.tensor([1.0, 5.0, 50.0]), gamma=5.0)
        tensor([1.0000, 1.0000, 0.1000])
    """
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma}: give a positive number")
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1)
    return snr.clamp(max=gamma) / (snr + 1)


def distribution_matching_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    *,
    matching_weight: float = 0.003,
    reduction: str = "sum",
) -> GeneratorLoss:
    """Returns Real-Fake's loss, computed in float32: see the top of this module.

    Args:
        prediction, target (`torch.Tensor`): (B, ...) of any number of axes.
        weights (`torch.Tensor`): (B,) weights of the samples, see [`min_snr_weights`].
        matching_weight (`float`): lambda; 0 is Min-SNR training alone.
        reduction (`str`): `"sum"`, `"mean"` or `"unbiased"`; the last is 0 for a single sample, which has no pair.

    Raises:
        ValueError: If `reduction` is unknown, or the shapes do not fit.

    Example:
        >>> ones = torch.ones(4, 3)
        >>> distribution_matching_loss(ones, 0 * ones, torch.ones(4), matching_weight=0.5, reduction="mean").loss
        tensor(1.5000)
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is '{reduction}'; choose {', '.join(REDUCTIONS)}")
    if prediction.shape != target.shape or weights.shape != prediction.shape[:1]:
        shapes = [tuple(tensor.shape) for tensor in (prediction, target, weights)]
        raise ValueError("prediction {}, target {} and weights {} do not fit".format(*shapes))
    error = (prediction.float() - target.float()).flatten(1)
    weights = weights.float()
    denoising = (weights * error.square().mean(1)).mean()
    matching = _mean_discrepancy(weights[:, None] * error, reduction)
    return GeneratorLoss(denoising + matching_weight * matching, denoising, matching)


def _mean_discrepancy(difference: torch.Tensor, reduction: str) -> torch.Tensor:
    """The squared mean () of the weighted differences (B, elements), averaged over the elements."""
    if reduction == "mean":
        return difference.mean(0).square().mean()
    total = difference.sum(0).square().mean()
    if reduction == "sum":
        return total
    count = len(difference)
    if count < 2:  # the last batch of an epoch may have no pair: it says nothing of the term
        return 0 * total
    return (total - difference.square().sum(0).mean()) / (count * (count - 1))
