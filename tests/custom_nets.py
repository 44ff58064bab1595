"""Networks in the styles that public PyTorch code is written in: what a user may bring along."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn_relu(cin: int, cout: int, stride: int = 1) -> nn.Sequential:
    """The unit that most networks here are made of."""
    conv = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


# -- U-Net: transposed convolutions, concatenations, padding to odd sizes ------------------------------


class UpBlock(nn.Module):
    """Upsample, pad to the skip's size, concatenate."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(cin, cout, 2, 2)
        self.conv = nn.Sequential(conv_bn_relu(2 * cout, cout), conv_bn_relu(cout, cout))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        dy, dx = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    """Two levels, for images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(conv_bn_relu(3, 8), conv_bn_relu(8, 8))
        self.down1 = nn.Sequential(nn.MaxPool2d(2), conv_bn_relu(8, 16), conv_bn_relu(16, 16))
        self.down2 = nn.Sequential(nn.MaxPool2d(2), conv_bn_relu(16, 32), nn.Dropout2d(0.2))
        self.up1 = UpBlock(32, 16)
        self.up2 = UpBlock(16, 8)
        self.leave = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enter(x)
        b = self.down1(a)
        c = self.down2(b)
        return self.leave(self.up2(self.up1(c, b), a))


# -- convolutions as functions, beside modules ----------------------------------------------------------


class FunctionalConvs(nn.Module):
    """Weights as parameters of the network itself, called by torch.nn.functional."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.kernel = nn.Parameter(torch.randn(8, 8, 3, 3) / 8)
        self.shift = nn.Parameter(torch.zeros(8))
        self.conv = nn.Conv2d(8, 12, 3, padding=1)
        self.mix = nn.ParameterDict({"up": torch.randn(12, 8, 2, 2) / 4, "out": torch.randn(6, 8) / 3})
        self.smooth = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(F.conv2d(x, self.kernel, self.shift, padding=1)) + x
        x = F.leaky_relu(self.conv(x), 0.1)
        x = F.conv_transpose2d(x, self.mix["up"], stride=2)
        x = F.gelu(self.smooth(x))
        x = F.dropout(x, p=0.1, training=self.training)
        x = F.linear(x.mean(dim=(2, 3)), self.mix["out"])
        return self.head(F.relu(x))


# -- weight sharing -------------------------------------------------------------------------------------


class SharedHead(nn.Module):
    """RetinaNet's head: the same convolutions on each level, a norm per level."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2)) for _ in range(levels)
        )
        self.classes = nn.Conv2d(channels, 6, 3, padding=1)
        self.boxes = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        classes, boxes = [], []
        for x, norms in zip(features, self.norms, strict=True):
            for conv, norm in zip(self.convs, norms, strict=True):
                x = F.relu(norm(conv(x)))
            classes.append(self.classes(x).flatten(2).transpose(1, 2))
            boxes.append(self.boxes(x).flatten(2).transpose(1, 2))
        return classes, boxes


class RetinaNet(nn.Module):
    """A pyramid of three levels, one head, results concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv_bn_relu(3, 8, 2), conv_bn_relu(8, 16, 2), conv_bn_relu(16, 24, 2)])
        self.lateral = nn.ModuleList([nn.Conv2d(c, 16, 1) for c in (8, 16, 24)])
        self.smooth = nn.Conv2d(16, 16, 3, padding=1)
        self.head = SharedHead(16, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        maps = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], size=maps[i - 1].shape[-2:], mode="nearest")
        classes, boxes = self.head([self.smooth(m) for m in maps])
        return {"classes": torch.cat(classes, 1), "boxes": torch.cat(boxes, 1)}


