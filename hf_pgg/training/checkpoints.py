"""Checkpoints that are complete or not there, that load under the names they were saved with, and that say how to
use them: preprocessing and class names are in them, in the precision that was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import (
    SaveStrategy,
    TrainOutput,
    get_last_checkpoint,
    sort_checkpoints,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from hf_pgg.training.runs import RunName, alone_in, run_of, saying_that_a_disk_is_full, tell_processes
from hf_pgg.training.validation import model_config

logger = logging.get_logger(__name__)

_STAGING = "_unfinished"  # a push passes over what begins with an underscore


def staging_folder(folder: str | Path) -> Path:
    """Returns where a checkpoint is written before it is complete; no search for checkpoints finds it.

    Example:
        >>> str(staging_folder("out"))
        'out/_unfinished'
    """
    return Path(folder) / _STAGING


def _published_path(checkpoint: str | None, folder: str | Path) -> str | None:
    """Where a checkpoint of the staging folder lies once it is published; any other stays as it is."""
    if checkpoint is None or Path(checkpoint).parent != staging_folder(folder):
        return checkpoint
    return str(Path(folder) / Path(checkpoint).name)


def _publish(folder: str, state: Any) -> Path:
    """Moves the one checkpoint in the staging folder to its place by one `rename`, and returns its path."""
    staging = staging_folder(folder)
    (written,) = staging.iterdir()
    final = Path(folder) / written.name
    best = _published_path(state.best_model_checkpoint, folder)
    if best != state.best_model_checkpoint:
        state.best_model_checkpoint = best
        state.save_to_json(str(written / TRAINER_STATE_NAME))
    if final.exists() and run_of(final) == run_of(written):  # a resumed run that passes the same step again
        final.rename(staging / "replaced")
    elif final.exists():
        final.rename(_free_name(Path(folder) / f"_earlier-{written.name}"))
    written.rename(final)
    shutil.rmtree(staging)
    return final


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}-{i}") for i in count(2))
    return path if not path.exists() else next(name for name in names if not name.exists())


class AtomicCheckpoints(Trainer):
    """A `Trainer` whose checkpoints are complete or not there: a crash or a full disk leaves no half checkpoint.

    They load under the names that they were saved with, also where a model's modules have other names.

    Example:
        >>> import copy, tempfile
        >>> from transformers import TrainingArguments
        >>> options = {"max_steps": 1, "save_steps": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True}
        >>> args = TrainingArguments(tempfile.mkdtemp(), **options)
        >>> row = {"pixel_values": torch.ones(3, 16, 16), "labels": 0}
        >>> result = AtomicCheckpoints(copy.deepcopy(model), args, train_dataset=[row]).train()
        {'train_runtime': ...}
        >>> [folder.name for folder in Path(args.output_dir).iterdir()]
        ['checkpoint-1']
    """

    staging = False  # while a checkpoint is being written

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """The stock one, alone in its folder: a run that saves there already is not disturbed."""
        folder = Path(self._get_output_dir(trial))
        saves = self.args.save_strategy != SaveStrategy.NO
        with alone_in(folder, self.accelerator, saves and self.args.should_save):
            last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
            given = last if resume_from_checkpoint is True else resume_from_checkpoint or None
            self._run.begin(folder, given, saves)
            if given is not None:
                tell_processes(given, self.args.world_size)
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    @property
    def _run(self) -> RunName:
        """The callback that names the run in its checkpoints."""
        found = next((one for one in self.callback_handler.callbacks if isinstance(one, RunName)), None)
        if found is None:
            found = RunName()
            self.add_callback(found)
        return found

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return str(staging_folder(folder)) if self.staging else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = self._get_output_dir(trial)
        if self.args.should_save:
            shutil.rmtree(staging_folder(folder), ignore_errors=True)  # of an earlier crash
        self.accelerator.wait_for_everyone()
        self.staging = True
        try:
            with saying_that_a_disk_is_full(folder, staging_folder(folder)):
                super()._save_checkpoint(model, trial)
        finally:
            self.staging = False
        self.accelerator.wait_for_everyone()  # every process has written its random state
        if self.args.should_save:
            checkpoint = _publish(folder, self.state)
            self._rotate(folder)
            if self.args.push_to_hub:
                self._push_from_checkpoint(str(checkpoint))
        self.accelerator.wait_for_everyone()
        # the other processes, too, load the best one in the end
        self.state.best_model_checkpoint = _published_path(self.state.best_model_checkpoint, folder)

    def _own_checkpoints(self, folder: str) -> list[str]:
        """Those of this run, the oldest first; the best one, if there is one, next to the last."""
        found = sort_checkpoints(folder, use_mtime=True, best_model_checkpoint=self.state.best_model_checkpoint)
        return [path for path in found if run_of(Path(path)) == self._run.name]

    def _rotate(self, folder: str) -> None:
        """Deletes the oldest checkpoints of this run beyond `save_total_limit`; those of other runs stay."""
        limit, own = self.args.save_total_limit, self._own_checkpoints(folder)
        if limit is not None and limit > 0 and own:
            keep = limit if self.state.best_model_checkpoint in (None, own[-1]) else max(limit, 2)
            for path in own[:-keep]:
                shutil.rmtree(path, ignore_errors=True)

    def _finalize_training(self, trial: Any, *args: Any) -> TrainOutput:
        """The stock one, which deletes all checkpoints but the best where one is kept: here those of this run."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            output = super()._finalize_training(trial, *args)
        finally:
            self.args.save_total_limit = limit
        best = self.state.best_model_checkpoint
        if self.args.should_save and limit == 1 and best is not None:
            for path in self._own_checkpoints(self._get_output_dir(trial)):
                if Path(path) != Path(best):
                    shutil.rmtree(path, ignore_errors=True)
        return output

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        _load_renamed_weights(self.model if model is None else model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            _load_renamed_weights(self.model, self.state.best_model_checkpoint)


def _load_renamed_weights(model: Any, folder: str) -> None:
    """Loads a checkpoint whose weights are stored under other names than the modules have (ViT in transformers 5).

    `save_pretrained` writes the Hub's old names, which the stock Trainer's `load_state_dict(strict=False)` passes
    over: the resumed run would go on from the initial weights, with a warning only.
    """
    if isinstance(model, PreTrainedModel) and not _stored_names(Path(folder)) <= set(model.state_dict()):
        model.load_state_dict(type(model).from_pretrained(folder).state_dict())


def _stored_names(folder: Path) -> set[str]:
    """The names of the weights in one file, or in the shards that an index lists; none in other formats."""
    if (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
        return set(json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_text())["weight_map"])
    if not (folder / SAFE_WEIGHTS_NAME).is_file():
        return set()
    with safe_open(folder / SAFE_WEIGHTS_NAME, framework="pt") as stored:
        return set(stored.keys())


def complete_model(model: Any, processor: Any, names: Sequence[str] | None) -> None:
    """Makes what is saved of a model say how it was trained: float32 weights, class names, the preprocessing of timm.

    Args:
        processor: The image processor. timm's wrapper saves no file of its own but reads the configuration; others are
            saved beside the model.
        names (`Sequence[str]`, *optional*): The data's class names, for a model that has none of its own (`LABEL_0`,
            ...); those of another number of classes are not taken.

    Example:
        >>> import copy
        >>> named = copy.deepcopy(model)
        >>> complete_model(named, None, ["cat", "dog"])
        >>> named.config.id2label
        {0: 'cat', 1: 'dog'}
    """
    config = model_config(model)
    _to_single_precision(model)
    if config is None:  # a plain module
        return
    if hasattr(processor, "data_config"):
        told = {key: list(value) if isinstance(value, tuple) else value for key, value in processor.data_config.items()}
        config.pretrained_cfg = {**(getattr(config, "pretrained_cfg", None) or {}), **told}
    own = list((getattr(config, "id2label", None) or {}).values())
    if names is not None and len(names) == len(own) and own == [f"LABEL_{i}" for i in range(len(own))]:
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    if getattr(config, "label_names", None):  # timm's, of the checkpoint before it got a new head
        config.label_names = [config.id2label[i] for i in range(config.num_labels)]


def _to_single_precision(model: nn.Module) -> None:
    """Casts half-precision weights, which `from_pretrained` leaves as stored: trained so, small steps are lost."""
    found = {parameter.dtype for parameter in model.parameters()} & {torch.float16, torch.bfloat16}
    if found and not getattr(model, "is_quantized", False):
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        model.float()
        logger.warning(
            f"the model's weights were {names}: they are cast to float32 to train (load them with"
            " `from_pretrained(..., dtype='float32')`; for mixed precision set `bf16=True`)"
        )
