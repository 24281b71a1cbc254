"""`hf-pgg explain`: where one or two checkpoints look in images, and what they say of them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hf_pgg.cli.choices import MAPS, MOST_IMAGES

if TYPE_CHECKING:
    from hf_pgg.localization.classifier import Classifier
    from hf_pgg.localization.score_maps import ScoredImage

HELP = "draw where one or two checkpoints look, and print what they say"
DESCRIPTION = "Draw where one or two checkpoints look, and print what they say."
EXAMPLES = """examples:
  hf-pgg explain out/guided cat.jpg dog.png
      the input gradient of what the checkpoint answers
  hf-pgg explain out/plain photos/ --against out/guided --output plain_and_guided.png
      two checkpoints side by side
  hf-pgg explain facebook/deit-tiny-patch16-224 cat.jpg --method grad_cam attention_rollout --target "tabby, tabby cat"
      other maps, of a class you name

Bright is where the evidence lies, from each map's own minimum to its maximum: maps compare in place, not strength."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `hf-pgg explain`.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_options(parser)
        >>> parser.parse_args(["out/guided", "cat.jpg"]).method
        ['input_gradient']
    """
    parser.add_argument("model", help="Hub id or folder of an image classifier (safetensors)")
    parser.add_argument("images", nargs="+", help=f"images, or folders of them; at most {MOST_IMAGES}")
    parser.add_argument("--against", help="a second checkpoint, beside the first")
    parser.add_argument("--method", nargs="+", default=["input_gradient"], choices=MAPS, help="maps (input_gradient)")
    parser.add_argument("--target", help="class to explain, by name or number (default: each one's own answer)")
    parser.add_argument(
        "--smoothing", type=float, default=0.03, help="blur of gradient maps, as a share of the side (%(default)s)"
    )
    parser.add_argument("--revision", default="main", help="revision of the first checkpoint (%(default)s)")
    parser.add_argument("--image_size", type=int, help="input size in pixels, other than the checkpoints'")
    parser.add_argument("--white", type=float, help="value that is white in images of 16 bits or floats, such as 4095")
    parser.add_argument("--output", default="explain.png", help="PNG to write (%(default)s)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from hf_pgg.data.images import image_files, to_rgb
    from hf_pgg.localization.classifier import load_classifier
    from hf_pgg.localization.score_maps import explain
    from hf_pgg.reports.figures import save_figure
    from hf_pgg.reports.sheets import explanation_sheet, short_names

    files = image_files(args.images)
    if len(files) > MOST_IMAGES:
        raise ValueError(
            f"{len(files)} images: a sheet holds {MOST_IMAGES}; name fewer, or use `hf-pgg localize --overlays`"
        )
    images = []
    for file in files:
        try:
            images.append(to_rgb(str(file), args.white))
        except ValueError as error:
            raise ValueError(f"{file} is not an image that can be read ({error})") from error
    models = [load_classifier(args.model, args.revision, args.image_size)]
    models += [load_classifier(args.against, image_size=args.image_size)] if args.against else []
    maps = explain(models, images, args.method, args.target, args.smoothing)
    save_figure(explanation_sheet(models, [file.name for file in files], images, maps), args.output)
    names = short_names([model.name for model in models])
    width = max(map(len, names))
    for number, file in enumerate(files):
        print(file)
        for name, model in zip(names, models, strict=True):
            print(f"  {name:{width}}  {_top_answers(model, maps[model.name, args.method[0]][number])}")
    print(f"written: {args.output}")


def _top_answers(classifier: Classifier, result: ScoredImage, count: int = 3) -> str:
    """The most probable classes in words: `cat 0.93, dog 0.05, fox 0.01`."""
    order = (-result.probabilities).argsort(kind="stable")[:count]
    return ", ".join(f"{classifier.labels[int(i)]} {result.probabilities[i]:.2f}" for i in order)
