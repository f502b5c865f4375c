import pytest
import torch

from relation_heads.layers import Regions
from relation_heads.layers.global_reasoning import GlobalReasoning
from relation_heads.layers.reasoning import IterativeReasoning
from relation_heads.layers.spatial_memory import SpatialMemory

K, D, D_MID, D_V, STRIDE = 4, 6, 5, 7, 16
SIZES = [(64, 96), (48, 80)]
PATHS = ["local", "global", "both"]


def make(paths="both", iterations=2, cross_feed=True, knowledge=()):
    torch.manual_seed(0)
    fed = 2 * K if paths == "both" and cross_feed else K
    local = SpatialMemory(
        mid_channels=D_MID, num_logits=K, high_channels=fed, channels=D, fc_dim=8, init_size=(3, 3)
    )
    torch.nn.init.normal_(local.initial_memory)
    globally = GlobalReasoning(
        D, feature_channels=D_V, num_logits=K, update_logits=fed, num_stacks=2,
        knowledge=knowledge, num_classes=K - 1, embedding_channels=3,
    )  # fmt: skip
    module = IterativeReasoning(
        local=local if paths != "global" else None,
        globally=globally if paths != "local" else None,
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
    assert len(out.local) == (iterations if paths != "global" else 0)
    assert len(out.globally) == (iterations if paths != "local" else 0)
    assert out.weights.shape == (7, per_iteration * iterations + 1)
    torch.testing.assert_close(out.weights.sum(1), torch.ones(7))
    order = [out.plain]
    for i in range(iterations):
        order += [f[i] for f in (out.local, out.globally) if f]
    expected = sum(out.weights[:, n, None] * f for n, f in enumerate(order))
    torch.testing.assert_close(out.final, expected.float(), rtol=1e-5, atol=1e-5)
    assert out.weights.std() > 0.01


def test_both_modules_are_updated_with_both_predictions():
    module, x = make("both", 2), make_inputs()
    out = module(**x)
    where = (x["boxes_in_cells"], x["regions"].splits, x["grid_sizes"])
    from relation_heads.layers.region_crops import crop

    crops = crop(x["maps"], x["boxes_in_cells"], x["regions"].splits, crop_size=7,
                 grid_sizes=x["grid_sizes"])  # fmt: skip
    memory = module.local.initial(x["grid_sizes"], tuple(x["maps"].shape[2:]))
    nodes = torch.zeros(7, D).double()
    fed = torch.cat([x["logits"], x["logits"]], dim=1)
    edges = module._adjacencies(x["regions"], x["weights"])
    for i in range(2):
        memory = module.local.update(memory, crops, fed, *where, weights=x["weights"])
        f, _ = module.local.predict(memory, *where)
        nodes = module.globally.update(nodes, x["features"], fed)
        g, _ = module.globally.predict(module.globally.reason(nodes, x["regions"], edges))
        torch.testing.assert_close(out.local[i], f)
        torch.testing.assert_close(out.globally[i], g)
        fed = torch.cat([f, g], dim=1)


def test_without_cross_feed_a_module_does_not_hear_the_other():
    x = make_inputs()
    both = make("both", 3, cross_feed=False)
    alone = IterativeReasoning(local=both.local, globally=None, num_iterations=3)
    for a, b in zip(both(**x).local, alone(**x).local, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("paths", PATHS)
def test_nothing_of_the_detector_gets_a_gradient(paths):
    module, x = make(paths), make_inputs()
    inputs = [x["logits"], x["features"], x["maps"]]
    for t in inputs:
        t.requires_grad_()
    out = module(**x)
    (out.final.sum() + sum(f.square().sum() for f in out.local + out.globally)).backward()
    assert all(t.grad is None for t in inputs)


@pytest.mark.parametrize("paths", PATHS)
def test_the_final_loss_trains_the_attention_and_what_it_reads(paths):
    module = make(paths)
    module(**make_inputs()).final.square().sum().backward()
    for path in (module.local, module.globally):
        if path is None:
            continue
        attention = path.attention if path is module.local else path.attend
        classifier = path.classifier if path is module.local else path.classify
        assert attention.weight.grad.any()
        assert classifier.weight.grad is None  # the predictions that are summed are detached


@pytest.mark.parametrize("paths", PATHS)
def test_every_parameter_trains(paths):
    knowledge = [torch.rand(K - 1, K - 1).double()]
    module = make(paths, knowledge=knowledge if paths != "local" else ())
    out = module(**make_inputs())
    (out.final.square().sum() + sum(f.square().sum() for f in out.local + out.globally)).backward()
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
    (out.final.sum() + sum(f.sum() for f in out.local + out.globally)).backward()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="needs a local or a global module, got neither"):
        IterativeReasoning(local=None, globally=None)
    with pytest.raises(ValueError, match="num_iterations must be at least 1, got 0"):
        make(iterations=0)
