"""explain."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from hf_pgg.data.images import to_rgb
from hf_pgg.data.loading import image_files
from hf_pgg.localization.classifier import Classifier, load_classifier
from hf_pgg.localization.score_maps import ScoredImage, explain
from hf_pgg.reports.figures import MOST_IMAGES, _write, explanation_sheet, short_names


def top_answers(classifier: Classifier, result: ScoredImage, count: int = 3) -> str:
    """The most probable classes in words: `cat 0.93, dog 0.05, fox 0.01`."""
    order = np.argsort(-result.probabilities, kind="stable")[:count]
    return ", ".join(f"{classifier.labels[int(i)]} {result.probabilities[i]:.2f}" for i in order)


_EXPLAIN = """
  hf-pgg explain out/guided cat.jpg dog.png
      the input gradient of what the checkpoint answers
  hf-pgg explain out/plain photos/ --against out/guided --output plain_and_guided.png
      two checkpoints side by side
  hf-pgg explain facebook/deit-tiny-patch16-224 cat.jpg --method grad_cam attention_rollout --target "tabby, tabby cat"
      other maps, of a class you name

Bright is where the evidence lies, from each map's own minimum to its maximum: maps compare in place, not strength."""


def _explain(args: argparse.Namespace) -> None:
    files = image_files(args.images)
    if len(files) > MOST_IMAGES:
        raise ValueError(
            f"{len(files)} images: a sheet holds {MOST_IMAGES}; name fewer, or use `hf-pgg localize --overlays`"
        )
    images = [_read(file) for file in files]
    models = [load_classifier(args.model, args.revision, args.image_size)]
    models += [load_classifier(args.against, image_size=args.image_size)] if args.against else []
    maps = explain(models, images, args.method, args.target, args.smoothing)
    _write(explanation_sheet(models, [file.name for file in files], images, maps), args.output)
    names = short_names([model.name for model in models])
    width = max(map(len, names))
    for number, file in enumerate(files):
        print(file)
        for name, model in zip(names, models, strict=True):
            print(f"  {name:{width}}  {top_answers(model, maps[model.name, args.method[0]][number])}")
    print(f"written: {args.output}")


def _read(file: Path) -> np.ndarray:
    try:
        return to_rgb(str(file))
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} is not an image that can be read ({_sentence(error)})") from error


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
