import math

import pytest
import torch
from torch import nn

from benchmarks.measure import peak_bytes
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.blocks import non_local
from relation_heads.layers.blocks.non_local import MODES, NonLocal

CHANNELS, INNER = 6, 4
EXACT = {"rtol": 1e-10, "atol": 1e-10}
NORMS = {
    "none": None,
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(2, channels),
}
# A bias of phi adds the same to all logits of a row; a batch norm takes what is added everywhere.
CANCEL = {
    ("embedded_gaussian", "none"): {"phi.bias"},
    ("embedded_gaussian", "group"): {"phi.bias"},
    ("embedded_gaussian", "batch"): {"phi.bias", "g.bias", "conv_out.bias"},
    ("dot_product", "none"): set(),
    ("dot_product", "group"): set(),
    ("dot_product", "batch"): {"conv_out.bias"},
}


def make(**kwargs) -> NonLocal:
    """With parameters large enough for weights that are far from uniform."""
    module = NonLocal(**{"channels": CHANNELS, "inner_channels": INNER, **kwargs})
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module


def conv(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """(C, H, W) to (C', H, W)."""
    out = torch.einsum("oc,chw->ohw", layer.weight[:, :, 0, 0], x)
    return out + layer.bias[:, None, None]


def largest_of_four(x: torch.Tensor) -> torch.Tensor:
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corners = [x[:, a:h:2, b:w:2] for a in (0, 1) for b in (0, 1)]
    return torch.stack(corners).amax(dim=0)


def reference(module: NonLocal, x: torch.Tensor) -> torch.Tensor:
    """The block before its norm, one image, position and answer at a time."""
    images = []
    for image in x:
        theta, phi, g = (conv(c, image) for c in (module.theta, module.phi, module.g))
        if module.sub_sample:
            phi, g = largest_of_four(phi), largest_of_four(g)
        queries, keys, values = (t.flatten(1).T for t in (theta, phi, g))
        y = []
        for query in queries:
            products = torch.stack([query @ key for key in keys])
            if module.mode == "dot_product":
                weights = products / len(keys)
            else:
                exponentials = torch.exp(products / math.sqrt(len(query)))
                weights = exponentials / sum(exponentials)
            y.append(sum(w * value for w, value in zip(weights, values, strict=True)))
        y = torch.stack(y, dim=1).view_as(theta)
        images.append(conv(module.conv_out, y))
    return torch.stack(images)


def plain(module: NonLocal, x: torch.Tensor) -> torch.Tensor:
    """The order of operations of the released code, which holds the L x M weights."""
    theta, phi, g = (c(x).flatten(2) for c in (module.theta, module.phi, module.g))
    weights = theta.transpose(1, 2) @ phi
    if module.mode == "dot_product":
        weights = weights / phi.shape[2]
    else:
        weights = (weights * phi.shape[1] ** -0.5).softmax(dim=2)
    y = (weights @ g.transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
    return x + module.conv_out(y)


def gradients(module: nn.Module, x: torch.Tensor, out: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a weighted sum of `out`, by name of the parameter, and for x."""
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    named = {"x": x, **dict(module.named_parameters())}
    values = torch.autograd.grad((out * weights).sum(), list(named.values()))
    return dict(zip(named, values, strict=True))


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("sub_sample", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_values_and_gradients_equal_the_loops(mode, sub_sample, norm, rows, monkeypatch):
    monkeypatch.setattr(non_local, "SCRATCH_BYTES", rows * 8 * (4 if sub_sample else 20))
    module = make(mode=mode, sub_sample=sub_sample, norm=NORMS[norm]).double()
    x = torch.randn(2, CHANNELS, 4, 5, dtype=torch.float64, requires_grad=True)
    branch = reference(module, x)
    expected = x + (branch if module.norm is None else module.norm(branch))
    actual = module(x)
    assert (actual - x).abs().max() > 0.1
    torch.testing.assert_close(actual, expected, **EXACT)
    expected_gradients = gradients(module, x, expected)
    for name, gradient in gradients(module, x, actual).items():
        torch.testing.assert_close(gradient, expected_gradients[name], **EXACT)
        assert name in CANCEL[mode, norm] or gradient.abs().max() > 1e-3, name


def test_dot_product_by_association_equals_the_map():
    module = make(mode="dot_product").double()
    x = torch.randn(2, CHANNELS, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(module(x), plain(module, x), **EXACT)


def test_parameters():
    for channels, count in ((256, 131_712), (512, 525_568), (1024, 2_099_712), (2048, 8_393_728)):
        module = NonLocal(channels=channels)
        assert sum(p.numel() for p in module.parameters()) == count
    shapes = {name: tuple(p.shape) for name, p in NonLocal(channels=6).named_parameters()}
    weights = {f"{name}.weight": (3, 6, 1, 1) for name in ("g", "theta", "phi")}
    biases = {f"{name}.bias": (3,) for name in ("g", "theta", "phi")}
    assert shapes == {
        **weights,
        **biases,
        "conv_out.weight": (6, 3, 1, 1),
        "conv_out.bias": (6,),
    }


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mode", MODES)
def test_starts_as_the_identity_and_only_what_is_0_learns_at_first(mode, norm):
    module = NonLocal(channels=CHANNELS, mode=mode, norm=NORMS[norm])
    x = torch.randn(2, CHANNELS, 4, 5, requires_grad=True)
    out = module(x)
    assert torch.equal(out, x)
    learns = {"conv_out.weight", "conv_out.bias"}
    if norm != "none":
        learns = {"norm.weight", "norm.bias"}
    for name, gradient in gradients(module, x, out).items():
        assert gradient.any() == (name in {*learns, "x"}), name


def test_initial_values():
    module = NonLocal(channels=512)
    for layer in (module.g, module.theta, module.phi):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert not layer.bias.any()
    assert NonLocal(channels=512, norm=nn.BatchNorm2d).conv_out.weight.std() > 0.009


@pytest.mark.parametrize("sub_sample", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_batch_equals_image_by_image(mode, sub_sample):
    module = make(mode=mode, sub_sample=sub_sample).double()
    x = torch.randn(3, CHANNELS, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x), torch.cat([module(i[None]) for i in x]), **EXACT)


@pytest.mark.parametrize("mode", MODES)
def test_no_images_at_all(mode):
    module = make(mode=mode, sub_sample=True)
    x = torch.randn(0, CHANNELS, 4, 4, requires_grad=True)
    out = module(x)
    assert out.shape == x.shape
    assert not any(g.any() for g in gradients(module, x, out).values())


@pytest.mark.parametrize("mode", MODES)
def test_channels_last_stays(mode):
    module = make(mode=mode).double()
    x = torch.randn(2, CHANNELS, 4, 5, dtype=torch.float64, requires_grad=True)
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    expected, actual = module(x), module(last)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual, expected, **EXACT)
    expected_gradients = gradients(module, x, expected)
    for name, gradient in gradients(module, last, actual).items():
        torch.testing.assert_close(gradient, expected_gradients[name], **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", MODES)
def test_autocast_computes_the_sums_in_float32(mode, dtype):
    module = make(mode=mode)
    x = torch.randn(2, CHANNELS, 6, 7) * 3  # logits up to some 50
    with torch.autocast("cpu", dtype=dtype):
        theta, phi, g = (c(x).double().flatten(2) for c in (module.theta, module.phi, module.g))
        actual = module._listen(x)
    weights = theta.transpose(1, 2) @ phi
    if mode == "dot_product":
        weights = weights / phi.shape[2]
    else:
        weights = (weights / math.sqrt(INNER)).softmax(dim=2)
    expected = (weights @ g.transpose(1, 2)).transpose(1, 2).unflatten(2, (6, 7))
    assert actual.dtype == dtype
    half_a_step = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(actual.double(), expected, rtol=1.01 * half_a_step, atol=1e-4)


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sub_sample", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_gradients_under_autocast(mode, sub_sample, x_dtype):
    module = make(mode=mode, sub_sample=sub_sample)
    x = torch.randn(2, CHANNELS, 6, 7, dtype=x_dtype, requires_grad=True)
    x32 = x.detach().float().requires_grad_()
    expected = gradients(module, x32, module(x32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x)
        inside = gradients(module, x, out)
        out = module(x)
    assert out.dtype == x_dtype
    outside = gradients(module, x, out)
    for name, gradient in expected.items():
        for actual in (inside[name], outside[name]):
            assert (actual - gradient).norm() < 0.03 * gradient.norm() + 0.03, name


class Float32Norm(nn.GroupNorm):
    """Like any group norm under autocast on a GPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float())


def test_the_dtype_of_x_stays():
    module = make(norm=lambda channels: Float32Norm(2, channels))
    x = torch.randn(2, CHANNELS, 3, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(x).dtype == torch.bfloat16


def test_float16_does_not_overflow():
    module = make(mode="dot_product")
    for layer in (module.phi, module.g):
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, 10.0)
    x = torch.randn(1, CHANNELS, 40, 40)  # sum of phi g: 160,000
    with torch.autocast("cpu", dtype=torch.float16):
        assert module(x).isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_memory_of_a_training_step(mode, monkeypatch):
    # At 512 x 100 x 168 and d = 256 a map of d channels is 16.4 MiB and the L x L weights 1077 MiB.
    scratch, one_map, weights = 40_000, 4 * 8 * 1024, 4 * 1024 * 1024
    monkeypatch.setattr(non_local, "SCRATCH_BYTES", scratch)
    module = make(channels=16, inner_channels=8, mode=mode)
    x = torch.randn(1, 16, 32, 32, requires_grad=True)

    def step(form):
        return lambda: form(x).sum().backward()

    step(module)()  # makes the gradients of parameters, which stay
    # During the softmax: output (2 maps), gradient of y, phi, g, three gradients, two blocks. After
    # it and for the dot product: 9 maps.
    assert peak_bytes(step(module)) < max(8 * one_map + 2 * scratch, 9 * one_map) + 10_000
    assert peak_bytes(step(lambda x: plain(module, x))) > 2 * weights


def test_memory_without_gradient():
    module = make(channels=16, inner_channels=8)
    x = torch.randn(1, 16, 64, 64)
    weights = 4 * 4096**2
    with torch.no_grad():
        assert peak_bytes(lambda: module(x)) < 2.2 * non_local.SCRATCH_BYTES < weights / 3


def test_a_second_derivative_is_refused():
    module = make()
    x = torch.randn(1, CHANNELS, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("sub_sample", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_trace_serves_maps_of_other_sizes(mode, sub_sample):
    module = make(mode=mode, sub_sample=sub_sample).eval().requires_grad_(False)
    traced = torch.jit.trace(module, torch.randn(1, CHANNELS, 4, 5))
    x = torch.randn(2, CHANNELS, 7, 6)
    torch.testing.assert_close(traced(x), module(x))


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (
            {"mode": "gaussian", "inner_channels": 0, "norm": nn.Identity},
            {"mode": "gaussian", "inner_channels": 0, "norm": "Identity"},
        ),
        ({"channels": 1, "inner_channels": None}, {"inner_channels": 0}),
        ({"norm": lambda c: nn.BatchNorm2d(c, affine=False)}, {"norm": "BatchNorm2d"}),
        ({"norm": lambda c: nn.BatchNorm2d(c).requires_grad_(False)}, {"norm": "BatchNorm2d"}),
    ],
)
def test_wrong_arguments(options, wrong):
    with pytest.raises(ArgumentError) as caught:
        make(**options)
    assert {w.argument: w.value for w in caught.value.wrong} == wrong


def test_sub_sampling_a_row():
    with pytest.raises(ValueError, match=r"maps of at least 2 x 2 positions, got 1 x 5"):
        make(sub_sample=True)(torch.randn(1, CHANNELS, 1, 5))
