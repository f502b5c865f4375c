"""Spatial memory as nested loops: one region, one sample of a crop, one cell at a time.

`crop_and_resize` follows the formulas of the TensorFlow operator: boxes are normalised by the size
of the map minus 1, and a sample outside the map is 0. As in the released code a region is written
by the same operator, which resizes its crop to the whole map with the inverse of its box.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from relation_heads.layers.reasoning.spatial_memory import SpatialMemory

Box = tuple[float, float, float, float]

# A batch of three images, one without regions, and how exactly it is compared.
GRIDS = ((9, 12), (6, 14), (11, 5))
PADDED = (11, 14)
SPLITS = (5, 0, 4)
TINY = [[2.25, 2.25, 2.75, 6.0], [3.0, 3.0, 3.0, 5.0], [4.0, 4.0, 4.0, 4.0]]  # cover no centre
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def random_boxes(n: int, size: tuple[int, int] = (9, 12)) -> torch.Tensor:
    """(n, 4) float64 in cells, some of them reaching beyond the grid."""
    corners = torch.rand(n, 2, 2, dtype=torch.float64) * torch.tensor([size[1] + 1, size[0] + 1.0])
    corners = corners - 0.5
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def batch_boxes() -> torch.Tensor:
    return torch.cat([random_boxes(n, size) for n, size in zip(SPLITS, GRIDS, strict=True)])


def crop_and_resize(image: Tensor, box: Box, crop_size: tuple[int, int]) -> Tensor:
    """(D, h, w) and a normalised (y1, x1, y2, x2) to (D, *crop_size), which is at least 2 x 2."""
    channels, height, width = image.shape
    y1, x1, y2, x2 = box
    height_scale = (y2 - y1) * (height - 1) / (crop_size[0] - 1)
    width_scale = (x2 - x1) * (width - 1) / (crop_size[1] - 1)
    crops = torch.zeros(channels, *crop_size, dtype=image.dtype)
    for y in range(crop_size[0]):
        in_y = y1 * (height - 1) + y * height_scale
        if in_y < 0 or in_y > height - 1:
            continue
        top, bottom = math.floor(in_y), math.ceil(in_y)
        y_lerp = in_y - top
        for x in range(crop_size[1]):
            in_x = x1 * (width - 1) + x * width_scale
            if in_x < 0 or in_x > width - 1:
                continue
            left, right = math.floor(in_x), math.ceil(in_x)
            x_lerp = in_x - left
            upper = image[:, top, left] + (image[:, top, right] - image[:, top, left]) * x_lerp
            lower = (
                image[:, bottom, left] + (image[:, bottom, right] - image[:, bottom, left]) * x_lerp
            )
            crops[:, y, x] = upper + (lower - upper) * y_lerp
    return crops


def read(image: Tensor, box: list[float], crop_size: int) -> Tensor:
    """(D, h, w), h and w at least 2, and x1, y1, x2, y2 in cells to (D, P, P)."""
    height, width = image.shape[1] - 1, image.shape[2] - 1
    x1, y1, x2, y2 = box
    normalized = (y1 / height, x1 / width, y2 / height, x2 / width)
    return crop_and_resize(image, normalized, (crop_size, crop_size))


def write(values: Tensor, box: list[float], size: tuple[int, int]) -> Tensor:
    """(D, P, P) to (D, *size): the inverse crop of one region."""
    x1, y1, x2, y2 = box
    inverse = (
        (0 - y1) / (y2 - y1),
        (0 - x1) / (x2 - x1),
        (size[0] - 1 - y1) / (y2 - y1),
        (size[1] - 1 - x1) / (x2 - x1),
    )
    return crop_and_resize(values, inverse, size)


def dense_write(values: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, D, P, P), (N, 4) to (N, D, *size): `write` of all regions as one sampling."""
    positions, inside = [], []
    for axis in (0, 1):
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        cells = torch.arange(size[1 - axis], dtype=boxes.dtype)
        positions.append(2 * (cells - low) / (high - low) - 1)  # (N, w), (N, h)
        inside.append((low <= cells) & (cells <= high))
    (x, y), (in_x, in_y) = positions, inside
    shape = (len(boxes), *size)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)
    samples = F.grid_sample(values, grid, padding_mode="border", align_corners=True)
    return samples.mul_((in_y[:, :, None] & in_x[:, None, :])[:, None])


