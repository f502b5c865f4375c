"""What GloRe is compared with: the released order of operations, S x L maps and all; a unit without
any safeguard, and a small pretrained network to put units into.

The parameters are those of the unit under test, in float64.
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relation_heads.layers.blocks.glore import GloRe, PreActivationGloRe

CLASSES = 8


def block_means(x: Tensor, stride: int) -> Tensor:
    """(n, C, *places) averaged over blocks, one block at a time."""
    counts = [math.ceil(size / stride) for size in x.shape[2:]]
    means = []
    for block in itertools.product(*(range(count) for count in counts)):
        index = [slice(k * stride, (k + 1) * stride) for k in block]
        means.append(x[(slice(None), slice(None), *index)].flatten(2).mean(2))
    return torch.stack(means, dim=2).unflatten(2, counts)


def glore(unit: GloRe, x: Tensor) -> Tensor:
    """The PyTorch code; with a stride, theta once on the pooled and once on the whole map."""
    pooled = block_means(x, unit.stride)
    state = unit.conv_state(pooled).flatten(2)  # (n, S, L)
    projection = unit.conv_proj(pooled).flatten(2)  # (n, N, L)
    v = torch.matmul(state, projection.permute(0, 2, 1))  # (n, S, N)
    if unit.normalize:
        v = v * (1.0 / state.shape[2])
    h = unit.gcn.conv1(v.permute(0, 2, 1).contiguous()).permute(0, 2, 1)
    z = unit.gcn.conv2(F.relu(h + v))
    back = torch.matmul(z, unit.conv_proj(x).flatten(2))  # (n, S, places of x)
    return x + unit.blocker(unit.conv_extend(back.unflatten(2, x.shape[2:])))


def pre_activation_glore(unit: PreActivationGloRe, x: Tensor) -> Tensor:
    """The MXNet code; with a stride, B of the blocks is the mean of B."""
    state = unit.conv_state(F.relu(unit.norm_state(block_means(x, unit.stride)))).flatten(2)
    b = unit.conv_proj(F.relu(unit.norm_proj(x)))
    v = torch.matmul(state, block_means(b, unit.stride).flatten(2).permute(0, 2, 1))  # (n, S, N)
    if unit.normalize:
        v = v * (1.0 / state.shape[2])
    h = unit.gcn.conv1(F.relu(unit.gcn.norm1(v.permute(0, 2, 1)))).permute(0, 2, 1)
    z = unit.gcn.conv2(F.relu(unit.gcn.norm2(v + h)))
    back = torch.matmul(z, b.flatten(2)).unflatten(2, x.shape[2:])  # (n, S, *places)
    return x + unit.conv_extend(F.relu(unit.norm_extend(back)))


def released_order(unit: GloRe, x: Tensor) -> Tensor:
    """Whichever of the two `unit` is."""
    if isinstance(unit, PreActivationGloRe):
        return pre_activation_glore(unit, x)
    return glore(unit, x)


class NaiveGloRe(nn.Module):
    """The paper's equations with the framework's initialisation: no norm, no 1/L, no zeros."""

    def __init__(self, channels: int, num_nodes: int) -> None:
        super().__init__()
        self.conv_state = nn.Conv2d(channels, 2 * num_nodes, 1)
        self.conv_proj = nn.Conv2d(channels, num_nodes, 1)
        self.node_conv = nn.Conv1d(num_nodes, num_nodes, 1)
        self.state_conv = nn.Conv1d(2 * num_nodes, 2 * num_nodes, 1)
        self.conv_extend = nn.Conv2d(2 * num_nodes, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b = self.conv_proj(x).flatten(2)
        v = self.conv_state(x).flatten(2) @ b.transpose(1, 2)
        v = v + self.node_conv(v.transpose(1, 2)).transpose(1, 2)
        z = self.state_conv(F.relu(v))
        return x + self.conv_extend((z @ b).unflatten(2, x.shape[2:]))


def gratings(noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """16 images of stripes; the class is their direction."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(16) % CLASSES
    angle = labels[:, None, None] * math.pi / CLASSES
    phase = 2 * math.pi * torch.rand(16, 1, 1, generator=generator)
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    images = torch.sin(1.2 * (x * angle.cos() + y * angle.sin()) + phase)
    return (images + noise * torch.randn(images.shape, generator=generator))[:, None], labels


def train(net: nn.Module, lr: float, steps: int, noise: float, seed: int) -> list[float]:
    """The losses, up to the first that is not finite."""
    images, labels = gratings(noise, seed)
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(net(images), labels)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def pretrained_network() -> nn.Sequential:
    """It knows the stripes; child 6 is the place after its last stage."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, 2, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        nn.Identity(),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)),
    )
    losses = train(net, lr=0.1, steps=25, noise=0.5, seed=0)
    assert losses[-1] < 0.1 * losses[0]
    return net


def with_unit(pretrained: nn.Sequential, unit: nn.Module) -> nn.Sequential:
    net = copy.deepcopy(pretrained)
    net[6] = unit
    return net
