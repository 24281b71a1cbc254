"""The command line: `hf-pgg preview`, `explain`, `localize` and `card`, thin over the library."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
from datasets.exceptions import DatasetsError
from matplotlib.figure import Figure
from transformers.utils import logging

from hf_pgg import __version__, localization
from hf_pgg.attribution import METHODS
from hf_pgg.classifiers import load_classifier
from hf_pgg.explanation import explain, explanation_sheet, short_names, top_answers
from hf_pgg.localization import picture_files
from hf_pgg.model_card import model_card
from hf_pgg.pictures import to_rgb
from hf_pgg.preview import EMBEDDED, SYNTHESES, contact_sheet, method_for, open_rows, sheet_samples, synthesized
from hf_pgg.provenance import PROVENANCE, add_provenance

MOST_PICTURES = 24  # on one sheet

_EXAMPLES = """
  hf-pgg preview                                       samples of the embedded data, where provenance is green
  hf-pgg explain out/plain cat.jpg --against out/guided   where two checkpoints look
  hf-pgg localize out/guided photos/ --overlays boxes/ boxes around what a classifier looks at, as COCO JSON
  hf-pgg card out/guided                               the model card of a run, from its results.json

`hf-pgg COMMAND --help` shows what a command takes, with examples."""

_PREVIEW = """
  hf-pgg preview
      the embedded digits on photographs: composites, no file needed
  hf-pgg preview photos/ --mask_column mask --synthesis cutmix --output cutmix.png
      CutMix of your own pictures (a folder of pictures or parquet, a parquet file, or a Hub id), objects from masks
  hf-pgg preview my/photos --box_column bbox --backgrounds my/scenes
      cut-outs by boxes, on pictures of another data set
  hf-pgg preview my/synthetic --synthesis none
      rows that keep the contract already, as they are

Left of each pair is the sample, right its provenance: coloured is where a label's object is, and where the label's
gradient may lie (the first source green, the second magenta). They are those that training with this seed gets."""

_EXPLAIN = """
  hf-pgg explain out/guided cat.jpg dog.png
      the input gradient of what the checkpoint answers
  hf-pgg explain out/plain photos/ --against out/guided --output plain_and_guided.png
      two checkpoints side by side
  hf-pgg explain facebook/deit-tiny-patch16-224 cat.jpg --method grad_cam attention_rollout --target "tabby, tabby cat"
      other maps, of a class you name

Bright is where the evidence lies, from each map's own minimum to its maximum: maps compare in place, not strength."""

_CARD = """
  hf-pgg card out/train_cls/guided           writes README.md beside its results.json
  hf-pgg card out/train_cls                  the cards of all runs in one comparison's results.json
  hf-pgg card out/train_cls/guided --output -    prints it"""


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
            localization.main(arguments[1:], prog="hf-pgg localize")
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


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
    preview.add_argument("--backgrounds", help="data set of background pictures, for composites")
    preview.add_argument("--mask_column", help="mask of the object, where the rows have no provenance yet")
    preview.add_argument("--box_column", help="box [x, y, width, height] of the object, instead")
    preview.add_argument("--target_value", type=int, help="the object's value, where the mask is a label map")
    preview.add_argument("--image_column", default="image", help="column of the pictures (%(default)s)")
    preview.add_argument("--label_column", default="label", help="column of the labels (%(default)s)")
    preview.add_argument("--count", type=int, default=12, help=f"samples, at most {MOST_PICTURES} (%(default)s)")
    preview.add_argument("--seed", type=int, default=0, help="of the draws (%(default)s)")
    preview.add_argument("--output", default="preview.png", help="PNG to write (%(default)s)")

    explanation = command(
        "explain", _explain, "draw where one or two checkpoints look, and print what they say", _EXPLAIN
    )
    explanation.add_argument("model", help="Hub id or folder of an image classifier (safetensors)")
    explanation.add_argument("images", nargs="+", help=f"pictures, or folders of them; at most {MOST_PICTURES}")
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