def resize_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """TensorFlow 1's `resize_bilinear` without `align_corners`: (D, h, w) to (D, *size)."""
    height, width = image.shape[1:]
    resized = torch.zeros(len(image), *size, dtype=image.dtype)
    for y in range(size[0]):
        in_y = y * (height / size[0])
        top = math.floor(in_y)
        bottom, y_lerp = min(top + 1, height - 1), in_y - top
        for x in range(size[1]):
            in_x = x * (width / size[1])
            left = math.floor(in_x)
            right, x_lerp = min(left + 1, width - 1), in_x - left
            upper = image[:, top, left] + (image[:, top, right] - image[:, top, left]) * x_lerp
            lower = (
                image[:, bottom, left] + (image[:, bottom, right] - image[:, bottom, left]) * x_lerp
            )
            resized[:, y, x] = upper + (lower - upper) * y_lerp
    return resized


def difference(module: SpatialMemory, h: Tensor, f: Tensor, s: Tensor) -> Tensor:
    """u (n - s) of one region: (D_m, P, P), (K_f,) and (D, P, P) to (D, P, P)."""

    def conv(t: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(t[None], weight, bias, padding=weight.shape[-1] // 2)[0]

    channels = len(s)
    # f appended to each place of h, then one 1 x 1 convolution
    places = torch.cat([h, f[:, None, None].expand(-1, *h.shape[1:])])
    weight = torch.cat([module.from_mid.weight, module.from_high.weight[:, :, None, None]], dim=1)
    x = conv(places, weight, module.from_mid.bias).clamp(min=0)
    for layer in module.input_convs:
        x = conv(x, layer.weight, layer.bias).clamp(min=0)
    gru = module.gru
    of_x, of_x_bias = gru.from_input.weight, gru.from_input.bias
    gates = [
        conv(x, of_x[channels + k : channels + k + 1], of_x_bias[channels + k : channels + k + 1])
        + conv(s, gru.gates_from_memory.weight[k : k + 1])
        for k in (0, 1)
    ]
    z, u = (1 / (1 + (-g).exp()) for g in gates)  # (1, P, P)
    n = conv(x, of_x[:channels], of_x_bias[:channels])
    n = (n + conv(z * s, gru.candidate_from_memory.weight)).clamp(min=0)
    return u * n + (1 - u) * s - s


def update_image(
    module: SpatialMemory, memory: Tensor, h: Tensor, f: Tensor, boxes: Tensor, weights: list[float]
) -> Tensor:
    """S of one image after a step: (D, h, w) to (D, h, w)."""
    total, count = torch.zeros_like(memory), torch.zeros_like(memory[:1])
    ones = torch.ones(1, *h.shape[2:], dtype=memory.dtype)
    for n, box in enumerate(boxes.tolist()):
        diff = difference(module, h[n], f[n], read(memory, box, module.crop_size))
        total += weights[n] * write(diff, box, memory.shape[1:])
        count += weights[n] * write(ones, box, memory.shape[1:])
    return memory + torch.where(count > 0, total / count, 0)


def context_image(module: SpatialMemory, memory: Tensor) -> Tensor:
    """C(S) of one image: (D, h, w) to (D, h, w)."""
    convs = [
        lambda t, m=m: F.conv2d(t[None], m.weight, m.bias, padding=1)[0]
        for m in module.context_convs
    ]
    c = convs[0](memory)
    for k in range(1, len(convs), 2):
        c = c + convs[k + 1](convs[k](c.clamp(min=0)).clamp(min=0))
    return c
