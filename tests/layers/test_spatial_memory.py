import pytest
import torch
import torch.nn.functional as F

from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.reasoning.region_crops import (
    coverage_count,
    crop,
    inverse_crop_sum,
    valid_mask,
)
from relation_heads.layers.reasoning.spatial_memory import MIN_COUNT, SpatialMemory
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

DIM, MID, LOGITS = 4, 6, 5


def make(**kwargs) -> SpatialMemory:
    sizes = {"mid_channels": MID, "num_logits": LOGITS, "channels": DIM, "fc_dim": 16}
    module = SpatialMemory(**{**sizes, "crop_size": 3, "init_size": (4, 5), **kwargs})
    for parameter in module.parameters():  # no weight too small to matter, no bias of 0
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def make_inputs(n: int, dtype=torch.float64):
    h = torch.randn(n, MID, 3, 3, dtype=dtype)
    return h, torch.randn(n, LOGITS, dtype=dtype)


def alone(module, memory, h, f, boxes, weights):
    """Prediction and update image by image, on unpadded grids."""
    logits, attention, memories = [], [], []
    rows = [t.split(SPLITS) for t in (h, f, boxes, weights)]
    for image, (height, width), *own in zip(memory, GRIDS, *rows, strict=True):
        s, own_splits = image[None, :, :height, :width], (len(own[0]),)
        logits_b, attention_b = module.predict(s, own[2], own_splits)
        logits.append(logits_b)
        attention.append(attention_b)
        s = module.update(s, own[0], own[1], own[2], own_splits, weights=own[3])
        memories.append(F.pad(s[0], (0, PADDED[1] - width, 0, PADDED[0] - height)))
    return torch.cat(logits), torch.cat(attention), torch.stack(memories)


def test_batch_equals_image_by_image():
    module = make().double()
    memory = module.initial(GRIDS, PADDED)
    boxes = batch_boxes()
    boxes[0] = torch.tensor([0.0, 0.0, 12.0, 9.0])  # as a box of the whole image: px / stride
    h, f = make_inputs(9)
    weights = torch.rand(9, dtype=torch.float64)
    for _ in range(2):
        logits, attention = module.predict(memory, boxes, SPLITS, GRIDS)
        updated = module.update(memory, h, f, boxes, SPLITS, GRIDS, weights)
        expected = alone(module, memory, h, f, boxes, weights)
        for actual, wanted in zip((logits, attention, updated), expected, strict=True):
            torch.testing.assert_close(actual, wanted, **EXACT)
        assert not updated.masked_select(~valid_mask(GRIDS, PADDED)).any()
        memory = updated


def test_another_image_is_never_seen_even_when_it_is_not_finite():
    module = make()
    memory, boxes = module.initial(GRIDS, PADDED), batch_boxes().float()
    h, f = make_inputs(9, torch.float32)
    expected = module.predict(memory, boxes, SPLITS, GRIDS)[0][:5]
    updated = module.update(memory, h, f, boxes, SPLITS, GRIDS)[0]
    memory = torch.cat([memory[:2], memory[2:] * torch.nan])
    h[5:] = torch.inf
    assert torch.equal(module.predict(memory, boxes, SPLITS, GRIDS)[0][:5], expected)
    assert torch.equal(module.update(memory, h, f, boxes, SPLITS, GRIDS)[0], updated)


@pytest.mark.parametrize("weighted", [False, True])
def test_update_equals_the_slow_reference(weighted):
    module = make().double()
    memory = torch.randn(1, DIM, 9, 12, dtype=torch.float64)
    boxes, (h, f) = random_boxes(5), make_inputs(5)
    weights = torch.rand(5, dtype=torch.float64) + 0.1 if weighted else None
    with torch.no_grad():
        actual = module.update(memory, h, f, boxes, (5,), weights=weights)
        floats = weights.tolist() if weighted else [1.0] * 5
        expected = reference.update_image(module, memory[0], h, f, boxes, floats)
    torch.testing.assert_close(actual[0], expected, **EXACT)
    assert (actual - memory).abs().max() > 0.1


