import pytest
import torch
from torch.nn import functional as F

from pneumonai.transforms.attention_augmentation import (
    GUIDED_AUGMENTATIONS,
    attention_dimming,
    attention_mix_up,
    attention_patching,
    draw_attention,
)

# A batch of boxes (rows, columns; the last excluded) in 12 x 10: inner, two corners, one pixel, one column, everything.
BOXES = [(2, 6, 3, 8), (0, 3, 0, 2), (9, 12, 8, 10), (5, 6, 4, 5), (0, 12, 7, 8), (0, 12, 0, 10)]
SIZE = (12, 10)


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    """See ``one_thread``."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def boxed_maps(boxes=BOXES, size=SIZE):
    """One map an image, at the image's size: 4 at two opposite corners of the box, 1 elsewhere in it, else 0."""
    maps = torch.zeros(len(boxes), 1, *size)
    for index, (top, bottom, left, right) in enumerate(boxes):
        maps[index, 0, top:bottom, left:right] = 1
        maps[index, 0, top, left] = maps[index, 0, bottom - 1, right - 1] = 4
    return maps


def pictures(number=6, size=SIZE):
    return torch.randn(number, 2, *size, generator=generator(3))


def test_mix_up_adds_the_box_resized_to_the_image():
    images = pictures()
    mixed = attention_mix_up(images, boxed_maps(), gamma=0.3)
    for index, (top, bottom, left, right) in enumerate(BOXES):
        box = images[index : index + 1, :, top:bottom, left:right]
        enlarged = F.interpolate(box, size=SIZE, mode="bilinear", align_corners=False)
        expected = 0.3 * images[index] + 0.7 * enlarged[0]
        torch.testing.assert_close(mixed[index], expected, rtol=1e-4, atol=1e-4)


def test_mix_up_of_one_hot_pixel_fills_the_picture_with_its_value():
    images = pictures()[3:4]
    mixed = attention_mix_up(images, boxed_maps()[3:4], gamma=0.0)
    torch.testing.assert_close(mixed, images[:, :, 5:6, 4:5].expand_as(mixed))


def test_patching_pastes_the_box_at_its_own_size_inside_the_picture():
    images = pictures()
    starts = [set() for _ in BOXES]
    for seed in range(40):
        patched = attention_patching(images, boxed_maps(), generator(seed))
        for index, (top, bottom, left, right) in enumerate(BOXES):
            height, width = bottom - top, right - left
            box = images[index, :, top:bottom, left:right]
            places = [
                (row, column)
                for row in range(SIZE[0] - height + 1)
                for column in range(SIZE[1] - width + 1)
                if torch.equal(patched[index, :, row : row + height, column : column + width], box)
            ]
            row, column = next(place for place in places if place != (top, left)) if len(places) > 1 else places[0]
            expected = images[index].clone()
            expected[:, row : row + height, column : column + width] = box
            assert torch.equal(patched[index], expected)
            starts[index].add((row, column))
    # The inner box of 4 x 5 fits at 9 x 6 places, that of one column at 10, the whole picture at one.
    assert len(starts[0]) > 20
    assert {row for row, _ in starts[0]} == set(range(9))
    assert {column for _, column in starts[0]} == set(range(6))
    assert starts[4] == {(0, column) for column in range(10)}
    assert starts[5] == {(0, 0)}


def test_dimming_multiplies_what_is_attended_by_a_tenth():
    images, maps = torch.ones(1, 1, 2, 3), torch.tensor([[[[0.0, 1.0, 2.0], [3.0, 4.0, 2.0001]]]])
    dimmed = attention_dimming(images, maps)
    torch.testing.assert_close(dimmed, torch.tensor([[[[1.0, 1.0, 1.0], [0.1, 0.1, 0.1]]]]))
    assert torch.equal(attention_dimming(images, maps, threshold=1.0), images)
    assert attention_dimming(images, maps, threshold=0.75, factor=0.0).sum() == 5


@pytest.mark.parametrize("name", GUIDED_AUGMENTATIONS)
@pytest.mark.parametrize("value", [0.0, 0.3, 7.7])
def test_constant_maps_leave_the_pictures_as_they_are(name, value):
    images = pictures()
    # 5 x 7 to 12 x 10: the resized map's values differ in their last bits.
    maps = torch.full((len(images), 4, 5, 7), value)
    assert torch.equal(draw_attention(maps, SIZE), torch.zeros(len(images), 1, *SIZE))
    assert torch.equal(GUIDED_AUGMENTATIONS[name](images, maps), images)


@pytest.mark.parametrize("name", GUIDED_AUGMENTATIONS)
def test_each_picture_of_a_batch_is_judged_alone(name):
    images, maps = pictures(), boxed_maps()
    maps[1] = 0
    changed = GUIDED_AUGMENTATIONS[name](images, maps, generator())
    assert torch.equal(changed[1], images[1])
    assert not torch.equal(changed[0], images[0])
    if name != "patching":
        for index in range(len(images)):
            one = slice(index, index + 1)
            torch.testing.assert_close(GUIDED_AUGMENTATIONS[name](images[one], maps[one]), changed[one])


