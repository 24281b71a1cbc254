"""The whole method on a folder of your own images.

    python recipes/quickstart.py my/photos --model facebook/dinov2-small --output_dir out/photos

`my/photos` holds `train` and `test`, each with a folder of images for each class and a `metadata.csv`. The masks are
white where the object is; the column `scene` (what the background shows) may be left out:

    file_name,label,mask_file_name,scene
    cat/1.jpg,cat,masks/cat1.png,grass
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter

from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_pgg import BackgroundExchange, FreshDraws, PGGCollator, PGGConfig, PGGTrainer, add_provenance
from hf_pgg.cli.options import run_recipe
from hf_pgg.data.labels import encode_classes
from hf_pgg.data.loading import open_dataset
from hf_pgg.metrics import metrics_for
from hf_pgg.training.models import head_options


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder with train and test")
    parser.add_argument("--model", default="facebook/dinov2-small", help="Hub id or folder (%(default)s)")
    parser.add_argument("--output_dir", default="out/quickstart", help="where the model is saved (%(default)s)")
    parser.add_argument("--epochs", type=float, default=3, help="passes over the training images (%(default)s)")
    options = parser.parse_args()
    photos = {split: open_dataset(options.folder, split) for split in ("train", "test")}
    groups = ["scene"] if "scene" in photos["train"].column_names else []
    photos = encode_classes(photos, *groups)  # names become numbers, the same in both splits
    train, test = (add_provenance(photos[split], mask_column="mask") for split in ("train", "test"))
    # every epoch anew, half of the objects stand on the background of another row
    train = train.add_column("row_id", list(range(len(train))))
    exchange = FreshDraws(BackgroundExchange(source=train, probability=0.5, row_id_column="row_id"))
    processor = AutoImageProcessor.from_pretrained(options.model)
    head = head_options(train.features["label"])  # the names of the classes
    model = AutoModelForImageClassification.from_pretrained(
        options.model, dtype="float32", ignore_mismatched_sizes=True, **head
    )
    settings = {"alpha": 10.0, "num_train_epochs": options.epochs, "learning_rate": 3e-5, "warmup_steps": 10}
    trainer = PGGTrainer(
        model,
        PGGConfig(output_dir=options.output_dir, group_columns=groups or None, report_to=[], **settings),
        train_dataset=train,
        data_collator=PGGCollator(processor, synthesis=exchange, extra_columns=groups),
        processing_class=processor,
        compute_metrics=metrics_for(*groups),
    )
    trainer.train()
    print({name: value for name, value in trainer.evaluate(test).items() if "accuracy" in name})
    trainer.save_model()  # weights, image processor and model card
    print(pipeline("image-classification", options.output_dir)(photos["test"][0]["image"]))  # needs no hf_pgg


if __name__ == "__main__":
    run_recipe(main)