def test_context_and_prediction_equal_the_slow_reference():
    module = make().double()
    memory = torch.randn(1, DIM, 9, 12, dtype=torch.float64)
    boxes = random_boxes(4)
    expected = reference.context_image(module, memory[0])
    torch.testing.assert_close(module.context(memory)[0], expected, **EXACT)
    logits, attention = module.predict(memory, boxes, (4,))
    for n, box in enumerate(boxes.tolist()):
        x = reference.read(expected, box, 3).flatten()
        for fc in module.fcs:
            x = (fc.weight @ x + fc.bias).clamp(min=0)
        wanted = module.classifier.weight @ x + module.classifier.bias
        torch.testing.assert_close(logits[n], wanted, **EXACT)
        torch.testing.assert_close(attention[n], module.attention.weight @ x, **EXACT)


def test_uncovered_cells_keep_their_value():
    module = make()
    memory = torch.randn(1, DIM, 9, 12)
    boxes = torch.tensor([[1.5, 1.5, 4.5, 6.5], [3.5, 2.5, 6.5, 4.5], *TINY])
    h, f = make_inputs(5, torch.float32)
    for weights in (None, torch.rand(5)):
        updated = module.update(memory, h, f, boxes, (5,), weights=weights)
        covered = coverage_count(boxes, (5,), (9, 12))[0, 0] > 0
        assert torch.equal(updated[..., ~covered], memory[..., ~covered])
        assert (updated[..., covered] != memory[..., covered]).all()
        assert 0 < covered.sum() < covered.numel()


def test_weights():
    module = make().double()
    memory = torch.randn(1, DIM, 9, 12, dtype=torch.float64)
    boxes, (h, f) = random_boxes(4), make_inputs(4)

    def update(*weights: float) -> torch.Tensor:
        w = torch.tensor(weights, dtype=torch.float64)
        return module.update(memory, h, f, boxes, (4,), weights=w)

    plain = module.update(memory, h, f, boxes, (4,))
    torch.testing.assert_close(update(1, 1, 1, 1), plain, **EXACT)
    torch.testing.assert_close(update(0.2, 0.2, 0.2, 0.2), plain, **EXACT)  # a mean
    without = module.update(memory, h[1:], f[1:], boxes[1:], (3,))
    torch.testing.assert_close(update(0, 1, 1, 1), without, **EXACT)
    assert torch.equal(update(0, 0, 0, 0), memory)
    # Below the floor, changes shrink with the weights instead of growing
    weak = MIN_COUNT * 1e-5
    counts = coverage_count(boxes, (4,), (9, 12)).double()
    expected = memory + (plain - memory) * counts * 1e-5
    torch.testing.assert_close(update(weak, weak, weak, weak), expected, **EXACT)


def test_permutation_of_regions():
    module = make().double()
    memory = torch.randn(1, DIM, 9, 12, dtype=torch.float64)
    boxes, (h, f) = random_boxes(7), make_inputs(7)
    order = torch.randperm(7)
    updated = module.update(memory, h, f, boxes, (7,))
    permuted = module.update(memory, h[order], f[order], boxes[order], (7,))
    torch.testing.assert_close(permuted, updated, **EXACT)
    logits, attention = module.predict(memory, boxes, (7,))
    logits_p, attention_p = module.predict(memory, boxes[order], (7,))
    torch.testing.assert_close(logits_p, logits[order], **EXACT)
    torch.testing.assert_close(attention_p, attention[order], **EXACT)


