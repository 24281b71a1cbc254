"""The mask is the best of all masks, the transport the best of all orders, and every pixel is where they say."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from torch import nn

from hf_pgg.data.images import decode_mask, to_rgb
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.provenance import ProvenanceError, Sources
from hf_pgg.data.validation import validate_row
from hf_pgg.synthesis.cutmix import CutMix
from hf_pgg.synthesis.puzzlemix import (
    InputGradientSaliency,
    PuzzleMix,
    _block_saliency,
    _expand_blocks,
    _mask_costs,
    _permute_blocks,
    _puzzlemix,
    _solve_mask,
    _transport,
)
from tests.conftest import SIZE, tiny_model

LEVELS = (0.0, 0.5, 1.0)


def greenness(image, label):
    """A saliency of one's own: the objects of the photos are green."""
    return (image[..., 1].astype(float) - image[..., 0] + 10 * label).clip(min=0)


def noise(image, label):
    """A saliency that has nothing to do with the objects, so that they are moved about."""
    return np.random.default_rng([int(image.sum()), label]).gamma(0.1, size=image.shape[:2])


@pytest.fixture(scope="module")
def square_guided_photos(guided_photos):
    return guided_photos.filter(lambda row: row["image"].size == (SIZE, SIZE))


@pytest.fixture(scope="module")
def gradient_saliency(processor):
    return InputGradientSaliency(tiny_model("convnext"), InputSpec.from_processor(processor))


def random_pair(rng, n, height, width):
    images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    shares = rng.gamma(0.3, size=(2, n, n))
    return images, shares / shares.sum((1, 2), keepdims=True)


def random_costs(rng, n):
    return rng.normal(size=(n, n, 3)), rng.random((n - 1, n)), rng.random((n, n - 1))


# ---------------------------------------------------------------------------------------------- the mask


def energy_by_definition(z, images, shares, lam, beta, gamma, eta):
    """E(z) of the paper, block by block and border by border, in loops."""
    n = len(z)
    tall, wide = images[0].shape[0] // n // 4, images[0].shape[1] // n // 4  # patches of 4 x 4 pixels a block
    patch = [p.reshape(n * tall, 4, n * wide, 4, 3).mean((1, 3)) / 255 for p in images]
    binomial = {0.0: (1 - lam) ** 2, 0.5: 2 * lam * (1 - lam), 1.0: lam**2}
    energy = 0.0
    for y, x in np.ndindex(n, n):
        energy += (1 - z[y, x]) * shares[0][y, x] + z[y, x] * shares[1][y, x]
        energy -= eta / n**2 * np.log(binomial[z[y, x]] + 1e-8)  # finite, as in the authors' code
        for down in (True, False):
            y2, x2 = (y + 1, x) if down else (y, x + 1)
            if max(y2, x2) == n:
                continue

            def border(i, j, y=y, x=x, down=down):
                if down:
                    pairs = [
                        (patch[i][(y + 1) * tall - 1, x * wide + k], patch[j][(y + 1) * tall, x * wide + k])
                        for k in range(wide)
                    ]
                else:
                    pairs = [
                        (patch[i][y * tall + k, (x + 1) * wide - 1], patch[j][y * tall + k, (x + 1) * wide])
                        for k in range(tall)
                    ]
                return np.mean([np.abs(a - b).mean() for a, b in pairs])

            a, b = z[y, x], z[y2, x2]
            bend = (border(0, 1) + border(1, 0) - border(0, 0) - border(1, 1)) / 2
            colours = (
                a * b * border(0, 0)
                + a * (1 - b) * border(0, 1)
                + (1 - a) * b * border(1, 0)
                + (1 - a) * (1 - b) * border(1, 1)
                - bend * (a * (1 - a) + b * (1 - b))
            )
            energy += beta / 16 / n * ((a - b) ** 2 + gamma * colours)
    return energy


def energy_of_costs(z, unary, down, right):
    return (
        np.take_along_axis(unary, (2 * z).astype(int)[..., None], 2).sum()
        + (down * np.diff(z, axis=0) ** 2).sum()
        + (right * np.diff(z, axis=1) ** 2).sum()
    )


def all_masks(n):
    return [np.reshape(z, (n, n)) for z in itertools.product(LEVELS, repeat=n * n)]


@pytest.mark.parametrize("seed", range(6))
def test_the_mask_minimises_the_papers_energy_over_all_81_labelings(seed):
    rng = np.random.default_rng(seed)
    images, shares = random_pair(rng, 2, 16, 24)
    images[0] //= 4  # borders between the images differ from those within
    options = {"lam": float(rng.random()), "beta": 1.2, "gamma": 0.5, "eta": 0.2}
    costs = _mask_costs(images, shares, **options)
    energies = [energy_by_definition(z, images, shares, **options) for z in all_masks(2)]
    offsets = [e - energy_of_costs(z, *costs) for e, z in zip(energies, all_masks(2), strict=True)]
    assert np.ptp(offsets) < 1e-7
    found = energy_by_definition(_solve_mask(*costs), images, shares, **options)
    assert found == pytest.approx(min(energies), abs=1e-7)


