import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measure import peak_bytes
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.blocks.global_context import (
    FUSION_CHOICES,
    POOLINGS,
    GlobalContext,
    SqueezeExcitation,
    attention_pool,
)

CHANNELS = 8
EXACT = {"rtol": 1e-10, "atol": 1e-10}
FORMS = {
    f"{pooling}-{'+'.join(fusions)}": (GlobalContext, {"pooling": pooling, "fusions": fusions})
    for pooling in POOLINGS
    for fusions in FUSION_CHOICES
} | {"SE": (SqueezeExcitation, {})}


def make(form: str, **kwargs) -> nn.Module:
    """With parameters large enough to matter."""
    block, options = FORMS[form]
    module = block(**{"channels": CHANNELS, "ratio": 0.4, **options, **kwargs})
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module


def linear(layer: nn.Conv2d, values: list[torch.Tensor]) -> list[torch.Tensor]:
    weight = layer.weight[:, :, 0, 0]
    return [
        sum(w * v for w, v in zip(row, values, strict=True)) + b
        for row, b in zip(weight, layer.bias, strict=True)
    ]


def mean(values: list[torch.Tensor]) -> torch.Tensor:
    return sum(values) / len(values)


def transform(layers: nn.Sequential, context: list[torch.Tensor]) -> list[torch.Tensor]:
    first, norm, _, last = layers
    hidden = linear(first, context)
    center = mean(hidden)
    deviation = torch.sqrt(mean([(h - center) ** 2 for h in hidden]) + 1e-5)
    hidden = [
        torch.relu((h - center) / deviation * w + b)
        for h, w, b in zip(hidden, norm.weight.flatten(), norm.bias.flatten(), strict=True)
    ]
    return linear(last, hidden)