class Recurrent(nn.Module):
    """One convolution applied `steps` times, each time with the input beside it."""

    def __init__(self, steps: int = 3) -> None:
        super().__init__()
        self.steps = steps
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(16, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.expand = nn.Conv2d(8, 16, 1)
        self.final = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        state = torch.zeros_like(x)
        for _ in range(self.steps):
            state = torch.tanh(self.norm(self.conv(torch.cat((x, state), 1))))
        return self.final(F.relu(self.expand(state)))


# -- control flow ---------------------------------------------------------------------------------------


class ByShape(nn.Module):
    """A loop whose length is that of a dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.shape[1] // 4):
            x = x + F.relu(self.norm(self.conv(x)))
        return x


class ByValue(nn.Module):
    """Two ways, chosen by a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.bright = nn.Conv2d(8, 8, 3, padding=1)
        self.dark = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return F.relu(self.bright(x)) + x
        return F.relu(self.dark(x)) + x


class DynamicControl(nn.Module):
    """Branches on values, loops over shapes, leaves early."""

    def __init__(self, exit_above: float = 1e6) -> None:
        super().__init__()
        self.exit_above = exit_above
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.shaped = ByShape()
        self.valued = ByValue()
        self.late = conv_bn_relu(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.valued(self.shaped(self.stem(x)))
        if float(x.detach().abs().max()) > self.exit_above:
            return self.head(x.mean((2, 3)))
        return self.head(self.late(x).mean((2, 3)))


# -- one and three dimensions ---------------------------------------------------------------------------


class GatedResidual(nn.Module):
    """WaveNet's layer: tanh times sigmoid of a dilated causal convolution, residual and skip results."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.pad = (2 - 1) * dilation
        self.dilated = nn.Conv1d(channels, 2 * channels, 2, dilation=dilation)
        self.residual = nn.Conv1d(channels, channels, 1)
        self.skip = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.dilated(F.pad(x, (self.pad, 0))).chunk(2, dim=1)
        y = torch.tanh(value) * torch.sigmoid(gate)
        return self.residual(y) + x, self.skip(y)


class WaveNet(nn.Module):
    """Sums of skips over dilations 1, 2, 4."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, 8, 1)
        self.layers = nn.ModuleList(GatedResidual(8, 2**i) for i in range(3))
        self.leave = nn.Sequential(nn.ReLU(), nn.Conv1d(8, 8, 1), nn.ReLU(), nn.Conv1d(8, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        total: Any = 0
        for layer in self.layers:
            x, skip = layer(x)
            total = total + skip
        return self.leave(total + x)


class Mixed3D(nn.Module):
    """A 3D U-Net's block on a clip, then a 2D network on the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(inplace=True))
        self.down = nn.Sequential(nn.MaxPool3d(2), nn.Conv3d(8, 12, 3, padding=1), nn.GroupNorm(3, 12))
        self.up = nn.ConvTranspose3d(12, 8, 2, 2)
        self.merge = nn.Conv3d(16, 8, 3, padding=1)
        self.flat = nn.Sequential(conv_bn_relu(8, 16), conv_bn_relu(16, 16))
        self.final = nn.Conv2d(16, 2, 1)

    def forward(self, clip: Tensor) -> Tensor:
        a = self.enter(clip)
        b = self.up(F.relu(self.down(a)))
        x = F.relu(self.merge(torch.cat([a, b], 1)))
        return self.final(self.flat(x.mean(2)))


# -- ViT encoder with a reassembling decoder ------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head attention, written out."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attention = self.drop((q * self.scale @ k.transpose(-2, -1)).softmax(-1))
        return self.proj((attention @ v).transpose(1, 2).reshape(b, n, c))


class TokenBlock(nn.Module):
    """Pre-norm attention and MLP with layer scale."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, 2)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.gamma = nn.Parameter(0.5 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma * self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DPT(nn.Module):
    """Depth Anything's plan: tokens of several blocks become maps again and are fused top down."""

    def __init__(self, dim: int = 16, patch: int = 8) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + 16, dim))
        self.blocks = nn.ModuleList(TokenBlock(dim) for _ in range(2))
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, 12, 1) for _ in range(2))
        self.resizes = nn.ModuleList([nn.ConvTranspose2d(12, 12, 2, 2), nn.Identity()])
        self.refine = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1) for _ in range(2))
        self.output = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1), nn.ReLU(True), nn.Conv2d(8, 1, 1))

    def positions(self, h: int, w: int) -> Tensor:
        """Position embeddings for a grid of h x w patches."""
        cls, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = grid.reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(h, w), mode="bilinear", align_corners=False)
        return torch.cat([cls, grid.flatten(2).transpose(1, 2)], 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], 1) + self.positions(h, w)
        maps = []
        for i, block in enumerate(self.blocks):
            tokens = block(tokens)
            grid = self.norm(tokens)[:, 1:].permute(0, 2, 1).reshape(x.shape[0], -1, h, w)
            maps.append(self.resizes[i](self.projects[i](grid)))
        fused = F.interpolate(self.refine[1](maps[1]), scale_factor=2, mode="bilinear", align_corners=True)
        fused = fused + self.refine[0](maps[0])
        depth = self.output(F.interpolate(fused, size=x.shape[-2:], mode="bilinear", align_corners=True))
        return F.relu(depth).squeeze(1)


