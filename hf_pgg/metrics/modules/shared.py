"""What the `evaluate` modules share: their description, which is their card, the features of tubes, and the papers."""

from pathlib import Path
from typing import Any

import evaluate
from datasets import Features, List, Value

from hf_pgg.metrics import module_path

INTEGERS = List(Value("int64"))
NUMBERS = List(Value("float64"))
BOXES = List(List(Value("float64"), length=4))
TUBE = {"frames": INTEGERS, "boxes": BOXES, "label": Value("int64")}

CHOE_2020 = """@inproceedings{choe2020evaluating,
  title={Evaluating Weakly Supervised Object Localization Methods Right},
  author={Choe, Junsuk and Oh, Seong Joon and Lee, Seungho and Chun, Sanghyuk and Akata, Zeynep and Shim, Hyunjung},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition}, year={2020}
}"""

KALOGEITON_2017 = """@inproceedings{kalogeiton2017action,
  title={Action Tubelet Detector for Spatio-Temporal Action Localization},
  author={Kalogeiton, Vicky and Weinzaepfel, Philippe and Ferrari, Vittorio and Schmid, Cordelia},
  booktitle={International Conference on Computer Vision}, year={2017}
}"""

SAGAWA_2020 = """@inproceedings{sagawa2020distributionally,
  title={Distributionally Robust Neural Networks for Group Shifts},
  author={Sagawa, Shiori and Koh, Pang Wei and Hashimoto, Tatsunori B. and Liang, Percy},
  booktitle={International Conference on Learning Representations}, year={2020}
}"""

XIAO_2021 = """@inproceedings{xiao2021noise,
  title={Noise or Signal: The Role of Image Backgrounds in Object Recognition},
  author={Xiao, Kai and Engstrom, Logan and Ilyas, Andrew and Madry, Aleksander},
  booktitle={International Conference on Learning Representations}, year={2021}
}"""


def module_info(name: str, citation: str, **features: Any) -> evaluate.MetricInfo:
    """Returns what a module says of itself: its card's first paragraph as description, the rest as the way to use it.

    `features` are those of the columns of a row, `citation` is in BibTeX.

    Example:
        >>> info = module_info("group_accuracy", SAGAWA_2020, predictions=Value("int64"))
        >>> info.description.split("?")[0]
        'Does a classifier still answer rightly where its shortcut fails'
    """
    card = (Path(module_path(name)) / "README.md").read_text()
    _, description, usage = card.split("---", 2)[2].strip().split("\n\n", 2)
    return evaluate.MetricInfo(
        description=description, citation=citation, inputs_description=usage, features=Features(features)
    )