@pytest.mark.parametrize("seed", range(40))
def test_the_minimum_cut_is_exact_for_any_costs(seed):
    rng = np.random.default_rng(seed)
    costs = random_costs(rng, 2)
    best = min(energy_of_costs(z, *costs) for z in all_masks(2))
    assert energy_of_costs(_solve_mask(*costs), *costs) == pytest.approx(best, abs=1e-6)


def test_the_minimum_cut_is_exact_over_all_19683_labelings_of_nine_blocks():
    masks = all_masks(3)
    for seed in range(3):
        costs = random_costs(np.random.default_rng(seed), 3)
        best = min(energy_of_costs(z, *costs) for z in masks)
        assert energy_of_costs(_solve_mask(*costs), *costs) == pytest.approx(best, abs=1e-6)


def test_no_change_of_a_block_or_a_line_of_blocks_improves_a_mask_of_256():
    rng = np.random.default_rng(0)
    costs = _mask_costs(*random_pair(rng, 16, 64, 64), 0.6, beta=1.2, gamma=0.5, eta=0.2)
    z = _solve_mask(*costs)
    assert set(np.unique(z)) == set(LEVELS)
    best = energy_of_costs(z, *costs)
    for y, x, level in itertools.product(range(16), range(16), LEVELS):
        for place in ((y, x), (y, slice(x, None)), (slice(y, None), x), (slice(y, None), slice(x, None))):
            other = z.copy()
            other[place] = level
            assert energy_of_costs(other, *costs) >= best - 1e-6


def test_without_saliency_to_tell_them_apart_lambda_decides():
    grey = np.full((2, 16, 16, 3), 128, np.uint8)
    uniform = np.full((2, 4, 4), 1 / 16)
    for lam, level in ((0.0, 0), (0.1, 0), (0.5, 0.5), (0.9, 1), (1.0, 1)):
        costs = _mask_costs(grey, uniform, lam, beta=1.2, gamma=0.5, eta=0.2)
        assert (_solve_mask(*costs) == level).all()


def test_equal_costs_give_a_mask_too():
    assert (_solve_mask(np.zeros((2, 2, 3)), np.zeros((1, 2)), np.zeros((2, 1))) == 0).all()


def test_a_negative_weight_is_no_minimum_cut():
    with pytest.raises(ValueError, match="`gamma` at most 1"):
        _solve_mask(np.zeros((2, 2, 3)), np.full((1, 2), -1.0), np.zeros((2, 1)))


# ---------------------------------------------------------------------------------------------- the transport