def reference(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """One image, position and channel at a time."""
    images = []
    factor = 2 if module.identity_init else 1
    for image in x:
        positions = list(image.flatten(1).T)  # L tensors (C,)
        context = list(mean(positions))
        if isinstance(module, SqueezeExcitation):
            hidden = [torch.relu(h) for h in linear(module.fc1, context)]
            gates = [factor / (1 + torch.exp(-t)) for t in linear(module.fc2, hidden)]
            images.append(torch.stack([c * s for c, s in zip(image, gates, strict=True)]))
            continue
        if module.conv_mask is not None:
            weight, bias = module.conv_mask.weight.flatten(), module.conv_mask.bias
            exponentials = [torch.exp(weight @ p + bias) for p in positions]
            total = sum(exponentials)
            context = list(sum(e / total * p for e, p in zip(exponentials, positions, strict=True)))
        channels = list(image)
        if module.channel_mul_conv is not None:
            gates = [
                factor / (1 + torch.exp(-t)) for t in transform(module.channel_mul_conv, context)
            ]
            channels = [c * s for c, s in zip(channels, gates, strict=True)]
        if module.channel_add_conv is not None:
            terms = transform(module.channel_add_conv, context)
            channels = [c + t for c, t in zip(channels, terms, strict=True)]
        images.append(torch.stack(channels))
    return torch.stack(images)


def gradients(module: nn.Module, x: torch.Tensor, out: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a weighted sum of `out`, by name of the parameter, and for x."""
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    named = {"x": x, **dict(module.named_parameters())}
    values = torch.autograd.grad((out * weights).sum(), list(named.values()))
    return dict(zip(named, values, strict=True))


@pytest.mark.parametrize("identity_init", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_equal_the_loops(form, identity_init):
    module = make(form, identity_init=identity_init).double()
    x = torch.randn(2, CHANNELS, 3, 4, dtype=torch.float64, requires_grad=True)
    expected, actual = reference(module, x), module(x)
    assert (actual - x).abs().max() > 0.1
    torch.testing.assert_close(actual, expected, **EXACT)
    expected_gradients = gradients(module, x, expected)
    for name, gradient in gradients(module, x, actual).items():
        torch.testing.assert_close(gradient, expected_gradients[name], **EXACT)
        assert name == "conv_mask.bias" or gradient.abs().max() > 1e-3, name


@pytest.mark.parametrize(
    ("block", "ratio", "counts"),
    [
        (GlobalContext, 1 / 16, (8_753, 33_889, 133_313, 528_769)),
        (GlobalContext, 1 / 4, (33_473, 132_481, 527_105, 2_102_785)),
        (SqueezeExcitation, 1 / 16, (8_464, 33_312, 132_160, 526_464)),
    ],
)
def test_parameters(block, ratio, counts):
    for channels, count in zip((256, 512, 1024, 2048), counts, strict=True):
        module = block(channels=channels, ratio=ratio)
        assert sum(p.numel() for p in module.parameters()) == count
    assert (
        block(channels=32).state_dict().keys() == block(channels=32, ratio=0.5).state_dict().keys()
    )


def test_the_mask_starts_as_released():
    """He over the channels: logits of a std of 2^0.5 on features of a variance of 1, not 0."""
    module = GlobalContext(channels=4096, ratio=0.01)
    assert module.conv_mask.weight.std().item() == pytest.approx((2 / 4096) ** 0.5, rel=0.1)
    assert not module.conv_mask.bias.any()


def test_names_and_shapes_are_the_released_ones():
    module = GlobalContext(channels=32, fusions=("add", "mul"))
    transform = {
        "0.weight": (2, 32, 1, 1),
        "0.bias": (2,),
        "1.weight": (2, 1, 1),
        "1.bias": (2, 1, 1),
        "3.weight": (32, 2, 1, 1),
        "3.bias": (32,),
    }
    expected = {"conv_mask.weight": (1, 32, 1, 1), "conv_mask.bias": (1,)}
    for name in ("channel_add_conv", "channel_mul_conv"):
        expected |= {f"{name}.{key}": shape for key, shape in transform.items()}
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == expected


@pytest.mark.parametrize("form", FORMS)
def test_what_starts_as_the_identity(form):
    block, options = FORMS[form]
    x = torch.randn(2, 32, 5, 4)
    assert torch.equal(block(channels=32, **options, identity_init=True)(x), x)
    out = block(channels=32, **options)(x)
    if options.get("fusions") == ("add",):
        assert torch.equal(out, x)
    elif block is GlobalContext:
        assert torch.equal(out, x / 2)
    else:
        assert (out / x - 0.5).abs().max() < 0.3 and not torch.equal(out, x / 2)


@pytest.mark.parametrize("form", FORMS)
def test_only_what_is_0_learns_at_first(form):
    block, options = FORMS[form]
    module = block(channels=32, **options, identity_init=True)
    x = torch.randn(2, 32, 5, 4, requires_grad=True)
    for name, gradient in gradients(module, x, module(x)).items():
        assert gradient.any() == (name == "x" or "_conv.3." in name or "fc2" in name), name


@pytest.mark.parametrize("form", FORMS)
def test_batch_equals_image_by_image(form):
    module = make(form).double()
    x = torch.randn(3, CHANNELS, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x), torch.cat([module(i[None]) for i in x]), **EXACT)


@pytest.mark.parametrize("form", FORMS)
def test_no_images_at_all(form):
    module = make(form)
    x = torch.randn(0, CHANNELS, 4, 4, requires_grad=True)
    out = module(x)
    assert out.shape == x.shape
    assert not any(g.any() for g in gradients(module, x, out).values())


@pytest.mark.parametrize("form", FORMS)
def test_channels_last_stays(form):
    module = make(form).double()
    x = torch.randn(2, CHANNELS, 4, 5, dtype=torch.float64, requires_grad=True)
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    expected, actual = module(x), module(last)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual, expected, **EXACT)
    expected_gradients = gradients(module, x, expected)
    for name, gradient in gradients(module, last, actual).items():
        torch.testing.assert_close(gradient, expected_gradients[name], **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("x_is_low", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_autocast(form, x_is_low, dtype):
    module = make(form)
    x = torch.randn(2, CHANNELS, 30, 40, dtype=dtype if x_is_low else torch.float32)
    x.requires_grad_()
    expected = module(x.detach().float())
    with torch.autocast("cpu", dtype=dtype):
        out = module(x)
    assert out.dtype == x.dtype
    assert (out - expected).norm() < 0.03 * expected.norm()
    assert all(g.isfinite().all() for g in gradients(module, x, out).values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_over_many_positions_keeps_its_precision(pooling, dtype):
    module = GlobalContext(channels=2, ratio=1.0, pooling=pooling)
    x = torch.full((1, 2, 300, 300), 3.0, dtype=dtype)  # 90,000 of them: 270,000 is no float16
    seen = []
    module.channel_add_conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.autocast("cpu", dtype=dtype):
        module(x)
    torch.testing.assert_close(seen[0].float(), torch.full((1, 2, 1, 1), 3.0), rtol=0.01, atol=0)


def test_attention_pooling_of_float32_is_float32_under_autocast():
    module = make("attention-add")
    x = torch.randn(2, CHANNELS, 30, 40)
    expected = attention_pool(x, module.conv_mask.weight, module.conv_mask.bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = attention_pool(x, module.conv_mask.weight, module.conv_mask.bias)
    assert torch.equal(actual, expected)


def test_attention_pooling_makes_one_map_less_than_the_released_order():
    module = make("attention-add")
    x = torch.randn(1, CHANNELS, 100, 120, requires_grad=True)
    one_map = 4 * x.numel()

    def released(x):
        rows = x.flatten(2)[:, None]  # (1, 1, C, L)
        weights = module.conv_mask(x).flatten(2).softmax(dim=2)[..., None]  # (1, 1, L, 1)
        context = (rows @ weights).view(1, CHANNELS, 1, 1)
        return x + module.channel_add_conv(context)

    torch.testing.assert_close(module(x), released(x))
    gradient = torch.randn_like(x)

    def step(form):
        return lambda: torch.autograd.grad(form(x), [x, *module.parameters()], gradient)

    assert peak_bytes(step(module)) < 3.5 * one_map
    assert peak_bytes(step(released)) > 4 * one_map


@pytest.mark.parametrize("form", FORMS)
def test_a_trace_serves_maps_of_other_sizes(form):
    module = make(form).eval().requires_grad_(False)
    traced = torch.jit.trace(module, torch.randn(1, CHANNELS, 4, 5))
    x = torch.randn(2, CHANNELS, 7, 6)
    torch.testing.assert_close(traced(x), module(x))


@pytest.mark.parametrize(
    ("block", "options", "wrong"),
    [
        (GlobalContext, {"channels": 16}, {"ratio": 1 / 16}),  # one hidden channel
        (SqueezeExcitation, {"channels": 15}, {"ratio": 1 / 16}),
        (
            GlobalContext,
            {"ratio": -1.0, "pooling": "att", "fusions": ()},
            {"ratio": -1.0, "pooling": "att", "fusions": ()},
        ),
        (GlobalContext, {"fusions": ("add", "max")}, {"fusions": ("add", "max")}),
        (GlobalContext, {"fusions": ("add", "add")}, {"fusions": ("add", "add")}),
        (GlobalContext, {"fusions": "add"}, {"fusions": "add"}),
    ],
)
def test_wrong_arguments(block, options, wrong):
    with pytest.raises(ArgumentError) as caught:
        block(**{"channels": 32, **options})
    assert {w.argument: w.value for w in caught.value.wrong} == wrong


def test_se_is_the_textbook_form():
    module = SqueezeExcitation(channels=32)
    x = torch.randn(2, 32, 5, 4)
    hidden = F.relu(F.linear(x.mean((2, 3)), module.fc1.weight.flatten(1), module.fc1.bias))
    s = torch.sigmoid(F.linear(hidden, module.fc2.weight.flatten(1), module.fc2.bias))
    torch.testing.assert_close(module(x), x * s[:, :, None, None])
