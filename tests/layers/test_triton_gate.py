"""The kernel of the geometric gate, and what is said where it cannot run.

Tests of numbers run in a second process, with TRITON_INTERPRET=1, on the kernel in Triton's
interpreter; and here on the compiled kernel where there is a GPU.
"""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.measure import peak_bytes
from relation_heads.layers import ObjectRelation, Regions
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.geometry import log_gate, pair_embedding
from relation_heads.layers.object_relation import module as object_relation
from relation_heads.layers.object_relation import triton_gate
from relation_heads.layers.object_relation.module import relation_weights
from relation_heads.layers.object_relation.triton_gate import triton_log_gate, triton_relation
from tests.layers.reference_object_relation import deltas, embed

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OPTIONS = [
    {"geometry": geometry, "normalize_by": by}
    for geometry in ("relation", "signed")
    for by in ("query", "key")
]
PUBLISHED = OPTIONS[0]
runs_the_kernel = pytest.mark.skipif(
    not (INTERPRETED or DEVICE == "cuda"), reason="the kernel needs a GPU or TRITON_INTERPRET=1"
)


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
    query_boxes: torch.Tensor, key_boxes: torch.Tensor, *, geometry: str, normalize_by: str
) -> torch.Tensor:
    """E_G by Python's own floating point numbers: (Nq, Nk, 64) float64."""
    rows = [
        [embed(deltas(q, k, normalize_by, geometry), 8, 100.0) for k in key_boxes.tolist()]
        for q in query_boxes.tolist()
    ]
    return torch.tensor(rows, dtype=torch.float64, device=DEVICE)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual, expected = actual.detach().double(), expected.detach()
    return float((actual - expected).norm() / expected.norm())


def assert_as_close_as_plain(actual, plain, expected) -> None:
    """The error against float64 is at most twice that of the plain layers in float32.

    Both round the same quantities: coordinates, phases of up to 691 rad, 64 products. So the bound
    follows the phases and the CPU, and twice leaves room for another order of sums. What is added
    is for a plain form that is exact by chance: 16 roundings.
    """
    bound = 2 * relative_error(plain, expected) + 16 * torch.finfo(torch.float32).eps
    assert relative_error(actual, expected) <= bound


@runs_the_kernel
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
    plain = log_gate(pair_embedding(query_boxes, key_boxes, **options), weight, bias)
    assert actual.shape == (heads, queries, keys) and actual.dtype == torch.float32
    assert_as_close_as_plain(actual.exp(), plain.exp(), expected.exp())
    # The logarithm and its gradient, 1 / gate, are as sound where the gate is not just above 0.
    gate = gate.detach().permute(2, 0, 1)
    sound = (gate < -1e-3) | (gate > 0.05)
    assert (gate < 0).any() and sound.float().mean() > 0.9
    assert_as_close_as_plain(actual[sound], plain[sound], expected[sound])
    grad = torch.randn_like(expected) * sound
    of_actual, of_plain = (
        torch.autograd.grad(x, (weight, bias), grad.float()) for x in (actual, plain)
    )
    of_expected = torch.autograd.grad(expected, exact, grad)
    for triple in zip(of_actual, of_plain, of_expected, strict=True):
        assert_as_close_as_plain(*triple)


@runs_the_kernel
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


@runs_the_kernel
@pytest.mark.parametrize("queries, keys", [(0, 3), (3, 0), (0, 0)])
def test_no_queries_or_no_keys(queries, keys):
    weight, bias = make_parameters(2)
    gate = triton_log_gate(make_boxes(queries), make_boxes(keys), weight, bias, **PUBLISHED)
    assert gate.shape == (2, queries, keys)
    gate.sum().backward()
    assert (weight.grad == 0).all() and (bias.grad == 0).all()


@runs_the_kernel
def test_rows_are_aligned_and_zero_behind_the_last_key():
    query_boxes, key_boxes = make_pairs(2, 19)
    gate = triton_log_gate(query_boxes, key_boxes, *make_parameters(2), **PUBLISHED)
    assert gate.stride() == (64, 32, 1)
    assert (gate.detach().as_strided((2, 2, 32), gate.stride())[..., 19:] == 0).all()


