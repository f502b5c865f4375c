"""What every relation module and every block of a backbone can do: be copied, pickled and traced,
and keep what is not a number to its own image."""

import copy
import io
import pickle
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn

from relation_heads.layers import (
    SGRN,
    GlobalContext,
    GloRe,
    LocalRelation,
    NonLocal,
    ObjectRelation,
    PreActivationGloRe,
    Regions,
    ResidualLocalRelation,
    SqueezeExcitation,
)
from relation_heads.layers.geometry import PAIR_GEOMETRIES
from relation_heads.layers.object_relation import module as object_relation
from relation_heads.layers.object_relation.module import GEOMETRIES, IMPLEMENTATIONS
from tests.layers.test_object_relation import DIM, make, make_regions, norms

RELATIONS = [
    *((geometry, name) for geometry in PAIR_GEOMETRIES for name in ("simple", "fused")),
    *((geometry, "fused") for geometry in ("none", "unary")),
    ("relation", "auto"),
]
relations = pytest.mark.parametrize(("geometry", "implementation"), RELATIONS)
BLOCKS = {
    "GC": lambda: GlobalContext(channels=8, ratio=0.5, fusions=("add", "mul")),
    "SE": lambda: SqueezeExcitation(channels=8, ratio=0.5),
    "GloRe": lambda: GloRe(channels=8),
    "GloRe, batch norm": lambda: GloRe(channels=8, norm=nn.BatchNorm2d),
    "GloRe, group norm": lambda: GloRe(channels=8, stride=2, norm=group_norm),
    "GloRe, pre-activation": lambda: PreActivationGloRe(channels=8),
    "LR": lambda: LocalRelation(channels=8, channels_per_group=2, stride=2),
    "LR, residual": lambda: ResidualLocalRelation(channels=8, window=3, similarity="square"),
    "NL": lambda: NonLocal(channels=8),
    "NL, dot product": lambda: NonLocal(channels=8, mode="dot_product", norm=nn.BatchNorm2d),
    "NL, sub-sampled": lambda: NonLocal(channels=8, sub_sample=True),
}
blocks = pytest.mark.parametrize("name", BLOCKS)


def group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


def make_block(name: str) -> nn.Module:
    """As after training, in eval mode."""
    block = BLOCKS[name]().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def copies(module: nn.Module) -> list[nn.Module]:
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    return [
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(saved, weights_only=False),
    ]


@norms
@relations
def test_copies_of_a_relation(geometry, implementation, norm):
    module = make(geometry, implementation=implementation, norm=norm)
    inputs = torch.randn(9, DIM), make_regions((5, 4))
    expected = module(*inputs)
    expected.sum().backward()  # a module in use
    for other in copies(module):
        assert torch.equal(other(*inputs), expected)


@blocks
def test_copies_of_a_block(name):
    block, x = make_block(name), torch.randn(2, 8, 6, 5)
    expected = block(x)
    expected.sum().backward()
    for other in copies(block):
        assert torch.equal(other(x), expected)


@norms
@relations
def test_a_relation_without_memory(geometry, implementation, norm):
    module = make(geometry, implementation=implementation, norm=norm).to("meta")
    regions = Regions.from_boxes([torch.empty(n, 4, device="meta") for n in (5, 4)], [(30, 40)] * 2)
    y = module(torch.empty(9, DIM, device="meta"), regions)
    assert y.is_meta and y.shape == (9, DIM)
    y.sum().backward()


@blocks
def test_a_block_without_memory(name):
    block, x = make_block(name).to("meta"), torch.empty(2, 8, 6, 5, device="meta")
    y = block(x)
    assert y.is_meta and y.shape == make_block(name)(torch.zeros(x.shape)).shape
    y.sum().backward()


