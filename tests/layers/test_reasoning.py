import copy
import math
import pickle

import pytest
import torch

from relation_heads.layers import Regions
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.reasoning.global_module import GlobalReasoning
from relation_heads.layers.reasoning.rollout import IterativeReasoning
from relation_heads.layers.reasoning.spatial_memory import SpatialMemory
from tests.layers.tracing import assert_traces

K, D, D_MID, D_V, STRIDE = 4, 6, 5, 7, 16
SIZES = [(64, 96), (48, 80)]
PATHS = ["local", "global", "both"]


def make(paths="both", iterations=2, cross_feed=True, knowledge=()):
    torch.manual_seed(0)
    fed = 2 * K if paths == "both" and cross_feed else K
    memory = SpatialMemory(
        mid_channels=D_MID, num_logits=K, high_channels=fed, channels=D, fc_dim=8, init_size=(3, 3)
    )
    torch.nn.init.normal_(memory.initial_memory)
    graph = GlobalReasoning(
        D, feature_channels=D_V, num_logits=K, update_logits=fed, num_stacks=2,
        knowledge=knowledge, num_classes=K - 1, embedding_channels=3,
    )  # fmt: skip
    module = IterativeReasoning(
        memory=memory if paths != "global" else None,
        graph=graph if paths != "local" else None,
        num_iterations=iterations,
        cross_feed=cross_feed,
    )
    for p in module.parameters():  # the released initialisation is close to 0
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.3)
    return module.double()


