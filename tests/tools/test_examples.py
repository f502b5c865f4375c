"""Every example of a program, in its `--help` and in the documents, is one that it understands."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import shlex
import string
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.engine import default_argument_parser

from relation_heads.commands import VERBS, parse_args
from relation_heads.config import find_config, get_cfg

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("tools", "datasets", "examples")
    for path in (ROOT / folder).glob("*.py")
    if path.read_text().startswith("#!")  # the others are to be imported
)
DOCUMENTS = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("datasets/*.md")]
DETECTRON2S = "detectron2/tools/train_net.py"
COMMAND = "relation-heads"
PLACEHOLDERS = ("...", "CONFIG")  # for a config


@functools.cache
def load(program):
    """A program as a module; one that has a command line has `parse_args`."""
    spec = importlib.util.spec_from_file_location(f"example_{Path(program).stem}", ROOT / program)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def help_of(program):
    """What `--help` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        load(program).parse_args(["--help"])
    return printed.getvalue()


def blocks_of(markdown):
    """Fenced blocks, and the spans of code between them."""
    fence = r"^```\w*\n(.*?)^```"
    yield from re.findall(fence, markdown, re.DOTALL | re.MULTILINE)
    prose = re.sub(fence, "", markdown, flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`([^`\n]+ [^`\n]+)`", prose)


def spelled_out(word):
    """`{a,b}_x` to `a_x`, `b_x`, as in a shell (quotes: not a name but a dict, which stays)."""
    choice = re.search(r"\{([^{}'\"]*,[^{}'\"]*)\}", word)
    if not choice:
        return [word]
    return [w for o in choice[1].split(",") for w in spelled_out(word.replace(choice[0], o, 1))]


def commands(text):
    """(program, arguments) of every line that calls a program of this project or Detectron2's."""
    variables = {}
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        line = string.Template(line.strip().removeprefix("$ ")).safe_substitute(variables)
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # an apostrophe of prose
            continue
        while words and re.match(r"[A-Z_0-9]+=", words[0]):
            name, value = words.pop(0).split("=", 1)
            variables[name] = value.rstrip(";")
        if words[:1] == ["python"]:
            words.pop(0)
        if words and words[0] in (*PROGRAMS, DETECTRON2S, COMMAND) and "--help" not in words:
            yield words[0], [w for word in words[1:] for w in spelled_out(word)]


def all_examples():
    for program in PROGRAMS:
        for command in commands(help_of(program)):
            yield (f"{program} --help", *command)
    for verb in VERBS:
        for command in commands(import_module(f"relation_heads.commands.{verb}").__doc__):
            yield (f"{COMMAND} {verb} --help", *command)
    for path in DOCUMENTS:
        for block in blocks_of(path.read_text()):
            for command in commands(block):
                yield (str(path.relative_to(ROOT)), *command)


EXAMPLES = list(all_examples())


def check(program, arguments):
    """Fails unless the program understands the arguments, configs exist and keys are known."""
    if program == COMMAND:
        args = parse_args(arguments)
    elif program == DETECTRON2S:
        args = default_argument_parser().parse_args(arguments)
    else:
        args = load(program).parse_args(arguments)
    configs = [
        word
        for word in arguments
        if word in PLACEHOLDERS or (word.endswith(".yaml") and not word.startswith("output/"))
    ]
    overrides = getattr(args, "opts", None) or getattr(args, "overrides", [])
    for config in configs or PLACEHOLDERS[:1]:
        cfg = get_cfg()
        if config not in PLACEHOLDERS:
            cfg.merge_from_file(find_config(config))
        cfg.merge_from_list(overrides)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where examples are checked: there is a folder for output, and a GPU."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(
    ("where", "program", "arguments"), EXAMPLES, ids=[f"{w}: {p}" for w, p, _ in EXAMPLES]
)
def test_an_example_is_understood(place, where, program, arguments):
    check(program, arguments)


def test_every_program_shows_an_example():
    shown = {program for where, program, _ in EXAMPLES if where == f"{program} --help"}
    assert shown == set(PROGRAMS)
    verbs = {where.split()[1] for where, *_ in EXAMPLES if where.startswith(COMMAND)}
    assert verbs >= set(VERBS) - {"doctor"}
    assert {where for where, _, _ in EXAMPLES} >= {"README.md", "docs/sgrn.md"}


@pytest.mark.parametrize(
    "example",
    [
        "tools/train_net.py --config-file ... --num-gpus\n8 tools/train_net.py",
        "tools/train_net.py --config-file none.yaml",
        "tools/train_net.py --config-file ... MODEL.RELATION.NUM_HEAD 4",
        "tools/train_net.py --config-file ... SEED 0 --eval-only",
        "tools/compare_heads.py CONFIG --rounds",
        "relation-heads predict a.pth",
        "relation-heads explain a.pth b.jpg MODEL.RELATION.NUM_HEAD 4",
        "python datasets/prepare_ade.py --ade-root a --output b --labels all",
    ],
)
def test_a_broken_example_is_seen(place, example):
    (program, arguments), *_ = commands(example)
    with pytest.raises((SystemExit, FileNotFoundError, KeyError, AssertionError)):
        check(program, arguments)


def test_what_counts_as_an_example():
    text = (
        'T="python tools/demo.py --output x"\n$T --iterations \\\n  5  # quick\nB=1 tools/demo.py'
    )
    demo = "tools/demo.py"
    assert list(commands(text)) == [(demo, ["--output", "x", "--iterations", "5"]), (demo, [])]
    found = blocks_of("a `b` `tools/x.py c`\n```bash\nd `e f`\n```\n`g h`\n")
    assert list(found) == ["d `e f`\n", "tools/x.py c", "g h"]
    assert spelled_out("a{b,c}_{d,e}") == ["ab_d", "ab_e", "ac_d", "ac_e"]