@runs_the_kernel
def test_what_is_not_a_number_is_not_hidden():
    query_boxes, key_boxes = make_pairs(2, 3)
    weight, bias = make_parameters(2)
    with torch.no_grad():
        weight[1, 5] = torch.nan
        gate = triton_log_gate(query_boxes, key_boxes, weight, bias, **PUBLISHED)
    assert gate[0].isfinite().all() and gate[1].isnan().all()


@runs_the_kernel
def test_boxes_get_no_gradient_and_parameters_keep_their_type():
    query_boxes, key_boxes = (boxes.requires_grad_() for boxes in make_pairs(2, 3))
    weight, bias = (p.detach().bfloat16().requires_grad_() for p in make_parameters(2))
    triton_log_gate(query_boxes, key_boxes, weight, bias, **PUBLISHED).sum().backward()
    assert query_boxes.grad is None and key_boxes.grad is None
    assert weight.grad.dtype == bias.grad.dtype == torch.bfloat16


@runs_the_kernel
def test_autocast_changes_nothing():
    query_boxes, key_boxes = make_pairs(2, 19)
    parameters = make_parameters(2)
    expected = triton_log_gate(query_boxes, key_boxes, *parameters, **PUBLISHED)
    grads = torch.autograd.grad(expected.sum(), parameters)
    with torch.autocast(DEVICE, torch.bfloat16):
        actual = triton_log_gate(query_boxes, key_boxes, *parameters, **PUBLISHED)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        torch.testing.assert_close(torch.autograd.grad(actual.sum(), parameters), grads)


def test_a_form_that_the_kernel_has_not_is_refused():
    form = {"geometry": "position", "normalize_by": "both"}
    with pytest.raises(ArgumentError) as caught:
        triton_log_gate(*make_pairs(2, 3), *make_parameters(2), **form)
    assert {w.argument: w.value for w in caught.value.wrong} == form


@pytest.mark.skipif(DEVICE == "cuda", reason="counts the bytes of a CPU")
@runs_the_kernel
def test_no_embedding_of_all_pairs_is_kept(monkeypatch):
    monkeypatch.setattr(triton_gate, "BLOCK_BYTES", 2**15)
    boxes = make_boxes(48)  # 590 kB of embedding
    weight, bias = make_parameters(2)

    def step() -> None:
        triton_log_gate(boxes, boxes, weight, bias, **PUBLISHED).sum().backward()

    assert peak_bytes(step) < 3e5


# ---- the relation ----


@runs_the_kernel
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
    grad = torch.randn_like(expected)
    of_actual = torch.autograd.grad(actual, (*inputs, weight, bias), grad.to(dtype))
    of_expected = torch.autograd.grad(expected, exact, grad)
    if dtype == torch.bfloat16:  # which rounds by up to 2^-9: inputs, gate, result, and grad again
        assert relative_error(actual, expected) < 2e-2
        assert all(map(lambda a, e: relative_error(a, e) < 4e-2, of_actual, of_expected))
        return
    gate = log_gate(pair_embedding(query_boxes, key_boxes, **PUBLISHED), weight, bias)
    plain = torch.einsum("hnm,mhd->nhd", relation_weights(*inputs[:2], gate), inputs[2])
    assert_as_close_as_plain(actual, plain, expected)
    of_plain = torch.autograd.grad(plain, (*inputs, weight, bias), grad.float())
    for triple in zip(of_actual, of_plain, of_expected, strict=True):
        assert_as_close_as_plain(*triple)


def modules(geometry: str, *implementations: str, norm: str = "max_rms") -> list[ObjectRelation]:
    """Modules of the same weights."""
    made = [
        ObjectRelation(
            16,
            num_heads=2,
            key_dim=8,
            norm=norm,
            geometry=geometry,
            init="xavier",
            implementation=implementation,
        ).to(DEVICE)
        for implementation in implementations
    ]
    if made[0].has_gate:
        torch.nn.init.ones_(made[0].gate.bias)
    for module in made[1:]:
        module.load_state_dict(made[0].state_dict())
    return made


