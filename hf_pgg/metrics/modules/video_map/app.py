"""The page of this Space."""

from hf_pgg.metrics import video_map_path
from hf_pgg.metrics.modules.page import page

EXAMPLE = {
    "clips": ["a clip"],
    "predictions": [[{"frames": [0, 1], "boxes": [[0, 0, 9, 9], [1, 0, 10, 9]], "score": 0.9, "label": 2}]],
    "references": [[{"frames": [0, 1], "boxes": [[0, 0, 9, 9], [1, 0, 10, 9]], "label": 2}]],
    "num_classes": 3,
}

demo = page(video_map_path(), EXAMPLE)

if __name__ == "__main__":
    demo.launch()
