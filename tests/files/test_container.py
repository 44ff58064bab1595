"""Safetensors files: atomic when written, clear errors when read."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from binarize.errors import ConfigError, FormatError
from binarize.files import container

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_then_read(tmp_path: Path):
    written = container.write(tmp_path / "x.safetensors", TENSORS, {"entry": "text"})
    got = container.read(written)
    assert got.metadata == {"entry": "text"}
    assert got.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(got.tensors[name], TENSORS[name]) for name in TENSORS)
    assert _names(tmp_path) == ["x.safetensors"]


def test_write_follows_links_and_keeps_to_the_umask(tmp_path: Path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.safetensors"
    link.symlink_to(tmp_path / "real" / "x.safetensors")
    before = os.umask(0o027)
    try:
        container.write(link, TENSORS, {})
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert (tmp_path / "real" / "x.safetensors").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path: Path, mode: int):
    target = container.write_bytes(tmp_path / "x.json", b"old")
    target.chmod(mode)
    before = os.umask(0o022)
    try:
        container.write_bytes(target, b"n", b"ew")
    finally:
        os.umask(before)
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o7777 == mode


def test_a_file_replaced_through_a_link_keeps_its_mode(tmp_path: Path):
    target = container.write(tmp_path / "x.safetensors", TENSORS, {})
    target.chmod(0o660)
    (tmp_path / "link").symlink_to(target)
    assert container.write(tmp_path / "link", TENSORS, {"entry": "text"}) == target
    assert (tmp_path / "link").is_symlink()
    assert target.stat().st_mode & 0o7777 == 0o660
    assert container.read_metadata(target) == {"entry": "text"}


def test_equal_contents_are_equal_bytes(tmp_path: Path):
    """The library writes the entries in the order of a hash table that differs from one to the next."""
    entries = {f"entry{i}": "é" * i for i in range(12)}
    first = container.write(tmp_path / "a", TENSORS, entries).read_bytes()
    shuffled = dict(sorted(entries.items(), reverse=True))
    assert all(container.write(tmp_path / "b", TENSORS, shuffled).read_bytes() == first for _ in range(3))
    assert container.read_metadata(tmp_path / "b") == entries
    assert container.file_size(TENSORS, entries) == len(first)


@pytest.mark.parametrize("entries", [{}, {"a": ""}, {"name": "x" * 7}])
def test_tensors_begin_at_a_multiple_of_8(tmp_path: Path, entries: dict[str, str]):
    data = container.write(tmp_path / "x", TENSORS, entries).read_bytes()
    assert int.from_bytes(data[:8], "little") % 8 == 0
    got = container.read(tmp_path / "x")
    assert got.metadata == entries
    assert all(torch.equal(got.tensors[name], TENSORS[name]) for name in TENSORS)


def test_a_read_tensor_does_not_change_with_the_file(tmp_path: Path):
    path = container.write(tmp_path / "x.safetensors", TENSORS, {})
    got = container.read(path).tensors["a"]
    size = path.stat().st_size
    with path.open("r+b") as file:  # in place: the same inode
        file.write(b"\xff" * size)
    assert torch.equal(got, TENSORS["a"])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda folder: folder, "is a directory"),
        (lambda folder: folder / "none" / "x.safetensors", "no directory"),
        (lambda folder: folder / ("x" * 300), "too long"),
        (lambda folder: folder / "nul\0.safetensors", "cannot write"),
        (lambda folder: folder / "file" / "x.safetensors", "cannot write"),
        (lambda folder: Path("/dev/null"), "not a regular file"),
        (lambda folder: Path("/proc/x.safetensors"), "cannot write"),
    ],
)
def test_unwritable_paths(tmp_path: Path, make, match: str):
    (tmp_path / "file").write_text("")
    path = make(tmp_path)
    with pytest.raises(ConfigError, match=match):
        container.write(path, TENSORS, {})
    assert _names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch, step: str):
    path = container.write(tmp_path / "x.safetensors", TENSORS, {"entry": "old"})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "replace":
        monkeypatch.setattr(Path, "replace", full)
    elif step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        real_open = Path.open

        def opened(self: Path, mode: str = "r"):
            real_open(self, mode).close()  # the empty file is there
            return real_open(Path("/dev/full"), "wb", buffering=0)

        monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(ConfigError, match=r"no space left on device.*Nothing was written"):
        container.write(path, TENSORS, {"entry": "new"})
    monkeypatch.undo()
    assert container.read_metadata(path) == {"entry": "old"}
    assert _names(tmp_path) == ["x.safetensors"]


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch):
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        container.write(tmp_path / "x.safetensors", TENSORS, {})
    assert _names(tmp_path) == []


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda folder: folder / "none.safetensors", "no such file"),
        (lambda folder: folder, "is a directory"),
        (lambda folder: Path("/dev/null"), "not a regular file"),
    ],
)
def test_what_is_no_file_cannot_be_read(tmp_path: Path, make, match: str):
    with pytest.raises(ConfigError, match=match):
        container.read(make(tmp_path))


def _file_with(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        b"PK\x03\x04 a zip file, as PyTorch writes it",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 10) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
    ],
)
def test_broken_headers(tmp_path: Path, content: bytes):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="not a safetensors file, or it is truncated or corrupted"):
        container.read(path)


@pytest.mark.parametrize(
    "entry",
    [
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
        b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
        b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}',
    ],
)
def test_lying_offsets(tmp_path: Path, entry: bytes):
    path = _file_with(tmp_path / "x.safetensors", entry, b"\0" * 12)
    with pytest.raises(FormatError, match="truncated or corrupted"):
        container.read(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000))
def test_every_truncation_is_found(tmp_path: Path, cut: int):
    path = container.write(tmp_path / "x.safetensors", TENSORS, {"entry": "text"})
    content = path.read_bytes()
    path.write_bytes(content[: cut % len(content)])
    with pytest.raises(FormatError):
        container.read(path)
