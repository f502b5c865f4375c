"""Good pickles of arrays are read; attacks are refused in a sentence, and nothing of them runs."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from relation_heads.data import array_pickle
from relation_heads.data.array_pickle import read_array, read_plain
from relation_heads.data.graphs.sources import import_pickle

CORES = (b"numpy._core", b"numpy.core")
DTYPES = [*("f2", "f4", "f8"), *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8))]
NINE = np.arange(9.0).reshape(3, 3)  # classes a, b
FOLDER = Path(array_pickle.__file__).parent
CHILD = """
import sys
from array_pickle import read_array
events = ("os.mkdir", "os.system", "subprocess.Popen", "exec", "pickle.find_class", "import")
contents = [bytes.fromhex(line) for line in sys.stdin]
running = []
def hook(event, args):
    if running and event in events:
        sys.exit(f"attack {running} ran {event} {args}")
sys.addaudithook(hook)
for number, content in enumerate(contents):
    running[:] = [number]
    try:
        outcome = "nothing" if read_array(content) is None else "an array"
    except Exception as error:
        outcome = "refused"
    print(number, outcome)
"""


# ---- a pickle, opcode by opcode ----


def name(text):
    module, _, attribute = text.rpartition(".")
    return b"c" + f"{module}\n{attribute}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def data(value):
    return b"B" + struct.pack("<I", len(value)) + value


def number(value):
    size = max(1, (value.bit_length() + 8) // 8)
    return b"\x8b" + struct.pack("<i", size) + value.to_bytes(size, "little", signed=True)


def group(*items):
    return b"(" + b"".join(items) + b"t"


def call(function, *arguments):
    return function + group(*arguments) + b"R"


PROTOCOL, NONE, TRUE, FALSE = b"\x80\x05", b"N", b"\x88", b"\x89"
ARRAY, MAKE = name("numpy.ndarray"), name("numpy._core.multiarray._reconstruct")
DTYPE, BUFFER = name("numpy.dtype"), name("numpy._core.numeric._frombuffer")


def dtype(code="f8", order="<", *state):
    rest = state or (NONE, NONE, NONE, number(-1), number(-1), number(0))
    made = call(DTYPE, text(code), FALSE, TRUE)
    return made + group(number(3), text(order), *rest) + b"b"


def empty(of=ARRAY):
    return call(MAKE, of, group(number(0)), data(b"b"))


def array(shape=(3, 3), kind=None, fortran=FALSE, content=None, version=1):
    content = data(NINE.tobytes()) if content is None else content
    sizes = group(*map(number, shape)) if isinstance(shape, tuple) else shape
    state = group(number(version), sizes, kind or dtype(), fortran, content)
    return empty() + state + b"b"


def laughs():
    """Tuples of tuples that share their content: 2 ** 60 items if they were written out."""
    return b")" + b"q\x00h\x00\x86" * 60


ADDRESS = data(struct.pack("<q", 0x4141414141414141) * 9)
ATTACKS = {
    # ndarray and dtype called by themselves
    "ndarray": call(ARRAY, group(number(1)), text("O"), data(b"A" * 8)),
    "ndarray as numbers": call(ARRAY, group(number(3), number(3)), text("f8"), data(b"A" * 72)),
    "ndarray strides": call(
        ARRAY,
        group(number(3), number(3)),
        text("f8"),
        data(b"A" * 72),
        number(0),
        group(number(1 << 40), number(8)),
    ),
    "ndarray by NEWOBJ": ARRAY + group(group(number(9)), text("O"), ADDRESS) + b"\x81",
    "ndarray by NEWOBJ_EX": ARRAY + group(group(number(9)), text("O")) + b"}" + b"\x92",
    "ndarray by OBJ": b"(" + ARRAY + group(number(9)) + text("O") + b"o",
    "ndarray by INST": b"(" + group(number(9)) + b"inumpy\nndarray\n",
    "a state for ndarray": ARRAY
    + group(number(1), group(number(9)), dtype(), FALSE, ADDRESS)
    + b"b",
    "a dictionary for ndarray": ARRAY + b"}" + b"b",
    "dtype with alignment": call(DTYPE, text("f8"), TRUE, TRUE, TRUE),
    # objects
    "objects": array((9,), dtype("O8", "|"), content=ADDRESS),
    "objects by |O": array((9,), dtype("|O"), content=ADDRESS),
    "objects by a comma": array((3, 3), dtype("O,f8"), content=ADDRESS),
    "objects of a list": array((1,), dtype("O8", "|"), content=b"]" + number(1) + b"a"),
    "a buffer of objects": call(BUFFER, ADDRESS, dtype("O8", "|"), group(number(9)), text("C")),
    # dtypes
    **{
        f"dtype {code}": array((1, 1), dtype(code), content=data(b"A" * 8))
        for code in (
            "U1",
            "S8",
            "V8",
            "c8",
            "c16",
            "M8",
            "m8",
            "b1",
            "f16",
            "i8,i8",
            "f",
            "float64",
            "(2,)i4",
            "8f8",
            "<f8",
            "",
            "f8\x00",
            "e" * 10_000,
        )
    },
    "dtype fields": array(
        kind=dtype("f8", "<", NONE, group(text("a")), b"}", *map(number, (0, 0, 0)))
    ),
    "dtype subarray": array(
        kind=dtype(
            "f8", "<", group(dtype(), group(number(9))), *[NONE] * 2, *map(number, (-1, -1, 0))
        )
    ),
    "dtype with object flags": array(
        kind=dtype("f8", "<", NONE, NONE, NONE, number(-1), number(-1), number(63))
    ),
    "dtype of another size": array(
        kind=dtype("f8", "<", NONE, NONE, NONE, number(1), number(1), number(0))
    ),
    "dtype without order": array(kind=dtype("f8", "O")),
    "dtype not made": array(kind=DTYPE),
    "dtype as text": array(kind=text("f8")),
    # shapes
    **{
        f"shape {shape}": array(shape)
        for shape in (
            (3, 4),
            (9, 9),
            (1 << 62,),
            (1 << 40, 1 << 40),
            (1 << 64, 9),
            (-3, -3),
            (-1,),
            (3, -1),
            (1 << 5000,),
            (1,) * 64,
            (0, 1 << 70),
            (),
        )
    },
    "shape a number": array(number(9)),
    "shape of truths": array(group(TRUE, TRUE), content=data(b"A" * 8)),
    "shape of texts": array(group(text("3"), text("3"))),
    "shape of tuples": array(group(group(number(3)), number(3))),
    "a buffer too short": call(
        BUFFER, data(b"A" * 8), dtype(), group(number(3), number(3)), text("C")
    ),
    "a buffer of strides": call(
        BUFFER, data(b"A" * 72), dtype(), group(number(3), number(3)), text("A")
    ),
    "a buffer that is an array": call(
        BUFFER, array(), dtype(), group(number(3), number(3)), text("C")
    ),
    "fortran a text": array(fortran=text("F")),
    # reconstructions
    "of another type": array().replace(ARRAY, name("numpy.matrix")),
    "of a memmap": array().replace(ARRAY, name("numpy.memmap")),
    "of the dtype": empty(DTYPE),
    "of itself": empty(MAKE),
    "of an array": call(MAKE, array(), group(number(0)), data(b"b")),
    "of objects": call(MAKE, ARRAY, group(number(0)), data(b"O")),
    "of a size": call(MAKE, ARRAY, group(number(1 << 40)), data(b"b")),
    "not filled in": empty(),
    "filled in twice": array() + group(number(1), group(number(9)), dtype(), FALSE, ADDRESS) + b"b",
    "state 0": array(version=0),
    "state without version": empty() + group(group(number(9)), dtype(), FALSE, ADDRESS) + b"b",
    # calls
    **{
        f"call {function}": call(name(function), text("mkdir evil"))
        for function in (
            "os.system",
            "os.mkdir",
            "builtins.eval",
            "builtins.exec",
            "builtins.getattr",
            "numpy.load",
            "numpy.memmap",
            "numpy.frombuffer",
            "numpy.lib.format.read_array",
            "numpy.testing._private.utils.runstring",
            "numpy._core.multiarray.scalar",
            "numpy.core.multiarray.fromfile",
            "functools.partial",
            "_codecs.lookup",
            "_codecs.decode",
            "copyreg._reconstructor",
            "operator.attrgetter",
        )
    },
    "a dotted name": b"\x8c\x05numpy" + text("ndarray.tofile") + b"\x93",
    "a call as an argument": array(content=call(name("os.mkdir"), text("evil"))),
    "a call inside the shape": array(call(name("os.mkdir"), text("evil"))),
    "a call of a call": call(call(name("os.getcwd")), text("evil")),
    "a call of an array": call(array(), text("evil")),
    "a call of a text": call(text("os.mkdir"), text("evil")),
    "a name of numbers": number(1) + number(2) + b"\x93",
    "a name of shared tuples": laughs() + laughs() + b"\x93",
    "encoded by a codec": array(content=call(name("_codecs.encode"), text("a"), text("zip"))),
    "a persistent id": b"Pevil\n",
    "an extension": b"\x82\x01",
    "an attribute": array() + b"N}" + text("__class__") + ARRAY + b"s\x86b",
    "a name with a line": b"\x8c\x02os" + text("a\nb\x1b[2J") + b"\x93",
    "a long name": b"\x8c\x02os" + text("a" * 100_000) + b"\x93",
    # what takes all memory
    "a far memo": b"Nr\xff\xff\xff\x7f",
    "many bytes": b"\x8e" + struct.pack("<Q", 1 << 62),
    "a long text": b"\x8d" + struct.pack("<Q", 1 << 40) + b"a",
    "a long bytearray": b"\x96" + struct.pack("<Q", (1 << 63) - 1),
    "a negative length": b"\x8b\xff\xff\xff\xff",
    "a deep tuple": array(b")" + b"\x85" * 200_000),
    "a long integer": array(b"I" + b"9" * 100_000 + b"\n"),
    # broken
    "nothing": b"",
    "no stack": b"R",
    "no mark": b"t",
    "a mark": b"(",
    "a mark inside": b"(\x85",
    "a memo that is not there": b"h\x07",
    "a build of nothing": b"b",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_in_a_sentence(tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    path.write_bytes(PROTOCOL + ATTACKS[attack] + b".")
    with pytest.raises(
        ValueError, match=r"a\.pkl (is refused: |must hold numbers \(3, 3\))"
    ) as told:
        import_pickle(path, ["a", "b"])
    sentence = str(told.value).replace(str(path), "")
    assert sentence.isprintable() and len(sentence) < 300
    assert [item.name for item in tmp_path.iterdir()] == ["a.pkl"]


def test_a_process_of_its_own_survives_all_attacks():
    """A crash would end this process; here it is a code, and an audit hook sees what runs."""
    lines = "".join(f"{(PROTOCOL + attack + b'.').hex()}\n" for attack in ATTACKS.values())
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(
        command, input=lines, capture_output=True, text=True, timeout=300, cwd=FOLDER
    )
    assert (done.returncode, done.stderr) == (0, "")
    outcomes = [line.partition(" ")[2] for line in done.stdout.splitlines()]
    assert len(outcomes) == len(ATTACKS) and set(outcomes) <= {"refused", "nothing"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of escapes in damaged texts
def test_bytes_at_random_are_refused_or_read(tmp_path):
    """Whatever becomes of a good file, there is an array of numbers, nothing, or an exception."""
    rng = np.random.default_rng(0)
    for protocol, _ in product(range(6), range(300)):
        content = bytearray(pickle.dumps(NINE, protocol=protocol))
        for place in rng.integers(0, len(content), 3):
            content[place] = rng.integers(256)
        (tmp_path / "a.pkl").write_bytes(content)
        try:
            import_pickle(tmp_path / "a.pkl", ["a", "b"])
        except ValueError as error:
            assert "a.pkl" in str(error)


# ---- good ones ----


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("code", DTYPES)
def test_numbers_of_all_types_orders_and_layouts(protocol, code):
    values = np.random.default_rng(1).integers(0, 100, (4, 3))
    for order, layout in product("<>", "CF"):
        expected = np.asarray(values, np.dtype(code).newbyteorder(order), order=layout)
        found = read_array(pickle.dumps(expected, protocol=protocol))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (2, 3, 4)])
def test_other_shapes(shape):
    expected = np.random.default_rng(2).random(shape)
    found = read_array(pickle.dumps(expected, protocol=4))
    np.testing.assert_array_equal(found, expected)
    assert found.shape == shape


def test_parts_of_arrays_and_old_names():
    part = NINE[::2, ::-1]
    for protocol, core in product(range(6), CORES):
        content = pickle.dumps(part, protocol=protocol)
        if protocol < 4:
            content = content.replace(b"numpy._core", core)
        np.testing.assert_array_equal(read_array(content), part)


def test_python_2():
    """Protocol 2 as Python 2 wrote it: its texts are bytes."""
    kind = call(DTYPE, b"U\x02f8", b"K\x00", b"K\x01")
    kind += group(b"K\x03", b"U\x01<", NONE, NONE, NONE, number(-1), number(-1), b"K\x00") + b"b"
    start = call(MAKE.replace(b"_core", b"core"), ARRAY, group(b"K\x00"), b"U\x01b")
    content = b"T" + struct.pack("<i", 72) + NINE.tobytes()
    state = group(b"K\x01", group(b"K\x03", b"K\x03"), kind, FALSE, content)
    found = read_array(b"\x80\x02" + start + state + b"b.")
    np.testing.assert_array_equal(found, NINE)


def test_the_opcodes_here_make_a_good_pickle():
    """Else the attacks would be refused for being broken; Python's own unpickler agrees."""
    content = PROTOCOL + array() + b"."
    np.testing.assert_array_equal(read_array(content), NINE)
    np.testing.assert_array_equal(pickle.Unpickler(io.BytesIO(content)).load(), NINE)