# -- lists and dicts of features between modules --------------------------------------------------------


class Hourglass(nn.Module):
    """A recursive module of pre-activation residual blocks."""

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.upper = PreAct(channels)
        self.low1 = PreAct(channels)
        self.low2 = Hourglass(depth - 1, channels) if depth > 1 else PreAct(channels)
        self.low3 = PreAct(channels)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low3(self.low2(self.low1(F.max_pool2d(x, 2))))
        return self.upper(x) + F.interpolate(low, size=x.shape[2:])


class PreAct(nn.Module):
    """BN-ReLU-conv twice, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.relu(self.bn1(x)))
        out = self.conv2(self.relu(self.bn2(out)))
        out += x
        return out


class StackedHourglass(nn.Module):
    """Two hourglasses; the heatmaps of the first are remapped and added; a list of both comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 8, 2)
        self.hourglasses = nn.ModuleList(Hourglass(2, 8) for _ in range(2))
        self.heads = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(2))
        self.merge_features = nn.Conv2d(8, 8, 1)
        self.merge_heads = nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        heatmaps: list[Tensor] = []
        for i, hourglass in enumerate(self.hourglasses):
            features = hourglass(x)
            heatmaps.append(self.heads[i](features))
            if i + 1 < len(self.hourglasses):
                x = x + self.merge_features(features) + self.merge_heads(heatmaps[-1])
        return heatmaps


class Exchange(nn.Module):
    """HRNet's fusion: each of two resolutions gets the other's features; a list in, a list out."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([PreAct(fine), PreAct(coarse)])
        self.down = nn.Conv2d(fine, coarse, 3, 2, 1)
        self.up = nn.Conv2d(coarse, fine, 1)
        self.relu = nn.ReLU()

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        fine, coarse = features
        upsampled = F.interpolate(self.up(coarse), size=fine.shape[-2:], mode="nearest")
        return [self.relu(fine + upsampled), self.relu(coarse + self.down(fine))]


class Neck(nn.Module):
    """Takes a dict of maps by name and gives another."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(8, 8, 1)
        self.coarse = nn.Conv2d(16, 8, 1)

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        coarse = self.coarse(maps["coarse"])
        fine = self.fine(maps["fine"]) + F.interpolate(coarse, size=maps["fine"].shape[-2:])
        return OrderedDict([("fine", fine), ("coarse", coarse)])


class Scores(NamedTuple):
    """What `HRNet` gives."""

    fine: Tensor
    coarse: Tensor


class Classify(nn.Module):
    """Takes an ordered dict, gives a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.final = nn.Conv2d(8, 4, 1)
        self.mix = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, maps: OrderedDict[str, Tensor]) -> Scores:
        fine = F.relu(self.mix(maps["fine"]))
        return Scores(fine=self.final(fine), coarse=maps["coarse"])


class HRNet(nn.Module):
    """Lists between stages, dicts between neck and head, a named tuple at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 8, 2)
        self.transition = conv_bn_relu(8, 16, 2)
        self.stages = nn.ModuleList(Exchange(8, 16) for _ in range(2))
        self.neck = Neck()
        self.head = Classify()

    def forward(self, x: Tensor) -> Scores:
        x = self.stem(x)
        features = [x, self.transition(x)]
        for stage in self.stages:
            features = stage(features)
        scores = self.head(self.neck({"fine": features[0], "coarse": features[1]}))
        return Scores(F.interpolate(scores.fine, scale_factor=2.0), scores.coarse)


