"""Bounded reading: size, kind of file, depth of JSON, header of safetensors."""

import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from groundup.utils.reading import (
    MAX_HEADER_BYTES,
    TensorInfo,
    parse_json,
    read_bytes,
    read_json,
    read_safetensors_header,
    read_text,
)


def test_a_file_of_the_limit_is_read_and_one_byte_more_refused(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    assert read_bytes(file, limit=5) == b"12345"
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        read_bytes(file, limit=4)


@pytest.mark.skipif(os.name == "nt", reason="named pipes")
def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for read in (read_bytes, read_text, read_json):
        for name in ("pipe", "zeros"):
            with pytest.raises(ValueError, match="not a regular file"):
                read(tmp_path / name)
        with pytest.raises(OSError, match="directory"):
            read(tmp_path)
    for name in ("pipe", "zeros"):
        with pytest.raises(ValueError, match="not a regular file"):
            read_safetensors_header(tmp_path / name)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "\ud800", "9" * 10_000, ""])
def test_json_that_cannot_be_parsed_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_file_that_is_not_utf8_is_a_value_error(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    for read in (read_text, read_json):
        with pytest.raises(ValueError, match="utf-8"):
            read(tmp_path / "a.json")


def test_the_header_names_what_the_file_holds(tmp_path):
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.int8)}, tmp_path / "t.safetensors", {"k": "v"})
    found = read_safetensors_header(tmp_path / "t.safetensors")
    assert found == {"a": TensorInfo("F32", (2, 3)), "b": TensorInfo("I8", ())}
    assert found["a"].numel == 6
    assert found["b"].numel == 1


def test_bytes_after_the_tensors_are_refused_before_the_library_maps_them(tmp_path):
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "t.safetensors")
    os.truncate(tmp_path / "t.safetensors", 3 << 30)
    with pytest.raises(ValueError, match="more bytes follow its tensors"):
        read_safetensors_header(tmp_path / "t.safetensors")


def with_header(path, entries):
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


SHAPES = (3, [-1], [True], [2**63], [10**4000] * 2, [2] * 65)  # the product of the longest would take hours


@pytest.mark.parametrize("entries", [[], {"a": 1}, {"a": {}}, *({"a": {"shape": shape}} for shape in SHAPES)])
def test_a_header_without_shapes_is_refused(tmp_path, entries):
    with pytest.raises(ValueError, match="header"):
        read_safetensors_header(with_header(tmp_path / "t", entries))


@pytest.mark.parametrize("head", [b"", b"1234", struct.pack("<Q", 0), struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}"])
def test_a_header_without_a_possible_size_is_refused(tmp_path, head):
    (tmp_path / "t").write_bytes(head)
    with pytest.raises(ValueError, match="safetensors"):
        read_safetensors_header(tmp_path / "t")