@pytest.mark.parametrize("splits", [(0, 0), (0, 1), ()])
def test_no_region_one_region_no_image(splits):
    module = make()
    n, grids = sum(splits), GRIDS[: len(splits)]
    memory = module.initial(grids, PADDED)
    boxes, (h, f) = random_boxes(n).float(), make_inputs(n, torch.float32)
    updated = module.update(memory, h, f, boxes, splits, grids)
    logits, attention = module.predict(updated, boxes, splits, grids)
    assert updated.shape == (len(splits), DIM, *PADDED)
    assert logits.shape == (n, LOGITS) and attention.shape == (n, 1)
    if n == 0:
        assert torch.equal(updated, memory)
    if splits:  # every weight takes part, as distributed training needs it
        (logits.sum() + attention.sum()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_gradients_of_two_iterations():
    module = make(init_size=(2, 2), fc_dim=8).double()
    boxes, grids, splits = random_boxes(3, (4, 5)), ((4, 5), (3, 4)), (2, 1)
    h, f = make_inputs(3)

    def run(*_):
        memory = module.initial(grids, (4, 5))
        memory = module.update(memory, h, f, boxes, splits, grids)
        return module.predict(memory, boxes, splits, grids)

    some = [module.initial_memory, module.gru.from_input.bias, module.from_high.weight]
    assert torch.autograd.gradcheck(run, some)
    sum(t.square().sum() for t in run()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_at_the_start_nothing_is_remembered():
    module = SpatialMemory(mid_channels=MID, num_logits=LOGITS, channels=DIM, fc_dim=16)
    boxes, h, f = random_boxes(3).float(), torch.randn(3, MID, 7, 7), torch.randn(3, LOGITS)
    memory = module.initial([(9, 12)], (9, 12))
    assert memory.shape == (1, DIM, 9, 12) and not memory.any()
    logits, attention = module.predict(memory, boxes, (3,))
    assert not logits.any() and not attention.any()
    assert module.predict(module.update(memory, h, f, boxes, (3,)), boxes, (3,))[1].any()


def test_initial_memory_is_resized_to_each_grid():
    module = make(init_size=(4, 5))
    memory = module.initial([(4, 5), (8, 10), (2, 3)], PADDED)
    own = module.initial_memory[0]
    assert torch.equal(memory[0, :, :4, :5], own)
    # Twice as fine: row 1 lies 1/4 of the way from row 0 to row 1, column 2 3/4 of the way
    column = 0.25 * own[:, :, 0] + 0.75 * own[:, :, 1]
    torch.testing.assert_close(memory[1, :, 1, 2], 0.75 * column[:, 0] + 0.25 * column[:, 1])
    outside = ~valid_mask([(4, 5), (8, 10), (2, 3)], PADDED)
    assert not memory.masked_select(outside).any() and memory[2, :, :2, :3].all()


def test_initial_memory_of_the_released_code():
    module = make(init_size=(4, 5), half_pixel=False).double()
    grids = [(4, 5), (8, 10), (2, 3), (11, 14), (1, 1), (7, 4)]
    memory = module.initial(grids, PADDED)
    for found, (h, w) in zip(memory, grids, strict=True):
        expected = reference.resize_bilinear(module.initial_memory[0].detach(), (h, w))
        torch.testing.assert_close(found[:, :h, :w], expected, **EXACT)
    memory.sum().backward()
    assert module.initial_memory.grad.all()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("half_pixel", [True, False])
def test_a_trace_resizes_the_initial_memory_to_other_grids(half_pixel):
    module = make(half_pixel=half_pixel).requires_grad_(False)

    class Initial(torch.nn.Module):
        def forward(self, x):
            return module.initial([tuple(x.shape[2:])], tuple(x.shape[2:]))

    traced = torch.jit.trace(Initial(), torch.zeros(1, 1, 6, 7), check_trace=False)
    for size in ((6, 7), (9, 3), (4, 5)):
        expected = module.initial([size], size)
        torch.testing.assert_close(traced(torch.zeros(1, 1, *size)), expected)


@pytest.mark.parametrize("init", ["he", "normal"])
def test_initial_weights_and_parameters(init):
    module = SpatialMemory(mid_channels=64, num_logits=81, channels=64, fc_dim=256, init=init)
    he = (2 / (64 * 9)) ** 0.5
    widths = {"from_mid": 64, "from_high": 81, "gru.from_input": 64 * 9}
    widths |= {"gru.gates_from_memory": 64 * 9, "gru.candidate_from_memory": 64 * 9}
    rest = {name: (2 / n) ** 0.5 if init == "he" else 0.01 for name, n in widths.items()}
    expected = {
        "context_convs.1": he,
        "input_convs.0": he,
        "fcs.0": (2 / (64 * 49)) ** 0.5,
        "fcs.1": (2 / 256) ** 0.5,
        "classifier": 0.01,
        **rest,
    }
    for name, std in expected.items():
        assert module.get_submodule(name).weight.std().item() == pytest.approx(std, rel=0.1), name
    biases = {n for n, p in module.named_parameters() if n.endswith("bias") and not p.any()}
    with_bias = ("context_convs.0", "context_convs.1", "context_convs.2", "fcs.0", "fcs.1")
    with_bias += ("classifier", "from_mid", "input_convs.0", "gru.from_input")
    assert biases == {f"{name}.bias" for name in with_bias}
    with torch.device("meta"):
        official = SpatialMemory(mid_channels=1024, num_logits=81)
    assert round(sum(p.numel() for p in official.parameters()) / 1e6, 1) == 134.8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_finite_and_close(dtype):
    module = make()
    boxes = torch.cat([random_boxes(40), torch.tensor(TINY).double()]).float() + 20.3
    h, f = make_inputs(43, torch.float32)
    memory = F.pad(module.initial([(9, 12)], (9, 12)), (20, 0, 20, 0))

    def run():
        updated = module.update(memory, h, f, boxes, (43,))
        return updated, *module.predict(updated, boxes, (43,))

    expected = run()
    with torch.autocast("cpu", dtype=dtype):
        actual = run()
        count = coverage_count(boxes, (43,), (29, 32))
        sum(t.sum() for t in actual).backward()
    assert actual[0].dtype == torch.float32
    assert torch.equal(count, coverage_count(boxes, (43,), (29, 32))) and count.max() > 8
    for a, e in zip(actual, expected, strict=True):
        assert (a - e).norm() < 0.05 * e.norm()
    assert all(p.grad.isfinite().all() for p in module.parameters())


# ---- wrong input ----


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *((name, wrong) for name in ("channels", "fc_dim", "num_fc") for wrong in (0, -1, None)),
        ("mid_channels", 0),
        ("num_logits", 0),
        ("high_channels", 0),
        ("crop_size", 1),
        ("init", "xavier"),
        *(("init_size", wrong) for wrong in ([], [3], [0, 0], ["x", "y"], [3, None])),
    ],
    ids=str,
)
def test_wrong_options(argument, value):
    with pytest.raises(ArgumentError) as caught:
        make(**{"mid_channels": MID, "num_logits": LOGITS, argument: value})
    assert [(w.argument, w.value) for w in caught.value.wrong] == [(argument, value)]


