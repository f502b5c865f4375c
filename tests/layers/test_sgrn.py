import copy
import itertools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from relation_heads.layers import SGRN, Regions, semantic_nodes
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.sgrn.module import CHOICES, WeightNormLinear, polar_coordinates
from relation_heads.layers.sgrn.spatial_graph_conv import GaussianKernels, SpatialGraphConv
from tests.layers import reference_sgrn
from tests.layers.reference_sgrn import sgrn_image
from tests.layers.tracing import assert_traces

SIZE = (300, 400)
DIM, NODE_DIM = 12, 13
NORMALISATIONS = list(itertools.product(CHOICES["edge_norm"], CHOICES["kernel_norm"]))


def random_boxes(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, 2, generator=generator) * torch.tensor([400.0, 300.0])
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def make(**kwargs) -> SGRN:
    kwargs = {"graph_dims": (16, 8), "num_kernels": 4, "num_neighbors": 3, **kwargs}
    kwargs = {"latent_dim": 8, "dropout": 0.0, "out_norm": "", **kwargs}
    module = SGRN(DIM, NODE_DIM, **kwargs)
    for conv in module.convs:
        torch.nn.init.uniform_(conv.kernels.width, 0.2, 2.0)
        if conv.kernels.shear is not None:
            torch.nn.init.normal_(conv.kernels.shear)
    return module


def make_inputs(counts, keys=None, dtype=torch.float32):
    boxes = [random_boxes(n, seed).to(dtype) for seed, n in enumerate(counts)]
    regions = Regions.from_boxes(boxes, [SIZE] * len(counts), keys)
    n = len(regions)
    return torch.randn(n, DIM, dtype=dtype), torch.randn(n, NODE_DIM, dtype=dtype), regions


def alone(module, f, x, regions, key_bias=None):
    """The result image by image."""
    rows = [regions.split(t) for t in (f, x, regions.boxes)]
    keys = regions.split(regions.is_key) if regions.is_key is not None else itertools.repeat(None)
    biases = itertools.repeat(None) if key_bias is None else regions.split(key_bias)
    return torch.cat(
        [
            module(a, b, Regions.from_boxes([c], [size], None if k is None else [k]), bias)
            for a, b, c, k, bias, size in zip(
                *rows, keys, biases, regions.image_sizes, strict=False
            )
        ]
    )


@pytest.mark.parametrize(
    "options",
    [
        *({"edge_norm": e, "kernel_norm": k} for e, k in NORMALISATIONS),
        {"similarity": "cosine"},
        {"covariance": "full"},
        {"angle": "arctan"},
        {"edge_layers": "all"},
        {"graph_dims": (8,)},
        {"num_neighbors": 50},
    ],
    ids=str,
)
def test_equals_the_slow_reference(options):
    module = make(**options).double()
    keys = [torch.tensor([True] * 5 + [False]), torch.tensor([False, True, True, True])]
    f, x, regions = make_inputs((6, 4), keys, torch.float64)
    bias = torch.randn(10, dtype=torch.float64)
    expected = [
        sgrn_image(module, a, b, c, SIZE, k.tolist(), d.tolist())
        for a, b, c, k, d in zip(
            *(regions.split(t) for t in (f, x, regions.boxes)),
            keys,
            regions.split(bias),
            strict=True,
        )
    ]
    actual = module(f, x, regions, bias)
    assert actual.abs().max() > 1e-3
    torch.testing.assert_close(actual, torch.cat(expected), rtol=1e-9, atol=1e-9)


def test_parameters_at_the_official_sizes():
    module = SGRN(1024, 1025)

    def count(m):
        return sum(p.numel() for p in m.parameters())

    assert count(module.learner) == 328_704
    assert [count(conv) for conv in module.convs] == [524_832, 131_104]
    assert count(module) - count(module.norm) == 984_640
    assert count(SGRN(1024, 1025, out_norm="")) == 984_640
    assert f"{count(module):,} parameters" in SGRN.__doc__  # as it is built by default
    assert count(SGRN(1024, 1025, out_norm="", covariance="full")) == 984_640 + 2 * 8


@pytest.mark.parametrize(("edge_norm", "kernel_norm"), NORMALISATIONS)
def test_gradients(edge_norm, kernel_norm):
    module = make(edge_norm=edge_norm, kernel_norm=kernel_norm, covariance="full").double()
    f, x, regions = make_inputs((4, 0, 1), dtype=torch.float64)
    f.requires_grad_()
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: module(a, b, regions), (f, x), fast_mode=True)
    module(f, x, regions).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_the_relation_learner_trains_in_the_released_form():
    # A well-known reproduction drops the edge weights after the top-t, and its learner never trains
    module = make()
    f, x, regions = make_inputs((8,))
    module(f, x, regions).sum().backward()
    assert module.learner.fc1.weight_v.grad.abs().sum() > 0
    assert module.convs[0].kernels.mean.grad.abs().min() > 0
    assert module.convs[0].kernels.width.grad.abs().min() > 0


