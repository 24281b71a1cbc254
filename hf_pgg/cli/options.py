"""Options of a recipe: grouped help, choices, a file of options beside flags, and errors of one line."""

from __future__ import annotations

import copy
import difflib
import json
import sys
from argparse import Action, ArgumentError, ArgumentParser, HelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from datasets.exceptions import DatasetsError
from transformers import HfArgumentParser, TrainingArguments

from hf_pgg.training.config import CHOICES

# fmt: off
_DATA = ("image_column", "label_column", "video_column", "num_frames", "image_size", "group_columns", "allow_overlap",
         "validate_rows")
_TRAINING = ("output_dir", "num_train_epochs", "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size",
             "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay",
             "seed", "bf16", "fp16", "use_cpu", "dataloader_num_workers", "logging_steps", "disable_tqdm",
             "save_strategy", "report_to", "push_to_hub", "hub_model_id")
# fmt: on
_REST = "other arguments of transformers.TrainingArguments"
_KINDS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}


def parse_options(
    groups: Mapping[str, Any], words: Sequence[str] | None = None, description: str | None = None
) -> tuple[Any, ...]:
    """Reads the options of a recipe from the command line, and from a JSON or YAML file where one is named.

    `--help` lists the options by group, those of `TrainingArguments` only as far as recipes commonly set them;
    `--help-all` lists all. `--config settings.yaml`, or the file as first argument, reads options from a file; flags
    beside it win. A wrong option ends the program with exit code 2 and one line that names it.

    Args:
        groups (`Mapping[str, type]`): Title of a group to a dataclass whose fields are its options; the metadata of a
            field hold its `help` and `choices`. Of a subclass of `TrainingArguments` the group has what it adds. One
            instance of each is returned, in this order.
        words (`Sequence[str]`, *optional*): The arguments, by default those of the command line.
        description (`str`, *optional*): Text above the options in the help, usually the script's docstring.

    Example:
        >>> from dataclasses import make_dataclass
        >>> (data,) = parse_options({"data": make_dataclass("Data", [("size", int, 32)])}, ["--size", "48"])
        >>> data.size
        48
    """
    words = list(sys.argv[1:] if words is None else words)
    parser = _OptionParser(groups, description)
    if "--help-all" in words:
        parser.list_all = True
        words = ["--help"]
    if words and words[0].endswith((".json", ".yaml", ".yml")):
        words.insert(0, "--config")
    finder = ArgumentParser(add_help=False, allow_abbrev=False, prog=parser.prog)
    finder.add_argument("--config")
    named, words = finder.parse_known_args(words)
    if named.config is not None:
        words = [*parser.read_file(named.config), *words]
    *options, rest = parser.parse_args_into_dataclasses(words, return_remaining_strings=True)
    if rest:
        parser.error(f"unknown option {parser.suggest(rest[0].partition('=')[0])}")
    return tuple(options)


def run_recipe(main: Callable[[], None]) -> None:
    """Runs a recipe; what a user can mend ends it with exit code 2 and one line on stderr instead of a traceback.

    That is a `ValueError` (a `ProvenanceError` is one), an `OSError` such as a missing file, or a `DatasetsError`.
    With `PYTHONDEVMODE=1` the traceback is shown all the same.

    Example:
        >>> run_recipe(lambda: print("trained"))
        trained
    """
    try:
        main()
    except (ValueError, OSError, ImportError, DatasetsError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        if sys.flags.dev_mode:
            raise
        raise SystemExit(2) from None


class _OptionParser(HfArgumentParser):
    """`HfArgumentParser` with a grouped help, a file of options, and errors of one line."""

    def __init__(self, groups: Mapping[str, Any], description: str | None) -> None:
        super().__init__(list(groups.values()), description=description, usage="%(prog)s [FILE] [--OPTION VALUE ...]")
        self.groups, self.list_all = groups, False
        for action in self._actions:
            action.choices = action.choices or CHOICES.get(action.dest)

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\n")

    def _check_value(self, action: Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise ArgumentError(action, f"'{value}' is unknown, choose {', '.join(map(str, action.choices))}")

    def suggest(self, word: str) -> str:
        """A word that is no option, with the option that was probably meant."""
        near = difflib.get_close_matches("--" + word.lstrip("-"), self._option_string_actions, n=1)
        return f"'{word}' (did you mean {near[0]}?)" if near else f"'{word}': --help-all lists all options"

    def read_file(self, name: str) -> list[str]:
        """The options of a file, as words of a command line; null and empty lists become defaults."""
        try:
            values = (json.loads if name.endswith(".json") else yaml.safe_load)(Path(name).read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            self.error(f"{name} cannot be read as a file of options: {' '.join(str(error).split())}")
        if not isinstance(values, dict):
            self.error(f"{name} holds a {type(values).__name__}: give one 'option: value' a line")
        actions, words = {action.dest: action for action in self._actions}, []
        for key, value in values.items():
            if key not in actions:
                self.error(f"{name}: unknown option {self.suggest(str(key))}")
            if value is None or value == []:
                actions[key].required = False
                self.set_defaults(**{key: value})
            elif isinstance(value, list):
                words += [f"--{key}", *map(str, value)]
            else:
                words.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
        return words

    def format_help(self) -> str:
        """The options by group; those of `TrainingArguments` that recipes seldom set only with `--help-all`."""
        trainers = {field.name for field in fields(TrainingArguments)}
        sections: dict[str, list[Action]] = {title: [] for title in (*self.groups, "training", _REST)}
        actions = {action.dest: action for action in reversed(self._actions)}  # not the `--no_...` of a flag
        for title, options in self.groups.items():
            for name in (field.name for field in fields(options) if field.init):
                known = name in _DATA and "data" in self.groups
                where = ("training" if name in _TRAINING else _REST) if name in trainers else "data" if known else title
                sections[where].append(_shown(actions[name]))
        formatter = HelpFormatter(self.prog, max_help_position=32)
        formatter.add_usage(self.usage, [], [])
        for title, some in sections.items():
            if some and (title != _REST or self.list_all):
                formatter.start_section(title)
                formatter.add_arguments(some)
                formatter.end_section()
        more = "--config FILE reads options from JSON or YAML, flags win; --help-all lists every training argument."
        return f"{self.description or ''}\n{formatter.format_help()}\n{more}\n"


def _shown(action: Action) -> Action:
    """As the help lists an option: one spelling, the kind of its value, and its default where it has one."""
    shown, default = copy.copy(action), action.default
    shown.option_strings = action.option_strings[:1]
    if default is False:
        shown.nargs = 0
    elif action.choices is None:
        shown.metavar = _KINDS.get(action.type, "TEXT" if default is not True else "BOOL")
    if default not in (None, False, "", [], {}) and "default" not in (action.help or ""):
        value = " ".join(map(str, default)) if isinstance(default, list) else default
        shown.help = f"{action.help} ({value})".replace("%%", "%").replace("%", "%%")
    return shown
