"""Imports only point down, and importing the package is all it takes."""

import ast
import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "relation_heads"
# From the ground up; a module imports its own part and lower floors. Parts that share a floor do
# not know one another. `analysis` looks at whole configs, as a run does, and only tools use it.
FLOORS = (
    ("command_line",),
    ("layers",),
    ("config", "zoo"),
    ("data",),
    ("modeling",),
    ("evaluation", "visualization"),
    ("viewer",),
    ("engine",),
    ("tracking",),
    ("analysis",),
    ("registration",),
    ("doctor",),
    ("commands",),
    ("__init__", "__main__", "d2_env"),
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
ON_TOP = ("benchmarks", "datasets", "examples", "tests", "tools")

# Detectron2, and what comes with it, cannot be imported in a process that starts like this.
WITHOUT_DETECTRON2 = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("detectron2", "fvcore", "iopath"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
import importlib.util
original = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "detectron2" else original(name, *a)
"""


def imported_modules(path: Path) -> set[str]:
    """Absolute names of everything that a file imports, at any depth of its code; a submodule that
    is imported from its package has its own name."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inner = f"{name}.{alias.name}"
                names.add(inner if is_module(inner) else name)
    return names


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def part(module: str) -> str:
    """E.g. `modeling` of `relation_heads.modeling.roi_heads`; the package itself is `__init__`."""
    return [*module.split("."), "__init__"][1]


def package_imports() -> dict[str, set[str]]:
    """Module of the package -> the modules of this repository that it imports."""
    ours = ("relation_heads", *ON_TOP)
    return {
        module_name(path): {n for n in imported_modules(path) if n.split(".")[0] in ours}
        for path in PACKAGE.rglob("*.py")
    }


def test_imports_point_down():
    found = package_imports()
    assert {part(module) for module in found} == FLOOR.keys()  # every part has a floor
    for module, names in found.items():
        for name in names:
            assert name.split(".")[0] == "relation_heads", f"{module} imports {name}"
            down = FLOOR[part(name)] < FLOOR[part(module)] or part(name) == part(module)
            assert down, f"{module} imports {name}"


def test_no_module_imports_itself_through_others():
    TopologicalSorter(package_imports()).prepare()  # CycleError names the circle


def test_config_imports_layers_alone():
    for module, names in package_imports().items():
        if part(module) == "config":
            assert {part(name) for name in names} <= {"config", "layers"}, module


def test_layers_import_torch_and_each_other_alone():
    # Files that need more, and what.
    more = {
        "class_selection.py": "torchvision",  # its compiled NMS
        "knowledge_graph.py": "numpy",  # reads .npz
        "triton_gate_kernel.py": "triton",  # imported only where it can run
    }
    files = list((PACKAGE / "layers").rglob("*.py"))
    assert files
    for path in files:
        for name in imported_modules(path):
            top, *rest = name.split(".")
            allowed = top in {"torch", *sys.stdlib_module_names} or rest[:1] == ["layers"]
            allowed |= top == more.get(path.name)
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_nothing_imports_what_todays_setuptools_broke():
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tools").glob("*.py")]:
        for name in imported_modules(path):
            assert not name.startswith(("detectron2.model_zoo", "detectron2.utils.testing")), path


def run_python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# Runs each line of its input, {"code", "environment"}, in a fork, and prints what that printed. The
# slow imports, none of them Detectron2's or ours, are done once.
FORKS = """
import io, json, os, sys, traceback
import cv2, torch, torchvision

for line in sys.stdin:
    task = json.loads(line)
    answers, says = os.pipe()
    if not os.fork():
        os.environ.update(task["environment"])
        sys.stdout = io.StringIO()
        try:
            exec(task["code"], {"__name__": "__main__"})
            answer = True, sys.stdout.getvalue()
        except BaseException:
            answer = False, traceback.format_exc()
        with open(says, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(says)
    with open(answers) as pipe:
        print(pipe.read(), flush=True)
    os.wait()
"""


@pytest.fixture(scope="module")
def fork():
    """`run_python` in a process that has torch already."""
    python = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORKS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(code: str, **environment: str) -> str:
        print(json.dumps({"code": code, "environment": environment}), file=python.stdin, flush=True)
        works, text = json.loads(python.stdout.readline())
        assert works, text
        return text.strip()

    with python:
        yield run
        python.stdin.close()


def test_a_fork_says_what_fails(fork):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        fork("1 / 0")
    assert fork("print(6 * 7)") == "42"
    imported = "import sys; print({'detectron2', 'fvcore', 'relation_heads'} & sys.modules.keys())"
    assert fork(imported) == "set()"


def test_layers_work_without_detectron2():
    code = (
        WITHOUT_DETECTRON2
        + """
import torch
from relation_heads.layers import ObjectRelation, Regions
regions = Regions.from_boxes([torch.rand(3, 4) * 100], [(100, 100)])
print(tuple(ObjectRelation(16, num_heads=4)(torch.randn(3, 16), regions).shape))
import relation_heads
try:
    relation_heads.get_cfg
except ImportError as error:
    print(error)
"""
    )
    shape, message = run_python(code).splitlines()
    assert shape == "(3, 16)"
    assert "pip install --no-build-isolation" in message and message.count("\n") == 0


def test_the_numbers_of_an_evaluation_need_no_detectron2(fork):
    names = [
        f"relation_heads.evaluation.{path.stem}"
        for path in (PACKAGE / "evaluation").glob("*.py")
        if "detectron2" not in {name.split(".")[0] for name in imported_modules(path)}
    ]
    numeric = {"cityscapes", "class_tables", "coco_arrays", "duplicates", "region_metrics",
               "sparse_coco", "sparse_matching"}  # fmt: skip
    assert {name.rpartition(".")[2] for name in names} == {"__init__", *numeric}
    fork(f"{WITHOUT_DETECTRON2}\nimport {', '.join(names)}")


def test_importing_the_package_imports_neither_torch_nor_detectron2():
    code = """
import sys, relation_heads
print({"torch", "detectron2", "numpy"} & sys.modules.keys())
"""
    # Nor where a process that did so started this one: Detectron2's variable is set then.
    in_a_child = f"import subprocess\nsubprocess.run([sys.executable, '-c', {code!r}])"
    assert run_python(code + in_a_child).split() == ["set()", "set()"]


@pytest.mark.parametrize(
    "first",
    [
        "import relation_heads",
        "import detectron2, relation_heads",
        "from relation_heads import get_cfg",
        # Each of these is registered, or imported by what is, and imports Detectron2 first.
        "import relation_heads.config.defaults",
        "import relation_heads.data.coco_format",
        "import relation_heads.modeling.watch",
        "import relation_heads.engine.checks",
    ],
)
def test_importing_the_package_registers_everything(first, fork):
    pytest.importorskip("detectron2")
    code = (
        f"{first}\n"
        + """
from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY
print("RelationROIHeads" in ROI_HEADS_REGISTRY, "Res5RelationROIHeads" in ROI_HEADS_REGISTRY,
      "build_shallow_backbone" in BACKBONE_REGISTRY, "relational_scenes_train" in DatasetCatalog)
"""
    )
    code += "import os; print(os.environ.get('DETECTRON2_ENV_MODULE'))"
    assert fork(code).split() == ["True"] * 4 + ["None"]  # and child processes inherit nothing


def test_another_use_of_detectron2s_variable_is_respected(tmp_path, fork):
    pytest.importorskip("detectron2")
    (tmp_path / "mine.py").write_text("def setup_environment():\n    print('mine')\n")
    code = """
import relation_heads
from detectron2.modeling import ROI_HEADS_REGISTRY
print("RelationROIHeads" in ROI_HEADS_REGISTRY)
"""
    printed = fork(code, DETECTRON2_ENV_MODULE=str(tmp_path / "mine.py"))
    assert printed.split() == ["mine", "True"]


@pytest.mark.parametrize("first", ["detectron2.config", "relation_heads"])
def test_detectron2_env_module_teaches_stock_tools(first, fork):
    pytest.importorskip("detectron2")
    code = f"""
import {first}
from detectron2.config import get_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY
print(get_cfg().MODEL.RELATION.NUM_RELATIONS, "RelationROIHeads" in ROI_HEADS_REGISTRY)
import relation_heads
stock, ours = get_cfg(), relation_heads.get_cfg()
for cfg in (stock, ours):
    cfg.merge_from_list(["MODEL.TRAIN_ONLY", ["backbone.*"]])
print("TRAIN_ONLY" in stock.MODEL, ours.MODEL.TRAIN_ONLY)
"""
    result = fork(code, DETECTRON2_ENV_MODULE="relation_heads.d2_env")
    # Detectron2's own trainer, which freezes nothing, ignores the key aloud.
    assert result.splitlines() == ["[1, 1] True", "False ['backbone.*']"]