@pytest.mark.parametrize(("edge_norm", "kernel_norm"), NORMALISATIONS)
def test_batch_equals_image_by_image(edge_norm, kernel_norm):
    module = make(edge_norm=edge_norm, kernel_norm=kernel_norm, out_norm="LN")
    counts = (6, 0, 1, 4, 2)
    keys = [torch.arange(n) % 3 != 1 for n in counts]
    keys[3][:] = False
    f, x, regions = make_inputs(counts, keys)
    bias = torch.randn(len(regions))
    torch.testing.assert_close(
        module(f, x, regions, bias), alone(module, f, x, regions, bias), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("edge_norm", "kernel_norm"), NORMALISATIONS)
@pytest.mark.parametrize("out_norm", ["", "LN"])
def test_an_image_without_keys_is_finite_and_trains(edge_norm, kernel_norm, out_norm):
    module = make(edge_norm=edge_norm, kernel_norm=kernel_norm, out_norm=out_norm)
    f, x, regions = make_inputs((3, 2), [torch.zeros(3, dtype=torch.bool), torch.ones(2).bool()])
    h = module(f, x, regions)
    assert (h[:3] == 0).all() and h[3:].any()
    h.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_nothing_at_all():
    module = make()
    f, x, regions = make_inputs((0, 0))
    h = module(f, x, regions)
    h.sum().backward()
    assert h.shape == (0, 8)


def test_permutation():
    module = make()
    f, x, regions = make_inputs((7,))
    order = torch.randperm(7)
    permuted = module(f[order], x[order], Regions.from_boxes([regions.boxes[order]], [SIZE]))
    torch.testing.assert_close(permuted, module(f, x, regions)[order], rtol=0, atol=1e-5)


def test_another_image_is_never_seen_even_when_it_is_not_finite():
    module = make(num_neighbors=8)
    f, x, regions = make_inputs((3, 4))
    expected = module(f, x, regions)[:3]
    f[3:], x[3:] = torch.nan, torch.inf
    assert torch.equal(module(f, x, regions)[:3], expected)


def test_non_keys_are_not_listened_to():
    keys = [torch.tensor([True, True, False, True])]
    module = make()
    f, x, regions = make_inputs((4,), keys)
    expected = module(f, x, regions)
    f2, x2 = f.clone(), x.clone()
    f2[2], x2[2] = torch.randn(DIM), torch.randn(NODE_DIM)
    rest = [0, 1, 3]
    assert torch.equal(module(f2, x2, regions)[rest], expected[rest])
    assert (expected[2] != 0).any()


def test_coincident_centres_are_finite():
    for angle in CHOICES["angle"]:
        module = make(angle=angle)
        boxes = torch.tensor([[10.0, 10, 30, 30]]).repeat(5, 1)
        regions = Regions.from_boxes([boxes], [SIZE])
        h = module(torch.randn(5, DIM), torch.randn(5, NODE_DIM), regions)
        h.sum().backward()
        assert h.isfinite().all()
        assert all(p.grad.isfinite().all() for p in module.parameters())


def test_boxes_get_no_gradient():
    boxes = random_boxes(4).requires_grad_()
    regions = Regions(boxes, (4,), (SIZE,))  # not detached, unlike `from_boxes`
    neighbors = torch.arange(4).repeat(4, 1)
    assert not polar_coordinates(regions, neighbors).requires_grad


@pytest.mark.parametrize(("kernel_norm", "dim"), [("kernels", 2), ("neighbors", 1)])
def test_weights_sum_to_1_however_far_from_every_kernel(kernel_norm, dim):
    # exp(-1/2 maha) underflows to 0 there, and the released form becomes 0 / 1e-10
    module = make(kernel_norm=kernel_norm, graph_dims=(8,), num_kernels=2)
    with torch.no_grad():
        module.convs[0].kernels.mean.fill_(50.0)
        module.convs[0].kernels.width.fill_(0.05)
    f, _, regions = make_inputs((5,))
    graph = module.graph(f, regions)
    weights = module.convs[0].weights(graph, polar_coordinates(regions, graph.neighbors))
    kernel_weights = weights / graph.scores.softmax(1)[:, :, None]  # (5, 3, 2)
    sums = kernel_weights.sum(dim)
    torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("edge_norm", "kernel_norm"), NORMALISATIONS)
