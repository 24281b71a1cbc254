"""The command line: `hf-pgg preview`, `explain`, `localize` and `card`, thin over the library."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import datasets
from datasets.exceptions import DatasetsError
from transformers.utils import logging

from hf_pgg import __version__
from hf_pgg.cli import localize
from hf_pgg.cli.card import _CARD, _card
from hf_pgg.cli.explain import _EXPLAIN, _explain, _sentence
from hf_pgg.cli.preview import _PREVIEW, SYNTHESES, _preview
from hf_pgg.localization.attribution import METHODS
from hf_pgg.reports.figures import MOST_IMAGES

_EXAMPLES = """
  hf-pgg preview                                       samples of the embedded data, where provenance is green
  hf-pgg explain out/plain cat.jpg --against out/guided   where two checkpoints look
  hf-pgg localize out/guided photos/ --overlays boxes/ boxes around what a classifier looks at, as COCO JSON
  hf-pgg card out/guided                               the model card of a run, from its results.json

`hf-pgg COMMAND --help` shows what a command takes, with examples."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; exits with code 2 and one sentence where a file or name cannot be used."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verbosity, bars = logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if bars:
        datasets.disable_progress_bars()
    try:
        if arguments[:1] == ["localize"]:  # it has a parser of its own
            name = "localize"
            localize.main(arguments[1:], prog="hf-pgg localize")
            return
        args = _parser().parse_args(arguments)
        name = args.command
        args.execute(args)
    except (ValueError, OSError, DatasetsError) as error:
        print(f"hf-pgg {name}: {_sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from error
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
        if bars:
            datasets.enable_progress_bars()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-pgg",
        description="Look at synthesized training samples and at what classifiers trained on them see.",
        epilog="examples:" + _EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], None], words: str, examples: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=words,
            description=f"{words[0].upper()}{words[1:]}.",
            epilog="examples:" + examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(execute=run)
        return added

    preview = command("preview", _preview, "draw a contact sheet of synthesized samples and their provenance", _PREVIEW)
    preview.add_argument("dataset", nargs="?", help="Hub id, folder or parquet file (default: the embedded data)")
    preview.add_argument("--split", default="train", help="split to show (%(default)s)")
    preview.add_argument("--config", help="configuration of the data set")
    preview.add_argument("--synthesis", default="composite", choices=SYNTHESES, help="method (%(default)s)")
    preview.add_argument("--backgrounds", help="data set of background images, for composites")
    preview.add_argument("--mask_column", help="mask of the object, where the rows have no provenance yet")
    preview.add_argument("--box_column", help="box [x, y, width, height] of the object, instead")
    preview.add_argument("--target_value", type=int, help="the object's value, where the mask is a label map")
    preview.add_argument("--image_column", default="image", help="column of the images (%(default)s)")
    preview.add_argument("--label_column", default="label", help="column of the labels (%(default)s)")
    preview.add_argument("--count", type=int, default=12, help=f"samples, at most {MOST_IMAGES} (%(default)s)")
    preview.add_argument("--seed", type=int, default=0, help="of the draws (%(default)s)")
    preview.add_argument("--output", default="preview.png", help="PNG to write (%(default)s)")

    explanation = command(
        "explain", _explain, "draw where one or two checkpoints look, and print what they say", _EXPLAIN
    )
    explanation.add_argument("model", help="Hub id or folder of an image classifier (safetensors)")
    explanation.add_argument("images", nargs="+", help=f"images, or folders of them; at most {MOST_IMAGES}")
    explanation.add_argument("--against", help="a second checkpoint, beside the first")
    explanation.add_argument(
        "--method", nargs="+", default=["input_gradient"], choices=list(METHODS), help="maps (input_gradient)"
    )
    explanation.add_argument("--target", help="class to explain, by name or number (default: each one's own answer)")
    explanation.add_argument("--smoothing", type=float, default=0.03, help="of gradient maps (%(default)s)")
    explanation.add_argument("--revision", default="main", help="revision of the first checkpoint (%(default)s)")
    explanation.add_argument("--image_size", type=int, help="input size in pixels, other than the checkpoints'")
    explanation.add_argument("--output", default="explain.png", help="PNG to write (%(default)s)")

    # listed here; `localization.main` parses what follows it
    command("localize", _explain, "write boxes around what a checkpoint looks at, as COCO JSON", "")

    card = command("card", _card, "write the model card of a run from its results.json", _CARD)
    card.add_argument("run", metavar="RUN", help="folder of a run or of a comparison, or its results.json")
    card.add_argument("--output", help="file to write, or - to print (default: README.md beside the record)")
    card.add_argument("--overwrite", action="store_true", help="replace a card that stands there")
    return parser
