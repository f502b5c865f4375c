import pytest

pytest.importorskip("detectron2")

import torch
from torch import nn

from relation_heads.config import get_cfg
from relation_heads.engine.optimizer import build_optimizer
from relation_heads.layers.reasoning.spatial_memory import SpatialMemory


def step(
    clip_type: str, value: float, scale: float
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Gradients of the given scale, and the change that one SGD step of rate 1 makes with them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", 1.0, "SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0])
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.ENABLED", clip_type != "off"])
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", value])
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip_type if clip_type != "off" else "norm"
    optimizer = build_optimizer(cfg, model)
    before = [p.detach().clone() for p in model.parameters()]
    gradients = [scale * torch.randn_like(p) for p in model.parameters()]
    for p, g in zip(model.parameters(), gradients, strict=True):
        p.grad = g.clone()
    optimizer.step()
    return gradients, [b - p.detach() for b, p in zip(before, model.parameters(), strict=True)]


def joint_norm(tensors: list[torch.Tensor]) -> float:
    return torch.cat([t.flatten() for t in tensors]).norm().item()


def test_all_gradients_are_scaled_by_one_factor():
    gradients, change = step("full_model", value=2.0, scale=10.0)
    assert joint_norm(gradients) > 2
    assert joint_norm(change) == pytest.approx(2.0, rel=1e-4)
    for g, c in zip(gradients, change, strict=True):
        torch.testing.assert_close(c, g * 2.0 / joint_norm(gradients), rtol=1e-3, atol=1e-4)


def test_small_gradients_are_left_alone():
    gradients, change = step("full_model", value=2.0, scale=0.01)
    torch.testing.assert_close(change, gradients, rtol=0, atol=1e-6)


def test_detectron2s_own_clipping_stays_per_parameter():
    _, change = step("norm", value=2.0, scale=10.0)
    assert [c.norm().item() for c in change] == pytest.approx([2.0] * 4, rel=1e-4)


def test_no_clipping():
    gradients, change = step("off", value=2.0, scale=10.0)
    torch.testing.assert_close(change, gradients, rtol=0, atol=1e-5)


def decays(weight_decay_bias, clip_type="off"):
    """Name -> weight decay, of a spatial memory beside a stock layer."""
    memory = SpatialMemory(mid_channels=2, num_logits=3, channels=4, fc_dim=5)
    model = nn.ModuleDict({"stock": nn.Linear(3, 4), "memory": memory})
    cfg = get_cfg()
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.25, weight_decay_bias
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = clip_type != "off"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip_type if clip_type != "off" else "norm"
    optimizer = build_optimizer(cfg, model)
    groups = [(p, g["weight_decay"], g["lr"]) for g in optimizer.param_groups for p in g["params"]]
    assert len(groups) == len({id(p) for p, *_ in groups}) == len(list(model.parameters()))
    assert {lr for *_, lr in groups} == {cfg.SOLVER.BASE_LR}
    found = {id(p): decay for p, decay, _ in groups}
    return {name: found[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize("clip_type", ["off", "norm", "full_model"])
def test_an_initial_memory_decays_as_biases_do(clip_type):
    found = decays(0.0, clip_type)
    free = {name for name, decay in found.items() if decay == 0}
    assert free == {n for n in found if n.endswith(("bias", "initial_memory"))}
    assert "memory.initial_memory" in free and "memory.gru.from_input.bias" in free
    assert set(decays(None, clip_type).values()) == {0.25}  # Detectron2's default: as all weights