def test_autocast_is_finite_and_close(dtype, edge_norm, kernel_norm):
    module = make(edge_norm=edge_norm, kernel_norm=kernel_norm, num_neighbors=50)
    f, x, regions = make_inputs((40, 3))
    expected = module(f, x * 1e-2, regions)
    with torch.autocast("cpu", dtype=dtype):
        actual = module(f, x * 1e-2, regions)
        actual.sum().backward()
    assert (actual - expected).norm() < 0.03 * expected.norm()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_dropout_is_between_the_layers_only():
    module = make(dropout=0.99, graph_dims=(8,))
    f, x, regions = make_inputs((4,))
    assert torch.equal(module.train()(f, x, regions), module.eval()(f, x, regions))
    module = make(dropout=0.99)
    assert not torch.equal(module.train()(f, x, regions), module.eval()(f, x, regions))


def test_layer_norm_works_however_small_h_is():
    module = make(out_norm="LN")
    f, x, regions = make_inputs((6,))
    for scale in (1.0, 1e-3):
        h = module(f, x * scale, regions)
        assert 0.5 < h.std() < 1.5


def test_semantic_nodes():
    logits, weight, bias = torch.randn(5, 4), torch.randn(4, 6), torch.randn(4)
    soft = semantic_nodes(logits, weight, bias)
    for n in range(5):
        p = [math.exp(s) for s in logits[n].tolist()]
        expected = sum(p[c] / sum(p) * torch.cat([weight[c], bias[c : c + 1]]) for c in range(4))
        torch.testing.assert_close(soft[n], expected)
    assert torch.equal(semantic_nodes(logits, weight, bias)[:, :6], semantic_nodes(logits, weight))
    hard = semantic_nodes(logits, weight, bias, "hard")
    best = logits.argmax(1)
    assert torch.equal(hard, torch.cat([weight[best], bias[best, None]], dim=1))
    with pytest.raises(ArgumentError) as caught:
        semantic_nodes(logits, weight, bias, "medium")
    assert [(w.argument, w.value) for w in caught.value.wrong] == [("mapping", "medium")]


def test_polar_coordinates_are_in_image_widths_and_heights():
    boxes = torch.tensor([[0.0, 0, 40, 30], [200, 0, 240, 30], [0, 150, 40, 180]])
    regions = Regions.from_boxes([boxes], [(300, 400)])
    u = polar_coordinates(regions, torch.tensor([[0, 1, 2]] * 3))
    half = math.pi / 2
    expected = [[0.0, 0.0], [0.5, 0.0], [0.5, half]]  # right of it; below it
    torch.testing.assert_close(u[0], torch.tensor(expected))
    torch.testing.assert_close(u[1, 0], torch.tensor([0.5, math.pi]))
    torch.testing.assert_close(u[2, 0], torch.tensor([0.5, -half]))


def test_angles_meet_at_pi():
    kernels = GaussianKernels(1)
    with torch.no_grad():
        kernels.mean.copy_(torch.tensor([[0.0, math.pi - 0.1]]))
        kernels.width.fill_(1.0)
    near, far = kernels(torch.tensor([[0.0, 0.1 - math.pi], [0.0, 0.0]]))
    assert near.item() == pytest.approx(-0.5 * 0.2**2, rel=1e-3)
    assert far.item() == pytest.approx(-0.5 * (math.pi - 0.1) ** 2, rel=1e-3)


def test_initial_kernels_are_the_released_ones():
    kernels = GaussianKernels(2000)
    assert 0 <= kernels.mean[:, 0].min() and kernels.mean[:, 0].max() <= 1
    assert kernels.mean[:, 1].min() < -3 and kernels.mean[:, 1].max() > 3
    assert kernels.mean[:, 1].abs().max() <= math.pi
    assert 0 <= kernels.width.min() and kernels.width.max() <= 1
    assert F.softplus(kernels(torch.zeros(2))).isfinite().all()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *((name, "l2") for name in CHOICES),
        *(("graph_dims", wrong) for wrong in ((), (6,), (8, 0), (8, -4), ("x", "y"), (None,))),
        *((name, 0) for name in ("latent_dim", "num_neighbors")),
        *((name, None) for name in ("latent_dim", "num_neighbors", "dropout", "similarity")),
        *(("dropout", wrong) for wrong in (-0.1, 1.0, math.nan)),
    ],
    ids=str,
)
def test_wrong_arguments(argument, value):
    with pytest.raises(ArgumentError) as caught:
        make(**{argument: value})
    assert [(w.argument, w.value) for w in caught.value.wrong] == [(argument, value)]


def test_all_wrong_arguments_are_named_at_once():
    with pytest.raises(ArgumentError) as caught:
        make(num_kernels=0, num_neighbors=-1, angle="tan")
    names = [w.argument for w in caught.value.wrong]
    assert names == ["num_kernels", "graph_dims", "num_neighbors", "angle"]


