"""The object relation module of Hu et al. 2018 beside the usual ways to compute it.

Peers: plain PyTorch and torch's attention, both with the embedding of all pairs; and the released
code's order of operations, for information. Their geometry is the plain text of the paper, with
centres. All of them compute the published form, `norm=""`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from relation_heads.layers import ObjectRelation, Regions, sinusoidal_embedding

from ..case import OURS, Case, Target, Variant

DIM, HEADS = 1024, 16
SIZE = (800, 1333)

Relate = Callable[[ObjectRelation, Tensor, Tensor], Tensor]  # (module, features, log gate)


def make_boxes(count: int, seed: int = 0) -> Tensor:
    """Boxes like proposals: sides 16 to 600 pixels, log-uniform, and one exact duplicate."""
    generator = torch.Generator().manual_seed(seed)
    height, width = SIZE
    centers = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    sides = 16 * (torch.rand(count, 2, generator=generator) * math.log(600 / 16)).exp()
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=1)
    boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height] * 2) - 1)
    boxes[count // 2] = boxes[count // 3]
    return boxes


def make_module(seed: int = 0) -> ObjectRelation:
    """A module whose gates and biases are as wide as after some training."""
    torch.manual_seed(seed)
    module = ObjectRelation(DIM, num_heads=HEADS, norm="", init="xavier")
    for layer in module.children():
        torch.nn.init.normal_(layer.bias, std=0.1)
    torch.nn.init.normal_(module.gate.weight, std=0.1)
    return module


def plain_embedding(boxes: Tensor) -> Tensor:
    """E_G of all pairs as the paper writes it: (..., N, 4) to (..., N, N, 64)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    centers, sizes = ((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1 + 1, y2 - y1 + 1)
    offsets = [
        ((c[..., None, :] - c[..., None]) / s[..., None]).abs().clamp(min=1e-3).log()
        for c, s in zip(centers, sizes, strict=True)
    ]
    ratios = [(s[..., None] / s[..., None, :]).log() for s in sizes]
    return sinusoidal_embedding(torch.stack([*offsets, *ratios], dim=-1), 8, scale=100.0)


def plain_log_gate(embedding: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """log max(max(0, w_G), 1e-6), as released: (..., N, N, 64) to (..., H, N, N)."""
    return F.linear(embedding, weight, bias).relu().clamp(min=1e-6).log().movedim(-1, -3)


def _heads(module: ObjectRelation, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v, each (H, N, 64)."""
    q, k, v = (
        layer(features).unflatten(1, (HEADS, -1)).transpose(0, 1)
        for layer in (module.query, module.key, module.value)
    )
    return q, k, v


def _plain(module: ObjectRelation, features: Tensor, log_gate: Tensor) -> Tensor:
    q, k, v = _heads(module, features)
    logits = torch.baddbmm(log_gate, q, k.mT, alpha=1 / math.sqrt(q.shape[-1]))
    return (logits.softmax(dim=-1) @ v).transpose(0, 1).flatten(1)


def _attention(module: ObjectRelation, features: Tensor, log_gate: Tensor) -> Tensor:
    q, k, v = _heads(module, features)
    out = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=log_gate[None])
    return out[0].transpose(0, 1).flatten(1)


def _official(module: ObjectRelation, features: Tensor, log_gate: Tensor) -> Tensor:
    """Raw features are summed for every head, then projected."""
    q, k, _ = _heads(module, features)
    weights = (q @ k.mT / math.sqrt(q.shape[-1]) + log_gate).softmax(dim=-1)
    summed = weights.transpose(0, 1).flatten(0, 1) @ features  # (N H, D)
    kernel, bias = module.value.weight[..., None, None], module.value.bias
    return F.conv2d(summed.view(len(features), -1, 1, 1), kernel, bias, groups=HEADS).flatten(1)


def _peer(modules: Sequence[ObjectRelation], boxes: Tensor, relate: Relate) -> Relate:
    """A head of several modules that share one embedding: features to features."""

    def head(features: Tensor) -> Tensor:
        embedding = plain_embedding(boxes)
        for module in modules:
            log_gate = plain_log_gate(embedding, module.gate.weight, module.gate.bias)
            features = features + relate(module, features, log_gate)
            features = features.relu() if len(modules) > 1 else features
        return features

    return head


def _ours(modules: Sequence[ObjectRelation], boxes: Tensor) -> Callable[[Tensor], Tensor]:
    regions = Regions.from_boxes([boxes], [SIZE])

    def head(features: Tensor) -> Tensor:
        for module in modules:
            features = module(features, regions)
            features = features.relu() if len(modules) > 1 else features
        return features

    return head


def _case(count: int, num_modules: int, target: Target, device: str) -> Case:
    modules = [make_module(seed).to(device) for seed in range(num_modules)]
    boxes = make_boxes(count).to(device)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(count, DIM, generator=generator).to(device).requires_grad_()
    cotangent = torch.randn(count, DIM, generator=generator).to(device)
    wanted = [features, *(p for module in modules for p in module.parameters())]

    def variant(head: Callable[[Tensor], Tensor], is_peer: bool = True) -> Variant:
        return Variant(
            lambda: head(features),
            lambda: torch.autograd.grad(head(features), wanted, cotangent),
            is_peer,
        )

    peers = {"plain": _plain, "SDPA + dense bias": _attention, "official order": _official}
    variants = {OURS: variant(_ours(modules, boxes))} | {
        name: variant(_peer(modules, boxes, relate), relate is not _official)
        for name, relate in peers.items()
    }
    if not target.errors:
        return Case(variants, target)
    return Case(variants, target, lambda: _errors(modules[0], boxes, features, cotangent))


def _relation_and_gradient(
    head: Callable[[Tensor], Tensor], module: ObjectRelation, features: Tensor, cotangent: Tensor
) -> tuple[Tensor, Tensor]:
    out = head(features)
    (gradient,) = torch.autograd.grad(out, module.gate.weight, cotangent)
    return (out - features).detach().double(), gradient.double()


def _errors(
    module: ObjectRelation, boxes: Tensor, features: Tensor, cotangent: Tensor
) -> dict[str, float]:
    """Of the relation (without the residual) and of the gradient of W_G, in float32 and 64."""
    wide = copy.deepcopy(module).double()
    inputs, wide_boxes = (features.detach().double(), cotangent.double()), boxes.double()
    truth = _relation_and_gradient(_peer([wide], wide_boxes, _plain), wide, *inputs)
    single = _relation_and_gradient(_ours([module], boxes), module, features, cotangent)
    double = _relation_and_gradient(_ours([wide], wide_boxes), wide, *inputs)
    return {
        f"{name}, {precision}": float((ours - true).norm() / true.norm())
        for precision, result in (("float32", single), ("float64", double))
        for name, ours, true in zip(("relation", "gradient of W_G"), result, truth, strict=True)
    }


ERRORS = {
    "relation, float32": 1e-5,
    "relation, float64": 1e-12,
    # It jumps where a gate crosses its floor: one of 10^7 is worth a thousandth. Peers: up to 8e-3.
    "gradient of W_G, float32": 1e-2,
    "gradient of W_G, float64": 1e-12,
}

CASES: dict[str, Callable[[str], Case]] = {
    # Forward and backward at N = 300: 12 MiB of 18 are gradients of the projections.
    "object relation, N=300": lambda device: _case(
        300, 1, Target(1.2, 1.0, 1 / 4, 1 / 3.1, errors=ERRORS), device
    ),
    "object relation, N=1000": lambda device: _case(
        1000, 1, Target(3.2, 1.8, 1 / 15, 1 / 8, errors=ERRORS), device
    ),
    "object relation, N=2000": lambda device: _case(
        2000, 1, Target(3.6, 2.1, 1 / 30, 1 / 15), device
    ),
    "object relation, two modules, N=1000": lambda device: _case(
        1000, 2, Target(2.5, 1.6, 1 / 14, 1 / 7), device
    ),
}
