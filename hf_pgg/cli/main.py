"""The command line: `hf-pgg preview`, `explain`, `localize`, `audit` and `card`, thin over the library."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from hf_pgg import __version__
from hf_pgg.cli import audit, card, explain, localize, preview

_COMMANDS = {"preview": preview, "explain": explain, "localize": localize, "audit": audit, "card": card}
EXAMPLES = """
  hf-pgg preview                                          samples of the embedded data, where provenance is green
  hf-pgg explain out/plain cat.jpg --against out/guided   where two checkpoints look
  hf-pgg localize out/guided photos/ --overlays boxes/    boxes around what a classifier looks at, as COCO JSON
  hf-pgg audit out/guided photos/ --mask_column mask      how much the background decides what a classifier answers
  hf-pgg card out/guided                                  the model card of a run, from its results.json

`hf-pgg COMMAND --help` shows what a command takes, with examples."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command of `hf-pgg`, whose words are by default those of the process.

    If it was misspelt, or a file or a name cannot be used, there is one sentence on stderr and exit code 2.

    Example:
        >>> main(["card", "no/such/run"])
        Traceback (most recent call last):
        SystemExit: 2
    """
    args = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # a file's name may hold bytes that are no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from datasets.exceptions import DatasetsError  # a slow start: `--help` does without

    try:
        with _quiet():
            args.run(args)
    except (ValueError, OSError, ImportError, DatasetsError) as error:
        sentence = " ".join(str(error).split()) or type(error).__name__
        print(f"hf-pgg {args.command}: {sentence}", file=sys.stderr)
        raise SystemExit(2) from error


class _Parser(argparse.ArgumentParser):
    """A parser that refuses in one line, where argparse prints the whole usage first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (`{self.prog} --help` shows what it takes)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hf-pgg",
        description="Look at synthesized training samples and at what classifiers trained on them see.",
        epilog="examples:" + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        how = {"help": command.HELP, "description": command.DESCRIPTION, "epilog": command.EXAMPLES}
        command.add_options(commands.add_parser(name, **how, formatter_class=argparse.RawDescriptionHelpFormatter))
    return parser


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither warnings nor progress bars of the libraries below, while a command runs."""
    import datasets
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
        if bars:
            datasets.enable_progress_bars()
