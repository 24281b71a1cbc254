"""None stays unknown: what a mix of known and unknown sources says, stores, and guides by."""

from functools import partial

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value

from hf_pgg import BackgroundExchange, CutMix, Edit, MaskAblation, PGGConfig, PGGTrainer, ProvenanceError, ResizeMix
from hf_pgg.data.collator import PGGCollator
from hf_pgg.data.images import decode_mask, encode_mask
from hf_pgg.data.provenance import Sources, guided_rows, merge_sources, sources_of
from hf_pgg.data.validation import validate_row
from hf_pgg.guidance.engines import exact_guidance
from hf_pgg.guidance.forms import FORMS
from hf_pgg.synthesis.puzzlemix import PuzzleMix
from tests.conftest import SIZE, tiny_model


def redness(image, label):
    return image[..., 0].astype(float) + 1


def darker(image):
    image[:4] //= 4
    return image


METHODS = {
    "cutmix": lambda source: CutMix(source=source, seed=2),
    "resizemix": lambda source: ResizeMix(source=source),
    "puzzlemix": lambda source: PuzzleMix(source=source, saliency=redness, blocks=(4,)),
    "edit": lambda source: Edit(editor=darker),
}


@pytest.fixture(scope="module")
def mixed(guided_photos):
    """Rows of two labels each, with provenance, and the same rows without."""
    mixed = (
        CutMix(source=guided_photos, seed=1)
        .map(guided_photos)
        .select_columns(["image", "labels", "label_weights", "provenance"])
    )
    return mixed, mixed.map(lambda row: {"provenance": None}, features=mixed.features)


@pytest.mark.parametrize("name", METHODS)
def test_of_several_labels_without_provenance_nothing_is_known(mixed, name):
    _, unknown = mixed
    made = METHODS[name](unknown).map(unknown.select(range(6)))
    assert made["provenance"][:] == [None] * 6 and guided_rows(made) == 0
    for i, row in enumerate(made):
        validate_row(row, i, 3)


@pytest.mark.parametrize("name", ["cutmix", "resizemix", "puzzlemix"])
def test_a_mix_of_unknown_and_known_says_so_of_each_source(mixed, name, tmp_path):
    known, unknown = mixed
    made = METHODS[name](known).map(unknown.select(range(6)))
    made.to_parquet(tmp_path / "made.parquet")
    for rows in (made, Dataset.from_parquet(str(tmp_path / "made.parquet"), cache_dir=str(tmp_path))):
        assert guided_rows(rows) == 6 and rows.features["provenance"] == made.features["provenance"]
        for i, row in enumerate(rows):
            assert [mask is None for mask in row["provenance"]] == [True, True, False, False]
            validate_row(row, i, 3)


def test_an_unknown_source_stays_so_through_further_steps(mixed):
    known, unknown = mixed
    made = CutMix(source=known, seed=2).map(unknown.select(range(4)))
    for method in (Edit(editor=darker), MaskAblation(kind="erode"), CutMix(source=known, seed=5)):
        for row in method.map(made):
            assert [mask is None for mask in row["provenance"]][:4] == [True, True, False, False]
    exchanged = BackgroundExchange(source=known).map(made)
    assert all(np.array_equal(*pair) for pair in zip(exchanged["image"], made["image"], strict=True))
    with pytest.raises(ProvenanceError, match="has no provenance: filter such rows out"):
        BackgroundExchange(source=made).map(known)


def test_one_label_without_provenance_is_the_whole_image(photos):
    row = CutMix(source=photos, seed=2).map(photos)[0]
    shares = [decode_mask(mask).mean() / 255 for mask in row["provenance"]]
    assert shares == pytest.approx(row["label_weights"], abs=1e-3)


def test_sources_of_one_label_are_unknown_together():
    whole = np.ones((2, 3), np.float32)
    found = Sources([2, 1, 2], [0.25, 0.5, 0.25], [whole, whole, None])
    assert found.merged().masks[0] is None and (found.merged().masks[1] == whole).all()
    assert found.resized((4, 4)).masks[2] is None and found.mix(found, 0 * whole).masks[5] is None
    labels, masks = torch.tensor([[2, 1, 2]]), torch.ones(1, 3, 2, 3)
    masks[0, 2] = torch.nan
    labels, _, merged = merge_sources(labels, torch.tensor([[0.25, 0.5, 0.25]]), masks)
    assert labels.tolist() == [[2, 1, -100]] and merged[0, 0].isnan().all() and (merged[0, 1] == 1).all()
    assert (merged[0, 2] == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_label_whose_target_is_not_known_is_not_guided(form):
    torch.manual_seed(0)
    pixels = torch.rand(1, 3, 6, 6, requires_grad=True)
    logits = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 4), torch.nn.Tanh())(pixels)
    masks = torch.rand(1, 2, 6, 6)
    guide = partial(exact_guidance, logits, pixels, guided=torch.tensor([True]), form=FORMS[form])
    unknown = masks.clone()
    unknown[0, 1] = torch.nan
    both = guide(labels=torch.tensor([[3, 1]]), provenance=unknown)
    alone = guide(labels=torch.tensor([[3]]), provenance=masks[:, :1])
    assert torch.equal(both.loss, alone.loss) and torch.equal(both.target_share, alone.target_share)
    assert torch.isfinite(both.loss).all() and both.loss > 0


def test_the_collator_says_which_target_is_unknown(mixed, processor):
    known, unknown = mixed
    made = CutMix(source=known, seed=2).map(unknown.select(range(4)))
    batch = PGGCollator(processor)([made[0], unknown[0], {**made[1], "provenance": [None] * 4}])
    assert batch["guided"].tolist() == [True, False, False]
    lost = batch["provenance"].flatten(2)[:, :, 0].isnan()
    unknown_labels = set(made[0]["labels"][:2])
    assert [bool(found) for found in lost[0]] == [label in unknown_labels for label in batch["labels"][0].tolist()]
    assert not lost[1:].any()


