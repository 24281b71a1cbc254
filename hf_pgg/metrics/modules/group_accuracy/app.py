"""The page of this Space."""

from hf_pgg.metrics import group_accuracy_path
from hf_pgg.metrics.modules.page import page

EXAMPLE = {
    "predictions": [0, 0, 1, 1, 1, 0],
    "references": [0, 0, 1, 0, 1, 1],
    "groups": [0, 0, 1, 1, 2, 2],
}

demo = page(group_accuracy_path(), EXAMPLE)

if __name__ == "__main__":
    demo.launch()