@pytest.mark.parametrize(
    ("argument", "value"), [("in_dim", 0), ("num_kernels", 0), ("out_dim", 6), ("edge_norm", "sum")]
)
def test_wrong_arguments_of_a_convolution(argument, value):
    with pytest.raises(ArgumentError) as caught:
        SpatialGraphConv(**{"in_dim": 3, "out_dim": 8, "num_kernels": 4, argument: value})
    assert (argument, value) in [(w.argument, w.value) for w in caught.value.wrong]


def test_wrong_shapes():
    f, x, regions = make_inputs((3,))
    with pytest.raises(ValueError, match=r"features must be \(3, 12\) for these regions"):
        make()(f[:2], x, regions)
    with pytest.raises(ValueError, match=r"nodes must be \(3, 13\) for these regions"):
        make()(f, x[:, 1:], regions)


# ---- copies, traces, other precisions ----


def test_a_graph_that_was_asked_for_is_the_one_that_is_used():
    module = make(out_norm="LN")
    f, x, regions = make_inputs((5, 0, 1))
    bias = torch.randn(6)
    graph = module.graph(f, regions, bias)
    assert torch.equal(module.convolve(x, regions, graph), module(f, x, regions, bias))


def test_weight_norm_is_that_of_torch():
    torch.manual_seed(0)
    expected = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(7, 5))
    torch.manual_seed(0)
    actual, x = WeightNormLinear(7, 5), torch.randn(3, 7)
    old = {
        "weight_g": expected.parametrizations.weight.original0,
        "weight_v": expected.parametrizations.weight.original1,
        "bias": expected.bias,
    }
    for module in (actual, expected):
        module(x).square().sum().backward()
    assert torch.equal(actual(x), expected(x))
    for name, parameter in actual.named_parameters():
        assert torch.equal(parameter, old[name]) and torch.equal(parameter.grad, old[name].grad)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_module_can_be_copied_and_pickled(copied):
    module = make(similarity="cosine", covariance="full", out_norm="LN")
    f, x, regions = make_inputs((5, 2))
    expected = module(f, x, regions)
    expected.sum().backward()
    assert torch.equal(copied(module)(f, x, regions), expected)


@pytest.mark.parametrize("options", [{}, {"out_norm": "LN", "similarity": "cosine"}], ids=str)
def test_a_trace_runs_at_other_numbers_of_regions_and_sizes(options):
    module = make(**options).requires_grad_(False)

    def run(f, x, first, second, sizes, is_key):
        keys = is_key.split([first.shape[0], second.shape[0]])
        sizes = [(s[0], s[1]) for s in sizes.unbind()]
        regions = Regions.from_boxes([first, second], sizes, keys)
        return module(f, x, regions)

    def case(counts, sizes):
        f, x, regions = make_inputs(counts)
        return (
            f,
            x,
            *regions.split(regions.boxes),
            torch.tensor(sizes),
            torch.rand(sum(counts)) > 0.3,
        )

    others = [((1, 0), [SIZE, SIZE]), ((0, 0), [SIZE, SIZE]), ((2, 60), [(90, 80), (700, 900)])]
    first = case((6, 4), [SIZE, (200, 200)])
    assert_traces(run, first, *(case(*other) for other in others), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"out_norm": "LN"}, {"edge_layers": "all"}], ids=str)
def test_half_precision_modules(options, dtype):
    module = make(**options)
    f, x, regions = make_inputs((40, 3))
    expected = module(f, x, regions)
    actual = module.to(dtype)(f.to(dtype), x.to(dtype), regions)
    assert actual.dtype == torch.float32
    assert (actual - expected).norm() < 0.05 * expected.norm()
    actual.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("part", ["features", "nodes", "boxes"])
def test_what_is_not_finite_raises_nothing_and_stays_in_its_image(part, bad):
    module = make(num_neighbors=3)
    f, x, regions = make_inputs((6, 4))
    expected = module(f, x, regions)[:6]
    {"features": f, "nodes": x, "boxes": regions.boxes}[part][7:] = bad
    assert torch.equal(module(f, x, regions)[:6], expected)


def test_the_floor_of_the_kernels_does_little_above_a_width_of_015(monkeypatch):
    # The released code has none, but adds 1e-14 to the square.
    monkeypatch.setattr(reference_sgrn, "MIN_WIDTH", 1e-7)
    torch.manual_seed(0)
    module = make().double()
    for conv in module.convs:
        torch.nn.init.uniform_(conv.kernels.width, 0.15, 1.0)
    f, x, regions = make_inputs((9,), dtype=torch.float64)
    released = sgrn_image(module, f, x, regions.boxes, SIZE, [True] * 9, [0.0] * 9)
    assert (module(f, x, regions) - released).norm() < 1e-3 * released.norm()