def make_inputs(counts=(4, 3), sizes=SIZES):
    generator = torch.Generator().manual_seed(1)
    boxes = []
    for n, (height, width) in zip(counts, sizes, strict=True):
        corners = torch.rand(n, 2, 2, generator=generator) * torch.tensor([width - 8.0, height - 8])
        boxes.append(torch.cat([corners.amin(1), corners.amax(1) + 8], dim=1))
    regions = Regions.from_boxes(boxes, list(sizes))
    grids = [(h // STRIDE, w // STRIDE) for h, w in sizes]
    padded = (max(h for h, _ in grids), max(w for _, w in grids))
    n = len(regions)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "logits": random(n, K),
        "features": random(n, D_V),
        "regions": regions,
        "maps": random(len(counts), D_MID, *padded),
        "boxes_in_cells": regions.boxes.double() / STRIDE,
        "grid_sizes": grids,
        "assignment": random(n, K).softmax(1)[:, :-1],
        "weights": torch.rand(n, generator=generator, dtype=torch.float64),
    }


@pytest.mark.parametrize("paths", PATHS)
@pytest.mark.parametrize("iterations", [1, 3])
def test_predictions_and_attention(paths, iterations):
    out = make(paths, iterations)(**make_inputs())
    per_iteration = 2 if paths == "both" else 1
    assert len(out.memory) == (iterations if paths != "global" else 0)
    assert len(out.graph) == (iterations if paths != "local" else 0)
    assert out.attention.shape == (7, per_iteration * iterations + 1)
    torch.testing.assert_close(out.attention.sum(1), torch.ones(7))
    order = [out.plain, *out.memory, *out.graph]
    expected = sum(out.attention[:, n, None] * f for n, f in enumerate(order))
    torch.testing.assert_close(out.final, expected.float(), rtol=1e-5, atol=1e-5)
    assert out.attention.std() > 0.01


def test_both_modules_are_updated_with_both_predictions():
    module, x = make("both", 2), make_inputs()
    out = module(**x)
    where = (x["boxes_in_cells"], x["regions"].splits, x["grid_sizes"])
    from relation_heads.layers.reasoning.region_crops import crop

    crops = crop(x["maps"], x["boxes_in_cells"], x["regions"].splits, crop_size=7,
                 grid_sizes=x["grid_sizes"])  # fmt: skip
    memory = module.memory.initial(x["grid_sizes"], tuple(x["maps"].shape[2:]))
    nodes = torch.zeros(7, D).double()
    fed = torch.cat([x["logits"], x["logits"]], dim=1)
    edges = module._adjacencies(x["regions"], x["weights"])
    for i in range(2):
        memory = module.memory.update(memory, crops, fed, *where, weights=x["weights"])
        f, _ = module.memory.predict(memory, *where)
        nodes = module.graph.update(nodes, x["features"], fed)
        g, _ = module.graph.predict(module.graph.reason(nodes, x["regions"], edges))
        torch.testing.assert_close(out.memory[i], f)
        torch.testing.assert_close(out.graph[i], g)
        fed = torch.cat([f, g], dim=1)


def test_without_cross_feed_a_module_does_not_hear_the_other():
    x = make_inputs()
    both = make("both", 3, cross_feed=False)
    alone = IterativeReasoning(memory=both.memory, graph=None, num_iterations=3)
    for a, b in zip(both(**x).memory, alone(**x).memory, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("paths", PATHS)
def test_nothing_of_the_detector_gets_a_gradient(paths):
    module, x = make(paths), make_inputs()
    inputs = [x["logits"], x["features"], x["maps"]]
    for t in inputs:
        t.requires_grad_()
    out = module(**x)
    (out.final.sum() + sum(f.square().sum() for f in out.memory + out.graph)).backward()
    assert all(t.grad is None for t in inputs)


@pytest.mark.parametrize("paths", PATHS)
def test_the_final_loss_trains_the_attention_and_what_it_reads(paths):
    module = make(paths)
    module(**make_inputs()).final.square().sum().backward()
    for path in (module.memory, module.graph):
        if path is None:
            continue
        attention = path.attention if path is module.memory else path.attend
        classifier = path.classifier if path is module.memory else path.classify
        assert attention.weight.grad.any()
        assert classifier.weight.grad is None  # the predictions that are summed are detached


@pytest.mark.parametrize("paths", PATHS)
def test_every_parameter_trains(paths):
    knowledge = [torch.rand(K - 1, K - 1).double()]
    module = make(paths, knowledge=knowledge if paths != "local" else ())
    out = module(**make_inputs())
    (out.final.square().sum() + sum(f.square().sum() for f in out.memory + out.graph)).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("paths", PATHS)
def test_batch_equals_image_by_image(paths):
    module, x = make(paths), make_inputs((4, 0, 1, 3), [*SIZES, (64, 96), (32, 48)])
    expected = []
    regions = x["regions"]
    rows = ("logits", "features", "boxes_in_cells", "assignment", "weights")
    split = {name: regions.split(x[name]) for name in rows}
    for b, (h, w) in enumerate(x["grid_sizes"]):
        one = {name: split[name][b] for name in rows}
        boxes = regions.split(regions.boxes)[b]
        one["regions"] = Regions.from_boxes([boxes], [regions.image_sizes[b]])
        expected.append(
            module(**one, maps=x["maps"][b : b + 1, :, :h, :w], grid_sizes=[(h, w)]).final
        )
    torch.testing.assert_close(module(**x).final, torch.cat(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("paths", PATHS)
def test_no_regions(paths):
    module = make(paths)
    out = module(**make_inputs((0, 0)))
    assert out.final.shape == (0, K)
    (out.final.sum() + sum(f.sum() for f in out.memory + out.graph)).backward()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="needs a memory or a graph, got neither"):
        IterativeReasoning(memory=None, graph=None)
    with pytest.raises(ArgumentError) as caught:
        IterativeReasoning(
            memory=make().memory,
            graph=None,
            num_iterations=0,
            relations=["left", "left"],
            bandwidth=math.nan,
        )
    assert [w.argument for w in caught.value.wrong] == ["num_iterations", "relations", "bandwidth"]


@pytest.mark.parametrize("paths", PATHS)
def test_grids_may_be_rounded_down(paths):
    # Boxes then reach beyond the last cell: here by 1.5 cells
    module, x = make(paths), make_inputs()
    x["boxes_in_cells"] = x["boxes_in_cells"] + 1.5
    assert module(**x).final.isfinite().all()
    with pytest.raises(ValueError, match=r"between \(1, 1\) and the padded size \(4, 6\)"):
        make("local")(**{**x, "grid_sizes": [(5, 6), (3, 5)]})


@pytest.mark.parametrize("paths", PATHS)
def test_what_is_not_finite_raises_nothing_and_stays_in_its_image(paths):
    module, x = make(paths, knowledge=[torch.rand(K - 1, K - 1)]), make_inputs()
    expected = module(**x).final[:4]
    x["maps"][1], x["features"][4:], x["boxes_in_cells"][5:] = torch.nan, torch.inf, torch.inf
    x["logits"][6:], x["assignment"][6:], x["weights"][6:] = torch.nan, torch.nan, torch.nan
    x["regions"].boxes[4:] = torch.nan
    out = module(**x)
    assert torch.equal(out.final[:4], expected) and not out.final[6].isfinite().any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_module_can_be_copied_and_pickled(copied):
    module, x = make(knowledge=[torch.rand(K - 1, K - 1).to_sparse()]), make_inputs()
    expected = module(**x)
    expected.final.sum().backward()
    assert torch.equal(copied(module)(**x).final, expected.final)


# ---- traces ----


def traced_inputs(counts, sizes):
    """What a traced model has: tensors alone, sizes too."""
    x = make_inputs(counts, sizes)
    boxes = x["regions"].split(x["regions"].boxes.double())
    image_sizes = [torch.tensor(size) for size in sizes]
    return [*boxes, *image_sizes, *(x[n] for n in ("logits", "features", "maps", "weights"))]


@pytest.mark.parametrize("paths", PATHS)
@pytest.mark.parametrize("knowledge", [False, True], ids=["spatial", "knowledge"])
def test_a_trace_runs_at_other_numbers_of_regions_and_sizes(paths, knowledge):
    graphs = [torch.rand(K - 1, K - 1).double().to_sparse()] if knowledge else ()
    module = make(paths, knowledge=graphs if paths != "local" else ()).requires_grad_(False)

    def reason(first, second, first_size, second_size, logits, features, maps, weights):
        sizes = [(s[0], s[1]) for s in (first_size, second_size)]
        regions = Regions.from_boxes([first, second], sizes)
        out = module(
            logits,
            features,
            regions,
            maps=maps,
            boxes_in_cells=regions.boxes / STRIDE,
            grid_sizes=[(h // STRIDE, w // STRIDE) for h, w in sizes],
            assignment=logits.softmax(1)[:, :-1],
            weights=weights,
        )
        return out.final, out.attention

    first = traced_inputs((4, 3), SIZES)
    others = [((1, 0), [(64, 96), (32, 48)]), ((0, 0), SIZES), ((9, 20), [(160, 64), (32, 208)])]
    assert_traces(reason, first, *(traced_inputs(*case) for case in others), atol=1e-5)
