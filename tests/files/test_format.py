"""`docs/format.md`, byte by byte: an exact file, and a decoder that knows nothing but the document."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comparing import unlike_fresh
from torch import nn

import binarize
from binarize import binary_layer
from binarize.files import packed
from binarize.layers import BinaryConv2d, BinaryConvTranspose2d, BinaryLinear, StepSTE
from binarize.runtime import configure


def test_the_bytes_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed, "versions", lambda: {"binarize": "0"})
    layer = BinaryConv2d(2, 3, (1, 2), stride=2, padding=(0, 1), method="reactnet", norm=False, bypass=False)
    with torch.no_grad():
        layer.weight.copy_(
            torch.tensor([[1.0, -1, 0.5, 1.5], [-2, -2, -2, -2], [0.25, -0.25, -0.25, 0.25]]).view(3, 2, 1, 2)
        )
        layer.quantizer.beta.copy_(torch.tensor([0.5, -3]).view(1, 2, 1, 1))
    path = binarize.save(nn.Sequential(layer), tmp_path / "m.safetensors", packed=True)

    # filters + - + +, - - - -, + - - +: weights 0, 2, 3, 8 and 11, the lowest bit first
    bits = bytes([0b00001101, 0b00001001])
    vectors = struct.pack("<8f", 1, 2, 0.25, 0, 0, 0, 0.5, -3)  # scale, shift, beta
    entry = (
        '{"aliases":{},"format":"binarize-packed","kept":{},"layers":{"0":{"in":2,"kernel":[1,2],"kind":"conv",'
        '"out":3,"padding":[[0,0],[1,1]],"quantizer":{"kind":"shifted"},"stride":[2,2]}},"leftovers":"float32",'
        '"plan":null,%s"source":{"class":"torch.nn.modules.container.Sequential","source":"custom"},'
        '"transient":{},"version":1,"versions":{"binarize":"0"}}'
    )
    digest = hashlib.sha256(entry.replace("%s", "").encode())
    digest.update(b"\0" + b"0.bits\0uint8\0" + b"2\0" + bits)
    digest.update(b"\0" + b"0.vectors\0float32\0" + b"8\0" + vectors)
    text = entry.replace("%s", f'"sha256":"{digest.hexdigest()}",').replace('"', '\\"')
    header = (
        '{"__metadata__":{"binarize":"' + text + '"},'
        '"0.vectors":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},'
        '"0.bits":{"dtype":"U8","shape":[2],"data_offsets":[32,34]}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    assert path.read_bytes() == struct.pack("<Q", len(header)) + header + vectors + bits


class Decoder:
    """Reads a file and computes a layer, with struct, json and NumPy only."""

    def __init__(self, data: bytes) -> None:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        self.entry = json.loads(header.pop("__metadata__")["binarize"])
        self.tensors: dict[str, np.ndarray] = {}
        for name, place in header.items():
            begin, end = (8 + length + offset for offset in place["data_offsets"])
            raw = data[begin:end]
            if place["dtype"] == "BF16":
                value = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
            else:
                value = np.frombuffer(
                    raw, {"U8": "u1", "F32": "<f4", "F16": "<f2", "I64": "<i8"}[place["dtype"]]
                )
            self.tensors[name] = value.reshape(place["shape"])

    def run(self, path: str, x: np.ndarray) -> np.ndarray:
        spec = self.entry["layers"][path]
        linear = spec["kind"] == "linear"
        cin, cout, groups = spec["in"], spec["out"], spec.get("groups", 1)
        if linear:  # (..., C): as a 1x1 convolution over positions
            shape = x.shape
            x = np.moveaxis(x.reshape(shape[0], -1, cin), -1, 1)[:, :, :, None]
        kernel = spec.get("kernel", [1, 1])
        vectors = self._vectors(path, spec)
        u, v = self._quantized(spec["quantizer"], vectors, x.astype(np.float64))
        n, planes = cout * (cin // groups) * int(np.prod(kernel)), spec.get("weight_planes", 1)
        bits = np.unpackbits(self.tensors[f"{path}.bits"].reshape(planes, -1), axis=1, bitorder="little")[
            :, :n
        ]
        signs = np.where(bits == 1, 1.0, -1.0).reshape(planes, cout, cin // groups, *kernel)
        stride, dilation = spec.get("stride", [1, 1]), spec.get("dilation", [1, 1])
        pads = spec.get("padding", [[0, 0], [0, 0]])
        if spec.get("same"):
            pads = []
            for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True):
                t = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
                pads.append([t // 2, t - t // 2])
        convolve = self._transposed if spec["kind"] == "transposed" else self._convolve
        extra = spec.get("output_padding", [0, 0])
        y = sum(
            convolve(v, plane, stride, pads, dilation, groups, extra) * self._wide(scale)
            for plane, scale in zip(signs, vectors["scale"].reshape(planes, cout), strict=True)
        )
        if spec.get("offset"):
            box = convolve(v, np.ones_like(signs[0]), stride, pads, dilation, groups, extra)
            y = y + box * self._wide(vectors["offset"])
        y = u * y + self._wide(vectors["shift"])
        if spec.get("norm"):
            assert spec["norm"]["kind"] == "layer"
            y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + spec["norm"]["eps"])
            y = y * self._wide(self.tensors[f"{path}.norm.weight"])
            y = y + self._wide(self.tensors[f"{path}.norm.bias"])
        if spec.get("inner"):
            assert spec["inner"]["kind"] == "rprelu"
            z = y + self.tensors[f"{path}.inner.b0"].reshape(1, -1, 1, 1)
            y = np.where(z >= 0, z, z * self._wide(self.tensors[f"{path}.inner.weight"]))
            y = y + self.tensors[f"{path}.inner.b1"].reshape(1, -1, 1, 1)
        if "bypass" in spec:
            y = y + self._bypass(spec, x.astype(np.float64), y.shape[2:])
        return np.moveaxis(y[:, :, :, 0], 1, -1).reshape(*shape[:-1], cout) if linear else y

    def _vectors(self, path: str, spec: dict[str, Any]) -> dict[str, np.ndarray]:
        quantizer, cin, cout = spec["quantizer"], spec["in"], spec["out"]
        lengths = (
            {"scale": cout * spec.get("weight_planes", 1)}
            | ({"offset": cout} if spec.get("offset") else {})
            | {"shift": cout}
        )
        kind = quantizer["kind"]
        if kind in ("shifted", "shifted_step"):
            lengths |= {"beta": cin}
        elif kind == "redistributed":
            lengths |= {"k": cin, "b": cin}
        elif kind == "adabin":
            lengths |= {"alpha": 1, "beta": 1}
        elif kind == "levels":
            lengths |= {"basis": quantizer["bits"]}
        elif kind == "dab":
            if quantizer["scale"] in ("adaptive", "learned"):
                words = -(-cin // 32)
                grouped = {"layer": 1, "channel": cin, "group": min(quantizer.get("groups", 0), words)}
                lengths["a"] = grouped[quantizer["granularity"]]
            if quantizer["threshold"] in ("adaptive", "mean"):
                lengths["k"] = cin
            if quantizer["threshold"] in ("adaptive", "b"):
                lengths["b"] = cin
        flat = self.tensors[f"{path}.vectors"].astype(np.float64)
        assert len(flat) == sum(lengths.values())
        ends = np.cumsum(list(lengths.values()))
        return dict(zip(lengths, np.split(flat, ends[:-1]), strict=True))

    def _quantized(self, quantizer: dict[str, Any], vectors: dict[str, np.ndarray], x: np.ndarray) -> Any:
        given = {name: self._wide(value) for name, value in vectors.items()}
        kind = quantizer["kind"]
        if kind == "sign":
            return 1.0, self._sign(x)
        if kind == "step":
            stepped = np.zeros(x.shape[1], dtype=bool)
            for start, stop in quantizer.get("ranges", [[0, x.shape[1]]]):
                stepped[start:stop] = True
            return 1.0, np.where(self._wide(stepped), x > 0, self._sign(x)).astype(np.float64)
        if kind == "shifted":
            return 1.0, self._sign(x + given["beta"])
        if kind == "shifted_step":
            return 1.0, (x + given["beta"] >= 0).astype(np.float64)
        if kind == "redistributed":
            return 1.0, self._sign(given["k"] * x + given["b"])
        if kind == "adabin":
            alpha, beta = given["alpha"], given["beta"]
            return alpha, self._sign((x - beta) / alpha) + beta
        if kind == "levels":
            basis, low = vectors["basis"].astype(np.float32), -1 if quantizer.get("signed") else 0
            codes = itertools.product([low, 1], repeat=quantizer["bits"])
            sums = [sum((c * b for c, b in zip(code, basis, strict=True)), np.float32(0)) for code in codes]
            levels = np.sort(sums)
            thresholds = (levels[:-1] + levels[1:]) / 2
            return 1.0, levels[(x[..., None] >= thresholds).sum(-1)].astype(np.float64)
        mean = x.mean((2, 3), keepdims=True)
        threshold = {
            "adaptive": lambda: given["k"] * mean + given["b"],
            "b": lambda: given["b"],
            "mean": lambda: given["k"] * mean,
            "none": lambda: 0.0,
        }[quantizer["threshold"]]()
        layer = quantizer["granularity"] == "layer"
        m = np.abs(x - threshold).mean((1, 2, 3) if layer else (2, 3), keepdims=True)
        if quantizer["granularity"] == "group":
            words = -(-x.shape[1] // 32)
            count = min(quantizer["groups"], words)
            starts = [32 * (words * g // count) for g in range(count)]
            group = np.searchsorted(starts, np.arange(x.shape[1]), side="right") - 1
            for g in range(count):
                m[:, group == g] = m[:, group == g].mean(1, keepdims=True)
            if "a" in vectors:
                given["a"] = given["a"][:, group]
        factor = {
            "adaptive": lambda: np.exp(given["a"] * (m - 1)),
            "learned": lambda: np.exp(given["a"]),
            "mad": lambda: m,
            "none": lambda: 1.0,
        }[quantizer["scale"]]()
        signs = self._sign(x - threshold)
        return (factor, signs) if layer else (1.0, factor * signs)

    @staticmethod
    def _sign(z: np.ndarray) -> np.ndarray:
        return np.where(z >= 0, 1.0, -1.0)

    @staticmethod
    def _wide(vector: np.ndarray) -> np.ndarray:
        return vector.reshape(1, -1, 1, 1)

    @staticmethod
    def _convolve(v, w, stride, pads, dilation, groups, extra):
        v = np.pad(v, [(0, 0), (0, 0), *pads])
        cout, per, kh, kw = w.shape
        oh, ow = (
            (n - d * (k - 1) - 1) // s + 1
            for n, k, s, d in zip(v.shape[2:], (kh, kw), stride, dilation, strict=True)
        )
        y = np.zeros((v.shape[0], cout, oh, ow))
        for o in range(cout):
            start = o // (cout // groups) * per
            for i in range(kh):
                for j in range(kw):
                    rows = slice(i * dilation[0], i * dilation[0] + (oh - 1) * stride[0] + 1, stride[0])
                    columns = slice(j * dilation[1], j * dilation[1] + (ow - 1) * stride[1] + 1, stride[1])
                    part = v[:, start : start + per, rows, columns]
                    y[:, o] += np.einsum("nchw,c->nhw", part, w[o, :, i, j])
        return y

    @staticmethod
    def _transposed(v, w, stride, pads, dilation, groups, extra):
        cout, per, kh, kw = w.shape
        full = [
            (n - 1) * s + d * (k - 1) + 1 + e
            for n, s, d, k, e in zip(v.shape[2:], stride, dilation, (kh, kw), extra, strict=True)
        ]
        y = np.zeros((v.shape[0], cout, *full))
        for o in range(cout):
            start = o // (cout // groups) * per
            for i in range(kh):
                for j in range(kw):
                    rows = slice(
                        i * dilation[0], i * dilation[0] + (v.shape[2] - 1) * stride[0] + 1, stride[0]
                    )
                    at = j * dilation[1]
                    columns = slice(at, at + (v.shape[3] - 1) * stride[1] + 1, stride[1])
                    y[:, o, rows, columns] += np.einsum(
                        "nchw,c->nhw", v[:, start : start + per], w[o, :, i, j]
                    )
        (top, bottom), (left, right) = pads
        return y[:, :, top : full[0] - bottom, left : full[1] - right]

    @staticmethod
    def _bypass(spec: dict[str, Any], x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        if spec["kind"] == "transposed":
            rows = np.arange(size[0]) * x.shape[2] // size[0]
            columns = np.arange(size[1]) * x.shape[3] // size[1]
            x = x[:, :, rows][:, :, :, columns]
        elif "stride" in spec:
            (sh, sw), (oh, ow) = spec["stride"], size
            windows = [
                x[:, :, i * sh : (i + 1) * sh, j * sw : (j + 1) * sw].mean((2, 3))
                for i in range(oh)
                for j in range(ow)
            ]
            x = np.stack(windows, -1).reshape(*x.shape[:2], oh, ow)
        cin, cout = spec["in"], spec["out"]
        r, m = divmod(cout, cin)
        parts = [x] * r
        if m:
            k = cin // m
            groups = [[j + i * (m - 1) for i in range(k)] for j in range(m - 1)]
            groups.append(list(range(k * (m - 1), cin)))
            parts += [x[:, group].mean(1, keepdims=True) for group in groups]
        return np.concatenate(parts, 1)


@pytest.mark.parametrize("float_dtype", ["float32", "float16", "bfloat16"])
def test_a_decoder_made_from_the_document(tmp_path: Path, float_dtype: str):
    conv: Any = BinaryConv2d
    net = nn.ModuleDict(
        {
            "dab": conv(6, 15, 3, 2, 1, method="bidense"),
            "dab_layer": conv(6, 4, 3, padding=1, method="bidense", granularity="layer"),
            "grouped": conv(70, 6, 3, padding=1, method="bidense", granularity="group", groups=2),
            "mad": conv(6, 6, 5, padding=2, groups=6, method="bidense", ablation=7),
            "learned": conv(6, 6, 1, method="bidense", granularity="layer", scale="learned", threshold="b"),
            "same": conv(6, 6, 3, 2, method="bidense", threshold="mean", scale="none"),
            "reactnet": conv(6, 12, 3, padding=2, dilation=2, groups=3, method="reactnet"),
            "adabin": conv(6, 6, 3, padding=1, groups=2, method="adabin"),
            "bisrnet": conv(6, 6, 3, padding=1, method="bisrnet"),
            "bnn": conv(6, 8, (1, 3), method="bnn"),
            "step": binary_layer(nn.Conv2d(6, 8, 3, padding=1), "bnn", nonnegative_input=True),
            "xnor": conv(6, 8, 3, padding=1, method="xnor"),
            "rbnn": conv(6, 8, 3, padding=1, method="rbnn"),
            "elastic": binary_layer(nn.Conv2d(6, 8, 3, padding=1), "bit"),
            "elastic_step": binary_layer(nn.Conv2d(6, 8, 3, padding=1), "bit", nonnegative_input=True),
            "levels": binary_layer(nn.Conv2d(6, 8, 3, padding=1), "lqnet", weight_bits=3, activation_bits=2),
            "unsigned": binary_layer(
                nn.Conv2d(6, 9, 3, 2, groups=3), "lqnet", activation_bits=3, nonnegative_input=True
            ),
            "planes_up": binary_layer(nn.ConvTranspose2d(6, 3, 3, 2, 1), "lqnet", weight_bits=2),
            "planes": binary_layer(nn.Linear(6, 7), "lqnet", weight_bits=2, activation_bits=2),
            "two_sets": binary_layer(nn.Conv2d(6, 8, 3, 2, 1), "bnn"),
            "transposed": BinaryConvTranspose2d(6, 4, 3, 2, 1, 1, 2, method="bidense"),
            "adabin_up": BinaryConvTranspose2d(6, 6, 2, 2, method="adabin"),
            "tokens": BinaryLinear(6, 20, method="bidense"),
            "pointwise": BinaryLinear(6, 4, kind="pointwise", method="bidense"),
        }
    )
    net["same"].use_same_padding()
    net["two_sets"].quantizer = StepSTE(((1, 2), (4, 6)))
    unlike_fresh(net).eval()
    path = binarize.save(net, tmp_path / "m.safetensors", packed=True, float_dtype=float_dtype)
    loaded = configure(binarize.load(path, model=net), exact_scales=True)
    decoder = Decoder(path.read_bytes())
    assert set(decoder.entry["layers"]) == set(net)
    assert decoder.entry["version"] == 3  # because of `levels`
    for name, layer in loaded.named_children():
        shapes = {
            "tokens": (2, 5, 6),
            "pointwise": (2, 5, 3, 6),
            "planes": (2, 5, 6),
            "grouped": (2, 70, 4, 3),
        }
        shape = shapes.get(name, (2, 6, 8, 6))
        x = torch.randn(shape)
        expected = layer(x).numpy()
        found = decoder.run(name, x.numpy())
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max(), name


@pytest.mark.parametrize(
    ("options", "version"),
    [
        ({"method": "bidense", "granularity": "layer"}, 1),
        ({"method": "bidense", "granularity": "group"}, 2),
        ({"method": "lqnet"}, 1),
        ({"method": "lqnet", "weight_bits": 2}, 3),
        ({"method": "lqnet", "activation_bits": 2}, 3),
    ],
)
def test_a_file_has_the_lowest_version_that_its_layers_need(
    tmp_path: Path, options: dict[str, Any], version: int
) -> None:
    net = nn.Sequential(BinaryConv2d(40, 8, 3, **options)).eval()
    path = binarize.save(net, tmp_path / "m.safetensors", packed=True)
    assert Decoder(path.read_bytes()).entry["version"] == version