def test_all_wrong_options_are_named_at_once():
    with pytest.raises(ArgumentError) as caught:
        make(crop_size=1, channels=None, init="")
    assert [w.argument for w in caught.value.wrong] == ["channels", "crop_size", "init"]


def test_wrong_input():
    module, memory = make(), torch.zeros(2, DIM, 9, 12)
    boxes, (h, f) = random_boxes(3).float(), make_inputs(3, torch.float32)
    for call in (
        lambda splits: crop(memory, boxes, splits),
        lambda splits: module.predict(memory, boxes, splits),
    ):
        with pytest.raises(ValueError, match=r"splits \(3,\) must divide 3 boxes among 2 images"):
            call((3,))
        with pytest.raises(ValueError, match=r"splits \(2, 2\) must divide 3 boxes"):
            call((2, 2))
    with pytest.raises(ValueError, match="grid_sizes names 1 images, there are 2"):
        crop(memory, boxes, (1, 2), grid_sizes=[(9, 12)])
    with pytest.raises(ValueError, match=r"padded size \(9, 12\), got \(10, 3\)"):
        coverage_count(boxes, (1, 2), (9, 12), grid_sizes=[(9, 12), (10, 3)])
    with pytest.raises(ValueError, match=r"padded size \(9, 12\), got \(9, 13\)"):
        module.initial([(9, 13)], (9, 12))
    with pytest.raises(ValueError, match=r"boxes must be floating point of shape \(N, 4\)"):
        crop(memory, boxes.long(), (1, 2))
    with pytest.raises(ArgumentError) as caught:
        crop(memory, boxes, (1, 2), crop_size=1)
    assert [(w.argument, w.value) for w in caught.value.wrong] == [("crop_size", 1)]
    with pytest.raises(ValueError, match=r"values must be \(3, D, P, P\) with P of at least 2"):
        inverse_crop_sum(h[:2], boxes, (1, 2), (9, 12))
    with pytest.raises(ValueError, match=r"got \(3, 6, 3, 2\)"):
        inverse_crop_sum(h[..., :2], boxes, (1, 2), (9, 12))
    with pytest.raises(ValueError, match=r"weights must be \(3,\), got \(3, 1\)"):
        inverse_crop_sum(h, boxes, (1, 2), (9, 12), weights=torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"mid_crops must be \(3, 6, 3, 3\), got \(3, 6, 7, 7\)"):
        module.update(memory, torch.zeros(3, MID, 7, 7), f, boxes, (1, 2))
    with pytest.raises(ValueError, match=r"high must be \(3, 5\), got \(3, 4\)"):
        module.update(memory, h, f[:, 1:], boxes, (1, 2))
