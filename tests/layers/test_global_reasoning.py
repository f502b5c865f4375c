import pytest
import torch

from relation_heads.layers import Regions
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.reasoning.global_module import GlobalReasoning
from relation_heads.layers.reasoning.region_edges import spatial_edges

SIZE = (100, 100)
D, C, F_IN, K = 6, 4, 5, 5


def knowledge(sparse=True):
    generator = torch.Generator().manual_seed(0)
    dense = [torch.rand(C, C, generator=generator).double().round() for _ in range(2)]
    return [a.to_sparse_csr() if sparse else a for a in dense]


def make(num_relations=3, num_stacks=2, graphs=(), **kwargs):
    torch.manual_seed(1)
    return GlobalReasoning(
        D,
        feature_channels=F_IN,
        num_logits=K,
        update_logits=K,
        num_relations=num_relations,
        num_stacks=num_stacks,
        knowledge=graphs,
        num_classes=C,
        **{"embedding_channels": 3, **kwargs},
    ).double()


def make_inputs(counts=(4, 3)):
    generator = torch.Generator().manual_seed(2)
    boxes = [torch.rand(n, 2, generator=generator).repeat(1, 2) * 80 for n in counts]
    boxes = [b + torch.tensor([0.0, 0.0, 15.0, 10.0]) for b in boxes]
    regions = Regions.from_boxes(boxes, [SIZE] * len(counts))
    n = len(regions)
    memory = torch.randn(n, D, generator=generator, dtype=torch.float64)
    p = torch.rand(n, C, generator=generator, dtype=torch.float64)
    edges = [spatial_edges(b, ("left", "top", "iou")) for b in boxes]
    return memory, regions, edges, p


def relu(v):
    return v.clamp(min=0)


def reference(module, memory, adjacency, p, graphs):
    """Eq. 2-4 for ONE image, one node and one edge at a time."""
    weight = {name: value.detach() for name, value in module.named_parameters()}
    for k in range(module.num_stacks):
        g = torch.zeros_like(memory)
        if len(module.spatial):
            w = weight[f"spatial.{k}.linear.weight"]
            for e, a in enumerate(adjacency.double()):
                for i in range(len(memory)):
                    for j in range(len(memory)):
                        g[i] += a[i, j] * (w[e * D : (e + 1) * D] @ memory[j])
        if graphs:

            def linear(name, v, k=k):
                return (
                    weight[f"semantic.{k}.{name}.weight"] @ v + weight[f"semantic.{k}.{name}.bias"]
                )

            nodes = []
            for c in range(C):
                gathered = sum(
                    p[r, c] * linear("from_regions", memory[r]) for r in range(len(memory))
                )
                nodes.append(relu(gathered + linear("from_classes", module.embeddings.detach()[c])))
            w = weight[f"semantic.{k}.edges.weight"]
            moved = []
            for c in range(C):
                total = torch.zeros(D, dtype=torch.float64)
                for e, a in enumerate(graphs):
                    for other in range(C):
                        total += a[c, other] * (w[e * D : (e + 1) * D] @ nodes[other])
                moved.append(total)
            for r in range(len(memory)):
                back = sum(p[r, c] * moved[c] for c in range(C))
                g[r] += relu(linear("to_regions", back))
        memory = memory + relu(g)
    return memory


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("paths", ["spatial", "semantic", "both"])
def test_equals_the_slow_reference(paths, sparse):
    graphs = knowledge(sparse) if paths != "spatial" else []
    module = make(num_relations=0 if paths == "semantic" else 3, graphs=graphs)
    memory, regions, edges, p = make_inputs()
    expected = [
        reference(module, m, a, q, knowledge(False) if graphs else [])
        for m, a, q in zip(regions.split(memory), edges, regions.split(p), strict=True)
    ]
    actual = module.reason(memory, regions, edges, p)
    assert (actual - memory).abs().max() > 1e-2
    torch.testing.assert_close(actual, torch.cat(expected), rtol=1e-10, atol=1e-10)


