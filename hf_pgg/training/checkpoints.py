"""Checkpoints that are complete or not there, that load under the names they were saved with, and that say how to
use them: preprocessing and class names are in them, in the precision that was trained."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints
from transformers.utils import SAFE_WEIGHTS_NAME, logging

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


def _publish(folder: str, state: Any, save_total_limit: int | None) -> str:
    """Moves the one checkpoint in the staging folder to its place by one `rename`, rotates, and returns its path."""
    staging = staging_folder(folder)
    (written,) = staging.iterdir()
    final = Path(folder) / written.name
    best = _published_path(state.best_model_checkpoint, folder)
    if best != state.best_model_checkpoint:
        state.best_model_checkpoint = best
        state.save_to_json(str(written / TRAINER_STATE_NAME))
    if final.exists():  # a resumed run that passes the same step again
        final.rename(staging / "replaced")
    written.rename(final)
    shutil.rmtree(staging)
    best = state.best_model_checkpoint
    rotate_checkpoints(folder, save_total_limit=save_total_limit, best_model_checkpoint=best, use_mtime=True)
    return str(final)


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
            super()._save_checkpoint(model, trial)
        finally:
            self.staging = False
        self.accelerator.wait_for_everyone()  # every process has written its random state
        if self.args.should_save:
            checkpoint = _publish(folder, self.state, self.args.save_total_limit)
            if self.args.push_to_hub:
                self._push_from_checkpoint(checkpoint)
        self.accelerator.wait_for_everyone()
        # the other processes, too, load the best one in the end
        self.state.best_model_checkpoint = _published_path(self.state.best_model_checkpoint, folder)

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
    file = Path(folder) / SAFE_WEIGHTS_NAME
    if not isinstance(model, PreTrainedModel) or not file.is_file():
        return
    with safe_open(file, framework="pt") as stored:
        if set(stored.keys()) <= set(model.state_dict()):
            return
    model.load_state_dict(type(model).from_pretrained(folder).state_dict())


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
