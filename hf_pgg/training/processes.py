"""What many processes must agree on: with sharded parameters each makes the same passes, whatever its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from hf_pgg.data.provenance import LABEL_WEIGHTS, LABELS, PADDING_LABEL, PROVENANCE


def is_sharded(trainer: Any, module: nn.Module) -> bool:
    """Returns whether parameters are spread over processes: by FSDP, DeepSpeed, or torch's own `fully_shard`.

    Example:
        >>> from types import SimpleNamespace
        >>> is_sharded(SimpleNamespace(is_fsdp_enabled=False, is_deepspeed_enabled=False), model)
        False
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return True
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def agree_on_provenance(accelerator: Any, batch: Mapping[str, Any], input_name: str) -> dict[str, Any]:
    """Returns a batch with provenance if that of any process has it, and with as many places for labels everywhere.

    Without this, a process whose batch has no guided row, or fewer labels a row, would make fewer passes than the
    others, which then wait for it for ever. `input_name` is the key of the guided input (B, ...).

    Example:
        >>> from accelerate import Accelerator
        >>> batch = {"pixel_values": torch.ones(1, 3, 4, 4), "labels": torch.tensor([[0]])}
        >>> "provenance" in agree_on_provenance(Accelerator(cpu=True), batch, "pixel_values")  # no process has any
        False
    """
    labels, provenance, batch = batch[LABELS], batch.get(PROVENANCE), dict(batch)
    own = torch.tensor([[labels.shape[1], int(provenance is not None)]], device=labels.device)
    places, guided = accelerator.gather(own).amax(0).tolist()
    if not guided:
        return batch
    if provenance is None:
        shape = batch[input_name].shape[1:]
        shape = (*shape[:-3], *shape[-2:]) if input_name == "pixel_values" else shape
        provenance = torch.zeros(len(labels), labels.shape[1], *shape, device=labels.device)
    extra = places - labels.shape[1]
    batch[LABELS] = F.pad(labels, (0, extra), value=PADDING_LABEL)
    if LABEL_WEIGHTS in batch:
        batch[LABEL_WEIGHTS] = F.pad(batch[LABEL_WEIGHTS], (0, extra))
    batch[PROVENANCE] = torch.cat([provenance, torch.zeros_like(provenance[:, :1]).repeat_interleave(extra, 1)], dim=1)
    return batch


def all_agree(accelerator: Any, yes: bool) -> bool:
    """Returns whether all processes say yes: what one refuses all refuse, or one would wait for the others for ever.

    Example:
        >>> from accelerate import Accelerator
        >>> all_agree(Accelerator(cpu=True), True)
        True
    """
    if accelerator.num_processes == 1:
        return yes
    return bool(accelerator.gather(torch.tensor([int(yes)], device=accelerator.device)).min())
