"""Non-local block: every position of a feature map listens to all positions.

Source: Wang et al., "Non-local Neural Networks", CVPR 2018; names of the children and initial
values as released for detection (xvjiarui/GCNet, `mmdet/models/plugins/non_local.py`). With 1 x 1
convolutions theta, phi, g and W_z, for position i and all positions j:

    y_i = sum_j f(x_i, x_j) g(x_j) / C(x)
    z_i = x_i + W_z y_i

    embedded Gaussian:  f = exp(theta(x_i)^T phi(x_j) d^-0.5),  C = sum_j f   (a softmax over j)
    dot product:        f = theta(x_i)^T phi(x_j),              C = number of positions j

The dot product associates: `y = (g phi^T / M) theta` is d x d instead of L x M. The softmax does
not; its weights are computed a few rows at a time, once more for the gradient, and never kept.

The factor d^-0.5 is that of the Transformer. The GCNet copy means it but divides by it, so that it
multiplies by d^0.5, a bug. Weights that were trained with another factor s fit once theta, weight
and bias, is multiplied by s d^0.5 (GCNet: d; `tools/convert_weights.py --theta multiplied`).

Shapes: x (n, C, H, W), L = H W positions, d inner channels; M positions j: all L, or a quarter of
them after sub-sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..arguments import at_least, one_of, require
from ..precision import no_autocast, widen
from .glore import learns

Mode = Literal["embedded_gaussian", "dot_product"]
MODES: tuple[str, ...] = get_args(Mode)

INIT_STD = 0.01  # of theta, phi and g (released code)
SCRATCH_BYTES = 8 * 2**20  # of one block of softmax weights; two of that size exist at once


def _blocks(queries: int, keys: int, item_bytes: int) -> Iterator[slice]:
    """Ranges of queries whose (queries, keys) weights fit the scratch memory."""
    rows = max(1, SCRATCH_BYTES // max(1, keys * item_bytes))
    for start in range(0, queries, rows):
        yield slice(start, start + rows)


def _softmax_weights(theta: Tensor, phi: Tensor) -> Tensor:
    """softmax(theta^T phi d^-0.5): (..., d, b) and (..., d, M) to (..., b, M); rows sum to 1."""
    return ((theta * theta.shape[-2] ** -0.5).transpose(-2, -1) @ phi).softmax(dim=-1)


def _block_backward(
    grad_y: Tensor, theta: Tensor, phi: Tensor, g: Tensor, grad_phi: Tensor, grad_g: Tensor
) -> Tensor:
    """The gradient of `y = g p^T`, p = _softmax_weights(theta, phi), for a block of queries.

    Args:
        grad_y, theta: (d, b).
        phi, g: (d, M).
        grad_phi, grad_g: (d, M), what this block contributes is added to them.

    Returns:
        (d, b), the gradient for theta.
    """
    weights = _softmax_weights(theta, phi)  # p: (b, M)
    grad_g.addmm_(grad_y, weights)
    # Gradient of the logits, p (dp - sum p dp), in the memory of dp.
    grad = (grad_y.T @ g).mul_(weights)
    grad.addcmul_(weights, grad.sum(dim=1, keepdim=True), value=-1)
    scale = theta.shape[0] ** -0.5
    grad_phi.addmm_(theta, grad, alpha=scale)
    return phi @ grad.T * scale


class _SoftmaxAttention(torch.autograd.Function):
    """y = g softmax(theta^T phi d^-0.5)^T of each image in float32 or wider, block by block.

    phi and g are kept for the gradient. The weights are computed again, and so is theta, from the x
    that its convolution keeps in any case: its memory then becomes that of its gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, theta: Tensor, phi: Tensor, g: Tensor, x: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """(n, d, L), (n, d, M), (n, d, M) to (n, d, L); theta must be conv(x, weight, bias)."""
        ctx.save_for_backward(phi, g, x, weight, bias)
        ctx.dtype = theta.dtype
        y = torch.empty_like(theta)
        with no_autocast(x):
            for n in range(y.shape[0]):
                theta_n, phi_n, g_n = widen(theta[n]), widen(phi[n]), widen(g[n])
                for block in _blocks(y.shape[2], phi.shape[2], phi_n.element_size()):
                    y[n, :, block] = g_n @ _softmax_weights(theta_n[:, block], phi_n).T
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        phi, g, *convolution = ctx.saved_tensors
        with no_autocast(phi):
            theta = F.conv2d(*(t.to(ctx.dtype) for t in convolution)).flatten(2)
            grad_phi, grad_g = torch.zeros_like(widen(phi)), torch.zeros_like(widen(g))
            for n in range(theta.shape[0]):
                theta_n, phi_n, g_n = widen(theta[n]), widen(phi[n]), widen(g[n])
                for block in _blocks(theta.shape[2], phi.shape[2], phi_n.element_size()):
                    theta[n, :, block] = _block_backward(
                        widen(grad_y[n, :, block]),
                        theta_n[:, block],
                        phi_n,
                        g_n,
                        grad_phi[n],
                        grad_g[n],
                    )
        return theta, grad_phi.to(phi.dtype), grad_g.to(g.dtype), None, None, None