@pytest.mark.parametrize("seed", range(10))
def test_transport_is_the_best_of_all_24_orders(seed):
    rng = np.random.default_rng(seed)
    saliency, kept, cost = rng.random((2, 2)), rng.random((2, 2)) > 0.5, 0.3 * rng.random()

    def gain(order):
        moved = [(i // 2 - j // 2) ** 2 + (i % 2 - j % 2) ** 2 for i, j in enumerate(order)]
        return (kept.ravel() * saliency.ravel()[list(order)]).sum() - cost * sum(moved)

    best = max(gain(order) for order in itertools.permutations(range(4)))
    assert gain(_transport(saliency, kept, cost)) == pytest.approx(best)


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_transport_is_a_permutation_that_never_loses_saliency(n):
    rng = np.random.default_rng(n)
    for _ in range(3):
        saliency, kept = rng.gamma(0.3, size=(n, n)), rng.random((n, n)) > 0.5
        order = _transport(saliency / saliency.sum(), kept)
        assert sorted(order) == list(range(n * n))
        assert saliency.ravel()[order][kept.ravel()].sum() >= saliency[kept].sum() - 1e-9
        uniform = np.full((n, n), 1 / n**2)
        assert (_transport(uniform, kept) == np.arange(n * n)).all()


def test_a_hidden_salient_block_moves_next_door_where_it_is_seen():
    saliency, kept = np.zeros((4, 4)), np.zeros((4, 4), bool)
    saliency[1, 1], kept[1, 2], kept[3, 3] = 1, True, True
    swap = 2 / 3**2  # two blocks, each by one side of a block of three
    assert _transport(saliency, kept, cost=0.99 / swap)[1 * 4 + 2] == 1 * 4 + 1
    assert (_transport(saliency, kept, cost=1.01 / swap) == np.arange(16)).all()


# ---------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("n", [2, 4, 8])
def test_every_pixel_is_the_blend_of_the_blocks_that_mask_and_orders_name(n):
    rng = np.random.default_rng(n)
    height, width = 6 * n, 4 * n
    images = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    saliencies = rng.gamma(0.1, size=(2, height, width))
    mixed, z, (order, other_order) = _puzzlemix(images, saliencies, 0.5, n, transport_cost=0.05)

    def block(image, i):
        y, x = i // n * 6, i % n * 4
        return image[y : y + 6, x : x + 4].astype(float)

    for i in range(n * n):
        share = z.ravel()[i]
        expected = share * block(images[0], order[i]) + (1 - share) * block(images[1], other_order[i])
        assert np.abs(block(mixed, i) - expected).max() <= 0.5
        assert (block(_expand_blocks(z, (height, width))[..., None], i) == share).all()
    assert n == 2 or {tuple(order), tuple(other_order)} != {tuple(range(n * n))}
    assert (_permute_blocks(_permute_blocks(images[0], order), np.argsort(order)) == images[0]).all()


@pytest.mark.parametrize("n", [2, 4, 8, 16])
@pytest.mark.parametrize("lam", [0.05, 0.5, 0.95])
def test_the_salient_blocks_of_both_images_survive(n, lam):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    saliencies, side = np.zeros((2, 32, 32)), 32 // n
    saliencies[0, :side, :side] = saliencies[1, -side:, -side:] = 1
    mixed, z, _ = _puzzlemix(images, saliencies, lam, n)
    assert z[0, 0] == 1 and z[-1, -1] == 0
    assert (mixed[:side, :side] == images[0][:side, :side]).all()
    assert (mixed[-side:, -side:] == images[1][-side:, -side:]).all()


def test_without_transport_a_pixel_comes_from_where_it_was(photos):
    rows = photos.filter(lambda row: row["image"].size == (SIZE, SIZE))
    pool = [to_rgb(row["image"]) for row in rows]
    method = PuzzleMix(source=rows, saliency=greenness, transport_cost=1e9, seed=1)
    blended = 0
    for before, after in zip(rows, method.map(rows), strict=True):
        own, image = to_rgb(before["image"]), to_rgb(after["image"]).astype(float)
        ours, theirs = (decode_mask(mask) for mask in after["provenance"])
        assert set(np.unique(ours)) <= {0, 128, 255} and (ours.astype(int) + theirs - 255 <= 1).all()
        assert (image[ours == 255] == own[ours == 255]).all()
        half = ours == 128
        assert any(
            (image[theirs == 255] == other[theirs == 255]).all()
            and (np.abs(2 * image[half] - own[half] - other[half]) <= 1).all()
            for other in pool
        )
        blended += half.sum()
    assert blended


def test_lambda_is_the_mean_of_the_mask(photos):
    for row in PuzzleMix(source=photos, saliency=greenness, seed=2).map(photos):
        share = np.rint(decode_mask(row["provenance"][0]) / 127.5).mean() / 2
        assert row["label_weights"] == pytest.approx([share, 1 - share], abs=1e-6)


def test_object_masks_move_with_their_objects(square_guided_photos):
    """An object of the photos has one colour, which tells its label: where its mask went, that colour went."""
    data = square_guided_photos
    method = PuzzleMix(source=data, saliency=noise, transport_cost=0.0, seed=4)
    moved = 0
    for before, row in zip(data, method.map(data), strict=True):
        image = to_rgb(row["image"])
        colours = [(image == (40 * label + 60, 200, 90)).all(2) for label in row["labels"]]
        inside = [decode_mask(mask) == 255 for mask in row["provenance"]]
        assert colours[0][inside[0]].all() and colours[1][inside[1]].all()
        if row["labels"][0] != row["labels"][1]:
            assert (inside[0] == colours[0]).all() and (inside[1] == colours[1]).all()
        moved += (inside[0] & (decode_mask(before["provenance"][0]) == 0)).sum()
    assert moved


def test_a_source_of_several_labels_is_salient_by_their_weights(photos):
    row = {"image": photos[1]["image"], "labels": [0, 2], "label_weights": [0.25, 0.75]}
    seen = []

    def saliency(image, label):
        seen.append(label)
        return np.full(image.shape[:2], 1.0 + label)

    method = PuzzleMix(source=photos, saliency=saliency)
    total = method._saliency_of(to_rgb(row["image"]), Sources(row["labels"], row["label_weights"], []))
    assert seen == [0, 2] and (total == 0.25 * 1 + 0.75 * 3).all()


def test_the_sources_of_an_earlier_mix_stay_apart(guided_photos):
    mixes = CutMix(source=guided_photos, seed=1).map(guided_photos)
    for i, row in enumerate(PuzzleMix(source=mixes, saliency=greenness).map(mixes)):
        assert len(row["labels"]) == 4
        validate_row(row, i, 3)


# ---------------------------------------------------------------------------------------------- saliency


class LinearClassifier(nn.Module):
    """Three classes on 4 x 4 pixels: the gradient of its cross entropy is known."""

    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(scale * torch.randn(3, 3 * 4 * 4))

    def forward(self, pixel_values):
        return SimpleNamespace(logits=pixel_values.flatten(1) @ self.weight.T)


SPEC = InputSpec((4, 4), (4, 4), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_saliency_is_the_rms_over_channels_of_the_gradient_of_the_cross_entropy():
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    model = LinearClassifier()
    weight = model.weight.detach().double().numpy()
    logits = weight @ (image.transpose(2, 0, 1).reshape(-1) / 255)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    for label in range(3):
        gradient = ((probabilities - np.eye(3)[label]) @ weight).reshape(3, 4, 4)
        expected = np.sqrt((gradient**2).mean(0))
        assert InputGradientSaliency(model, SPEC)(image, label) == pytest.approx(expected, rel=1e-4)


def test_saliency_has_the_images_size_and_all_of_the_image():
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    saliency = InputGradientSaliency(LinearClassifier(), SPEC)(image, 1)
    assert saliency.shape == (8, 12) and saliency.min() > 0


def test_saliency_keeps_a_copy_of_the_model_in_evaluation_mode(processor):
    model = tiny_model("vit").train()  # with dropout
    saliency = InputGradientSaliency(model, InputSpec.from_processor(processor))
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    before = saliency(image, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
        assert (saliency(image, 0) == before).all()
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_no_gradient_counts_as_uniform_saliency():
    saliency = InputGradientSaliency(LinearClassifier(scale=0.0), SPEC)(np.zeros((8, 8, 3), np.uint8), 0)
    assert (saliency == 0).all() and (_block_saliency(saliency, 4) == 1 / 16).all()
    assert _block_saliency(np.arange(16.0).reshape(4, 4), 2) == pytest.approx(np.array([[10, 18], [42, 50]]) / 120)


# ---------------------------------------------------------------------------------------------- as a transform


@pytest.mark.parametrize("family", ["vit", "convnext"])
def test_the_fingerprint_is_that_of_weights_and_settings(photos, processor, family):
    spec = InputSpec.from_processor(processor)
    model, twin = tiny_model(family), tiny_model(family)

    def method(model, **options):
        return PuzzleMix(source=photos, saliency=InputGradientSaliency(model, spec), **options)

    used = method(model)
    fingerprint = Hasher.hash(used)
    used.synthesize(photos[0], used.generator(0))
    assert Hasher.hash(used) == Hasher.hash(method(twin)) == fingerprint
    assert used.map(photos)._fingerprint == method(twin).map(photos)._fingerprint
    assert Hasher.hash(method(model, gamma=0.4)) != fingerprint
    with torch.no_grad():
        next(twin.parameters()).add_(0.1)
    assert Hasher.hash(method(twin)) != fingerprint


def test_rows_keep_the_contract(photos, guided_photos, gradient_saliency):
    for data in (photos, guided_photos):
        for saliency in (greenness, gradient_saliency):
            for i, row in enumerate(PuzzleMix(source=data, saliency=saliency, seed=3).map(data)):
                validate_row(row, i, 3)
                assert sum(row["label_weights"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("side", [1, 5, 31, 47])
def test_a_image_of_any_size_is_brought_to_whole_blocks(photos, side):
    method = PuzzleMix(source=photos, saliency=greenness, blocks=(16,))
    row = {"image": np.zeros((side, 40, 3), np.uint8), "label": 1}
    sample = method.synthesize(row, np.random.default_rng(0))
    assert sample.image.shape == (max(round(side / 16), 1) * 16, 32, 3)
    assert all(mask.shape == sample.image.shape[:2] for mask in sample.masks)


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "saliency", [lambda p, c: p, lambda p, c: p.mean(2) - 300, lambda p, c: np.full(p.shape[:2], np.nan)]
)
def test_a_saliency_that_is_none_is_named_with_its_row(photos, saliency):
    with pytest.raises(ProvenanceError, match=r"row 0.*`saliency` must return finite numbers >= 0 of shape"):
        PuzzleMix(source=photos, saliency=saliency).map(photos)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": (1, 2)}, "`blocks`"),
        ({"blocks": ()}, "`blocks`"),
        ({"gamma": 2.0}, "`gamma`"),
        ({"alpha": 0}, "`alpha`"),
    ],
)
def test_settings_outside_their_range_are_named(photos, options, message):
    with pytest.raises(ValueError, match=message):
        PuzzleMix(source=photos, saliency=greenness, **options)