def test_batch_equals_image_by_image_with_empty_images():
    module = make(graphs=knowledge())
    memory, regions, edges, p = make_inputs((4, 0, 1, 3))
    alone = []
    for m, b, a, q in zip(
        regions.split(memory), regions.split(regions.boxes), edges, regions.split(p), strict=True
    ):
        alone.append(module.reason(m, Regions.from_boxes([b], [SIZE]), [a], q))
    torch.testing.assert_close(module.reason(memory, regions, edges, p), torch.cat(alone))


def test_permutation():
    module = make(graphs=knowledge())
    memory, regions, edges, p = make_inputs((5,))
    order = torch.randperm(5)
    permuted = Regions.from_boxes([regions.boxes[order]], [SIZE])
    actual = module.reason(memory[order], permuted, [edges[0][:, order][:, :, order]], p[order])
    torch.testing.assert_close(actual, module.reason(memory, regions, edges, p)[order])


def test_every_parameter_trains_and_the_graph_is_not_saved():
    module = make(graphs=knowledge())
    memory, regions, edges, p = make_inputs()
    updated = module.update(memory, torch.randn(7, F_IN).double(), torch.randn(7, K).double())
    logits, attention = module.predict(module.reason(updated, regions, edges, p))
    assert logits.shape == (7, K) and attention.shape == (7, 1)
    (logits.square().sum() + attention.square().sum()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert not any("knowledge" in name for name in module.state_dict())


def test_given_embeddings_stay_as_they_are():
    vectors = torch.randn(C, 7).double()
    module = make(graphs=knowledge(), embeddings=vectors)
    assert "embeddings" not in dict(module.named_parameters())
    assert torch.equal(module.state_dict()["embeddings"], vectors)


def test_update_equals_a_gated_recurrent_unit_written_out():
    module = make()
    memory, h, f = torch.randn(3, D).double(), torch.randn(3, F_IN).double(), torch.randn(3, K)
    f = f.double()
    x = relu(module.from_features(h) + module.from_logits(f))
    gates = [
        (module.gru.weight_ih.chunk(3)[g], module.gru.bias_ih.chunk(3)[g],
         module.gru.weight_hh.chunk(3)[g], module.gru.bias_hh.chunk(3)[g])
        for g in range(3)
    ]  # fmt: skip
    (wr, br, ur, cr), (wz, bz, uz, cz), (wn, bn, un, cn) = gates
    r = torch.sigmoid(x @ wr.T + br + memory @ ur.T + cr)
    z = torch.sigmoid(x @ wz.T + bz + memory @ uz.T + cz)
    n = torch.tanh(x @ wn.T + bn + r * (memory @ un.T + cn))
    torch.testing.assert_close(module.update(memory, h, f), (1 - z) * n + z * memory)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_finite_and_close(dtype):
    module = make(graphs=knowledge()).float()
    memory, regions, edges, p = make_inputs()
    memory, p = memory.float(), p.float()
    expected = module.reason(memory, regions, edges, p)
    with torch.autocast("cpu", dtype=dtype):
        actual = module.reason(memory, regions, edges, p)
    actual.sum().backward()
    assert (actual - expected).norm() < 0.03 * expected.norm()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("num_stacks", wrong) for wrong in (0, -1, None)),
        *(("num_relations", wrong) for wrong in (-1, None)),
        ("embedding_channels", 0),
    ],
)
def test_wrong_arguments(argument, value):
    with pytest.raises(ArgumentError) as caught:
        make(**{argument: value})
    assert [(w.argument, w.value) for w in caught.value.wrong] == [(argument, value)]


def test_all_wrong_arguments_are_named_at_once():
    with pytest.raises(ArgumentError) as caught:
        GlobalReasoning(0, feature_channels=0, num_logits=0, update_logits=0, knowledge=knowledge())
    names = [w.argument for w in caught.value.wrong]
    assert names == ["channels", "feature_channels", "num_logits", "update_logits", "num_classes"]
