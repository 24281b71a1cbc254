"""`hf-pgg card`: the model card of a run, from its `results.json`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "write the model card of a run from its results.json"
DESCRIPTION = "Write the model card of a run from its results.json."
EXAMPLES = """examples:
  hf-pgg card out/train_cls/guided           writes README.md beside its results.json
  hf-pgg card out/train_cls                  the cards of all runs in one comparison's results.json
  hf-pgg card out/train_cls/guided --output -    prints it"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `hf-pgg card`.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_options(parser)
        >>> parser.parse_args(["out/guided", "--output", "-"]).output
        '-'
    """
    parser.add_argument("results", metavar="RUN", help="folder of a run or of a comparison, or its results.json")
    parser.add_argument("--output", help="file to write, or - to print (default: README.md beside the record)")
    parser.add_argument("--overwrite", action="store_true", help="replace a card that exists already")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from hf_pgg.reports.model_card import model_card

    path = Path(args.results)
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
        except Exception as error:  # whatever the template makes of values of other kinds
            problem = " ".join(str(error).split())
            raise ValueError(f"{path} is not the record of a run ({type(error).__name__}: {problem})") from error
        if args.output == "-":
            print(card.content)
            continue
        name = str(record["model"]["name"])
        if several and (name in ("", ".", "..") or Path(name).name != name or "\\" in name):
            raise ValueError(
                f"{path}: the run's name {name!r} is not that of a folder beside it, so nothing is written"
            )
        folder = path.parent / name if several else path.parent
        target = Path(args.output) if args.output else folder / "README.md"
        if target.exists() and not args.overwrite:
            raise ValueError(f"{target} exists already: give --overwrite to replace it")
        target.parent.mkdir(parents=True, exist_ok=True)
        card.save(target)
        print(f"written: {target}")
