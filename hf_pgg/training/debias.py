"""From-Fake-to-Real: what training needs when a label is tied to a bias attribute, and some groups are small.

A group is a (label, bias) pair. M. Qraitem, K. Saenko, B. Plummer, "From Fake to Real: Pretraining on Balanced
Synthetic Images to Prevent Spurious Correlations in Image Recognition" (arXiv 2308.04553): balanced synthetic rows
first, biased real rows second, so that telling real from synthetic never helps. The baselines (USB, ASB) mix both.

Here are two of the methods of stage two, resampling and GroupDRO, as children of [`~hf_pgg.PGGTrainer`], so that
either stage may be guided. The third, refitting the last layer (DFR), is in [`~hf_pgg.training.last_layer`]; how many
synthetic rows a group gets is in [`~hf_pgg.data.groups`].
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike
from torch.utils.data import WeightedRandomSampler

from hf_pgg.data.groups import GROUP, column_values
from hf_pgg.data.labels import class_feature
from hf_pgg.training.config import PGGConfig
from hf_pgg.training.trainer import PGGTrainer

_DRO_STATE = "group_dro.json"


class GroupBalancedSampler(WeightedRandomSampler):
    """Draws every group as often as any other, with replacement; as many draws an epoch as there are rows.

    The draws depend on the seed and the epoch alone, so that a resumed run sees what an uninterrupted one sees.
    `groups` are (N,) integers, N > 0 (else ValueError), the group of each row.

    Example:
        >>> groups = np.array([0] * 97 + [1] * 3)
        >>> int(groups[list(GroupBalancedSampler(groups))].sum())  # of 100 draws
        47
    """

    def __init__(self, groups: ArrayLike, seed: int = 0):
        groups = np.asarray(groups)
        if groups.ndim != 1 or len(groups) == 0:
            raise ValueError(f"`groups` is of shape {groups.shape}: give one integer for each row, (N,) with N > 0")
        values, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
        weights = 1 / (len(values) * counts[index])
        super().__init__(weights.tolist(), len(groups), replacement=True, generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that the next pass draws for; the Trainer calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        key = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0]
        self.generator.manual_seed(int(key))
        return super().__iter__()


class ResamplingTrainer(PGGTrainer):
    """A [`~hf_pgg.PGGTrainer`] whose batches hold every group equally often.

    `group_column` holds integers, see [`~hf_pgg.data.groups.add_groups`].

    Example:
        >>> from hf_pgg.data.groups import add_groups
        >>> from hf_pgg.training.models import image_classifier
        >>> model, processor = image_classifier(rows.features["label"], image_size=32)
        >>> train = add_groups(rows, ["label"])
        >>> trainer = ResamplingTrainer(model, PGGConfig(use_cpu=True), train_dataset=train, processing_class=processor)
        >>> len(trainer.get_train_dataloader().sampler)
        4
    """

    def __init__(self, *arguments: Any, group_column: str = GROUP, **kwargs: Any):
        super().__init__(*arguments, **kwargs)
        args = self.args
        groups = _train_groups(self.train_dataset, group_column)
        self._sampler = GroupBalancedSampler(groups, args.seed if args.data_seed is None else args.data_seed)

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupBalancedSampler:
        return self._sampler


def _train_groups(dataset: Any, column: str) -> np.ndarray:
    if not isinstance(dataset, Dataset) or column not in dataset.column_names:
        raise ValueError(f"the training set has no column '{column}': give a map-style Dataset, see `add_groups`")
    return column_values(dataset, column)


class GroupDRO:
    """The group distributionally robust loss: weights q over the groups follow the losses.

    S. Sagawa, P. W. Koh, T. Hashimoto, P. Liang, "Distributionally Robust Neural Networks for Group Shifts" (ICLR
    2020), algorithm 1: q_g <- q_g exp(eta l_g) / Z, then L = sum_g q_g l_g, with l_g the mean loss of group g in the
    batch, 0 where it has no row.

    `present` (G,) bool marks the groups that have training rows; they start equal, the others stay at 0. `step_size` is
    eta. No such group, or no positive eta, is a ValueError.

    Example:
        >>> dro = GroupDRO([True, True], step_size=0.1)
        >>> loss = dro.loss(torch.tensor([2.0, 1.0]), groups=torch.tensor([0, 1]))
        >>> dro.q  # the group with the larger loss weighs more
        tensor([0.5250, 0.4750])
    """

    def __init__(self, present: ArrayLike, step_size: float = 0.01):
        mask = torch.as_tensor(np.asarray(present, dtype=bool))
        if mask.ndim != 1 or not mask.any():
            raise ValueError(f"`present` marks the groups that have rows, none is in {np.asarray(present).tolist()}")
        if not step_size > 0:
            raise ValueError(f"step_size is {step_size}: give one above 0, at which the weights move")
        self.step_size = step_size
        # kept as logarithms: exp(eta l) overflows from eta l = 88 on, and a weight that falls to 0 never rises again
        self.log_q = (mask.float() / mask.sum()).log()

    @property
    def q(self) -> torch.Tensor:
        """The weights (G,), which sum to 1."""
        return self.log_q.exp()

    def loss(
        self,
        losses: torch.Tensor,
        groups: torch.Tensor,
        counts: torch.Tensor | None = None,
        reduce: Callable[[torch.Tensor], torch.Tensor] = lambda means: means,
    ) -> torch.Tensor:
        """Moves q, and returns the weighted loss ().

        Args:
            losses, groups: (B,) float and int64.
            counts: (G,) rows of each group in the whole batch, where these rows are a part of it (accumulation, several
                processes). The parts' exponents add up, so q ends where the whole batch would have moved it.
            reduce: Sums a tensor (G,) over the processes.
        """
        if counts is None:
            counts = torch.bincount(groups, minlength=len(self.log_q))
        sums = torch.zeros(len(self.log_q), dtype=losses.dtype, device=losses.device).index_add(0, groups, losses)
        means = sums / counts.clamp(min=1)
        moved = self.log_q.to(losses.device) + self.step_size * reduce(means.detach()).float()
        self.log_q = moved.log_softmax(0)
        return (self.q * means).sum()

    def state_dict(self) -> dict[str, Any]:
        """The groups' weights, for a checkpoint."""
        return {"log_q": self.log_q.tolist(), "step_size": self.step_size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint's weights; ValueError if they are of another number of groups."""
        log_q = torch.tensor(state["log_q"]) if "log_q" in state else torch.tensor(state["q"]).log()  # of an older run
        if len(log_q) != len(self.log_q):
            raise ValueError(
                f"the saved state has {len(log_q)} groups, the training set has {len(self.log_q)}: resume"
                " with the data that it was trained on"
            )
        self.log_q, self.step_size = log_q, state["step_size"]


class GroupDROTrainer(PGGTrainer):
    """A [`~hf_pgg.PGGTrainer`] whose classification loss is that of [`GroupDRO`]; guidance is added unweighted.

    q is saved in the checkpoints and restored with them; the largest weight is logged as `largest_group_weight`.

    Args:
        group_column (`str`): `ClassLabel` of the training set, see [`~hf_pgg.data.groups.add_groups`]; it must be among
            `args.group_columns`, which bring it into the batch.
        step_size (`float`): eta of [`GroupDRO`].

    Example:
        >>> GroupDROTrainer(None, PGGConfig(use_cpu=True), train_dataset=rows)
        Traceback (most recent call last):
        ValueError: `group_columns` is None: add 'group', or no batch has groups
    """

    def __init__(
        self,
        model: Any,
        args: PGGConfig,
        *arguments: Any,
        group_column: str = GROUP,
        step_size: float = 0.01,
        **kwargs: Any,
    ):
        if group_column not in (args.group_columns or []):
            raise ValueError(f"`group_columns` is {args.group_columns}: add '{group_column}', or no batch has groups")
        super().__init__(model, args, *arguments, **kwargs)
        rows: Any = self.train_dataset
        groups, classes = _train_groups(rows, group_column), class_feature(rows.features, group_column).num_classes
        self.group_column = group_column
        self.dro = GroupDRO(np.bincount(groups, minlength=classes) > 0, step_size)
        self._group_counts: torch.Tensor | None = None

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        groups = [batch[self.group_column].to(device) for batch in batch_samples]
        if groups:
            self._group_counts = self._over_processes(torch.bincount(torch.cat(groups), minlength=len(self.dro.log_q)))
        return super()._get_num_items_in_batch(batch_samples, device)

    def _over_processes(self, values: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(values, "sum") if self.args.world_size > 1 else values

    def classification_loss(
        self, entropy: torch.Tensor, groups: Mapping[str, Any], count: torch.Tensor | int
    ) -> torch.Tensor:
        if not self.model.training:
            return super().classification_loss(entropy, groups, count)
        return self.dro.loss(entropy, groups[self.group_column], self._group_counts, self._over_processes)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs["largest_group_weight"] = self.dro.q.max().item()
        super().log(logs, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            (Path(output_dir) / _DRO_STATE).write_text(json.dumps(self.dro.state_dict()))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.dro.load_state_dict(json.loads((Path(checkpoint) / _DRO_STATE).read_text()))
