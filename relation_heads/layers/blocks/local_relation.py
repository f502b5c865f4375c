"""Local relation layer: every position of a map listens to the window around it.

Source: Hu et al., "Local Relation Networks for Image Recognition", ICCV 2019; for the border also
the authors' operator (microsoft/Swin-Transformer, branch LR-Net, `ops/local_relation`). For a
position p, its neighbours p + D in a k x k window, and a group g of m channels (eq. 2, figure 2):

    w_g(p, D) = softmax_D( Phi(q_g(p), k_g(p + D)) + b_g(D) )     appearance + geometry prior
    y_c(p)    = sum_D w_g(p, D) x_c(p + D),    g = c // m         the value is x itself
    z         = W_o y                                             a 1 x 1 convolution

    product:     Phi(q, k) = q k              q, k: 1 x 1 convolutions, one number for each group
    difference:  Phi(q, k) = -|q - k|
    square:      Phi(q, k) = -(q - k)^2
    prior:       b(D) = V relu(U D + u),  with D / (k // 2), which is in [-1, 1]

A neighbour outside the map takes no part in the softmax. (In the operator it keeps exp(-100 + b_g),
which float32 cannot tell from that.) With a stride, p is every stride-th position.

The paper and the operator leave open how wide U is (here an argument), the unit of D (it only
scales the first U), biases (here of q and W_o; that of k and one of V would cancel), and a norm
between y and W_o (here none, as in figure 2).

`window_sum` computes y without a tensor of k^2 copies of a map.

Shapes: x (n, C, H, W), G = C / m groups; z (n, C', H', W') with H' = ceil(H / stride).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..arguments import Wrong, at_least, multiple_of, one_of, require
from ..precision import no_autocast
from .glore import learns
from .window_sum import SIMILARITIES, Similarity, window_sum


class LocalRelation(nn.Module):
    """The layer, in place of a k x k convolution of as many channels.

    Parameters: 2 C G + G (q, k), 3 h + h G (prior, U with h rows), C C + C (W_o, with its bias).
    """

    def __init__(
        self,
        *,
        channels: int,
        window: int = 7,
        channels_per_group: int = 8,
        similarity: Similarity = "product",
        stride: int = 1,
        prior_channels: int | None = None,
        bias: bool = True,
    ) -> None:
        """
        Args:
            channels: C.
            window: k, odd.
            channels_per_group: m, divides C.
            similarity: Phi, see the module: "product", "difference" or "square".
            stride: of the queries.
            prior_channels: h, rows of U, by default G / 2.
            bias: whether W_o has one; it needs none before a norm.

        Raises:
            ArgumentError: arguments outside these.
        """
        super().__init__()
        require(
            at_least("window", window, 1) or _odd("window", window),
            at_least("channels_per_group", channels_per_group, 1)
            or multiple_of("channels", channels, channels_per_group, "channels_per_group"),
            one_of("similarity", similarity, SIMILARITIES),
            at_least("stride", stride, 1),
            None if prior_channels is None else at_least("prior_channels", prior_channels, 1),
        )
        groups = channels // channels_per_group
        hidden = max(1, groups // 2) if prior_channels is None else prior_channels
        self.window, self.stride, self.similarity = window, stride, similarity
        self.query = nn.Conv2d(channels, groups, 1, stride=stride)
        self.key = nn.Conv2d(channels, groups, 1, bias=False)
        self.prior = nn.Sequential(
            nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, groups, bias=False)
        )
        self.out = nn.Conv2d(channels, channels, 1, bias=bias)
        steps = torch.arange(float(window)) - window // 2
        self.shifts: Tensor  # D: (k * k, 2) as x, y
        shifts = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=2).flatten(0, 1)
        self.register_buffer("shifts", shifts, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """W_o N(0, 2 / C), its bias 0; the others PyTorch's own."""
        for layer in (self.query, self.key, self.prior[0], self.prior[2]):
            layer.reset_parameters()  # type: ignore[operator]
        nn.init.kaiming_normal_(self.out.weight, nonlinearity="relu")
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, C, H', W'), of the same dtype; sums in float32 or wider."""
        return self.out(self.listen(x))

    def listen(self, x: Tensor) -> Tensor:
        """y: (n, C, H, W) to (n, C, H', W')."""
        with no_autocast(x):
            prior = self.prior(self.shifts / max(1, self.window // 2))  # (k * k, G)
        arguments = self.query(x), self.key(x), x, prior
        return window_sum(*arguments, self.window, self.stride, self.similarity)

    def extra_repr(self) -> str:
        return f"window={self.window}, similarity={self.similarity}, stride={self.stride}"


class ResidualLocalRelation(nn.Module):
    """x + the layer, between the layers of a network that is trained already.

    It is the identity at first, bit for bit: W_o is 0, or the weight of the norm after it.
    """

    def __init__(
        self,
        *,
        channels: int,
        window: int = 7,
        channels_per_group: int = 8,
        similarity: Similarity = "product",
        prior_channels: int | None = None,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        """
        Args:
            norm: makes a normalisation of C channels after W_o.
            channels, window, channels_per_group, similarity, prior_channels: see `LocalRelation`.

        Raises:
            ArgumentError: arguments outside these, or a norm whose weight is not trained.
        """
        super().__init__()
        self.relation = LocalRelation(
            channels=channels,
            window=window,
            channels_per_group=channels_per_group,
            similarity=similarity,
            prior_channels=prior_channels,
            bias=norm is None,
        )
        self.norm = None if norm is None else norm(channels)
        require(learns(self.norm))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As in `LocalRelation`; W_o, or the weight of its norm, 0."""
        self.relation.reset_parameters()
        last = self.relation.out if self.norm is None else self.norm
        nn.init.zeros_(last.get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, C, H, W), of the same dtype."""
        z = self.relation(x)
        return x + (z if self.norm is None else self.norm(z)).to(x.dtype)


def _odd(argument: str, value: int) -> Wrong | None:
    return None if value % 2 == 1 else Wrong(argument, "odd", value)
