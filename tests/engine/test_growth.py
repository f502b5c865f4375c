"""Sizes of tensors over the iterations of a training, and which of them grew first."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import weakref

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.modeling import Backbone
from torch import nn

from relation_heads.engine.growth import Growth, Series, first_to_grow


class Maps(Backbone):
    """Two maps, from layers that are not looked at one by one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        x = self.conv(x)
        return {"p2": x, "p3": x[..., ::2]}


class Pair(nn.Module):
    """A mechanism that gives a pair and has a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * self.gain, None


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Maps()
        self.head = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        self.mechanism = Pair()
        self.relu = nn.ReLU()

    def forward(self, x, calls=1):
        maps = self.backbone(x)
        x = maps["p2"].mean(dim=(2, 3))
        for k in range(calls):
            y = self.mechanism(self.relu(self.head((k + 1) * x)))[0]
        return {"loss": y.square().sum()}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Detector()
    nn.init.constant_(model.head[0].bias, 5.0)  # all of it passes the ReLU
    return model


def rms(x):
    return float((x.detach() ** 2).mean().sqrt())


def recorded(growth):
    return {str(s): s.values for s in growth.series()}


def step(growth, model, number=0, image=None, scale=1.0, **kwargs):
    with growth.iteration(number, loss_scale=scale):
        loss = model(torch.ones(2, 1, 4, 4) if image is None else image, **kwargs)["loss"]
        (loss * scale).backward()


def test_what_is_recorded_in_the_order_of_the_computation(model):
    growth = Growth(model)
    step(growth, model)
    names = ["backbone[p2]", "backbone[p3]", "head.0", "head", "mechanism"]
    gradients = ["mechanism", "head", "head.0", "backbone[p2]"]  # nothing reads p3
    assert list(recorded(growth)) == [*names, *(f"the gradient of {n}" for n in gradients)]


def test_values_and_gradients(model):
    image = torch.randn(2, 1, 4, 4)
    growth = Growth(model)
    step(growth, model, 7, image)
    x = model.backbone(image)["p2"]
    y = model.head[0](x.mean(dim=(2, 3)))
    found = recorded(growth)
    assert found["backbone[p2]"] == {7: pytest.approx(rms(x))}
    assert found["head.0"] == {7: pytest.approx(rms(y))}
    assert found["the gradient of head.0"] == {7: pytest.approx(rms(2 * y))}
    assert found["the gradient of backbone[p2]"][7] == pytest.approx(
        rms(2 * y @ model.head[0].weight / 16)
    )


def test_several_calls_in_one_iteration_are_one_tensor(model):
    growth = Growth(model)
    step(growth, model, calls=2)
    x = model.backbone(torch.ones(2, 1, 4, 4))["p2"].mean(dim=(2, 3))
    both = torch.cat([model.head(x), model.head(2 * x)])
    assert recorded(growth)["head"][0] == pytest.approx(rms(both))


def test_gradients_are_those_of_the_loss_without_its_scale(model):
    growth = Growth(model)
    step(growth, model, 0)
    step(growth, model, 1, scale=1024.0)
    for values in recorded(growth).values():
        assert values[1] == pytest.approx(values[0])


def test_half_precision_does_not_overflow():
    model = nn.Sequential(nn.Linear(1, 300, bias=False))
    nn.init.constant_(model[0].weight, 3e4)
    growth = Growth(model)
    with growth.iteration(0), torch.autocast("cpu", dtype=torch.float16):
        assert model(torch.ones(1, 1)).dtype == torch.float16
    assert recorded(growth)["0"][0] == pytest.approx(3e4, rel=1e-3)


def test_the_last_iterations_are_kept(model):
    growth = Growth(model, keep=3)
    for i in range(10, 15):
        step(growth, model, i)
    assert growth.iterations == [12, 13, 14]
    assert all(list(values) == [12, 13, 14] for values in recorded(growth).values())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_nothing_is_recorded_without_a_gradient_outside_or_in_a_trace(model):
    growth = Growth(model)
    model(torch.ones(2, 1, 4, 4))
    with growth.iteration(0), torch.no_grad():
        model.eval()(torch.ones(2, 1, 4, 4))
    with growth.iteration(1):
        torch.jit.trace(model.head, torch.ones(1, 2), check_trace=False)
    assert recorded(growth) == {}


def test_nothing_is_kept_alive(model):
    growth = Growth(model)
    kept = []
    hook = model.head.register_forward_hook(lambda m, a, y: kept.append(weakref.ref(y)))
    step(growth, model)
    hook.remove()
    gc.collect()
    assert kept[0]() is None
    (norm, _), *_ = growth._records[-1].parts["head", False]
    assert norm.shape == () and norm.grad_fn is None


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_model_is_as_it_was(model):
    growth = Growth(model)
    step(growth, model)
    copied = copy.deepcopy(model)
    torch.save(model, io.BytesIO())
    pickle.dumps(model)
    torch.jit.script(model.head)
    assert not any(m._forward_hooks for m in [*model.modules(), *copied.modules()])
    with pytest.raises(RuntimeError), growth.iteration(1):
        model(torch.ones(2, 5, 4, 4))
    assert not any(m._forward_hooks for m in model.modules())


def test_a_parameter_that_comes_out_keeps_no_hook():
    class Embedding(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self):
            return self.weight

    module = nn.ModuleDict({"embedding": Embedding()})
    growth = Growth(module)
    with growth.iteration(0):
        module["embedding"]().sum().backward()
    assert list(recorded(growth)) == ["embedding"]
    assert not module["embedding"].weight._backward_hooks


def test_names_are_those_of_the_model_inside_the_wrapper(model):
    assert list(Growth(nn.DataParallel(model)).parts) == list(Growth(model).parts)


def test_nothing_to_keep_is_refused(model):
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Growth(model, keep=0)


def series(*values, name="a", is_gradient=False):
    """Of iterations from 100 on; None where the tensor was missing."""
    numbers = enumerate(values, 100)
    return Series(name, is_gradient, {i: v for i, v in numbers if v is not None})


def grew(*found, count=8):
    return [(g.series.name, g.since, g.before, g.last) for g in
            first_to_grow(found, range(100, 100 + count))]  # fmt: skip


def test_the_first_iteration_from_which_it_stays_outside():
    assert grew(series(1, 2, 1, 2, 3, 7, 8, 90)) == [("a", 105, 1.5, 90)]
    assert grew(series(1, 2, 1, 2, 70, 3, 8, 90)) == [("a", 106, 1.5, 90)]  # it came back once
    assert grew(series(1, 1, 1, 1, 90, 90, 90, 4)) == []  # and at the end
    assert grew(series(1, 1, 1, 1, 1, 1, 1, 4)) == []  # four times is not more than four times
    assert grew(series(1, 1, 1, 1, 1, 1, 1, 0.001)) == []


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_is_outside(value):
    ((name, since, before, last),) = grew(series(1, 1, math.nan, 3, 1, value, 1e9, value))
    assert (name, since, before) == ("a", 105, 1)
    assert last == pytest.approx(value, nan_ok=True)


def test_order():
    late = series(1, 1, 1, 1, 1, 1, 1, 9, name="late")
    early = series(1, 1, 1, 1, 1, 9, 9, 9, name="early")
    too = series(1, 1, 1, 1, 1, 9, 9, 9, name="too", is_gradient=True)
    assert [name for name, *_ in grew(late, early, too)] == ["early", "too", "late"]


def test_missing_iterations_and_sizes_of_nothing():
    assert grew(series(None, 1, 1, None, 9, None, 9, None)) == [("a", 104, 1, 9)]
    assert grew(series(None, None, None, 1, 9, 9, 9, 9)) == []  # one value has no usual range
    assert grew(series(0, 0, 0, 0, 9, 9, 9, 9)) == []
    assert grew(series(1, 9), count=2) == []
    assert grew(count=0) == []


def test_the_last_fifty_iterations_are_looked_at():
    """However many are kept: what grew before is usual."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    growth = Growth(model, keep=100)
    for i in range(100):
        with growth.iteration(i):
            model(torch.full((1, 1), 1.0 if i < 40 else 100.0))
    assert len(growth.iterations) == 100 and growth.first_to_grow() == []


def test_a_gain_that_becomes_too_high_is_found(model):
    """The loss is quadratic in it: what grows with its square comes first."""
    growth = Growth(model)
    for i in range(20):
        if i > 14:
            model.mechanism.gain.data *= 3
        step(growth, model, i)
    grown = [(str(g.series), g.since) for g in growth.first_to_grow()]
    behind = ["head", "head.0", "backbone[p2]"]
    assert grown[:3] == [(f"the gradient of {name}", 15) for name in behind]
    assert grown[3:] == [("mechanism", 16), ("the gradient of mechanism", 16)]


def test_the_words_of_one():
    (one,) = first_to_grow([series(0.4, 0.4, 0.4, 93.25, is_gradient=True)], range(100, 104))
    assert str(one) == "the gradient of a from 0.4 to 93.2"