def options(folder, **more):
    quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "eval_strategy": "no"}
    return PGGConfig(str(folder), **{**quiet, "max_steps": 2, "logging_steps": 1, "alpha": 10.0, **more})


@pytest.mark.parametrize("mode", ["exact", "finite_difference"])
@pytest.mark.parametrize("labels", ["all", "one"])
def test_training_and_evaluation_pass_over_unknown_targets(mixed, processor, tmp_path, mode, labels):
    known, unknown = mixed
    made = CutMix(source=known, seed=2).map(unknown.select(range(8)))
    args = options(tmp_path, guidance_mode=mode, guidance_labels=labels)
    trainer = PGGTrainer(tiny_model("vit"), args, train_dataset=made, eval_dataset=made, processing_class=processor)
    trainer.train()
    (first, *_) = trainer.state.log_history
    assert np.isfinite(first["guidance_loss"]) and first["guidance_loss"] > 0
    assert 0 < trainer.evaluate()["eval_target_gradient_share"] < 1


def test_a_mask_of_another_size_is_refused_everywhere(guided_photos, processor):
    for shape in ((1, 1), (1, SIZE), (SIZE // 2, SIZE // 2)):
        wrong = guided_photos.map(
            lambda row, i, shape=shape: {
                "provenance": [encode_mask(np.ones(shape, bool))] if i == 5 else row["provenance"]
            },
            with_indices=True,
            features=guided_photos.features,
        )
        words = f"column 'provenance': mask of {shape[1]}x{shape[0]} for an image of {SIZE}x{SIZE}"
        for name, method in METHODS.items():
            with pytest.raises(ProvenanceError, match=f"row 5, {words}"):
                method(guided_photos).map(wrong)
            if name != "edit":  # a partner
                with pytest.raises(ProvenanceError, match=f"row 0, {words}|row 0.*{words}"):
                    method(wrong.select([5, 5])).map(guided_photos)
        with pytest.raises(ProvenanceError, match=f"row 1 of the batch, {words}"):
            PGGCollator(processor)([guided_photos[0], wrong[5]])
        drawn = wrong.add_column("id", range(len(wrong))).with_transform(
            lambda batch: CutMix(source=guided_photos, row_id_column="id")(batch)
        )
        with pytest.raises(ProvenanceError, match=words):
            drawn[5]


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (np.ones((SIZE, SIZE), np.uint8), "highest value of a stored mask is 1, of 255"),
        ("P", "an image of mode P"),
        ("RGBA", "an image of mode RGBA"),
    ],
)
def test_stored_provenance_runs_to_255(guided_photos, stored, words):
    from PIL import Image

    mask = Image.new(stored, (SIZE, SIZE)) if isinstance(stored, str) else Image.fromarray(stored)
    row = {**guided_photos[1], "provenance": [mask]}
    with pytest.raises(ProvenanceError, match=f"row 1, column 'provenance': .*{words}"):
        validate_row(row, 1, 3)
    with pytest.raises(ValueError, match=words):
        sources_of(row, (SIZE, SIZE))


def test_a_trace_of_a_mask_is_stored_as_empty():
    assert decode_mask(encode_mask(np.full((2, 2), 0.004))).max() == 0
    assert decode_mask(encode_mask(np.full((2, 2), 0.008))).max() == 2
    assert decode_mask(encode_mask(np.array([[0, 1]]))).tolist() == [[0, 255]]


def test_guidance_without_any_provenance_is_refused(photos, processor, tmp_path):
    with pytest.raises(ValueError, match="alpha is 10, but no row of the training dataset has 'provenance'"):
        PGGTrainer(tiny_model("vit"), options(tmp_path), train_dataset=photos, processing_class=processor)
    PGGTrainer(tiny_model("vit"), options(tmp_path, alpha=0.0), train_dataset=photos, processing_class=processor)


def test_a_stream_without_provenance_is_told_and_its_card_says_so(photos, processor, tmp_path, caplog):
    stream = photos.to_iterable_dataset()
    trainer = PGGTrainer(tiny_model("vit"), options(tmp_path), train_dataset=stream, processing_class=processor)
    with caplog.at_level("WARNING", "hf_pgg.training.monitor"):
        trainer.train()
    assert "nothing was guided" in caplog.text
    assert not any("guidance_loss" in entry for entry in trainer.state.log_history)
    trainer.save_model()
    card = (tmp_path / "README.md").read_text()
    assert "so that nothing was guided" in card and "was suppressed outside" not in card


def test_the_card_of_a_guided_run_says_that_it_was(guided_photos, processor, tmp_path):
    args = options(tmp_path, logging_steps=50)
    trainer = PGGTrainer(tiny_model("vit"), args, train_dataset=guided_photos, processing_class=processor)
    trainer.train()
    trainer.save_model()
    assert "was suppressed outside" in (tmp_path / "README.md").read_text()


def test_none_beside_masks_is_kept_by_arrow(guided_photos):
    row = guided_photos[0]
    two = {**row, "labels": [0, 1], "label_weights": [0.5, 0.5], "provenance": [None, row["provenance"][0]]}
    features = Features({**guided_photos.features, "label_weights": List(Value("float32"))})
    rows = Dataset.from_list([two, row, {**row, "provenance": None}], features=features)
    assert guided_rows(rows) == 2 and rows[0]["provenance"][0] is None
    assert guided_rows(rows.select([2, 0])) == 1
