"""Spatial memory: the local module of iterative reasoning.

Source: Chen et al., "Iterative Visual Reasoning Beyond Convolutions", CVPR 2018, eq. 1;
released code (endernewton/iter-reason, `nets/base_memory.py`) where it says more.

An image has a memory S, a map of D channels on the grid of its feature map. An iteration predicts
from it and then updates it, all regions r at once:

    C(S) = c_1 + conv(relu(conv(relu(c_1)))),  c_1 = conv(S)               context
    f_r, a_r = fc(relu(fc(relu(fc(crop_r C(S))))))                         logits, attention
    x_r  = relu(conv(relu(W_h h_r + W_f f_r)))                             h_r: mid-level crop
    z, u = sigmoid(conv(x_r) + conv(s_r)),  s_r = crop_r S                 gates, one channel each
    n_r  = relu(conv(x_r) + conv(z s_r))                                   candidate
    S   <- S + sum_r w_r crop_r^-1[u (n_r - s_r)] / sum_r w_r [r covers the cell]

so u is 1 - u of the printed equation, and W_f f is added to each of the P x P places, which equals
appending f to them. What is averaged is the difference: cells that no region covers keep their
value.

Shapes: N regions of B images concatenated, `splits` of them in each; boxes (N, 4) in cells; memory
(B, D, H, W), of which the top left `grid_sizes` cells belong to the image and all others are 0;
crops (N, D, P, P); h (N, D_m, P, P); f (N, K_f). Regions that come to lie in no cell, images
without regions, no regions and no images at all are fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import Wrong, at_least, one_of, require
from ..regions import row_counts
from .region_crops import Size, check_grids, coverage_count, crop, inverse_crop_sum, valid_mask

Init = Literal["he", "normal"]
INITS: tuple[str, ...] = get_args(Init)
INIT_STD = 0.01  # released code: W_h, W_f, the GRU and the two classifiers
MIN_COUNT = 1e-3  # see `SpatialMemory.update`


class ConvGRU(nn.Module):
    """u (n - s) of one step; gates of one channel, biases on the side of the input only."""

    def __init__(self, channels: int) -> None:
        """
        Args:
            channels: D of x and s.
        """
        super().__init__()
        self.from_input = nn.Conv2d(channels, channels + 2, 3, padding=1)  # of n, z and u
        self.gates_from_memory = nn.Conv2d(channels, 2, 3, padding=1, bias=False)
        self.candidate_from_memory = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """(N, D, P, P) and (N, D, P, P) to (N, D, P, P), in the dtype of `s` or wider."""
        candidate, gates = self.from_input(x).split([s.shape[1], 2], dim=1)
        z, u = (gates + self.gates_from_memory(s)).sigmoid().split(1, dim=1)  # (N, 1, P, P)
        n = F.relu(candidate + self.candidate_from_memory(z * s))
        return u * (n - s)


class SpatialMemory(nn.Module):
    """The weights of the local module, shared by all iterations; it keeps no state.

    134.8 million parameters at D = 512, fc_dim = 4096, D_m = 1024 and 81 logits, of which 102.8
    million in the first fully connected layer.
    """

    def __init__(
        self,
        *,
        mid_channels: int,
        num_logits: int,
        high_channels: int | None = None,
        channels: int = 512,
        crop_size: int = 7,
        init_size: Size = (20, 20),
        fc_dim: int = 4096,
        num_fc: int = 2,
        init: Init = "he",
        half_pixel: bool = True,
    ) -> None:
        """
        Args:
            mid_channels: D_m of h.
            num_logits: K + 1.
            high_channels: K_f of f, None for `num_logits`; twice that when the logits of local and
                global module are concatenated (cross-feed).
            channels: D.
            crop_size: P, at least 2.
            init_size: (height, width) of the trainable initial memory.
            fc_dim: channels of the fully connected layers.
            num_fc: how many of them stand before the classifiers, at least 1.
            init: of W_h, W_f and the GRU: "normal" is N(0, 0.01) as released, whose first
                predictions and gradients are close to 0 for hundreds of iterations; "he" is not.
            half_pixel: how the initial memory is resized, see `initial`.

        Raises:
            ArgumentError: an argument outside these.
        """
        super().__init__()
        require(
            at_least("mid_channels", mid_channels, 1),
            at_least("num_logits", num_logits, 1),
            None if high_channels is None else at_least("high_channels", high_channels, 1),
            at_least("channels", channels, 1),
            at_least("crop_size", crop_size, 2),
            _size_problem(init_size),
            at_least("fc_dim", fc_dim, 1),
            at_least("num_fc", num_fc, 1),
            one_of("init", init, INITS),
        )
        self.channels, self.crop_size, self.init = channels, crop_size, init
        self.half_pixel = half_pixel
        self.initial_memory = nn.Parameter(torch.empty(1, channels, *init_size))
        self.context_convs = _convs(channels, 3)
        widths = [channels * crop_size**2, *[fc_dim] * num_fc]
        self.fcs = nn.ModuleList(nn.Linear(widths[k], widths[k + 1]) for k in range(num_fc))
        self.classifier = nn.Linear(fc_dim, num_logits)
        self.attention = nn.Linear(fc_dim, 1, bias=False)
        self.from_mid = nn.Conv2d(mid_channels, channels, 1)  # W_h
        self.from_high = nn.Linear(high_channels or num_logits, channels, bias=False)  # W_f
        self.input_convs = _convs(channels, 1)
        self.gru = ConvGRU(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """S and biases 0; context, input and FC layers He, the classifiers normal, see `init`."""
        nn.init.zeros_(self.initial_memory)
        he = {*self.context_convs, *self.input_convs, *self.fcs}
        normal = {self.classifier, self.attention}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                if module in he or (self.init == "he" and module not in normal):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                else:
                    nn.init.normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def initial(self, grid_sizes: Sequence[Size], padded_size: Size) -> Tensor:
        """S of the first iteration: the trained map, resized to each image's own grid.

        The map counts as a bias (released code): its weight decay is SOLVER.WEIGHT_DECAY_BIAS, see
        `engine.optimizer`. Where cells are at their centres (`half_pixel`) both grids share the
        borders of the image; otherwise cell i of n is at i / n of its length (released code:
        TensorFlow 1's `resize_bilinear`).

        Args:
            grid_sizes: (h, w) of each image in cells.
            padded_size: (H, W), no smaller than any of them.

        Returns:
            (B, D, H, W), 0 beyond the grids.
        """
        check_grids(grid_sizes, len(grid_sizes), padded_size)
        height, width = padded_size
        memory = [
            F.pad(
                _resized(self.initial_memory, row_counts((h, w)), self.half_pixel)[0],
                (0, width - w, 0, height - h),
            )
            for h, w in grid_sizes
        ]
        if not memory:
            return self.initial_memory.new_zeros(0, self.channels, height, width)
        return torch.stack(memory)

    def context(self, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """C(S): (B, D, H, W), what surrounds a cell mixed into it.

        Args:
            memory: (B, D, H, W), 0 beyond the grids.
            valid: (B, 1, H, W) bool of `valid_mask`. Applied after each convolution, so that the
                border of an image stays the zero padding that it is without padded cells. None:
                all cells are valid.
        """

        def masked(t: Tensor) -> Tensor:
            return t if valid is None else t * valid

        first, inner, outer = self.context_convs
        out = masked(first(memory))
        return out + masked(outer(F.relu(masked(inner(F.relu(out))))))

    def predict(
        self,
        memory: Tensor,
        boxes: Tensor,
        splits: Sequence[int],
        grid_sizes: Sequence[Size] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits f (N, K + 1) and attention a (N, 1) of all regions.

        Both are 0 for a memory and biases of 0. At the first iteration the logits are of no use:
        the plain classifier's take their place.

        Args:
            memory: (B, D, H, W).
            boxes: (N, 4) in cells.
            splits: number of regions of each image.
            grid_sizes: (h, w) of each image, None when all fill the map.
        """
        valid = None
        if grid_sizes is not None:
            valid = valid_mask(grid_sizes, (memory.shape[2], memory.shape[3]), memory.device)
        context = self.context(memory, valid)
        x = crop(context, boxes, splits, crop_size=self.crop_size, grid_sizes=grid_sizes).flatten(1)
        for fc in self.fcs:
            x = F.relu(fc(x))
        return self.classifier(x), self.attention(x)

    def region_input(self, mid_crops: Tensor, high: Tensor) -> Tensor:
        """x: (N, D_m, P, P) and (N, K_f) to (N, D, P, P)."""
        x = F.relu(self.from_mid(mid_crops) + self.from_high(high)[:, :, None, None])
        for conv in self.input_convs:
            x = F.relu(conv(x))
        return x

    def update(
        self,
        memory: Tensor,
        mid_crops: Tensor,
        high: Tensor,
        boxes: Tensor,
        splits: Sequence[int],
        grid_sizes: Sequence[Size] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """S after all regions have written to it at once: (B, D, H, W).

        With weights, a cell becomes the weighted mean of what its regions want: the total weight
        cancels, so a cell that only weak regions cover is changed as much as any other, but strong
        regions prevail where both are. Where the total is below 0.001 it is divided by 0.001
        instead: such regions fade out and regions of weight 0 change nothing, whereas 1e-8 of
        rounding noise in a weight of 0 would otherwise count as much as a 1. Counts without weights
        are integers, so there the floor does nothing.

        Args:
            memory: (B, D, H, W).
            mid_crops: (N, D_m, P, P) h, detached by the caller: the paper's modules do not train
                the backbone.
            high: (N, K_f) f, the logits of this iteration, detached by the caller.
            boxes: (N, 4) in cells.
            splits: number of regions of each image.
            grid_sizes: (h, w) of each image, None when all fill the map.
            weights: (N,) w >= 0, for example the probability to be an object; they receive no
                gradient. None for 1.
        """
        if not torch.jit.is_tracing():
            crop_shape = (self.from_mid.in_channels, self.crop_size, self.crop_size)
            for name, rows, shape in (
                ("mid_crops", mid_crops, crop_shape),
                ("high", high, (self.from_high.in_features,)),
            ):
                if rows.shape != (len(boxes), *shape):
                    raise ValueError(
                        f"{name} must be {(len(boxes), *shape)}, got {tuple(rows.shape)}."
                    )
        size = (memory.shape[2], memory.shape[3])
        s = crop(memory, boxes, splits, crop_size=self.crop_size, grid_sizes=grid_sizes)
        difference = self.gru(self.region_input(mid_crops, high), s)
        total = inverse_crop_sum(
            difference, boxes, splits, size, grid_sizes=grid_sizes, weights=weights
        )
        count = coverage_count(boxes, splits, size, grid_sizes=grid_sizes, weights=weights)
        return memory + (total / count.clamp(min=MIN_COUNT)).to(memory.dtype)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, crop_size={self.crop_size}"


@torch.jit.script_if_tracing  # torch cannot trace the sizes of `interpolate`
def _resized(memory: Tensor, size: Tensor, half_pixel: bool) -> Tensor:
    """(1, D, H, W) to (1, D, h, w), for (2,) int64."""
    if half_pixel:
        return F.interpolate(memory, size=[int(size[0]), int(size[1])], mode="bilinear")
    for axis in range(2):
        old, new = memory.shape[2 + axis], int(size[axis])
        # Cell i is at i old / new, between `low` and the next; integers round nothing.
        at = torch.arange(new, device=memory.device) * old
        low = torch.div(at, new, rounding_mode="floor")
        shape = [new, 1] if axis == 0 else [new]
        share = ((at - low * new).to(memory.dtype) / new).view(shape)
        high = (low + 1).clamp(max=old - 1)
        memory = torch.lerp(
            memory.index_select(2 + axis, low),
            memory.index_select(2 + axis, high),
            share,
        )
    return memory


def _size_problem(init_size: Size) -> Wrong | None:
    if len(init_size) == 2 and not any(at_least("side", side, 1) for side in init_size):
        return None
    return Wrong("init_size", "a height and a width of at least 1", init_size)


def _convs(channels: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(count))
