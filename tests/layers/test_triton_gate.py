"""The kernel of the geometric gate, and what replaces it where it cannot run.

The same tests run three times: here on the plain layers; in a second process, with
TRITON_INTERPRET=1, on the kernel in Triton's interpreter; and here on the compiled kernel where
there is a GPU.
"""

import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.measure import peak_bytes
from relation_heads import layers
from relation_heads.layers import ObjectRelation, Regions, triton_gate
from relation_heads.layers.geometry import log_gate, pair_embedding
from relation_heads.layers.object_relation import relation_weights
from relation_heads.layers.triton_gate import available, triton_log_gate, triton_relation
from tests.layers.reference_object_relation import deltas, embed

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OPTIONS = [
    {"signed": signed, "normalize_by": by} for signed in (False, True) for by in ("query", "key")
]
PUBLISHED = OPTIONS[0]


def make_boxes(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(n, 2, generator=generator) * torch.tensor([1333.0, 800.0])
    sizes = (torch.rand(n, 2, generator=generator) * 3.6 + 2.8).exp()  # 16 to 600 pixels
    return torch.cat([centers - sizes / 2, centers + sizes / 2], dim=1).to(DEVICE)


def make_pairs(queries: int, keys: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of which some coincide and one has no area."""
    query_boxes, key_boxes = make_boxes(queries, 1), make_boxes(keys, 2)
    key_boxes[keys // 2] = query_boxes[queries // 2]
    key_boxes[-1, 2:] = key_boxes[-1, :2]
    return query_boxes, key_boxes


def make_parameters(heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    weight, bias = torch.randn(heads, 64) * 0.1, torch.linspace(0.2, 0.8, heads)
    return weight.to(DEVICE).requires_grad_(), bias.to(DEVICE).requires_grad_()


def reference_embedding(
    query_boxes: torch.Tensor, key_boxes: torch.Tensor, *, signed: bool, normalize_by: str
) -> torch.Tensor:
    """E_G by Python's own floating point numbers: (Nq, Nk, 64) float64."""
    rows = [
        [embed(deltas(q, k, normalize_by, signed), 8, 100.0) for k in key_boxes.tolist()]
        for q in query_boxes.tolist()
    ]
    return torch.tensor(rows, dtype=torch.float64, device=DEVICE)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual, expected = actual.detach().double(), expected.detach()
    return float((actual - expected).norm() / expected.norm())


def test_the_kernel_runs_where_it_should():
    boxes = make_boxes(2)
    assert available(boxes) == (INTERPRETED or DEVICE == "cuda")
    assert not available(boxes.double())  # it computes in float32


@pytest.mark.parametrize(
    "heads, queries, keys, options",
    [*((3, 5, 70, options) for options in OPTIONS), (40, 3, 5, PUBLISHED), (1, 4, 64, PUBLISHED)],
    ids=str,
)
def test_values_and_gradients_equal_float64(heads, queries, keys, options):
    query_boxes, key_boxes = make_pairs(queries, keys)
    weight, bias = make_parameters(heads)
    embedding = reference_embedding(query_boxes, key_boxes, **options)
    exact = [p.detach().double().requires_grad_() for p in (weight, bias)]
    gate = embedding @ exact[0].T + exact[1]  # (Nq, Nk, H)
    expected = gate.clamp(min=1e-6).log().permute(2, 0, 1)
    actual = triton_log_gate(query_boxes, key_boxes, weight, bias, **options)
    assert actual.shape == (heads, queries, keys) and actual.dtype == torch.float32
    assert relative_error(actual.exp(), expected.exp()) < 1e-5
    # The logarithm and its gradient, 1 / gate, are as sound where the gate is not just above 0.
    gate = gate.detach().permute(2, 0, 1)
    sound = (gate < -1e-3) | (gate > 0.05)
    assert (gate < 0).any() and sound.float().mean() > 0.9
    assert relative_error(actual[sound], expected[sound]) < 1e-5
    grad = torch.randn_like(expected) * sound
    actual_grads = torch.autograd.grad(actual, (weight, bias), grad.float())
    for a, e in zip(actual_grads, torch.autograd.grad(expected, exact, grad), strict=True):
        assert relative_error(a, e) < 1e-4


def test_the_floor_and_its_gradient():
    query_boxes, key_boxes = make_pairs(2, 3)
    weight = torch.zeros(4, 64, device=DEVICE, requires_grad=True)
    bias = torch.tensor([-1.0, 0.0, 1e-6, 2e-6], device=DEVICE, requires_grad=True)
    plain = log_gate(pair_embedding(query_boxes, key_boxes), weight, bias)
    gate = triton_log_gate(query_boxes, key_boxes, weight, bias, **PUBLISHED)
    torch.testing.assert_close(gate, plain)
    assert gate[:2].unique().tolist() == pytest.approx([math.log(1e-6)])
    actual, expected = (torch.autograd.grad(g.sum(), (weight, bias)) for g in (gate, plain))
    torch.testing.assert_close(actual, expected)
    assert (actual[1][:2] == 0).all() and actual[1][3] == pytest.approx(6 / 2e-6)


@pytest.mark.parametrize("queries, keys", [(0, 3), (3, 0), (0, 0)])
def test_no_queries_or_no_keys(queries, keys):
    weight, bias = make_parameters(2)
    gate = triton_log_gate(make_boxes(queries), make_boxes(keys), weight, bias, **PUBLISHED)
    assert gate.shape == (2, queries, keys)
    gate.sum().backward()
    assert (weight.grad == 0).all() and (bias.grad == 0).all()


def test_rows_are_aligned_and_zero_behind_the_last_key():
    query_boxes, key_boxes = make_pairs(2, 19)
    gate = triton_log_gate(query_boxes, key_boxes, *make_parameters(2), **PUBLISHED)
    assert gate.stride() == (64, 32, 1)
    assert (gate.detach().as_strided((2, 2, 32), gate.stride())[..., 19:] == 0).all()


def test_what_is_not_a_number_is_not_hidden():
    query_boxes, key_boxes = make_pairs(2, 3)
    weight, bias = make_parameters(2)
    with torch.no_grad():
        weight[1, 5] = torch.nan
        gate = triton_log_gate(query_boxes, key_boxes, weight, bias, **PUBLISHED)
    assert gate[0].isfinite().all() and gate[1].isnan().all()


def test_boxes_get_no_gradient_and_parameters_keep_their_type():
    query_boxes, key_boxes = (boxes.requires_grad_() for boxes in make_pairs(2, 3))
    weight, bias = (p.detach().bfloat16().requires_grad_() for p in make_parameters(2))
    triton_log_gate(query_boxes, key_boxes, weight, bias, **PUBLISHED).sum().backward()
    assert query_boxes.grad is None and key_boxes.grad is None
    assert weight.grad.dtype == bias.grad.dtype == torch.bfloat16


def test_autocast_changes_nothing():
    query_boxes, key_boxes = make_pairs(2, 19)
    parameters = make_parameters(2)
    expected = triton_log_gate(query_boxes, key_boxes, *parameters, **PUBLISHED)
    grads = torch.autograd.grad(expected.sum(), parameters)
    with torch.autocast(DEVICE, torch.bfloat16):
        actual = triton_log_gate(query_boxes, key_boxes, *parameters, **PUBLISHED)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        torch.testing.assert_close(torch.autograd.grad(actual.sum(), parameters), grads)


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="'query' or 'key', got 'both'"):
        triton_log_gate(*make_pairs(2, 3), *make_parameters(2), signed=False, normalize_by="both")


def test_float64_is_exact():
    query_boxes, key_boxes = (boxes.double() for boxes in make_pairs(3, 4))
    weight, bias = make_parameters(2)
    embedding = reference_embedding(query_boxes, key_boxes, **PUBLISHED)
    gate = triton_log_gate(query_boxes, key_boxes, weight, bias, **PUBLISHED)
    torch.testing.assert_close(gate, log_gate(embedding, weight, bias), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(DEVICE == "cuda", reason="counts the bytes of a CPU")
def test_no_embedding_of_all_pairs_is_kept(monkeypatch):
    monkeypatch.setattr(triton_gate, "BLOCK_BYTES", 2**18)
    boxes = make_boxes(200).double()  # 20 MB of embedding
    weight, bias = (p.detach().double().requires_grad_() for p in make_parameters(2))

    def step() -> None:
        triton_log_gate(boxes, boxes, weight, bias, **PUBLISHED).sum().backward()

    assert peak_bytes(step) < 4e6


# ---- the relation ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("keys", [21, 0])
def test_relation_equals_the_plain_layers_in_float64(keys, dtype):
    query_boxes, key_boxes = (make_pairs(3, 21)[0], make_boxes(keys, 2))
    weight, bias = make_parameters(2)
    with torch.no_grad():
        bias += 1  # no gate near 0, where gradients are ill-conditioned
    inputs = [torch.randn(n, 2, 8, device=DEVICE).to(dtype) for n in (3, keys, keys)]
    inputs = [x.requires_grad_() for x in inputs]
    actual = triton_relation(*inputs, query_boxes, key_boxes, weight, bias, **PUBLISHED)
    assert actual.shape == (3, 2, 8) and actual.dtype == dtype
    if not keys:
        assert (actual == 0).all()
        return

    embedding = reference_embedding(query_boxes, key_boxes, **PUBLISHED)
    exact = [x.detach().double().requires_grad_() for x in (*inputs, weight, bias)]
    weights = relation_weights(exact[0], exact[1], log_gate(embedding, *exact[3:]))
    expected = torch.einsum("hnm,mhd->nhd", weights, exact[2])
    tolerance, grad_tolerance = (1e-5, 2e-4) if dtype == torch.float32 else (2e-2, 4e-2)
    assert relative_error(actual, expected) < tolerance
    grad = torch.randn_like(expected)
    actual_grads = torch.autograd.grad(actual, (*inputs, weight, bias), grad.to(dtype))
    for a, e in zip(actual_grads, torch.autograd.grad(expected, exact, grad), strict=True):
        assert relative_error(a, e) < grad_tolerance


@pytest.mark.parametrize("geometry", ["relation", "signed"])
def test_the_module_takes_the_kernel_where_it_runs(geometry, monkeypatch):
    torch.manual_seed(0)
    simple, ours = (
        ObjectRelation(16, num_heads=2, key_dim=8, geometry=geometry, init="xavier",
                       implementation=name).to(DEVICE)
        for name in ("simple", "auto")
    )  # fmt: skip
    torch.nn.init.ones_(simple.gate.bias)
    ours.load_state_dict(simple.state_dict())
    boxes, features = [make_boxes(7), make_boxes(4)], torch.randn(11, 16, device=DEVICE)
    regions = Regions.from_boxes(boxes, [(800, 1333)] * 2)
    calls = []

    def relate(*args, **kwargs):
        calls.append(kwargs)
        return triton_relation(*args, **kwargs)

    monkeypatch.setattr(triton_gate, "triton_relation", relate)
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(ours(features, regions), simple(features, regions), **close)
    assert bool(calls) == available(boxes[0])
    ours.implementation = "triton"  # where it does not run, the plain layers
    torch.testing.assert_close(ours(features, regions), simple(features, regions), **close)
    assert calls[-1] == {"signed": geometry == "signed", "normalize_by": "query"}


# ---- where the kernel cannot run ----


@pytest.fixture
def as_if_new(monkeypatch):
    """A process that would use the kernel and has not tried it yet."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_gate, "_kernel_failed", False)


def plain_and_logged(caplog) -> bool:
    """Whether two calls give the numbers of the plain layers and one line in the log."""
    query_boxes, key_boxes = make_pairs(2, 19)
    parameters = make_parameters(2)
    expected = triton_log_gate(query_boxes.double(), key_boxes.double(), *parameters, **PUBLISHED)
    with caplog.at_level(logging.INFO, logger="relation_heads"):
        for _ in range(2):
            gate = triton_log_gate(query_boxes, key_boxes, *parameters, **PUBLISHED)
            assert relative_error(gate, expected) < 1e-4
    assert not available(query_boxes)
    (record,) = caplog.records
    return record.levelno == logging.WARNING and "\n" not in record.getMessage()


def test_a_kernel_that_fails_is_replaced_once_and_for_all(as_if_new, monkeypatch, caplog):
    launches = []

    class Broken:
        def __getitem__(self, grid):
            def launch(*args, **kwargs):
                launches.append(grid)
                raise RuntimeError("no such\nGPU")

            return launch

    broken = SimpleNamespace(log_gate_kernel=Broken(), INTERPRETED=True)
    monkeypatch.setattr(triton_gate, "_kernel", lambda: broken)
    assert plain_and_logged(caplog)
    assert "RuntimeError: no such GPU" in caplog.text
    assert launches == [(1, 1)]


def test_without_triton_the_plain_layers_compute(as_if_new, monkeypatch, caplog):
    monkeypatch.delattr(layers, "triton_gate_kernel", raising=False)
    monkeypatch.setitem(sys.modules, "relation_heads.layers.triton_gate_kernel", None)
    assert plain_and_logged(caplog)


def test_triton_is_not_imported_on_a_cpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(triton_gate, "_kernel", None)  # may not be called
    boxes = make_boxes(2).cpu()
    assert not available(boxes)
    triton_log_gate(boxes, boxes, torch.rand(1, 64), torch.ones(1), **PUBLISHED)


# ---- other ways to run the kernel ----


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_all_of_this_in_the_interpreter():
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", __file__]
    # Triton reads the variable when it is imported, which another test may have done here.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[3]], ids=str)
def test_compiles_for_a_gpu_that_is_not_here(options, monkeypatch, tmp_path):
    """The interpreter takes Python that the compiler refuses."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from relation_heads.layers.triton_gate_kernel import log_gate_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    inputs = dict.fromkeys(("table", "weight", "bias", "frequencies"), "*fp32")
    numbers = ("num_queries", "num_keys", "num_heads", "head_stride", "row_stride")
    constants = {
        "SIGNED": options["signed"],
        "BY_KEY": options["normalize_by"] == "key",
        "MIN_DISPLACEMENT": 1e-3,
        "MIN_GATE": 1e-6,
        "HEADS": 16,
        "BM": triton_gate.PROGRAM_QUERIES,
        "BN": triton_gate.PROGRAM_KEYS,
    }
    signature = {"out": "*bf16", **inputs, **dict.fromkeys(numbers, "i32")}
    signature.update(dict.fromkeys(constants, "constexpr"))
    source = ASTSource(fn=log_gate_kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True}
    )
    assert compiled.asm["cubin"]
    assert ".local" not in compiled.asm["ptx"]  # everything is in registers
