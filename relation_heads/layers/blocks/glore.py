"""GloRe: global reasoning over a feature map, through a small graph of learned regions.

Source: Chen et al., "Graph-Based Global Reasoning Networks", CVPR 2019; the authors' PyTorch code
(facebookresearch/GloRe, `global_reasoning_unit.py`), whose child names and weight shapes are kept
so that its weights load (3D kernels into 2D: squeeze them), and their MXNet code for
`PreActivationGloRe`.

    B = theta(X)                           how much of every place goes to each node; no softmax
    V = 1/L phi(X) B^T                     states of the nodes
    Z = W_g relu(V + A_g V)                A_g over the nodes, W_g over the states
    Y = X + norm(W_e (Z B))                back to the places, with the same B

phi, theta and W_e are 1 x 1 convolutions. The branch is cubic in X and, without the 1/L,
proportional to the size of the map: put into a pretrained network it can start thousands of times
as large as X, and training diverges at every learning rate. Hence the 1/L; and the last tensor of
the branch starts at zero, so that Y = X.

Sums commute with the convolutions,

    phi(X) B^T = W_s (X B^T) + b_s (sum B)^T,        W_e (Z B) = (W_e Z) B,

which needs no S x L map; with a frozen norm folded into W_e, forward takes 1/2 the time and
2/5 the memory of the released order on a CPU. V and the graph are float32 or wider, also under
autocast: a sum over the places of a map does not fit float16.

Shapes: n images, C channels, L places, N nodes, S = 2 N states. Nodes are rows here: V and Z are
(n, N, S).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..arguments import Wrong, at_least, one_of, require
from ..precision import no_autocast, widen

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVS: dict[int, type[Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
PRE_ACTIVATION_EPS = 1e-3  # MXNet's
POOLS: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class GraphConv(nn.Module):
    """`Z = W_g relu(V + A_g V)`, with the identity of the paper's I - A_g as a residual."""

    def __init__(self, num_nodes: int, num_states: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(num_nodes, num_nodes, 1)
        self.conv2 = nn.Conv1d(num_states, num_states, 1, bias=False)

    def forward(self, v: Tensor) -> Tensor:
        """(n, N, S) to (n, N, S)."""
        return on_rows(self.conv2, F.relu(v + on_rows(self.conv1, v.mT).mT))


class GloRe(nn.Module):
    """The unit of the PyTorch code, Y = X when it is new; any size of map, also a changing one.

    1,641,472 parameters at C = 1024, N = 256 and 411,136 at (512, 128), with a batch norm.
    """

    conv_bias = True

    def __init__(
        self,
        *,
        channels: int,
        num_nodes: int | None = None,
        dims: int = 2,
        stride: int = 1,
        normalize: bool = True,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        """
        Args:
            channels: C.
            num_nodes: N, by default C // 4 (the width of a bottleneck). The states are 2 N.
            dims: of the map: 1, 2 or 3.
            stride: phi(X) and the B of V come from X averaged over blocks of this many places in
                every dimension, the B that leads back from all places. Blocks at the far edges may
                be smaller (nothing is dropped); L is the number of blocks. (The released MXNet code
                pools both, and its shapes do not fit.)
            normalize: with the 1/L. The released code has it as an option, off by default; weights
                trained without it need it off.
            norm: makes the last norm from its number of channels C; its weight starts at zero. The
                released code has `lambda c: nn.BatchNorm2d(c, eps=1e-4)`. Without one (None) W_e
                starts at zero; the branch stays cubic in X then, and a learning rate that the
                network takes without the unit can still be too large.

        Raises:
            ArgumentError: arguments outside these, or a norm whose weight is not trained.
        """
        super().__init__()
        num_nodes = channels // 4 if num_nodes is None else num_nodes
        last = None if norm is None or channels < 1 else norm(channels)
        require(
            at_least("channels", channels, 1),
            at_least("num_nodes", num_nodes, 1),
            at_least("stride", stride, 1),
            one_of("dims", dims, CONVS),
            learns(last),
        )
        self.channels, self.num_nodes, self.dims = channels, num_nodes, dims
        self.stride, self.normalize = stride, normalize
        states, conv = 2 * num_nodes, CONVS[dims]
        self.conv_state = conv(channels, states, 1, bias=self.conv_bias)
        self.conv_proj = conv(channels, num_nodes, 1, bias=self.conv_bias)
        self.gcn = self._graph(num_nodes, states)
        self.conv_extend = conv(states, channels, 1, bias=False)
        for child in self.modules():
            if isinstance(child, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                nn.init.xavier_uniform_(child.weight)
                if child.bias is not None:
                    nn.init.zeros_(child.bias)
        self.blocker = last or nn.Identity()
        for parameter in (self.conv_extend if last is None else last).parameters():
            nn.init.zeros_(parameter)

    def _graph(self, num_nodes: int, num_states: int) -> nn.Module:
        return GraphConv(num_nodes, num_states)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: (n, C, *places), contiguous or channels_last.

        Returns:
            Y: (n, C, *places), layout and dtype of `x`; `x` itself if it has no image or no place.
        """
        self._check(x)
        if not torch.jit.is_tracing() and x.numel() == 0:
            return x
        b = self.projection(x)
        with no_autocast(x):
            z = self.gcn(self._states(self._pool(x), self._pool(b)))
            w = on_rows(self.conv_extend, z)  # W_e Z, (n, N, C)
            # Without the 1/L the branch is as large as V.
            dtype = x.dtype if self.normalize else torch.promote_types(x.dtype, torch.float32)
            affine = fixed_affine(self.blocker)
            if affine is None:
                return self.blocker(back(w.to(dtype), b.to(dtype))).add_(x).to(x.dtype)
            scale, shift = affine
            shift = None if shift is None else shift.to(dtype)
            return back((w * scale).to(dtype), b.to(dtype), shift, plus=x).to(x.dtype)

    def projection(self, x: Tensor) -> Tensor:
        """B: how much of every place goes to each node, (n, C, *places) to (n, N, *places)."""
        return on_places(self.conv_proj, x)

    def _check(self, x: Tensor) -> None:
        if torch.jit.is_tracing():
            return
        if x.dim() != self.dims + 2 or x.shape[1] != self.channels:
            places = ", ".join(["depth", "height", "width"][3 - self.dims :])
            raise ValueError(
                f"the map of a GloRe unit must be (n, {self.channels}, {places}), "
                f"got {tuple(x.shape)}."
            )

    def _pool(self, x: Tensor) -> Tensor:
        """Averages over blocks; those at the far edges are over what is there (ceil_mode)."""
        if self.stride == 1:
            return x
        pool = POOLS[self.dims]
        return pool(x, self.stride, self.stride, ceil_mode=True, count_include_pad=False)

    def _states(self, x: Tensor, b: Tensor) -> Tensor:
        """V: (n, C, *places), (n, N, *places) to (n, N, S), float32 or wider."""
        x, b = widen(x.flatten(2)), widen(b.flatten(2))
        # The same product either way; written so that the gradient of X comes in the layout of X.
        sums = torch.bmm(b, x.mT) if x.stride(1) == 1 else torch.bmm(x, b.mT).mT  # (n, N, C)
        v = F.linear(sums, self.conv_state.weight.flatten(1).to(x.dtype))
        if self.conv_state.bias is not None:
            v = v + b.sum(2, keepdim=True) * self.conv_state.bias.to(b.dtype)
        return v / b.shape[2] if self.normalize else v

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, num_nodes={self.num_nodes}, stride={self.stride}, "
            f"normalize={self.normalize}"
        )


class PreActivationGraphConv(nn.Module):
    """`Z = W_g a(V + A_g a(V))`, a: a batch norm (of the nodes, of the states) and a ReLU."""

    def __init__(self, num_nodes: int, num_states: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm1d(num_nodes, eps=PRE_ACTIVATION_EPS)
        self.conv1 = nn.Conv1d(num_nodes, num_nodes, 1, bias=False)
        self.norm2 = nn.BatchNorm1d(num_states, eps=PRE_ACTIVATION_EPS)
        self.conv2 = nn.Conv1d(num_states, num_states, 1, bias=False)

    def forward(self, v: Tensor) -> Tensor:
        """(n, N, S) to (n, N, S)."""
        v = v + on_rows(self.conv1, F.relu(self.norm1(v)).mT).mT
        return on_rows(self.conv2, F.relu(self.norm2(v.mT)).mT)


class PreActivationGloRe(GloRe):
    """The unit of the MXNet code, with which the paper's ImageNet table was made.

    Every convolution has no bias and a batch norm and a ReLU before it; there is no norm after W_e.
    W_e starts at zero here and not in the released code. As a ReLU comes between B and W_e, the
    S x L map has to exist. With a stride theta follows the norm and the ReLU of the whole map, and
    B is pooled.

    1,645,056 parameters at C = 1024, N = 256 and 412,928 at (512, 128).
    """

    conv_bias = False

    def __init__(
        self,
        *,
        channels: int,
        num_nodes: int | None = None,
        dims: int = 2,
        stride: int = 1,
        normalize: bool = False,
    ) -> None:
        """
        Args:
            normalize: with the 1/L, which the norms of the graph make superfluous.
            channels, num_nodes, dims, stride: see `GloRe`.
        """
        super().__init__(
            channels=channels, num_nodes=num_nodes, dims=dims, stride=stride, normalize=normalize
        )
        norm = BATCH_NORMS[dims]
        self.norm_state = norm(channels, eps=PRE_ACTIVATION_EPS)
        self.norm_proj = norm(channels, eps=PRE_ACTIVATION_EPS)
        self.norm_extend = norm(2 * self.num_nodes, eps=PRE_ACTIVATION_EPS)

    def _graph(self, num_nodes: int, num_states: int) -> nn.Module:
        return PreActivationGraphConv(num_nodes, num_states)

    def projection(self, x: Tensor) -> Tensor:
        """See `GloRe.projection`."""
        return on_places(self.conv_proj, F.relu(self.norm_proj(x)))

    def forward(self, x: Tensor) -> Tensor:
        """See `GloRe.forward`."""
        self._check(x)
        if not torch.jit.is_tracing() and x.numel() == 0:
            return x
        b = self.projection(x)
        with no_autocast(x):
            activated = F.relu(self.norm_state(self._pool(x)))
            z = self.gcn(self._states(activated, self._pool(b)))
            y = F.relu(self.norm_extend(back(z.to(x.dtype), b.to(x.dtype))))  # (n, S, *places)
            return on_places(self.conv_extend, y, plus=x)


# ---- products of matrices, and checks ----


def on_rows(conv: Conv, rows: Tensor) -> Tensor:
    """A 1 x 1 convolution of rows: (..., in) to (..., out), in their dtype."""
    bias = None if conv.bias is None else conv.bias.to(rows.dtype)
    return F.linear(rows, conv.weight.flatten(1).to(rows.dtype), bias)


def learns(norm: nn.Module | None) -> Wrong | None:
    """None if there is no norm, or one whose weight can start at 0, since it is trained then."""
    weight = getattr(norm, "weight", None)
    if norm is None or (isinstance(weight, nn.Parameter) and weight.requires_grad):
        return None
    return Wrong("norm", "of a kind whose weight, 0 at first, is trained", type(norm).__name__)


def back(w: Tensor, b: Tensor, shift: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
    """w^T B (+ shift) (+ plus) in every place.

    The same product either way; written so that channels that are adjacent in B stay so.

    Args:
        w: (n, N, C).
        b: (n, N, *places).
        shift: (C,).
        plus: (n, C, *places).

    Returns:
        (n, C, *places).
    """
    rows = b.flatten(2)
    adjacent = rows.stride(1) == 1
    left, right = (rows.mT, w) if adjacent else (w.mT, rows)
    if shift is None:
        out = left @ right
    else:
        out = torch.baddbmm(shift if adjacent else shift[:, None], left, right)
    if plus is not None:
        out.add_(plus.flatten(2).mT if adjacent else plus.flatten(2))
    return (out.mT if adjacent else out).unflatten(2, b.shape[2:])


def on_places(conv: Conv, x: Tensor, plus: Tensor | None = None) -> Tensor:
    """A 1 x 1 convolution of a map as the product of matrices that it is: (n, in, *places) to
    (n, out, *places), in its dtype. PyTorch's own fills the gradient of the map with zeros first:
    forward and backward of the unit on res2 take 1.2 times as long with it."""
    bias = None if conv.bias is None else conv.bias.to(x.dtype)
    return back(conv.weight.flatten(1).T.expand(x.shape[0], -1, -1).to(x.dtype), x, bias, plus)


def fixed_affine(norm: nn.Module) -> tuple[Tensor | float, Tensor | None] | None:
    """Scale and shift (C,) of no norm, or of a batch norm that uses its running statistics; None of
    others."""
    if isinstance(norm, nn.Identity):
        return 1.0, None
    if not isinstance(norm, _BatchNorm) or norm.training:
        return None
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return None
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale
