import itertools

import pytest
import torch

from benchmarks.measure import peak_bytes
from relation_heads.layers.reasoning import region_write
from relation_heads.layers.reasoning.region_crops import (
    boxes_in_cells,
    coverage_count,
    crop,
    inverse_crop_sum,
    valid_mask,
)
from tests.layers import reference_spatial_memory as reference
from tests.layers.reference_spatial_memory import (
    EXACT,
    GRIDS,
    PADDED,
    SPLITS,
    TINY,
    batch_boxes,
    random_boxes,
)
from tests.layers.tracing import assert_traces

DIM = 4


# ---- reading ----


@pytest.mark.parametrize("crop_size", [2, 7])
def test_crop_equals_the_slow_reference(crop_size):
    maps = torch.randn(3, DIM, *PADDED, dtype=torch.float64)
    boxes = batch_boxes()
    boxes[1] = torch.tensor(TINY[1])
    actual = crop(maps, boxes, SPLITS, crop_size=crop_size, grid_sizes=GRIDS)
    images = [0] * 5 + [2] * 4
    for n, image in enumerate(images):
        h, w = GRIDS[image]
        expected = reference.read(maps[image, :, :h, :w], boxes[n].tolist(), crop_size)
        torch.testing.assert_close(actual[n], expected, **EXACT)
    assert (actual == 0).any() and (actual != 0).any()


def test_a_box_on_cell_centres_reads_the_cells_themselves():
    maps = torch.randn(1, DIM, 9, 8)
    box = torch.tensor([[0.0, 2.0, 6.0, 8.0]])
    actual = crop(maps, box, (1,))[0]
    torch.testing.assert_close(actual, maps[0, :, 2:9, :7])
    shifted = crop(maps, box + 4, (1,))[0]  # columns 4 to 10 and rows 6 to 12: beyond is 0
    torch.testing.assert_close(shifted[:, :3, :4], maps[0, :, 6:, 4:])
    assert not shifted[:, 3:].any() and not shifted[:, :, 4:].any()


def test_a_map_of_one_cell_is_read():
    maps = torch.tensor([3.0]).view(1, 1, 1, 1)
    boxes = torch.tensor([[0.0, 0, 0, 0], [-1, -1, 1, 1]])
    actual = crop(maps, boxes, (2,), crop_size=3)
    assert (actual[0] == 3).all()
    assert actual[1].flatten().tolist() == [0, 0, 0, 0, 3, 0, 0, 0, 0]


# ---- writing ----


@pytest.mark.parametrize("size", [(9, 12), (12, 9)], ids=str)
def test_inverse_crop_sum_equals_the_slow_reference(size):
    boxes = random_boxes(6, size)
    values = torch.randn(6, DIM, 7, 7, dtype=torch.float64)
    expected = [reference.write(v, b, size) for v, b in zip(values, boxes.tolist(), strict=True)]
    actual = inverse_crop_sum(values, boxes, (6,), size)
    torch.testing.assert_close(actual[0], sum(expected), **EXACT)
    weights = torch.rand(6, dtype=torch.float64)
    expected = sum(w * e for w, e in zip(weights, expected, strict=True))
    actual = inverse_crop_sum(values, boxes, (6,), size, weights=weights)
    torch.testing.assert_close(actual[0], expected, **EXACT)


@pytest.mark.parametrize("pairs", [2**18, 700, 1], ids=["one block", "blocks", "rows"])
@pytest.mark.parametrize("size", [(10, 17), (17, 10)], ids=str)
def test_sparse_equals_dense(size, pairs, monkeypatch):
    monkeypatch.setattr(region_write, "PAIRS_AT_ONCE", pairs)
    monkeypatch.setattr(region_write, "SCRATCH_BYTES", 0)  # so blocks of 32 channels
    n, dim = 60, 40
    boxes = random_boxes(n, size)
    values = torch.randn(n, dim, 7, 7, dtype=torch.float64, requires_grad=True)
    sparse = inverse_crop_sum(values, boxes, (n,), size)[0]
    dense = reference.dense_write(values, boxes, size).sum(0)
    torch.testing.assert_close(sparse, dense, **EXACT)
    upstream = torch.randn_like(dense)
    gradients = [torch.autograd.grad(t, values, upstream)[0] for t in (sparse, dense)]
    torch.testing.assert_close(*gradients, **EXACT)