class OfOneImage(nn.Module):
    """Tensors to tensor, as a trace wants it."""

    def __init__(self, relation: ObjectRelation) -> None:
        super().__init__()
        self.relation = relation

    def forward(self, features, boxes):
        return self.relation(features, Regions.from_boxes([boxes], [(300, 400)]))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("geometry", "implementation"),
    [p for p in product(GEOMETRIES, IMPLEMENTATIONS) if p != ("position", "triton")],
)
@norms
def test_a_trace_of_a_relation_serves_other_numbers(norm, geometry, implementation, monkeypatch):
    monkeypatch.setattr(object_relation, "FEW_PAIRS", 0)
    relation = make(geometry, implementation=implementation, norm=norm)
    module = OfOneImage(relation.requires_grad_(False))
    boxes = make_regions((23,)).boxes
    example = torch.randn(7, DIM), boxes[:7]
    traced = torch.jit.trace(module, example, check_trace=False)  # which would run the kernel
    module.relation.implementation = "simple"
    for count in (23, 7, 1, 0):
        features = torch.randn(count, DIM)
        expected = module(features, boxes[:count])
        torch.testing.assert_close(traced(features, boxes[:count]), expected)


@blocks
def test_a_trace_of_a_block_serves_other_sizes(name):
    block = make_block(name).requires_grad_(False)
    traced = torch.jit.trace(block, torch.randn(1, 8, 4, 5))
    for shape in ((2, 8, 7, 6), (1, 8, 4, 5), (3, 8, 2, 9)):
        x = torch.randn(shape)
        for y in (x, x.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(traced(y), block(y), rtol=1e-4, atol=1e-5)


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield partial(torch.compile, fullgraph=True, backend="eager", dynamic=True)
    torch._dynamo.reset()


@pytest.mark.parametrize("implementation", ["auto", "fused"])
def test_a_relation_compiles_to_one_graph(implementation, compiler, monkeypatch):
    monkeypatch.setattr(object_relation, "FEW_PAIRS", 0)
    module = OfOneImage(make("signed", implementation=implementation).requires_grad_(False))
    compiled, boxes = compiler(module), make_regions((23,)).boxes
    inputs = [(torch.randn(count, DIM), boxes[:count]) for count in (23, 7)]
    actual = [compiled(*each) for each in inputs]
    module.relation.implementation = "simple"
    torch.testing.assert_close(actual, [module(*each) for each in inputs])


def test_sgrn_compiles_to_one_graph(compiler):
    sgrn = SGRN(DIM, 9, latent_dim=4, graph_dims=(8, 4), num_kernels=2, num_neighbors=5).eval()
    sgrn.requires_grad_(False)

    def forward(features, nodes, boxes):
        return sgrn(features, nodes, Regions.from_boxes([boxes], [(300, 400)]))

    compiled, boxes = compiler(forward), make_regions((23,)).boxes
    for count in (23, 7):
        inputs = torch.randn(count, DIM), torch.randn(count, 9), boxes[:count]
        torch.testing.assert_close(compiled(*inputs), forward(*inputs))


@pytest.mark.parametrize("name", ["GC", "SE", "GloRe", "LR"])
def test_a_block_compiles_to_one_graph(name, compiler):
    block = make_block(name).requires_grad_(False)
    compiled = compiler(block)
    for shape in ((2, 8, 7, 6), (3, 8, 4, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), block(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("harm", [torch.inf, -torch.inf, torch.nan])
@relations
def test_what_is_not_a_number_stays_in_its_image_of_a_relation(geometry, implementation, harm):
    module = make(geometry, implementation=implementation)
    features, regions = torch.randn(9, DIM), make_regions((5, 4))
    expected = module(features, regions)
    features[2, 3] = harm  # of the first image, whose regions all listen to it
    features.requires_grad_()
    out = module(features, regions)
    assert torch.equal(out[5:], expected[5:])
    assert out[:5].isnan().any(dim=1).all()
    (gradient,) = torch.autograd.grad(out[5:].sum(), features)
    assert gradient[5:].isfinite().all()


@pytest.mark.parametrize("harm", [torch.inf, -torch.inf, torch.nan])
@blocks
def test_what_is_not_a_number_stays_in_its_image_of_a_block(name, harm):
    block, x = make_block(name), torch.randn(2, 8, 6, 5)
    expected = block(x)
    x[0, 3, 2, 1] = harm
    out = block(x)
    assert torch.equal(out[1], expected[1])
    assert not out[0].isfinite().all()