# -- another result in training than in evaluation ------------------------------------------------------


class Losses(nn.Module):
    """A dict of losses in training, predictions in evaluation, as detection code has it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([conv_bn_relu(3, 8, 2), conv_bn_relu(8, 16, 2)])
        self.decoder = nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.fuse = conv_bn_relu(8, 8)
        self.auxiliary = nn.Conv2d(16, 3, 1)
        self.final = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor, target: Tensor | None = None) -> Any:
        a = self.encoder[0](x)
        b = self.encoder[1](a)
        y = self.fuse(self.decoder(b) + a)
        y = F.dropout2d(y, 0.1, self.training)
        logits = F.interpolate(self.final(y), size=x.shape[-2:], mode="bilinear")
        if self.training:
            if target is None:
                target = x.detach().argmax(1)
            coarse = F.interpolate(self.auxiliary(b), size=x.shape[-2:], mode="bilinear")
            return {"main": F.cross_entropy(logits, target), "aux": 0.4 * F.cross_entropy(coarse, target)}
        return logits.softmax(1)


# -- recurrence over time -------------------------------------------------------------------------------


class ConvLSTMCell(nn.Module):
    """Four gates from one convolution over input and state."""

    def __init__(self, cin: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.conv = nn.Conv2d(cin + hidden, 4 * hidden, 3, padding=1)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is None:
            zeros = x.new_zeros(x.shape[0], self.hidden, *x.shape[-2:])
            state = (zeros, zeros)
        h, c = state
        i, f, o, g = torch.split(self.conv(torch.cat([x, h], 1)), self.hidden, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)


class ConvLSTM(nn.Module):
    """Two cells over the frames of a clip (N, T, C, H, W); a state that is None at first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.cells = nn.ModuleList([ConvLSTMCell(8, 8), ConvLSTMCell(8, 8)])
        self.mix = nn.Conv2d(8, 8, 3, padding=1)
        self.final = nn.Conv2d(8, 1, 1)

    def forward(self, clip: Tensor) -> Tensor:
        states: list[Any] = [None] * len(self.cells)
        frames = []
        for t in range(clip.size(1)):
            x = F.relu(self.stem(clip[:, t]))
            for i, cell in enumerate(self.cells):
                x, states[i] = cell(x, states[i])
            frames.append(x)
        return self.final(F.relu(self.mix(frames[-1])) + torch.stack(frames, 1).mean(1))


# -- in place -------------------------------------------------------------------------------------------


class InPlaceSteps(nn.Module):
    """Steps whose result nobody looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x))
        y.mul_(0.5).clamp_(max=4.0)
        F.relu_(y)
        y = self.conv2(y)
        y.add_(x)
        self.relu(y)
        self.seen.add_(1)
        return y


class Aliased(nn.Module):
    """Two names for one tensor, one of them added to in place: both have the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.mix = nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        skip = y
        y += x
        width = wide = y.shape[3]
        wide += 2
        z = self.conv2(F.relu(y))
        z *= 0.5
        z = F.interpolate(z, size=(y.shape[2], wide))[..., :width]
        return self.mix(torch.cat([skip, z], 1))


class Painted(nn.Module):
    """Parts of a map are set by index."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.part = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x)) + x
        y[:, :1] = 0
        canvas = torch.zeros(y.shape, dtype=y.dtype)
        canvas[:, :4] = self.part(y)
        canvas[:, 4:] += y[:, 4:]
        return canvas


class InPlace(nn.Module):
    """The three blocks above."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.steps = InPlaceSteps()
        self.aliased = Aliased()
        self.painted = Painted()
        self.final = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.painted(self.aliased(self.steps(self.stem(x)))))


# -- signatures -----------------------------------------------------------------------------------------