def test_rows_are_grouped_by_what_covers_them(monkeypatch):
    monkeypatch.setattr(region_write, "PAIRS_AT_ONCE", 10)
    blocks = [range(20)[b] for b in region_write._row_blocks([4, 6, 1, 12, 0, 0, 9, 2])]
    assert [list(b) for b in blocks] == [[0, 1], [2], [3], [4, 5, 6], [7]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_writing_a_batch_equals_image_by_image(layout):
    boxes, weights = batch_boxes(), torch.rand(9, dtype=torch.float64)
    values = torch.randn(9, DIM, 3, 3, dtype=torch.float64).contiguous(memory_format=layout)
    values.requires_grad_()
    batch = inverse_crop_sum(values, boxes, SPLITS, PADDED, grid_sizes=GRIDS, weights=weights)
    assert batch.is_contiguous(memory_format=layout)
    upstream = torch.randn_like(batch)
    (gradient,) = torch.autograd.grad(batch, values, upstream)
    assert gradient.is_contiguous(memory_format=layout)
    for image, rows in ((0, slice(0, 5)), (1, slice(5, 5)), (2, slice(5, 9))):
        h, w = GRIDS[image]
        own = values[rows].detach().contiguous().requires_grad_()
        alone = inverse_crop_sum(own, boxes[rows], (len(own),), (h, w), weights=weights[rows])
        torch.testing.assert_close(batch[image, :, :h, :w], alone[0], **EXACT)
        assert not batch[image, :, h:].any() and not batch[image, :, :, w:].any()
        (expected,) = torch.autograd.grad(alone, own, upstream[image : image + 1, :, :h, :w])
        torch.testing.assert_close(gradient[rows], expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    boxes = random_boxes(20).float()
    values = torch.randn(20, DIM, 7, 7, dtype=dtype, requires_grad=True)
    wide = values.detach().float().requires_grad_()
    sums = [inverse_crop_sum(v, boxes, (20,), (9, 12)) for v in (values, wide)]
    assert sums[0].dtype == torch.float32 and torch.equal(*sums)
    gradients = [
        torch.autograd.grad(s.sum(), v)[0] for s, v in zip(sums, (values, wide), strict=True)
    ]
    assert gradients[0].dtype == dtype and torch.equal(gradients[0], gradients[1].to(dtype))


def test_the_memory_of_a_write_is_bounded():
    # 300 boxes that cover 3,600 cells each: all pairs at once would take 200 MiB
    boxes = torch.tensor([[-0.5, -0.5, 59.5, 59.5]]).expand(300, 4)
    values = torch.randn(300, 8, 7, 7, requires_grad=True)

    def write():
        return inverse_crop_sum(values, boxes, (300,), (60, 60))

    with torch.no_grad():
        assert peak_bytes(write) < 50 * 2**20
    assert peak_bytes(lambda: torch.autograd.grad(write().sum(), values)) < 60 * 2**20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_count_is_an_exact_integer(dtype):
    boxes = random_boxes(300).to(dtype)
    expected = torch.zeros(1, 9, 12)
    for x1, y1, x2, y2 in boxes.tolist():
        for i, j in itertools.product(range(9), range(12)):
            expected[0, i, j] += y1 <= i <= y2 and x1 <= j <= x2
    actual = coverage_count(boxes, (300,), (9, 12))
    assert actual.dtype == torch.float32 and actual.shape == (1, 1, 9, 12)
    assert torch.equal(actual[0], expected) and actual.max() > 50
    ones = torch.ones(300, 1, 7, 7, dtype=dtype)
    written = inverse_crop_sum(ones, boxes, (300,), (9, 12))
    torch.testing.assert_close(written.float(), actual, rtol=0, atol=1e-3)


def test_a_border_on_a_cell_centre_covers_it():
    # In the released form it depends on rounding; a box along the image border is a common one
    boxes = torch.tensor([[0.0, 1.0, 3.0, 2.0], [3.0, 0.0, 4.7, 5.0]])
    expected = torch.zeros(4, 5)
    expected[1:3, :4] += 1
    expected[:, 3:] += 1
    assert torch.equal(coverage_count(boxes, (2,), (4, 5))[0, 0], expected)
    written = inverse_crop_sum(torch.ones(2, 1, 7, 7), boxes, (2,), (4, 5))[0, 0]
    torch.testing.assert_close(written, expected)


def test_weighted_count():
    boxes = random_boxes(6)
    weights = torch.rand(6, dtype=torch.float64)
    single = [coverage_count(b[None], (1,), (9, 12))[0].double() for b in boxes]
    expected = sum(w * c for w, c in zip(weights, single, strict=True))
    actual = coverage_count(boxes, (6,), (9, 12), weights=weights)
    torch.testing.assert_close(actual[0], expected, **EXACT)


def test_boxes_that_cover_no_centre_write_nothing():
    tiny = [*TINY, [5.0, 5.0, 4.0, 4.0], [-9.0, -9.0, -2.0, -2.0], [5.0, 5.0, 5 + 1e-30, 9.0]]
    boxes = torch.tensor(tiny, dtype=torch.float64)
    values = torch.randn(6, DIM, 3, 3, dtype=torch.float64, requires_grad=True)
    total = inverse_crop_sum(values, boxes, (6,), (9, 12))
    assert not total.any() and not coverage_count(boxes, (6,), (9, 12)).any()
    total.sum().backward()
    assert not values.grad.any()
    assert crop(torch.randn(1, DIM, 9, 12), boxes, (6,)).isfinite().all()


# ---- both ----


def test_boxes_that_are_not_finite_write_nothing_and_stop_nothing():
    nan, inf = torch.nan, torch.inf
    boxes = torch.tensor(
        [[nan, 0, 5, 5], [0, 0, inf, 5], [-inf, 0, 5, 5], [-inf, -inf, inf, inf], [nan] * 4]
    )
    values = torch.ones(5, DIM, 3, 3, requires_grad=True)
    assert not inverse_crop_sum(values, boxes, (5,), (9, 12)).any()
    assert not coverage_count(boxes, (5,), (9, 12)).any()
    assert not crop(torch.ones(1, DIM, 9, 12), boxes, (5,))[-1].any()
    inverse_crop_sum(values, boxes, (5,), (9, 12)).sum().backward()
    assert not values.grad.any()


def test_values_of_one_image_that_are_not_finite_stay_there():
    boxes, values = batch_boxes(), torch.randn(9, DIM, 3, 3, dtype=torch.float64)
    maps = torch.randn(3, DIM, *PADDED, dtype=torch.float64)

    def run():
        written = inverse_crop_sum(values, boxes, SPLITS, PADDED, grid_sizes=GRIDS)
        return written[:2], crop(maps, boxes, SPLITS, grid_sizes=GRIDS)[:5]

    expected = run()
    values[5:], maps[2], boxes[5:] = torch.nan, torch.inf, torch.nan
    for actual, wanted in zip(run(), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_traces_run_at_other_sizes():
    def read_and_write(maps, boxes, more_boxes, values, weights, grids):
        both, splits = torch.cat([boxes, more_boxes]), (boxes.shape[0], more_boxes.shape[0])
        grid_sizes, size = [(g[0], g[1]) for g in grids.unbind()], maps.shape[2:]
        where = {"grid_sizes": grid_sizes}
        return (
            crop(maps, both, splits, **where),
            inverse_crop_sum(values, both, splits, size, weights=weights, **where),
            coverage_count(both, splits, size, weights=weights, **where),
            coverage_count(both, splits, size),
            valid_mask(grid_sizes, size),
        )

    def case(counts, grids):
        size, n = [max(sides) for sides in zip(*grids, strict=True)], sum(counts)
        boxes = [random_boxes(k, g) for k, g in zip(counts, grids, strict=True)]
        values = torch.randn(n, DIM, 3, 3, dtype=torch.float64)
        weights = torch.rand(n, dtype=torch.float64)
        maps = torch.randn(2, DIM, *size, dtype=torch.float64)
        return maps, *boxes, values, weights, torch.tensor(grids)

    assert_traces(
        read_and_write,
        case((5, 3), [(9, 12), (7, 12)]),
        case((1, 0), [(20, 5), (20, 30)]),
        case((0, 0), [(3, 3), (3, 2)]),
        case((200, 300), [(8, 8), (8, 8)]),
    )


def test_gradients_of_reading_and_writing():
    boxes, size = random_boxes(3, (4, 5)), (4, 5)
    maps = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: crop(m, boxes, (3,), crop_size=3), maps)
    values = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: inverse_crop_sum(v, boxes, (3,), size), values)
    weights = torch.rand(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda v: inverse_crop_sum(v, boxes, (3,), size, weights=weights), values
    )


def test_boxes_and_weights_get_no_gradient():
    boxes, weights = random_boxes(3).requires_grad_(), torch.rand(3).requires_grad_()
    values = torch.randn(3, 2, 3, 3)
    assert not crop(torch.randn(1, 2, 9, 12), boxes, (3,)).requires_grad
    assert not inverse_crop_sum(values, boxes, (3,), (9, 12), weights=weights).requires_grad
    assert not coverage_count(boxes, (3,), (9, 12), weights=weights).requires_grad
    assert not boxes_in_cells(boxes, 16).requires_grad


def test_boxes_in_cells():
    boxes = torch.tensor([[0.0, 16.0, 40.0, 64.0]], dtype=torch.float16)
    assert boxes_in_cells(boxes, 16).tolist() == [[0.0, 1.0, 2.5, 4.0]]
    assert boxes_in_cells(boxes, 16, half_pixel=True).tolist() == [[-0.5, 0.5, 2.0, 3.5]]
    assert boxes_in_cells(boxes, 16).dtype == torch.float32
    assert boxes_in_cells(boxes.double(), 16).dtype == torch.float64


def test_half_pixel_covers_the_cells_whose_centre_is_in_the_box():
    pixels = torch.tensor([[0.0, 20.0, 47.0, 64.0]])  # centres at 8, 24, 40, 56
    count = coverage_count(boxes_in_cells(pixels, 16, half_pixel=True), (1,), (4, 4))[0, 0]
    expected = torch.zeros(4, 4)
    expected[1:, :3] = 1
    assert torch.equal(count, expected)
    ramp = torch.arange(4.0) * 16 + 8  # the pixel of each cell's centre
    read = crop(ramp.expand(1, 1, 4, 4), boxes_in_cells(pixels, 16, half_pixel=True), (1,))
    positions = torch.arange(7) * 47 / 6
    inside = positions >= 8
    torch.testing.assert_close(read[0, 0, 3][inside], positions[inside])
    assert not read[0, 0, 3][~inside].any()


def test_valid_mask():
    mask = valid_mask(GRIDS, PADDED)
    assert mask.shape == (3, 1, *PADDED) and mask.dtype == torch.bool
    for image, (h, w) in zip(mask, GRIDS, strict=True):
        assert image[:, :h, :w].all() and image.sum() == h * w


def test_sums_are_float32_under_autocast():
    # 300 regions that want 1.01: bfloat16 would stop counting at 256
    boxes = torch.tensor([[-0.5, -0.5, 4.5, 4.5]]).expand(300, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = inverse_crop_sum(torch.full((300, 1, 3, 3), 1.01), boxes, (300,), (4, 4))
        count = coverage_count(boxes, (300,), (4, 4))
    assert (count == 300).all()
    torch.testing.assert_close(total, torch.full_like(total, 303.0), rtol=1e-4, atol=0)
