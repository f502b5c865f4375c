"""Long JSON lists are read item by item as `json.load` reads them; what is broken is located."""

from __future__ import annotations

import json
import random
import re
import tracemalloc

import pytest

from relation_heads.data.json_records import read_records

TEXTS = ["", "ä", "€", "😀", '"', "\\", "\n", "[", "]", ",", "tree.n.01", "\u2028", "\ud800"]


def random_value(rng, depth=0):
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind in (1, 2):
        return rng.choice([0, -1, rng.randrange(-(10**12), 10**12)])
    if kind == 3:
        return rng.choice([0.5, -1e-300, 1e22, rng.uniform(-9, 9), float("inf")])
    if kind in (4, 5, 6):
        return "".join(rng.choices(TEXTS, k=rng.randrange(6)))
    items = [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return items if kind == 7 else {f"k{i}ü": item for i, item in enumerate(items)}


@pytest.mark.parametrize("seed", range(30))
def test_reads_what_json_load_reads(tmp_path, seed):
    rng = random.Random(seed)
    values = [random_value(rng) for _ in range(rng.choice([0, 1, 2, 9]))]
    has_surrogate = "\\ud800" in json.dumps(values)
    text = json.dumps(
        values,
        ensure_ascii=has_surrogate or rng.random() < 0.3,
        indent=rng.choice([None, 0, 3]),
        separators=rng.choice([None, (",", ":"), (" ,\r\n", "\t: ")]),
    )
    path = tmp_path / "list.json"
    path.write_bytes((rng.choice(["", " \n"]) + text + rng.choice(["", "\n "])).encode())
    expected = json.loads(path.read_bytes())
    for chunk_size in (1, 2, 3, 7, 64, 1 << 20):
        assert list(read_records(path, chunk_size)) == expected


@pytest.mark.parametrize("chunk_size", [1, 5, 1000])
@pytest.mark.parametrize(
    "content, items, sentence",
    [
        (b"", [], "is not a JSON list: it does not begin with '['."),
        (b'{"a": [1]}', [], "is not a JSON list: it does not begin with '['."),
        (b"PK\x03\x04", [], "is not a JSON list"),
        (b"[1, 23", [1, 23], ", record 1: ',' or ']' must follow it at byte 6, not the end of the"),
        (b"[1, 2e", [1, 2], ", record 1: ',' or ']' must follow it at byte 5, not 'e'."),
        (b"[1, -", [1], ", record 1: it begins at byte 4 and is cut off or broken: Expecting"),
        (b"[1,]", [1], ", record 1: it begins at byte 3 and is cut off or broken: Expecting value"),
        (b"[", [], ", record 0: it begins at byte 1 and is cut off or broken"),
        (b"[1, 2 ", [1, 2], ", record 1: ',' or ']' must follow it at byte 6, not the end of the"),
        (b"[1, 2 3]", [1, 2], ", record 1: ',' or ']' must follow it at byte 6, not '3'."),
        (b"[[1]] [2]", [[1]], ": the list ends, but at byte 6 the file goes on."),
        (b'[{"a": 1}, {"b": "x', [{"a": 1}], ", record 1: it begins at byte 11 and is cut off or "
         r"broken: Unterminated string starting at \(byte 17\)."),
        (b'[{"a": 1}, {"b" 2}, 3]', [{"a": 1}], r"broken: Expecting ':' delimiter \(byte 16\)."),
        ('["äé", {"b": tru'.encode(), ["äé"], r"begins at byte 9 .* Expecting value \(byte 15\)."),
        (b'[7, "\xc3\xa4\xff"]', [7], ", record 1: byte 7 is not UTF-8."),
        (b'[7, "a\xc3', [7], ", record 1: byte 6 is not UTF-8."),
        (b"[7] \xc3", [7], ", record 0: byte 4 is not UTF-8."),
        ('[{"a": "ä"}]'.encode("latin-1"), [], ", record 0: byte 8 is not UTF-8."),
    ],
)  # fmt: skip
def test_broken_files_are_refused_with_record_and_byte(
    tmp_path, content, items, sentence, chunk_size
):
    path = tmp_path / "list.json"
    path.write_bytes(content)
    found = []
    pattern = re.escape(str(path)) + ".*" + sentence.replace("[", r"\[")
    with pytest.raises(ValueError, match=pattern):
        found.extend(iter_into(found, read_records(path, chunk_size)))
    assert found == items


def iter_into(found, items):
    """Appends items one by one, so that those before an error are kept."""
    for item in items:
        found.append(item)
    return []


def test_memory_is_that_of_an_item(tmp_path):
    path = tmp_path / "list.json"
    item = {"image_id": 1, "objects": [{"names": ["tree"], "x": k} for k in range(300)]}
    path.write_text(json.dumps([item] * 100))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_records(path, 1 << 14)) == 100
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 800_000 > 2 * peak


def test_a_record_that_is_longer_than_a_chunk_is_not_parsed_chunk_by_chunk(tmp_path, monkeypatch):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([list(range(2000))]))
    calls = []
    decode = json.JSONDecoder.raw_decode

    def counting(self, *args):
        calls.append(args)
        return decode(self, *args)

    monkeypatch.setattr(json.JSONDecoder, "raw_decode", counting)
    assert [len(record) for record in read_records(path, 16)] == [2000]
    assert len(calls) < 20


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        next(read_records(tmp_path / "none.json"))


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf[1, {"a": 2}]')
    assert list(read_records(path)) == [1, {"a": 2}]
    path.write_bytes(b"\xef\xbb\xbf[1, x]")
    with pytest.raises(ValueError, match="record 1: it begins at byte 7 "):
        list(read_records(path))


@pytest.mark.parametrize(
    "content, sentence",
    [
        (
            b"[1, " + b"[" * 100_000 + b"]" * 100_000 + b"]",
            "record 1: .* byte 4 .* nested too deep",
        ),
        (b"[1, " + b'{"a":' * 100_000, "record 1: .* byte 4 .* nested too deep"),
        (b"[1, " + b"9" * 5_000 + b"]", "record 1: .* byte 4 .* integer of too many digits"),
        (b'[1, {"id": -' + b"1" * 5_000 + b"}]", "record 1: .* byte 4 .* too many digits"),
        (b"\x1f\x8b\x08\x00rest", "packed, with gzip: unpack it first"),
        (b"PK\x03\x04rest", "packed, with zip: unpack it first"),
    ],
    ids=["deep list", "deep object", "long integer", "long integer inside", "gzip", "zip"],
)
def test_what_json_load_refuses_in_other_ways_is_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json.*{sentence}"):
        list(read_records(path))
