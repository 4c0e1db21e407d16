"""Safetensors files: our headers and bytes against the safetensors library, and every way a file can be broken."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.modeling.safetensors_file import (
    DTYPES,
    INDEX_FILE,
    SINGLE_FILE,
    SafetensorsWriter,
    TensorSpec,
    parse_size,
    plan_shards,
    read_header,
    tensor_chunks,
    write_tensors,
)


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "table": torch.randn(37, 8, generator=generator).bfloat16(),
        "norm": torch.randn(5, generator=generator),
        "half": torch.randn(3, 3, generator=generator).half(),
        "step": torch.tensor(7),
        "flags": torch.tensor([True, False, True]),
        "nothing": torch.empty(0, 4),
    }


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist()) if tensor.numel() else b""


def write_file(path, header: object, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_header_and_chunks_of_a_file_the_library_wrote(tmp_path):
    tensors, path = some_tensors(), tmp_path / "x.safetensors"
    save_file(tensors, path, {"format": "pt"})
    entries = read_header(path)
    assert entries.keys() == tensors.keys()
    starts = [e.start for e in entries.values()]
    assert starts == sorted(starts)
    for name, tensor in tensors.items():
        assert entries[name].shape == tuple(tensor.shape)
        assert getattr(torch, DTYPES[entries[name].dtype][1]) == tensor.dtype
        for chunk_bytes in (1, 7, 64, 10**6):
            pieces = [bytes(piece) for piece in tensor_chunks(path, entries[name], chunk_bytes)]
            assert b"".join(pieces) == raw(tensor)
            assert all(len(piece) == chunk_bytes for piece in pieces[:-1])


def test_what_the_writer_wrote_loads_in_the_library(tmp_path):
    tensors, path = some_tensors(), tmp_path / "x.safetensors"
    save_file(tensors, tmp_path / "source.safetensors")
    entries = read_header(tmp_path / "source.safetensors")
    specs = {name: entries[name].spec for name in sorted(entries)}  # "flags", 3 bytes, comes first
    heard = []
    with SafetensorsWriter(path, specs) as writer:
        for name in reversed(list(specs)):  # any order
            data = raw(tensors[name])
            writer.write(name, [data[:3], data[3:]], heard.append)
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert sum(heard) == sum(spec.nbytes for spec in specs.values())
    assert all(e.start % DTYPES[e.dtype][0] == 0 for e in read_header(path).values()), "elements must be aligned"


def test_the_writer_notices_forgotten_and_short_tensors(tmp_path):
    specs = {"a": TensorSpec("F32", (2,)), "b": TensorSpec("F32", (2,))}
    with pytest.raises(AssertionError, match=r"never written.*b"), SafetensorsWriter(tmp_path / "x", specs) as writer:
        writer.write("a", [bytes(8)])
    for wrong in (bytes(7), bytes(9)):
        with pytest.raises(AssertionError, match="8 announced"), SafetensorsWriter(tmp_path / "x", specs) as writer:
            writer.write("a", [wrong])


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda n: n != "__metadata__"),
        st.tuples(st.sampled_from(sorted(set(DTYPES) - {"F8_E8M0"})), st.lists(st.integers(0, 5), max_size=3)),
        min_size=1,
        max_size=6,
    )
)
def test_any_layout_round_trips(tmp_path_factory, wanted):
    path = tmp_path_factory.mktemp("round") / "x.safetensors"
    specs = {name: TensorSpec(dtype, tuple(shape)) for name, (dtype, shape) in wanted.items()}
    contents = {name: bytes(i % 2 for i in range(spec.nbytes)) for name, spec in specs.items()}
    with SafetensorsWriter(path, specs) as writer:
        for name, data in contents.items():
            writer.write(name, [data])
    entries = read_header(path)
    assert {name: e.spec for name, e in entries.items()} == specs
    assert {name: b"".join(map(bytes, tensor_chunks(path, e, 4))) for name, e in entries.items()} == contents
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(specs)


BROKEN = {
    "no header": (b"abc", "too few"),
    "absurd header length": (struct.pack("<Q", 2**60) + b"{}", "not a safetensors file"),
    "cut inside the header": (struct.pack("<Q", 100) + b'{"a": ', "truncated inside its header"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 16\n", "git lfs pull"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_files_that_are_no_safetensors(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    content, said = BROKEN[kind]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert "fetch" in str(caught.value)


BROKEN_HEADERS = {
    "not JSON": (b"{nonsense", b"", "not valid JSON"),
    "not UTF-8": (b'{"\xff\xfe": 1}', b"", "not valid JSON"),
    "not an object": ([1], b"", "JSON list"),
    "a name twice": (b'{"a": 1, "a": 2}', b"", "'a' appears twice"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4), "lacks dtype, shape or data_offsets"),
    "an entry that is no object": ({"a": 3}, b"", "lacks dtype"),
    "an unknown dtype": ({"a": entry("F31", [1], 0, 4)}, bytes(4), "unknown dtype 'F31'"),
    "a negative size": ({"a": entry("F32", [-1], 0, 4)}, bytes(4), "shape"),
    "a fractional size": ({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, bytes(4), "shape"),
    "a negative offset": ({"a": entry("F32", [1], -4, 0)}, b"", "data_offsets"),
    "span and shape disagree": ({"a": entry("F32", [2], 0, 4)}, bytes(4), "takes 8 bytes, not 4"),
    "an overlap": ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)}, bytes(8), "'b'.*overlaps"),
    "a hole": ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, bytes(12), "'b'.*unused bytes"),
    "truncated data": ({"a": entry("F32", [4], 0, 16)}, bytes(12), "truncated"),
    "left-over data": ({"a": entry("F32", [1], 0, 4)}, bytes(7), "3 bytes more"),
}


@pytest.mark.parametrize("kind", BROKEN_HEADERS)
def test_headers_that_cannot_be_right(tmp_path, kind):
    path = tmp_path / "x.safetensors"
    header, data, said = BROKEN_HEADERS[kind]
    write_file(path, header, data)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


def test_a_sound_file_of_the_same_make_is_read(tmp_path):
    """The control of the two tests above: their way of writing files is not what is refused."""
    path = tmp_path / "x.safetensors"
    write_file(path, {"__metadata__": {"by": "hand"}, "a": entry("F32", [2], 0, 8)}, bytes(8))
    assert list(read_header(path)) == ["a"]


def test_every_truncation_of_a_real_file_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(some_tensors(), path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 11):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_header(path)
    path.write_bytes(whole)
    assert len(read_header(path)) == len(some_tensors())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.safetensors.*No such file"):
        read_header(tmp_path / "gone.safetensors")


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    found = read_header(path)["a"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="ended 100 bytes early"):
        list(tensor_chunks(path, found, 512))


def test_shards_and_index(tmp_path):
    specs = {name: TensorSpec("U8", (size,)) for name, size in [("a", 6), ("b", 4), ("c", 30), ("d", 1), ("e", 9)]}
    assert [list(shard) for shard in plan_shards(specs, 10).values()] == [["a", "b"], ["c"], ["d", "e"]]
    assert list(plan_shards(specs, 50)) == [SINGLE_FILE]
    names = write_tensors(tmp_path, specs, lambda name: [name.encode() * specs[name].nbytes], max_shard_bytes=10)
    assert names == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["metadata"] == {"total_size": 50}
    assert index["weight_map"].keys() == specs.keys()
    for name, file_name in index["weight_map"].items():
        assert bytes(load_file(tmp_path / file_name)[name].tolist()) == name.encode() * specs[name].nbytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("2GiB", 2 * 2**30), ("1.5mb", 1_500_000), ("10 KB", 10_000), ("77", 77), (77, 77)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5 lots", "-1GB", "0", "5TB", "nan", "1e999GB"])
def test_sizes_that_are_none(text):
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)


def test_the_module_loads_no_tensor_library():
    code = (
        "import sys, hidden_decoding.modeling.safetensors_file\n"
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