def _dot_product(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """y = (g phi^T / M) theta: (n, d, L), (n, d, M), (n, d, M) to (n, d, L)."""
    with no_autocast(theta):
        # Without float32 the sum over positions overflows float16.
        context = widen(g) @ widen(phi).transpose(1, 2) / phi.shape[2]  # (n, d, d)
        return (context @ widen(theta)).to(theta.dtype)


class NonLocal(nn.Module):
    """The non-local block with its residual.

    Parameters: 4 C d + 3 d + C; at d = C / 2 131,712, 525,568, 2,099,712 and 8,393,728 for C = 256,
    512, 1024 and 2048.

    It is the identity at first, bit for bit: W_z is 0, or the weight of the norm after it. The
    cells of an image that were added to fill the batch are positions like all others, as in the
    released code, so that results depend a little on which images share a batch.
    """

    def __init__(
        self,
        *,
        channels: int,
        inner_channels: int | None = None,
        mode: Mode = "embedded_gaussian",
        sub_sample: bool = False,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        """
        Args:
            channels: C.
            inner_channels: d, None for C / 2.
            mode: f, see the module. "embedded_gaussian" takes 2 n L M d multiplications, and 5 n L
                M d for the gradient; "dot_product" n (L + M) d^2, and twice that.
            sub_sample: takes the maximum of phi and of g over 2 x 2 positions, a quarter of the
                work of the softmax. Odd last rows and columns do not answer.
            norm: makes a normalisation of C channels that follows W_z (Wang et al.); then its
                weight starts at 0 instead of W_z.

        Raises:
            ArgumentError: arguments outside these, or a norm whose weight is not trained.
        """
        super().__init__()
        inner_channels = channels // 2 if inner_channels is None else inner_channels
        last = None if norm is None or channels < 1 else norm(channels)
        require(
            at_least("channels", channels, 1),
            at_least("inner_channels", inner_channels, 1),
            one_of("mode", mode, MODES),
            learns(last),
        )
        self.mode, self.sub_sample = mode, sub_sample
        self.g = nn.Conv2d(channels, inner_channels, 1)
        self.theta = nn.Conv2d(channels, inner_channels, 1)
        self.phi = nn.Conv2d(channels, inner_channels, 1)
        self.conv_out = nn.Conv2d(inner_channels, channels, 1)  # W_z
        self.norm = last
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Convolutions N(0, 0.01) with biases 0; W_z, or the weight of its norm, 0."""
        for conv in (self.g, self.theta, self.phi, self.conv_out):
            nn.init.normal_(conv.weight, std=INIT_STD)
            nn.init.zeros_(conv.get_parameter("bias"))
        last = self.conv_out if self.norm is None else self.norm
        nn.init.zeros_(last.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, C, H, W), of the same dtype; sums in float32 or wider."""
        z = self.conv_out(self._listen(x))
        return x + (z if self.norm is None else self.norm(z)).to(x.dtype)

    def _listen(self, x: Tensor) -> Tensor:
        """y: (n, C, H, W) to (n, d, H, W)."""
        if self.sub_sample and not torch.jit.is_tracing() and min(x.shape[2:]) < 2:
            raise ValueError(
                f"A NonLocal block with sub_sample needs maps of at least 2 x 2 positions, "
                f"got {x.shape[2]} x {x.shape[3]}."
            )
        theta, phi, g = self.theta(x), self.phi(x), self.g(x)
        if self.sub_sample:
            phi, g = F.max_pool2d(phi, 2), F.max_pool2d(g, 2)
        theta, phi, g = theta.flatten(2), phi.flatten(2), g.flatten(2)
        if self.mode == "dot_product":
            y = _dot_product(theta, phi, g)
        elif torch.jit.is_tracing():  # a trace of the blocks would be of one size of map
            y = g @ _softmax_weights(theta, phi).transpose(1, 2)
        else:
            y = _SoftmaxAttention.apply(theta, phi, g, x, self.theta.weight, self.theta.bias)
        return y.unflatten(2, x.shape[2:])

    def extra_repr(self) -> str:
        return f"mode={self.mode}, sub_sample={self.sub_sample}"
