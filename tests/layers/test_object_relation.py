import pytest
import torch

from relation_heads.layers import ObjectRelation, Regions
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.geometry import PAIR_GEOMETRIES
from relation_heads.layers.object_relation.module import GEOMETRIES, relation_weights
from tests.layers.reference_object_relation import relate_image, shortened

SIZE = (300, 400)
DIM = 16
norms = pytest.mark.parametrize("norm", ["max_rms", ""])


def random_boxes(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, 2, generator=generator) * torch.tensor([400.0, 300.0])
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def make(geometry: str = "relation", **kwargs) -> ObjectRelation:
    kwargs = {"init": "xavier", **kwargs}  # the default starts as the identity
    module = ObjectRelation(DIM, num_heads=4, key_dim=8, geometry=geometry, **kwargs)
    for layer in module.children():  # biases matter: W_V's survives the sum
        torch.nn.init.normal_(layer.bias, std=0.1)
    return module


def make_regions(counts, keys=None) -> Regions:
    boxes = [random_boxes(n, seed) for seed, n in enumerate(counts)]
    return Regions.from_boxes(boxes, [SIZE] * len(counts), keys)


@norms
@pytest.mark.parametrize("normalize_by", ["query", "key"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_equals_the_slow_reference(geometry, normalize_by, norm):
    module = make(geometry, normalize_by=normalize_by, norm=norm).double()
    keys = [torch.tensor([True, True, False, True, False]), torch.tensor([False, True, True])]
    boxes = [random_boxes(5, 0).double(), random_boxes(3, 1).double()]
    regions = Regions.from_boxes(boxes, [SIZE, SIZE], keys)
    features = torch.randn(8, DIM, dtype=torch.float64)
    features *= torch.logspace(-0.5, 1.5, 8)[[3, 0, 7, 5, 1, 4, 2, 6], None]  # short and long rows
    expected = torch.cat(
        [
            relate_image(module, f, b, k.tolist())
            for f, b, k in zip(regions.split(features), boxes, keys, strict=True)
        ]
    )
    torch.testing.assert_close(module(features, regions), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("implementation", ["simple", "fused"])
@pytest.mark.parametrize("geometry", PAIR_GEOMETRIES)
def test_regions_that_ask_from_earlier_boxes_equal_the_slow_reference(geometry, implementation):
    module = make(geometry, implementation=implementation).double()
    keys = [torch.tensor([True, False, True, True]), torch.tensor([True, True])]
    boxes = [random_boxes(4, 0).double(), random_boxes(2, 1).double()]
    earlier = [random_boxes(4, 2).double(), random_boxes(2, 3).double()]
    regions = Regions.from_boxes(boxes, [SIZE, SIZE], keys, earlier)
    features = torch.randn(6, DIM, dtype=torch.float64)
    expected = torch.cat(
        [
            relate_image(module, f, b, k.tolist(), e)
            for f, b, k, e in zip(regions.split(features), boxes, keys, earlier, strict=True)
        ]
    )
    torch.testing.assert_close(module(features, regions), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("implementation", ["simple", "fused"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_wanted_rows_are_rows_of_the_whole_result(geometry, implementation):
    module = make(geometry, implementation=implementation).double()
    boxes, earlier = (random_boxes(10, seed).double().split([5, 2, 3]) for seed in (0, 1))
    keys = [torch.tensor([True, False, True, True, False]), torch.ones(2) > 0, torch.ones(3) > 0]
    regions = Regions.from_boxes(boxes, [SIZE] * 3, keys, earlier)
    wanted = torch.tensor([False, True, True, False, True, False, False, True, False, True])
    features = torch.randn(10, DIM, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(5, DIM, dtype=torch.float64)
    inputs = [features, *module.parameters()]
    expected, found = module(features, regions)[wanted], module(features, regions, wanted)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for a, b in zip(
        torch.autograd.grad(found, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wanted", [torch.ones(4) > 0, torch.ones(5)], ids=["length", "type"])
def test_a_wrong_mask_of_wanted_rows_is_named(wanted):
    with pytest.raises(ValueError, match=r"wanted must be bool of shape \(5,\)"):
        make()(torch.randn(5, DIM), make_regions([5]), wanted)


@norms
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients(geometry, norm):
    module = make(geometry, norm=norm).double()
    regions = Regions.from_boxes([random_boxes(4).double()], [SIZE])
    features = torch.randn(4, DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: module(f, regions), (features,))
    module(features, regions).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        if (
            name != "key.bias"
        ):  # a softmax does not see what is added to all keys: exactly 0 in theory
            assert parameter.grad.abs().sum() > 0, name


@norms
def test_parameter_count_of_the_paper(norm):
    module = ObjectRelation(1024, num_heads=16, key_dim=64, norm=norm)
    assert sum(p.numel() for p in module.parameters()) == 3_149_840


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_batch_equals_image_by_image(geometry):
    module = make(geometry)
    regions = make_regions((6, 0, 1, 4))
    features = torch.randn(11, DIM)
    alone = [
        module(f, Regions.from_boxes([b], [SIZE]))
        for f, b in zip(regions.split(features), regions.split(regions.boxes), strict=True)
    ]
    torch.testing.assert_close(module(features, regions), torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_permutation_equivariance(geometry):
    module = make(geometry).double()
    boxes, features = random_boxes(7).double(), torch.randn(7, DIM, dtype=torch.float64)
    order = torch.randperm(7)
    straight = module(features, Regions.from_boxes([boxes], [SIZE]))
    permuted = module(features[order], Regions.from_boxes([boxes[order]], [SIZE]))
    torch.testing.assert_close(permuted, straight[order])


def entering(norm, features):
    """What enters W_V."""
    return torch.tensor([shortened(row, 2.0) for row in features.tolist()]) if norm else features


@norms
def test_output_depends_on_the_other_boxes_and_their_features(norm):
    """A known port weights each region's own value only: its output is f + W_V f, whatever stands
    around."""
    module = make(norm=norm)
    boxes, features = random_boxes(5), torch.randn(5, DIM)
    before = module(features, Regions.from_boxes([boxes], [SIZE]))[0]
    alone = features + module.value(entering(norm, features))
    assert not torch.allclose(before, alone[0], atol=1e-3)
    moved = boxes.clone()
    moved[1] += 40
    after = module(features, Regions.from_boxes([moved], [SIZE]))[0]
    assert (after - before).abs().max() > 1e-4
    changed = features.clone()
    changed[1] += 1
    after = module(changed, Regions.from_boxes([boxes], [SIZE]))[0]
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_appended_queries_leave_the_others_bit_identical(geometry):
    module = make(geometry)
    boxes, features = random_boxes(40), torch.randn(40, DIM)
    without = module(features[:33], Regions.from_boxes([boxes[:33]], [SIZE]))
    is_key = torch.arange(40) < 33
    regions = Regions.from_boxes([boxes], [SIZE], [is_key])
    assert torch.equal(module(features, regions)[:33], without)
    assert not torch.equal(
        module(features, Regions.from_boxes([boxes], [SIZE]))[:33], without
    )  # as keys they would be heard


def test_no_keys_is_the_identity():
    module = make()
    regions = make_regions((3, 2), [torch.zeros(3).bool(), torch.ones(2).bool()])
    features = torch.randn(5, DIM, requires_grad=True)
    out = module(features, regions)
    assert torch.equal(out[:3], features[:3]) and not torch.equal(out[3:], features[3:])
    out.sum().backward()
    assert features.grad.isfinite().all()


def test_no_regions_still_reach_every_parameter():
    module = make()
    out = module(torch.zeros(0, DIM), make_regions((0, 0)))
    assert out.shape == (0, DIM)
    out.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


@norms
def test_one_region_relates_to_itself(norm):
    module = make(norm=norm)
    features = torch.randn(1, DIM)
    out = module(features, make_regions((1,)))
    torch.testing.assert_close(out, features + module.value(entering(norm, features)))


@pytest.mark.parametrize("implementation", ["simple", "fused"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_long_rows_count_by_their_direction_and_short_rows_are_the_published_form(
    geometry, implementation
):
    regions = make_regions((5, 4))
    regions = Regions(regions.boxes.double(), regions.splits, regions.image_sizes)
    long = torch.randn(9, DIM).double()
    long = long / long.square().mean(dim=1, keepdim=True).sqrt()

    def relation(module, x):
        return (module(x, regions) - x).detach()

    ours, published = (
        make(geometry, norm=norm, implementation=implementation).double()
        for norm in ("max_rms", "")
    )
    published.load_state_dict(ours.state_dict())
    expected = relation(ours, 2.1 * long)
    assert expected.norm() > 1
    for scale in (3.0, 10.0, 1e4):
        torch.testing.assert_close(relation(ours, scale * long), expected, rtol=1e-9, atol=1e-9)
    assert (relation(published, 10 * long) - expected).norm() > 0.1 * expected.norm()
    assert torch.equal(relation(ours, 0.9 * long), relation(published, 0.9 * long))
    for mine, other in zip(
        ours.weights(1.1 * long, regions), ours.weights(10 * long, regions), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


def test_the_gradient_through_the_logits_does_not_grow_with_the_features():
    """It is what makes training with the published form diverge: twice the features, twice
    the gradient; bounded it is the half."""
    regions, cotangent = make_regions((6,)), torch.randn(4, 6, 6)
    f = torch.randn(6, DIM)
    f = f / f.square().mean(dim=1, keepdim=True).sqrt()

    def gradient(norm, scale):
        torch.manual_seed(0)
        x = (scale * f).requires_grad_()
        log_weights = make("none", norm=norm).weights(x, regions)[0].log()
        return torch.autograd.grad(log_weights, x, cotangent)[0].norm()

    growth = {norm: float(gradient(norm, 2.4) / gradient(norm, 1.2)) for norm in ("max_rms", "")}
    assert growth["max_rms"] == pytest.approx(0.5, rel=0.01)
    assert growth[""] > 1.5, growth


def test_boxes_are_embedded_behind_the_norm():
    """Before it, the embedding of one place would be another one for larger features."""
    module, regions = make("unary"), make_regions((5,))
    seen = []
    module.query.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for scale in (10.0, 1e4):
        module(scale * torch.eye(5, DIM), regions)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-3)
    long = torch.eye(5, DIM) * DIM**0.5  # a root mean square of 1
    assert (seen[0] - long).abs().max() > 0.5


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_features_of_zero_have_a_finite_gradient(geometry):
    """As of a region whose features a ReLU has cut off."""
    module, regions = make(geometry), make_regions((4,))
    features = torch.zeros(4, DIM)
    features[1] = 3.0
    features.requires_grad_()
    out = module(features, regions)
    (gradient,) = torch.autograd.grad(out.square().sum(), features)
    assert out.isfinite().all() and gradient.isfinite().all()


def test_dead_gate_falls_back_to_appearance():
    module = make("relation")
    torch.nn.init.zeros_(module.gate.weight)
    torch.nn.init.constant_(module.gate.bias, -1.0)
    blind = make("none")
    blind.load_state_dict({k: v for k, v in module.state_dict().items() if "gate" not in k})
    features, regions = torch.randn(6, DIM), make_regions((6,))
    torch.testing.assert_close(module(features, regions), blind(features, regions))


def test_weights_sum_to_one_over_keys():
    keys = [torch.tensor([True, False, True, True])]
    (weights,) = make().weights(torch.randn(4, DIM), make_regions((4,), keys))
    assert weights.shape == (4, 4, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 4))


def test_degenerate_boxes_train():
    boxes = torch.tensor([[5, 5, 5, 5], [5, 5, 5, 5], [9, 0, 9, 300], [0, 0, 400, 300.0]])
    module = make()
    out = module(torch.randn(4, DIM), Regions.from_boxes([boxes], [SIZE]))
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@norms
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_bfloat16_autocast_stays_close(geometry, norm):
    module, features = make(geometry, norm=norm), torch.randn(30, DIM)
    regions = make_regions((18, 12))
    expected = module(features, regions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = module.weights(features, regions)
        out = module(features, regions)
    assert weights[0].dtype == torch.float32
    assert (out - expected).norm() / expected.norm() < 0.02


@norms
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_close(dtype, norm):
    """Whole modules of it, without autocast; boxes stay float32."""
    module, features, regions = make("none", norm=norm), torch.randn(12, DIM), make_regions((12,))
    expected = module(features, regions)
    out = module.to(dtype)(features.to(dtype), regions)
    assert out.dtype == dtype
    assert (out.float() - expected).norm() / expected.norm() < 0.02


def test_a_norm_keeps_large_features_within_float16():
    """Queries and keys of 1e4 each have a product that float16 does not hold."""
    features, regions = 1e4 * torch.randn(12, DIM), make_regions((12,))
    finite = {}
    for norm in ("max_rms", ""):
        module = make("none", norm=norm).half()
        weights = module.weights(features.half(), regions)[0]
        finite[norm] = bool(weights.isfinite().all())
    assert finite == {"max_rms": True, "": False}


@norms
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_float32_is_close_to_float64(geometry, norm):
    module, features = make(geometry, norm=norm), torch.randn(12, DIM)
    regions = make_regions((12,))
    wide = Regions(regions.boxes.double(), regions.splits, regions.image_sizes)
    single = module(features, regions)
    torch.testing.assert_close(
        single, module.double()(features.double(), wide).float(), rtol=1e-3, atol=1e-4
    )


def test_geometry_is_float32_under_autocast():
    """Equal appearance leaves the gate alone to decide; its phases would be noise in bfloat16."""
    module, regions = make("relation"), make_regions((12,))
    torch.nn.init.zeros_(module.query.weight)
    torch.nn.init.zeros_(module.query.bias)
    features = torch.zeros(12, DIM)
    expected = module.weights(features, regions)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = module.weights(features, regions)[0]
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-7)


@norms
def test_inits(norm):
    features, regions = torch.randn(6, DIM), make_regions((6,))
    zero = ObjectRelation(DIM, num_heads=4, key_dim=8, norm=norm)
    assert torch.equal(zero(features, regions), features)
    normal = ObjectRelation(512, num_heads=4, init="normal")
    assert normal.query.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert all(not layer.bias.any() for layer in normal.children())


def test_a_signed_module_starts_with_aimed_heads():
    weights = []
    for geometry in ("signed", "relation"):
        torch.manual_seed(0)
        weights.append(ObjectRelation(DIM, num_heads=4, geometry=geometry).gate.weight.detach())
    aimed = weights[0] - weights[1]
    assert (aimed[1::2].abs().amax(1) > 0.9).all() and not aimed[::2].any()


def test_relation_weights_of_large_logits_are_finite():
    query = torch.full((2, 1, 4), 1e4)
    weights = relation_weights(query, query, None)
    torch.testing.assert_close(weights, torch.full((1, 2, 2), 0.5))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (dict(dim=16, num_heads=5), {"dim": 16}),
        (dict(dim=16, num_heads=0), {"dim": 16, "num_heads": 0}),
        (dict(dim=12, num_heads=4, geometry="unary"), {"dim": 12}),
        (dict(dim=16, num_heads=4, geometry="polar", init="ones", norm="BN"), None),
        (
            dict(dim=16, num_heads=4, geometry="position", implementation="triton"),
            {"implementation": "triton"},
        ),
        (dict(dim=16, num_heads=4, key_dim=0, normalize_by="both", implementation="fast"), None),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    """`named` is None where all but the first two are wrong."""
    with pytest.raises(ArgumentError) as caught:
        ObjectRelation(**arguments)
    named = dict(list(arguments.items())[2:]) if named is None else named
    assert {w.argument: w.value for w in caught.value.wrong} == named


def test_wrong_features_are_named():
    with pytest.raises(ValueError, match=r"must be \(3, 16\) for these regions, got \(4, 16\)"):
        make()(torch.randn(4, DIM), make_regions((3,)))