def make_input() -> tuple[torch.Tensor, Regions]:
    regions = Regions.from_boxes([make_boxes(7), make_boxes(4)], [(800, 1333)] * 2)
    return torch.randn(11, 16, device=DEVICE), regions


@runs_the_kernel
@pytest.mark.parametrize("norm", ["max_rms", ""])
@pytest.mark.parametrize("geometry", ["relation", "signed", "none"])
def test_the_module_by_name(geometry, norm, monkeypatch):
    simple, ours = modules(geometry, "simple", "triton", norm=norm)
    calls = []

    def relate(*args, **kwargs):
        calls.append(kwargs)
        return triton_relation(*args, **kwargs)

    monkeypatch.setattr(object_relation, "triton_relation", relate)
    inputs = make_input()
    torch.testing.assert_close(ours(*inputs), simple(*inputs), rtol=1e-3, atol=1e-4)
    form = {"geometry": geometry, "normalize_by": "query"}
    assert calls == ([] if geometry == "none" else 2 * [form])


@pytest.mark.parametrize("few", [0, 2**15])
def test_auto_does_not_choose_what_no_gpu_has_run(few, monkeypatch):
    monkeypatch.setattr(object_relation, "FEW_PAIRS", few)
    monkeypatch.setattr(object_relation, "triton_relation", None)  # may not be called
    simple, ours = modules("relation", "simple", "auto")
    inputs = make_input()
    torch.testing.assert_close(ours(*inputs), simple(*inputs), rtol=1e-3, atol=1e-4)


# ---- where the kernel cannot run ----

SENTENCE = r"implementation='triton' .*implementation='fused' computes the same everywhere\.$"


def raised_by(module: ObjectRelation, *inputs) -> RuntimeError:
    with pytest.raises(RuntimeError, match=SENTENCE) as caught:
        module(*inputs)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on a CPU")
def test_boxes_on_a_cpu():
    pytest.importorskip("triton", reason="Triton is not installed")
    (module,) = modules("relation", "triton")
    features, regions = make_input()
    boxes = [boxes.cpu() for boxes in regions.split(regions.boxes)]
    regions = Regions.from_boxes(boxes, regions.image_sizes)
    error = raised_by(module.cpu(), features.cpu(), regions)
    assert "the boxes are on cpu" in str(error)


def test_boxes_of_float64():
    pytest.importorskip("triton", reason="Triton is not installed")
    (module,) = modules("relation", "triton")
    features, regions = make_input()
    wide = Regions(regions.boxes.double(), regions.splits, regions.image_sizes)
    assert "the boxes are float64" in str(raised_by(module.double(), features.double(), wide))


def test_a_kernel_that_fails_is_named_and_tried_again(monkeypatch):
    launches = []

    class Broken:
        def __getitem__(self, grid):
            def launch(*args, **kwargs):
                launches.append(grid)
                raise OSError("no such\nGPU")

            return launch

    broken = SimpleNamespace(log_gate_kernel=Broken(), INTERPRETED=True)
    monkeypatch.setattr(triton_gate, "kernel_for", lambda boxes: broken)
    (module,) = modules("relation", "triton")
    for _ in range(2):
        error = raised_by(module, *make_input())
        assert "OSError" in str(error) and isinstance(error.__cause__, OSError)
    assert launches == [(2, 1), (2, 1)]


def test_without_triton(monkeypatch):
    folder = "relation_heads.layers.object_relation"
    monkeypatch.delattr(sys.modules[folder], "triton_gate_kernel", raising=False)
    monkeypatch.setitem(sys.modules, f"{folder}.triton_gate_kernel", None)
    (module,) = modules("relation", "triton")
    assert "importing Triton fails" in str(raised_by(module, *make_input()))


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

    from relation_heads.layers.object_relation.triton_gate_kernel import log_gate_kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    inputs = dict.fromkeys(("table", "weight", "bias", "frequencies"), "*fp32")
    numbers = ("num_queries", "num_keys", "num_heads", "head_stride", "row_stride")
    constants = {
        "SIGNED": options["geometry"] == "signed",
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