class Wrapper(nn.Module):
    """Hands on whatever it is given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class Optional(nn.Module):
    """Arguments that are None, lists of several kinds, options by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.skip = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor | list[Tensor | None], skip: Tensor | None, *, scale: float = 1.0) -> Tensor:
        if isinstance(x, Tensor):
            x = [x, None]
        y = F.relu(self.conv(x[0]))
        if x[1] is not None:
            y = y + x[1]
        if skip is not None:
            y = y + self.skip(skip)
        return y * scale


class Signatures(nn.Module):
    """Calls by position, by keyword, through *args and **kwargs, and `.forward` itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wrapped = Wrapper(Optional())
        self.plain = Optional()
        self.listed = Optional()
        self.direct = nn.Conv2d(8, 8, 3, padding=1)
        self.block = PreAct(8)
        self.final = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        x = self.stem(x)
        y = self.wrapped(x, skip=x, scale=0.5)
        y = self.plain(y, None)
        y = self.listed([y, None], x) + self.listed([y, x], None)
        return self.final(F.relu(self.direct.forward(y)) + self.block.forward(y))


# -- state ----------------------------------------------------------------------------------------------


class Stores(nn.Module):
    """Keeps what it computed as attributes and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.features: list[Tensor] = []
        self.last: Tensor | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.last = y = F.relu(self.bn(self.conv(x)))
        self.calls += 1
        return y + x


class Collects(nn.Module):
    """As `Stores`, but only into a list that is there already."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.features: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.conv(x)))
        self.features.append(y.detach())
        return y + x


class Appends(nn.Module):
    """Puts its result into the list that it is given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)

    def forward(self, features: list[Tensor]) -> None:
        features.append(F.relu(self.conv(torch.cat(features, 1))))


class Stateful(nn.Module):
    """Blocks that work by what they leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stores = Stores()
        self.collects = Collects()
        self.dense = nn.ModuleList(Appends(8 * n) for n in (1, 2))
        self.mix = nn.Conv2d(24, 8, 1)
        self.final = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.collects(self.stores(self.stem(x)))
        features = [x]
        for block in self.dense:
            block(features)
        return self.final(F.relu(self.mix(torch.cat(features, 1))) + self.stores.last)


# -- randomness and gradients in Python -----------------------------------------------------------------


class StochasticDepth(nn.Module):
    """A block that is left out at random in training, by a draw in Python."""

    def __init__(self, keep: float = 0.5) -> None:
        super().__init__()
        self.keep = keep
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.rand(()).item() > self.keep:
            return x
        return x + F.relu(self.bn(self.conv(x)))


class Frozen(nn.Module):
    """A block that lets no gradient through to its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(8, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = F.relu(self.frozen(x))
        return x + F.relu(self.conv(y))


class Drawn(nn.Module):
    """Several random blocks, so that some are left out and some are not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(StochasticDepth() for _ in range(4)))
        self.frozen = Frozen()
        self.final = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.frozen(self.blocks(self.stem(x))))


IMAGE, OTHER = (4, 3, 32, 32), (2, 3, 40, 48)
# Each network with the shape of an example input and another that it takes.
NETS: dict[type[nn.Module], tuple[tuple[int, ...], tuple[int, ...]]] = {
    UNet: (IMAGE, (2, 3, 37, 51)),
    FunctionalConvs: (IMAGE, OTHER),
    RetinaNet: (IMAGE, (2, 3, 41, 35)),
    Recurrent: (IMAGE, OTHER),
    DynamicControl: (IMAGE, OTHER),
    WaveNet: ((4, 1, 64), (2, 1, 37)),
    Mixed3D: ((2, 3, 4, 16, 16), (1, 3, 6, 20, 12)),
    DPT: (IMAGE, OTHER),
    StackedHourglass: (IMAGE, OTHER),
    HRNet: (IMAGE, OTHER),
    Losses: (IMAGE, OTHER),
    ConvLSTM: ((2, 3, 3, 16, 16), (1, 5, 3, 12, 20)),
    InPlace: (IMAGE, OTHER),
    Signatures: (IMAGE, OTHER),
    Stateful: (IMAGE, OTHER),
    Drawn: (IMAGE, OTHER),
}