def test_what_is_no_array():
    for value in ({}, [], [NINE], {"a": NINE}, 1, 1.5, "text", b"bytes", None, (1, 2)):
        assert read_array(pickle.dumps(value)) is None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_dictionaries_and_lists_of_arrays_are_read(protocol):
    content = {
        "model": {"weight": NINE.astype("f4"), "bias": NINE[0], b"old": [1, 2.5, None, "x", NINE]},
        "__author__": "someone",
        "matching_heuristics": True,
        "empty": {},
        7: [],
    }
    found = read_plain(pickle.dumps(content, protocol))
    assert list(found) == list(content)
    np.testing.assert_equal(found, content)
    assert found["model"]["weight"].dtype == np.float32


@pytest.mark.parametrize(
    "content",
    [
        b"}" + laughs() + b"N" + b"s.",  # a key whose hash takes for ever
        b"}" + ARRAY + b"N" + b"s.",
        b"}" + text("a") + ARRAY + b"s.",
        b"}" + text("a") + empty() + b"s.",
        b"](" + DTYPE + b"e.",
        b"}(" + text("a") + b"u.",
        b"N" + text("a") + b"a.",
        ARRAY + b".",
    ],
)
def test_other_containers_are_refused(content):
    with pytest.raises(ValueError, match=r"it |zip"):
        read_plain(content)
