"""What values of files mean: by their mode and format, never by the values."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binarize.data.reading import read_depth, read_head, read_image, read_labels
from binarize.errors import DataError

ORIENTATION = 0x0112


def png(path: Path, bits: int, colour: int, rows: list[bytes], width: int) -> None:
    """A PNG of any bit depth, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("value", "seen"), [(200, 0), (255, 0), (256, 1), (4095, 15), (65535, 255)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_white_of_16_bits_is_65535_however_dark_a_picture_is(
    value: int, seen: int, suffix: str, tmp_path: Path
) -> None:
    Image.fromarray(np.full((2, 3), value, dtype=np.uint16)).save(tmp_path / f"x{suffix}")
    assert read_image(tmp_path / f"x{suffix}").unique().tolist() == [seen]


def test_two_pictures_of_one_scan_keep_their_ratio(tmp_path: Path) -> None:
    """The darker one was read 256 times as bright as the other."""
    for name, value in (("a", 255), ("b", 512)):
        Image.fromarray(np.full((2, 3), value, dtype=np.uint16)).save(tmp_path / f"{name}.png")
    assert read_image(tmp_path / "a.png").max() < read_image(tmp_path / "b.png").max()


def test_colours_of_16_bits_are_their_highest_8(tmp_path: Path) -> None:
    png(tmp_path / "rgb.png", 16, 2, [struct.pack(">HHH", 255, 4096, 65535)], 1)
    assert read_image(tmp_path / "rgb.png").flatten().tolist() == [0, 16, 255]
    png(tmp_path / "la.png", 16, 4, [struct.pack(">HH", 4096, 65535)], 1)
    assert read_image(tmp_path / "la.png").flatten().tolist() == [16] * 3
    png(tmp_path / "rgba.png", 16, 6, [struct.pack(">HHHH", 0, 4096, 65535, 65535)], 1)
    assert read_image(tmp_path / "rgba.png").flatten().tolist() == [0, 16, 255]


def test_nothing_tells_what_white_is_in_32_bits(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 3), 200, dtype=np.int32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x.tif: holds 32-bit numbers, and it is unknown which of them"):
        read_image(tmp_path / "x.tif")
    assert read_labels(tmp_path / "x.tif").unique().tolist() == [200]  # an id is an id


def test_ids_are_what_is_stored_not_what_fills_8_bits(tmp_path: Path) -> None:
    png(tmp_path / "four.png", 4, 0, [b"\x01\x23", b"\xf0\x00"], 4)
    assert read_labels(tmp_path / "four.png").tolist() == [[0, 1, 2, 3], [15, 0, 0, 0]]
    png(tmp_path / "two.png", 2, 0, [b"\x1b"], 4)
    assert read_labels(tmp_path / "two.png").tolist() == [[0, 1, 2, 3]]
    (tmp_path / "x.pgm").write_bytes(b"P5 3 1 10\n\x00\x01\x0a")
    assert read_labels(tmp_path / "x.pgm").tolist() == [[0, 1, 10]]
    (tmp_path / "y.pgm").write_bytes(b"P2 3 1 300\n0 7 300\n")
    assert read_labels(tmp_path / "y.pgm").tolist() == [[0, 7, 300]]
    (tmp_path / "d.pgm").write_bytes(b"P5 2 1 9000\n" + struct.pack(">HH", 400, 9000))
    assert read_depth(tmp_path / "d.pgm", 1000.0).tolist() == [[pytest.approx(0.4), 9.0]]
    Image.fromarray(np.array([[0, 1]], dtype=bool)).save(tmp_path / "one.png")
    assert read_labels(tmp_path / "one.png").tolist() == [[0, 1]]


@pytest.mark.parametrize(("content", "what"), [(b"", "empty"), (b"<html>", "in no format that Pillow knows")])
def test_files_that_are_not_images(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"a.png: not a readable image \(the file is {what}\)\.$"):
        read_image(tmp_path / "a.png")


def test_masks_in_jpeg_are_refused_whatever_they_hold(tmp_path: Path) -> None:
    ids = np.zeros((16, 16), dtype=np.uint8)
    ids[:, 5:] = 15
    Image.fromarray(ids).save(tmp_path / "m.jpg")
    assert len(np.unique(np.asarray(Image.open(tmp_path / "m.jpg")))) > 2  # classes that nobody drew
    with pytest.raises(DataError, match=r"m.jpg: a label mask in JPEG does not keep .* Write masks as PNG"):
        read_labels(tmp_path / "m.jpg")


def test_masks_of_three_channels_say_whether_these_are_equal(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (3, 3, 3)).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match="mode RGB, whose channels are equal: write one of them"):
        read_labels(tmp_path / "grey.png")
    Image.new("RGB", (2, 2), (3, 4, 3)).save(tmp_path / "colours.png")
    with pytest.raises(DataError, match="its pixels have colours: give data set folder the option `colours"):
        read_labels(tmp_path / "colours.png")


def test_depth_in_floating_point(tmp_path: Path) -> None:
    values = np.array([[0.5, 9.0], [np.nan, np.inf]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "d.tif")
    assert read_depth(tmp_path / "d.tif", 1.0).tolist() == [[0.5, 9.0], [0.0, 0.0]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_truth_is_turned_as_its_image_is(orientation: int, suffix: str, tmp_path: Path) -> None:
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    turned = {1: stored, 3: np.rot90(stored, 2), 6: np.rot90(stored, -1), 8: np.rot90(stored)}[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for name, array in (("grey", stored), ("deep", stored.astype(np.uint16) * 256)):
        Image.fromarray(array).save(tmp_path / f"{name}{suffix}", exif=exif)
    assert read_head(tmp_path / f"grey{suffix}").orientation == orientation
    assert read_head(tmp_path / f"grey{suffix}").size == turned.shape[::-1]
    assert read_labels(tmp_path / f"grey{suffix}").tolist() == turned.tolist()
    assert read_depth(tmp_path / f"deep{suffix}", 256.0).tolist() == turned.tolist()
    assert torch.equal(
        read_image(tmp_path / f"deep{suffix}")[0].long(), read_labels(tmp_path / f"grey{suffix}")
    )
