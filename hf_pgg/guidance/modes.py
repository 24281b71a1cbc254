"""modes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

# ---------------------------------------------------------------------------------------------- model hygiene


@contextlib.contextmanager
def running_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm uses its running statistics inside: batch statistics leak one sample's gradient into another's."""
    switched = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    for module in switched:
        module.eval()
    try:
        yield
    finally:
        for module in switched:
            module.train()


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model evaluates inside; the training flag of every module is restored, a frozen batch norm's too."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether some batch norm layer normalises with the statistics of the batch."""
    return any(isinstance(module, _BatchNorm) and module.training for module in model.modules())


def second_derivatives() -> contextlib.AbstractContextManager:
    """Attention kernels with second derivatives: the fused ones have none. Needed around the forward of exact mode."""
    return sdpa_kernel(SDPBackend.MATH)


class RandomState:
    """The random state before a forward pass, so that a second pass draws the same dropout and drop-path masks."""

    def __init__(self, device: torch.device):
        self._cuda = device if device.type == "cuda" else None
        self._cpu_state = torch.get_rng_state()
        self._cuda_state = torch.cuda.get_rng_state(device) if self._cuda else None

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Draws the same numbers inside as were drawn after this state was taken; outside, draws go on as before."""
        with torch.random.fork_rng(devices=[self._cuda] if self._cuda else []):
            torch.set_rng_state(self._cpu_state)
            if self._cuda is not None and self._cuda_state is not None:
                torch.cuda.set_rng_state(self._cuda_state, self._cuda)
            yield