def test_the_map_is_resized_linearly_and_scaled_to_the_unit_range():
    maps = torch.rand(3, 1, 7, 7, generator=generator()) * 5 + 2
    attention = draw_attention(maps, (224, 224))
    resized = F.interpolate(maps, size=(224, 224), mode="bilinear", align_corners=False)
    low, high = resized.amin((1, 2, 3), keepdim=True), resized.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(attention, (resized - low) / (high - low))
    assert attention.amin((1, 2, 3)).tolist() == [0, 0, 0]
    assert attention.amax((1, 2, 3)).tolist() == [1, 1, 1]


def drawn_shares(means, draws=4000):
    """How often each map is drawn; map j is hot in column j alone."""
    maps = torch.zeros(draws, len(means), 1, len(means))
    for index, mean in enumerate(means):
        maps[:, index, 0, index] = mean
    attention = draw_attention(maps, (1, len(means)), generator())
    return attention[:, 0, 0].mean(dim=0)


def test_maps_are_drawn_in_proportion_to_their_means():
    shares = drawn_shares([1.0, 0.0, 3.0, 4.0])
    assert shares[1] == 0
    torch.testing.assert_close(shares, torch.tensor([0.125, 0, 0.375, 0.5]), rtol=0, atol=0.03)


def test_where_all_means_are_zero_the_draw_is_uniform():
    # Maps of mean zero that still differ: +1 and -1 at places of their own.
    maps = torch.zeros(4000, 4, 1, 8)
    for index in range(4):
        maps[:, index, 0, 2 * index] = 1
        maps[:, index, 0, 2 * index + 1] = -1
    drawn = draw_attention(maps, (1, 8), generator())[:, 0, 0, ::2] == 1
    torch.testing.assert_close(drawn.float().mean(dim=0), torch.full((4,), 0.25), rtol=0, atol=0.03)


def test_each_augmentation_draws_for_itself_and_the_generator_repeats():
    maps = torch.rand(16, 32, 7, 7, generator=generator(1)) ** 8
    images = pictures(number=16, size=(28, 28))
    first, again, other = (
        [augment(images, maps, drawn) for augment in GUIDED_AUGMENTATIONS.values()]
        for drawn in (generator(5), generator(5), generator(6))
    )
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    drawn = generator(5)
    assert not torch.equal(draw_attention(maps, (28, 28), drawn), draw_attention(maps, (28, 28), drawn))


@pytest.mark.parametrize("name", GUIDED_AUGMENTATIONS)
def test_inputs_stay_and_no_gradient_reaches_the_maps(name):
    images, maps = pictures(number=2), torch.rand(2, 3, 4, 5, requires_grad=True)
    before = images.clone(), maps.detach().clone()
    changed = GUIDED_AUGMENTATIONS[name](images, maps)
    assert not changed.requires_grad
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert torch.equal(images, before[0])
    assert torch.equal(maps.detach(), before[1])


@pytest.mark.parametrize("name", GUIDED_AUGMENTATIONS)
def test_no_shape_and_no_branch_depends_on_a_value(name):
    """Tensors of the meta device have no values: what would wait for them is an error there."""
    changed = GUIDED_AUGMENTATIONS[name](
        torch.empty(4, 1, 224, 224, device="meta"), torch.empty(4, 32, 7, 7, device="meta")
    )
    assert changed.shape == (4, 1, 224, 224)
    assert changed.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", GUIDED_AUGMENTATIONS)
def test_the_host_never_waits_for_a_gpu(name):
    images = torch.randn(4, 1, 224, 224, device="cuda")
    maps, drawn = torch.rand(4, 32, 7, 7, device="cuda"), torch.Generator("cuda")
    GUIDED_AUGMENTATIONS[name](images, maps, drawn)
    torch.cuda.set_sync_debug_mode("error")
    try:
        changed = GUIDED_AUGMENTATIONS[name](images, maps, drawn)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert changed.is_cuda


@pytest.mark.parametrize("name", GUIDED_AUGMENTATIONS)
def test_volumes_half_precision_maps_and_float64_images_work(name):
    images = torch.randn(2, 1, 6, 8, 10, dtype=torch.float64)
    maps = torch.zeros(2, 3, 3, 4, 5, dtype=torch.bfloat16)
    maps[:, :, 1, 2, 3] = 2
    changed = GUIDED_AUGMENTATIONS[name](images, maps, generator())
    assert changed.dtype == torch.float64
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, images)


@pytest.mark.parametrize(
    ("name", "maps", "options", "message"),
    [
        ("mix_up", (2, 3, 4, 5), {"threshold": 1.5}, "threshold must lie in 0..1, got 1.5"),
        ("mix_up", (2, 3, 4, 5), {"gamma": -0.1}, "gamma must lie in 0..1, got -0.1"),
        ("dimming", (2, 3, 4, 5), {"factor": 2}, "factor must lie in 0..1, got 2"),
        ("patching", (3, 3, 4, 5), {}, r"same batch .* got \[2, 1, 8, 8\] and \[3, 3, 4, 5\]"),
        ("dimming", (2, 0, 4, 5), {}, r"one map or more each .* got \[2, 1, 8, 8\] and \[2, 0, 4, 5\]"),
        ("dimming", (2, 3, 5), {}, r"same one to three spatial axes, got \[2, 1, 8, 8\] and \[2, 3, 5\]"),
    ],
)
def test_bad_arguments_are_refused_in_words(name, maps, options, message):
    with pytest.raises(ValueError, match=message):
        GUIDED_AUGMENTATIONS[name](torch.zeros(2, 1, 8, 8), torch.zeros(maps), **options)