# ---------------------------------------------------------------------------------------------- commands


def _preview(args: argparse.Namespace) -> None:
    if not 1 <= args.count <= MOST_PICTURES:
        raise ValueError(f"--count {args.count}: a sheet holds 1 to {MOST_PICTURES} samples")
    rows = open_rows(args.dataset, args.split, args.config)
    columns = {"image_column": args.image_column, "label_column": args.label_column}
    if args.mask_column or args.box_column:
        masks = {"mask_column": args.mask_column, "box_column": args.box_column, "target_value": args.target_value}
        rows = add_provenance(rows, **masks, **columns)
    elif args.synthesis in ("composite", "exchange") and PROVENANCE not in rows.column_names:
        raise ValueError(f"--synthesis {args.synthesis} needs to know the object: give --mask_column or --box_column")
    backgrounds = None if args.backgrounds is None else open_rows(args.backgrounds)
    method = method_for(args.synthesis, rows, backgrounds, embedded=args.dataset is None, seed=args.seed, **columns)
    samples = sheet_samples(
        synthesized(method, rows, args.count), "image" if method else args.image_column, args.label_column
    )
    what = "as they are" if method is None else f"{type(method).__name__}, seed {args.seed}"
    title = f"{args.dataset or EMBEDDED}, {args.split}: {len(samples)} of {len(rows):,} rows, {what}"
    _write(contact_sheet(samples, title), args.output)
    known = [sample.coverage for sample in samples if sample.coverage is not None]
    print(title)
    if known:
        low, middle, high = np.percentile(known, [0, 50, 100])
        print(f"objects cover {low:.0%} to {high:.0%} of the picture, half of them {middle:.0%} or less")
    if len(known) < len(samples):
        print(f"{len(samples) - len(known)} of {len(samples)} have no provenance, and would not be guided")
    print(f"written: {args.output}")


def _explain(args: argparse.Namespace) -> None:
    files = picture_files(args.images)
    if len(files) > MOST_PICTURES:
        raise ValueError(
            f"{len(files)} pictures: a sheet holds {MOST_PICTURES}; name fewer, or use `hf-pgg localize --overlays`"
        )
    pictures = [_read(file) for file in files]
    models = [load_classifier(args.model, args.revision, args.image_size)]
    models += [load_classifier(args.against, image_size=args.image_size)] if args.against else []
    maps = explain(models, pictures, args.method, args.target, args.smoothing)
    _write(explanation_sheet(models, [file.name for file in files], pictures, maps), args.output)
    names = short_names([model.name for model in models])
    width = max(map(len, names))
    for number, file in enumerate(files):
        print(file)
        for name, model in zip(names, models, strict=True):
            print(f"  {name:{width}}  {top_answers(model, maps[model.name, args.method[0]][number])}")
    print(f"written: {args.output}")


def _card(args: argparse.Namespace) -> None:
    path = Path(args.run)
    path = path / "results.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path} does not exist: a run's record is the results.json that the recipes write")
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    several = isinstance(found, list)
    for record in found if several else [found]:
        if not isinstance(record, dict):
            raise ValueError(f"{path} is not the record of a run: it holds {record!r:.40}")
        try:
            card = model_card(record)
        except KeyError as error:
            raise ValueError(f"{path} is not the record of a run: {error} is missing") from error
        if args.output == "-":
            print(card.content)
            continue
        folder = path.parent / record["model"]["name"] if several else path.parent
        target = Path(args.output) if args.output else folder / "README.md"
        if target.exists() and not args.overwrite:
            raise ValueError(f"{target} stands there already: --overwrite replaces it")
        target.parent.mkdir(parents=True, exist_ok=True)
        card.save(target)
        print(f"written: {target}")


def _read(file: Path) -> np.ndarray:
    try:
        return to_rgb(str(file))
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} is not a picture that can be read ({_sentence(error)})") from error


def _write(figure: Figure, output: str) -> None:
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)


if __name__ == "__main__":
    main()
