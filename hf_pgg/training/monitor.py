"""What a guided run reports of itself: averages of its losses, overflows, and features that died."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from hf_pgg.guidance.engines import Guidance

logger = logging.get_logger(__name__)

_NAMES = ("guidance_loss", "share", "guided", "classification_loss", "right", "samples")


class Telemetry:
    """Adds up what the micro-batches report between two logs, on the device, so that no step waits for it.

    `max_nonfinite_steps` are the batches in a row whose guidance may be NaN or infinite before training stops.

    Example:
        >>> telemetry = Telemetry(max_nonfinite_steps=10, num_classes=2)
        >>> logits, labels, weights = torch.tensor([[2.0, 1.0]]), torch.tensor([[0]]), torch.ones(1, 1)
        >>> telemetry.add_batch(logits, labels, weights, entropy=torch.tensor([0.3]), guidance=None)
        >>> telemetry.flush(torch.device("cpu"), accelerator=None)["train_accuracy"]
        1.0
    """

    def __init__(self, max_nonfinite_steps: int, num_classes: int):
        self.max_nonfinite_steps, self.num_classes = max_nonfinite_steps, num_classes
        self.nonfinite_steps = 0
        self.collapsed_at: int | None = None
        self.backoff = 1.0
        self._nonfinite_in_a_row = 0
        self._finite_in_a_row = 0
        self._windows_at_chance = 0
        self._window = np.zeros(2)
        self._samples, self._trained, self._guided = 0.0, 0.0, 0.0
        self._sums: dict[str, torch.Tensor] = {}

    def add_batch(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        entropy: torch.Tensor,
        guidance: Guidance | None,
    ) -> None:
        """Adds one micro-batch: logits (B, classes), labels and weights (B, K), entropy (B,)."""
        top = labels.gather(1, weights.argmax(1, keepdim=True))[:, 0]
        self._add("classification_loss", entropy.sum())
        self._add("right", (logits.argmax(1) == top).sum())
        self._add("samples", torch.tensor(len(labels)))
        if guidance is not None:
            self._add("guidance_loss", guidance.loss.sum())
            self._add("share", guidance.target_share.sum())
            self._add("guided", guidance.measured.sum())

    def _add(self, name: str, value: torch.Tensor) -> None:
        value = value.detach().double()
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def flush(self, device: torch.device, accelerator: Any | None) -> dict[str, float]:
        """Returns averages over the samples since the last call, of all processes where `accelerator` is given."""
        if not self._sums:
            return {}
        sums = torch.stack([self._sums.get(n, torch.zeros((), dtype=torch.float64)).to(device) for n in _NAMES])
        if accelerator is not None:
            sums = accelerator.reduce(sums, "sum")
        total = dict(zip(_NAMES, sums.tolist(), strict=True))
        self._sums, self._samples = {}, total["samples"]
        self._trained, self._guided = self._trained + total["samples"], self._guided + total["guided"]
        logs = {
            "classification_loss": total["classification_loss"] / total["samples"],
            "train_accuracy": total["right"] / total["samples"],
        }
        if total["guided"]:
            logs["guidance_loss"] = total["guidance_loss"] / total["samples"]
            logs["target_gradient_share"] = total["share"] / total["guided"]
        if self.nonfinite_steps:
            logs["nonfinite_steps"] = self.nonfinite_steps
        return logs

    @property
    def any_guided(self) -> bool | None:
        """Whether some row has been guided since training began, None before that."""
        trained, guided = self._trained, self._guided
        if self._sums:
            trained, guided = trained + 1, guided + float(self._sums.get("guided", torch.zeros(())))
        return guided > 0 if trained else None

    def warn_if_unguided(self) -> None:
        """Says once that guidance does nothing, where no row has had provenance."""
        if self.any_guided is False:
            logger.warning_once("no row so far had provenance, so that nothing was guided: see `add_provenance`")

    def is_finite(self, guidance: Guidance, step: int, agree: Callable[[bool], bool] = bool) -> bool:
        """Returns False if this batch must train without guidance; then the next steps are smaller (`backoff`).

        `agree` returns what the processes together say, where they must skip a batch together. After
        `max_nonfinite_steps` in a row it is a RuntimeError.
        """
        if agree(bool(torch.isfinite(guidance.loss).all() and torch.isfinite(guidance.surrogate).all())):
            self._nonfinite_in_a_row = 0
            self._finite_in_a_row += 1
            if self.backoff < 1 and self._finite_in_a_row % 100 == 0:
                self.backoff *= 2
            return True
        self.nonfinite_steps += 1
        self._nonfinite_in_a_row += 1
        self._finite_in_a_row = 0
        self.backoff /= 2
        logger.warning(
            f"step {step}: the guidance loss is not finite; this batch trains without it, the next ones take"
            f" {self.backoff:g} of the step"
        )
        if self._nonfinite_in_a_row >= self.max_nonfinite_steps:
            raise RuntimeError(
                f"the guidance loss was NaN or infinite {self._nonfinite_in_a_row} times in a row: the model has"
                " diverged. Lower the learning rate or alpha, or train in bf16 or float32 instead of fp16."
            )
        return False

    def watch_for_collapse(self, accuracy: float, state: Any) -> None:
        """Warns if guidance has destroyed the features: the training accuracy is at chance after a fifth of the steps.

        `accuracy` is that on the training batches between the last two calls of `flush`.
        """
        chance = 1 / self.num_classes
        if state.global_step <= 0.2 * state.max_steps:
            return
        self._window += np.array([accuracy * self._samples, self._samples])
        right, samples = self._window
        spread = (chance * (1 - chance) / max(samples, 1)) ** 0.5
        if 2 * spread > chance / 2:  # too few samples to tell
            return
        self._window[:] = 0
        self._windows_at_chance = self._windows_at_chance + 1 if right / samples < chance + 2 * spread else 0
        if self._windows_at_chance >= 3 and self.collapsed_at is None:
            self.collapsed_at = state.global_step
            logger.warning(
                f"step {state.global_step}: accuracy on the training batches is {right / samples:.2f}, chance is"
                f" {chance:.2f}: the features are destroyed. Lower alpha or the learning rate."
            )
