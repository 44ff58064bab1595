"""A converted network on a real street image; needs the data that BINARIZE_DATA points to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import binarize

ROOT = os.environ.get("BINARIZE_DATA")


@pytest.mark.data
@pytest.mark.skipif(not ROOT, reason="set BINARIZE_DATA to the folder that holds camvid/")
@pytest.mark.parametrize("method", binarize.methods.names())
def test_upernet_segments_a_camvid_image_and_learns_from_it(method: str) -> None:
    from PIL import Image
    from torchvision.transforms.v2 import functional as T

    folder = Path(ROOT or "") / "camvid"
    image = sorted((folder / "images" / "train").iterdir())[0]
    mask = folder / "masks" / "train" / f"{image.stem}.png"
    pixels = T.to_dtype(T.pil_to_tensor(Image.open(image).convert("RGB")), torch.float32, scale=True)
    pixels = T.resize(pixels, [120, 160])[None]
    labels = T.resize(T.pil_to_tensor(Image.open(mask)), [120, 160], T.InterpolationMode.NEAREST).long()
    labels[labels > 10] = 255

    network = binarize.networks.upernet("test_convnext", num_classes=11)
    model = binarize.apply(network, method, example_inputs=pixels).train()
    images, targets = pixels.repeat(2, 1, 1, 1), labels.repeat(2, 1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), targets, ignore_index=255)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0], losses
    prediction = model.eval()(pixels).argmax(1)
    assert prediction.shape == (1, 120, 160)
