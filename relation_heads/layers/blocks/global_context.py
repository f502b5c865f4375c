"""Global context (GC) block and squeeze-and-excitation (SE): one context for all positions.

Sources: Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", and
its released code (xvjiarui/GCNet, `mmdet/ops/gcb/context_block.py`); Hu et al.,
"Squeeze-and-Excitation Networks". For positions j of a feature map x:

    c   = sum_j softmax_j(w_k^T x_j) x_j,  or the mean of x_j                context
    t   = V relu(LN(U c))                                                    transform
    z_i = x_i sigmoid(t_mul) + t_add                                         GC: either or both
    z_i = x_i sigmoid(W_2 relu(W_1 mean_j x_j))                              SE

What is the identity at first, bit for bit: GC with fusion "add" alone, and all of them with
`identity_init`, where the factor is 2 sigmoid and its last layer 0. What is not: the published
forms of GC with "mul" (it starts with a factor of exactly 1/2) and SE (near 1/2), which disturb a
pretrained backbone.

Cells that were added to an image to fill the batch are pooled over like all others, as in the
released code, so that results depend a little on which images share a batch.

Shapes: x (n, C, H, W), L = H W positions, p = int(C ratio) hidden channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import Wrong, one_of, require
from ..precision import no_autocast, widen

Pooling = Literal["attention", "average"]
Fusion = Literal["add", "mul"]
POOLINGS: tuple[str, ...] = get_args(Pooling)
FUSION_CHOICES = (("add",), ("mul",), ("add", "mul"), ("mul", "add"))


def attention_pool(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """sum_j softmax_j(w_k^T x_j) x_j: (n, C, H, W) to (n, C, 1, 1), in the dtype of x.

    The logits are a product of matrices on x as it lies in memory, not a convolution of one output
    channel: nothing of the size of x is made, and its gradient takes one tensor of that size less.

    Args:
        x: (n, C, H, W).
        weight: (1, C, 1, 1) w_k.
        bias: (1,). It cancels in the softmax.
    """
    n, c = x.shape[:2]
    rows = x.flatten(2)  # (n, C, L)
    with no_autocast(x):
        w = weight.to(x.dtype).view(1, 1, c).expand(n, -1, -1)
        logits = torch.baddbmm(bias.to(x.dtype), w, rows)  # (n, 1, L)
        weights = widen(logits).softmax(dim=2).to(x.dtype)
        return torch.bmm(rows, weights.transpose(1, 2)).view(n, c, 1, 1)


def _enough(channels: int, ratio: float, least: int, why: str = "") -> Wrong | None:
    """int(C ratio) hidden channels are at least `least`."""
    if isinstance(ratio, Real) and least <= channels * ratio < math.inf:
        return None
    return Wrong("ratio", f"at least {least} / channels = {least}/{channels}{why}", ratio)


class GlobalContext(nn.Module):
    """The GC block; it belongs on the residual branch, before the shortcut is added.

    Parameters with attention pooling and one fusion: 2 C p + 2 C + 3 p + 1; at ratio 1/16 8,753,
    33,889, 133,313 and 528,769 for C = 256, 512, 1024 and 2048, at ratio 1/4 33,473, 132,481,
    527,105 and 2,102,785.
    """

    def __init__(
        self,
        *,
        channels: int,
        ratio: float = 1 / 16,
        pooling: Pooling = "attention",
        fusions: Sequence[Fusion] = ("add",),
        identity_init: bool = False,
    ) -> None:
        """
        Args:
            channels: C.
            ratio: of hidden channels, p = int(C ratio) >= 2.
            pooling: "attention" or "average".
            fusions: "add", "mul" or both, each with a transform of its own; x is multiplied first.
            identity_init: the factor is 2 sigmoid(t) instead of sigmoid(t), so that "mul" starts
                as the identity.

        Raises:
            ArgumentError: arguments outside these.
        """
        super().__init__()
        require(
            _enough(channels, ratio, 2, ", since a LayerNorm of one channel is 0"),
            one_of("pooling", pooling, POOLINGS),
            None
            if tuple(fusions) in FUSION_CHOICES
            else Wrong("fusions", "add, mul or both", fusions),
        )
        hidden = int(channels * ratio)
        self.identity_init = identity_init
        self.conv_mask = nn.Conv2d(channels, 1, 1) if pooling == "attention" else None
        self.channel_add_conv = _transform(channels, hidden) if "add" in fusions else None
        self.channel_mul_conv = _transform(channels, hidden) if "mul" in fusions else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Last layers 0 and w_k He (released code); the others PyTorch's own."""
        if self.conv_mask is not None:
            nn.init.kaiming_normal_(self.conv_mask.weight, nonlinearity="relu")
            nn.init.zeros_(self.conv_mask.get_parameter("bias"))
        for transform in (self.channel_add_conv, self.channel_mul_conv):
            if transform is not None:
                for layer in transform:
                    if isinstance(layer, nn.Conv2d | nn.LayerNorm):
                        layer.reset_parameters()
                _zero(transform[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, C, H, W), of the same dtype."""
        if self.conv_mask is None:
            context = x.mean(dim=(2, 3), keepdim=True)
        else:
            context = attention_pool(x, self.conv_mask.weight, self.conv_mask.get_parameter("bias"))
        out = x
        if self.channel_mul_conv is not None:
            out = out * _gate(self.channel_mul_conv(context), self.identity_init)
        if self.channel_add_conv is not None:
            out = out + self.channel_add_conv(context)
        return out


class SqueezeExcitation(nn.Module):
    """The SE block; it belongs on the residual branch, before the shortcut is added.

    Names and shapes of the parameters are torchvision's.

    Parameters: 2 C p + p + C; at ratio 1/16 8,464, 33,312, 132,160 and 526,464 for C = 256, 512,
    1024 and 2048.
    """

    def __init__(
        self, *, channels: int, ratio: float = 1 / 16, identity_init: bool = False
    ) -> None:
        """
        Args:
            channels: C.
            ratio: of hidden channels, p = int(C ratio) >= 1.
            identity_init: the factor is 2 sigmoid with W_2 = 0 at first, the identity.

        Raises:
            ArgumentError: too small a ratio.
        """
        super().__init__()
        require(_enough(channels, ratio, 1))
        hidden = int(channels * ratio)
        self.identity_init = identity_init
        self.fc1 = nn.Conv2d(channels, hidden, 1)  # W_1
        self.fc2 = nn.Conv2d(hidden, channels, 1)  # W_2
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's own; W_2 with its bias 0 for `identity_init`."""
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()
        if self.identity_init:
            _zero(self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, C, H, W), of the same dtype."""
        context = x.mean(dim=(2, 3), keepdim=True)
        t = self.fc2(F.relu(self.fc1(context)))
        return x * _gate(t, self.identity_init)


def _transform(channels: int, hidden: int) -> nn.Sequential:
    """t: (n, C, 1, 1) to (n, C, 1, 1)."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1),
        nn.LayerNorm([hidden, 1, 1]),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1),
    )


def _gate(t: Tensor, identity_init: bool) -> Tensor:
    """Factors of the channels; 2 sigmoid(0) is 1."""
    return 2 * t.sigmoid() if identity_init else t.sigmoid()


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
