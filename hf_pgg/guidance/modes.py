"""How a model runs while it is guided: batch statistics, evaluation, attention kernels, precision, random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

_KINKED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.MaxPool2d)


def freeze_batch_norm(model: nn.Module) -> Sequence[nn.Module]:
    """Makes batch norm layers use their running statistics, and returns those that did not before.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3).eval())
        >>> len(freeze_batch_norm(model)), uses_batch_statistics(model)
        (1, False)
    """
    switched = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    for module in switched:
        module.eval()
    return switched


@contextlib.contextmanager
def running_statistics(model: nn.Module) -> Iterator[None]:
    """Makes batch norm use its running statistics inside a `with` block.

    The statistics of the batch would leak the gradient of one sample into those of the others.

    Example:
        >>> model = torch.nn.BatchNorm1d(3)
        >>> with running_statistics(model):
        ...     uses_batch_statistics(model)
        False
    """
    switched = freeze_batch_norm(model)
    try:
        yield
    finally:
        for module in switched:
            module.train()


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switches a model to evaluation inside a `with` block; afterwards every module has the mode it had before.

    Example:
        >>> layer = torch.nn.Dropout()
        >>> with evaluation_mode(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def uses_batch_statistics(model: nn.Module) -> bool:
    """Returns whether some batch norm layer normalises with the statistics of the batch.

    Example:
        >>> uses_batch_statistics(torch.nn.BatchNorm1d(3)), uses_batch_statistics(torch.nn.BatchNorm1d(3).eval())
        (True, False)
    """
    return any(isinstance(module, _BatchNorm) and module.training for module in model.modules())


def has_kinks(model: nn.Module) -> bool:
    """Returns whether some layer is piecewise linear, so that its derivative jumps.

    Example:
        >>> has_kinks(torch.nn.ReLU()), has_kinks(torch.nn.GELU())
        (True, False)
    """
    return any(isinstance(layer, _KINKED) for layer in model.modules())


def second_derivatives() -> contextlib.AbstractContextManager:
    """Makes attention use kernels that have second derivatives, inside a `with` block; the fused kernels have none.

    Example:
        >>> queries = torch.ones(1, 1, 2, 4, requires_grad=True)
        >>> with second_derivatives():
        ...     out = torch.nn.functional.scaled_dot_product_attention(queries, queries, queries)
    """
    return sdpa_kernel(SDPBackend.MATH)


class RandomState:
    """The random state before a forward pass, so that a second pass draws the same dropout and drop-path masks.

    Example:
        >>> state, drawn = RandomState(torch.device("cpu")), torch.rand(3)
        >>> with state.replayed():
        ...     torch.equal(torch.rand(3), drawn)
        True
    """

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

    def replaying(
        self, forward: Callable[[torch.Tensor], torch.Tensor], kind: str
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """`forward` with the same random numbers each time, under the autocast of now for devices of this kind."""
        mixed, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

        def again(point: torch.Tensor) -> torch.Tensor:
            with self.replayed(), torch.autocast(kind, dtype=dtype, enabled=mixed):
                return forward(point)

        return again
