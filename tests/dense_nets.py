"""Small networks for dense prediction with the structure of published ones; a plain head `head` ends each.

What matters here is how their blocks are joined: by sums that stay, concatenations, upsampled pathways.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def unit(cin: int, cout: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """conv, BN, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(cin, cout, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU(inplace=True))


def to(x: Tensor, like: Tensor) -> Tensor:
    """`x` at the height and width of `like`."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class RSU(nn.Module):
    """The residual U-block of U2-Net: a small U-Net of concatenations, its first map added to the result."""

    def __init__(self, depth: int, cin: int, middle: int, cout: int) -> None:
        super().__init__()
        self.enter = unit(cin, cout)
        self.down = nn.ModuleList([unit(cout, middle), *(unit(middle, middle) for _ in range(depth - 2))])
        self.bottom = unit(middle, middle, dilation=2)
        self.up = nn.ModuleList(
            [*(unit(2 * middle, middle) for _ in range(depth - 2)), unit(2 * middle, cout)]
        )
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        first = x = self.enter(x)
        maps = []
        for i, down in enumerate(self.down):
            x = down(x if i == 0 else self.pool(x))
            maps.append(x)
        x = self.bottom(x)
        for up, skip in zip(self.up, reversed(maps), strict=True):
            x = up(torch.cat([to(x, skip), skip], 1))
        return x + first


class U2Net(nn.Module):
    """U2-Net (arXiv 2005.09007): RSUs in encoder and decoder, side outputs fused by a last convolution."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w, m = width, max(width // 4, 4)
        self.encoder = nn.ModuleList([RSU(4, 3, m, w), *(RSU(d, w, m, w) for d in (4, 3, 3))])
        self.decoder = nn.ModuleList(RSU(d, 2 * w, m, w) for d in (3, 3, 4))
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.sides = nn.ModuleList(nn.Conv2d(w, 1, 3, padding=1) for _ in range(4))
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps: list[Tensor] = []
        like = x
        for stage in self.encoder:
            x = stage(x if not maps else self.pool(x))
            maps.append(x)
        outs = [x]
        for stage, skip in zip(self.decoder, reversed(maps[:-1]), strict=True):
            x = stage(torch.cat([to(x, skip), skip], 1))
            outs.append(x)
        scores = [to(side(y), like) for side, y in zip(self.sides, reversed(outs), strict=True)]
        return tuple(torch.sigmoid(s) for s in (self.head(torch.cat(scores, 1)), *scores))


class Bottle1d(nn.Module):
    """ERFNet's block: convolutions 3x1 and 1x3, twice, and the input added to their result."""

    def __init__(self, c: int, dilation: int) -> None:
        super().__init__()
        d = dilation
        self.a = nn.Conv2d(c, c, (3, 1), padding=(1, 0))
        self.b = nn.Conv2d(c, c, (1, 3), padding=(0, 1), bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.c = nn.Conv2d(c, c, (3, 1), padding=(d, 0), dilation=(d, 1))
        self.d = nn.Conv2d(c, c, (1, 3), padding=(0, d), dilation=(1, d), bias=False)
        self.bn2 = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.b(F.relu(self.a(x)))))
        y = self.bn2(self.d(F.relu(self.c(y))))
        return F.relu(y + x)


class Downsampler(nn.Module):
    """ERFNet's: a strided convolution and a max-pool side by side."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout - cin, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(torch.cat([self.conv(x), F.max_pool2d(x, 2)], 1)))


class ERFNet(nn.Module):
    """ERFNet (Romera et al., 2017): an encoder and a decoder of factorized residual blocks."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()

        def up(cin: int, cout: int) -> nn.Sequential:
            conv = nn.ConvTranspose2d(cin, cout, 3, 2, 1, 1)
            return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU())

        self.encoder = nn.Sequential(
            Downsampler(3, 8),
            Downsampler(8, 16),
            *(Bottle1d(16, 1) for _ in range(5)),
            Downsampler(16, 32),
            *(Bottle1d(32, d) for d in (2, 4, 8, 16) * 2),
        )
        self.decoder = nn.Sequential(
            up(32, 16), Bottle1d(16, 1), Bottle1d(16, 1), up(16, 8), Bottle1d(8, 1), Bottle1d(8, 1)
        )
        self.head = nn.ConvTranspose2d(8, classes, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(x)))


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.down = None
        if stride > 1 or cin != cout:
            self.down = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.down is None else self.down(x)))


class Encoder(nn.Module):
    """ResNet-18 at a quarter of its width: maps at strides 2, 4, 8, 16, 32."""

    widths = (16, 16, 32, 64, 128)

    def __init__(self) -> None:
        super().__init__()
        w = self.widths
        self.stem = unit(3, w[0], 7, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(Block(a, b, 1 if i == 0 else 2), Block(b, b))
            for i, (a, b) in enumerate(itertools.pairwise(w))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.stem(x)]
        x = F.max_pool2d(maps[0], 3, 2, 1)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ARM(nn.Module):
    """BiSeNet's attention refinement: a map times a gate of its own global mean."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = unit(cin, cout)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(cout, cout, 1, bias=False), nn.BatchNorm2d(cout)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.gate(x))


class BiSeNet(nn.Module):
    """BiSeNet (arXiv 1808.00897): a spatial and a context path, a top-down sum, a gated fusion."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            unit(3, 16, 7, 2), unit(16, 16, 3, 2), unit(16, 16, 3, 2), unit(16, 32, 1)
        )
        self.encoder = Encoder()
        self.arm16, self.arm32 = ARM(64, 32), ARM(128, 32)
        self.average = nn.Sequential(nn.AdaptiveAvgPool2d(1), unit(128, 32, 1))
        self.after16, self.after32 = unit(32, 32), unit(32, 32)
        self.fuse = unit(64, 64, 1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, 16, 1), nn.ReLU(), nn.Conv2d(16, 64, 1)
        )
        self.out = unit(64, 64)
        self.head = nn.Conv2d(64, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        *_, f16, f32 = self.encoder(x)
        y = self.arm32(f32) + F.interpolate(self.average(f32), size=f32.shape[2:], mode="nearest")
        y = self.after32(to(y, f16))
        y = self.after16(F.interpolate(self.arm16(f16) + y, scale_factor=2.0))
        y = self.fuse(torch.cat([self.spatial(x), y], 1))
        y = y + y * torch.sigmoid(self.gate(y))
        return to(self.head(self.out(y)), x)


class FPN(nn.Module):
    """Panoptic FPN (arXiv 1901.02446): a top-down pathway of sums, then a pyramid of convolutions, summed."""

    @staticmethod
    def path(width: int, doublings: int) -> nn.Sequential:
        """Convolutions that bring a level to the finest one's size."""
        steps: list[nn.Module] = []
        for _ in range(doublings):
            steps += [unit(width, width), nn.Upsample(scale_factor=2, mode="bilinear")]
        return nn.Sequential(*(steps or [unit(width, width)]))

    def __init__(self, classes: int = 5, width: int = 32) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in self.encoder.widths[1:])
        self.pyramid = nn.ModuleList(self.path(width, n) for n in range(4))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, f4, f8, f16, f32 = self.encoder(x)
        l4, l8, l16, l32 = self.lateral
        p32 = l32(f32)
        p16 = F.interpolate(p32, scale_factor=2.0) + l16(f16)
        p8 = F.interpolate(p16, scale_factor=2.0) + l8(f8)
        p4 = F.interpolate(p8, scale_factor=2.0) + l4(f4)
        maps = [path(p) for path, p in zip(self.pyramid, (p4, p8, p16, p32), strict=True)]
        return to(self.head(torch.stack(maps).sum(0)), x)


class PAN(nn.Module):
    """PAN (arXiv 1805.10180): feature pyramid attention, then upsampling with gates from the coarser map."""

    class FPA(nn.Module):
        def __init__(self, cin: int, cout: int) -> None:
            super().__init__()
            self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), unit(cin, cout, 1))
            self.mid = unit(cin, cout, 1)
            self.down1 = nn.Sequential(nn.MaxPool2d(2), unit(cin, 1, 7))
            self.down2 = nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), unit(1, 1, 5))
            self.conv2, self.conv1 = unit(1, 1, 5), unit(1, 1, 7)

        def forward(self, x: Tensor) -> Tensor:
            mid = self.mid(x)
            a = self.down1(x)
            b = self.conv2(self.down2(a))
            a = self.conv1(a) + to(b, a)
            return to(a, mid) * mid + to(self.pooled(x), mid)

    class GAU(nn.Module):
        def __init__(self, cin: int, cout: int) -> None:
            super().__init__()
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), unit(cout, cout, 1), nn.Sigmoid())
            self.conv = unit(cin, cout)

        def forward(self, low: Tensor, high: Tensor) -> Tensor:
            return to(high, low) + self.conv(low) * self.gate(high)

    def __init__(self, classes: int = 5, width: int = 32) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.fpa = self.FPA(self.encoder.widths[-1], width)
        self.gau = nn.ModuleList(self.GAU(c, width) for c in reversed(self.encoder.widths[1:-1]))
        self.head = nn.Conv2d(width, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.encoder(x)[1:]
        y = self.fpa(maps[-1])
        for gau, low in zip(self.gau, reversed(maps[:-1]), strict=True):
            y = gau(low, y)
        return to(self.head(y), x)


class UNet(nn.Module):
    """U-Net (arXiv 1505.04597) on a residual encoder: upsampled maps concatenated to finer ones."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.encoder = Encoder()
        widths = self.encoder.widths
        self.up = nn.ModuleList(
            nn.Sequential(unit(a + b, b), unit(b, b))
            for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.encoder(x)
        y = maps[-1]
        for up, skip in zip(self.up, reversed(maps[:-1]), strict=True):
            y = up(torch.cat([to(y, skip), skip], 1))
        return to(self.head(y), x)


class LinkNet(nn.Module):
    """LinkNet (arXiv 1707.03718): bottlenecks with a transposed convolution, encoder maps added."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.encoder = Encoder()
        widths = self.encoder.widths
        self.up = nn.ModuleList(
            nn.Sequential(
                unit(a, a // 4, 1),
                nn.ConvTranspose2d(a // 4, a // 4, 4, 2, 1, bias=False),
                nn.BatchNorm2d(a // 4),
                nn.ReLU(inplace=True),
                unit(a // 4, b, 1),
            )
            for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        f2, f4, f8, f16, f32 = self.encoder(x)
        up32, up16, up8, up4 = self.up
        y = up32(f32) + f16
        y = up16(y) + f8
        y = up8(y) + f4
        return to(self.head(up4(y) + f2), x)


class DeepLab(nn.Module):
    """DeepLab v3+ (arXiv 1802.02611): dilated branches beside each other, concatenated with a fine map."""

    def __init__(self, classes: int = 5, width: int = 32) -> None:
        super().__init__()
        self.encoder = Encoder()
        c = self.encoder.widths[-1]
        self.branches = nn.ModuleList(
            [unit(c, width, 1), *(unit(c, width, 3, dilation=d) for d in (2, 3, 4))]
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), unit(c, width, 1))
        self.merge = nn.Sequential(unit(5 * width, width, 1), nn.Dropout(0.1), unit(width, width))
        self.low = unit(self.encoder.widths[1], 12, 1)
        self.last = nn.Sequential(unit(width + 12, width), unit(width, width))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, low, *_, f = self.encoder(x)
        y = torch.cat([*(branch(f) for branch in self.branches), to(self.pooled(f), f)], 1)
        y = torch.cat([to(self.merge(y), low), self.low(low)], 1)
        return to(self.head(self.last(y)), x)


class HRNet(nn.Module):
    """HRNet (arXiv 1908.07919): parallel resolutions that exchange sums of all of them, several times."""

    class Exchange(nn.Module):
        def __init__(self, widths: tuple[int, ...]) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(Block(c, c), Block(c, c)) for c in widths)
            self.ways = nn.ModuleList(
                nn.ModuleList(self.way(i, j, a, b) for i, a in enumerate(widths))
                for j, b in enumerate(widths)
            )

        def way(self, i: int, j: int, a: int, b: int) -> nn.Module:
            if i == j:
                return nn.Identity()
            if i > j:
                return nn.Sequential(
                    nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.Upsample(scale_factor=2 ** (i - j))
                )
            steps: list[nn.Module] = []
            for k in range(j - i):
                last = k == j - i - 1
                conv = unit(a, b if last else a, 3, 2)
                steps += list(conv)[: 2 if last else 3]
            return nn.Sequential(*steps)

        def forward(self, maps: list[Tensor]) -> list[Tensor]:
            maps = [block(x) for block, x in zip(self.blocks, maps, strict=True)]
            joined = []
            for ways in self.ways:
                y = ways[0](maps[0])
                for way, x in zip(list(ways)[1:], maps[1:], strict=True):
                    y = y + way(x)
                joined.append(F.relu(y))
            return joined

    def __init__(self, classes: int = 5, widths: tuple[int, ...] = (8, 16, 32)) -> None:
        super().__init__()
        self.stem = nn.Sequential(unit(3, widths[0], 3, 2), unit(widths[0], widths[0]))
        self.down = nn.ModuleList(unit(a, b, 3, 2) for a, b in itertools.pairwise(widths))
        self.stages = nn.ModuleList(self.Exchange(widths) for _ in range(3))
        self.last = unit(sum(widths), sum(widths), 1)
        self.head = nn.Conv2d(sum(widths), classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for down in self.down:
            maps.append(down(maps[-1]))
        for stage in self.stages:
            maps = stage(maps)
        y = torch.cat([maps[0], *(to(m, maps[0]) for m in maps[1:])], 1)
        return to(self.head(self.last(y)), x)


class TokenBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, length, 3, 2, dim // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, dim)
        x = x + self.proj(y)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class SegFormer(nn.Module):
    """A transformer on patches with an all-linear decoder that concatenates its maps (arXiv 2105.15203)."""

    def __init__(self, classes: int = 5, dim: int = 32, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 8, 8)
        self.blocks = nn.ModuleList(TokenBlock(dim) for _ in range(6))
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.ModuleList(nn.Conv2d(dim, width, 1) for _ in range(3))
        self.fuse = unit(3 * width, width, 1)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        n, c, h, w = y.shape
        y = y.flatten(2).transpose(1, 2)
        maps = []
        for i, block in enumerate(self.blocks):
            y = block(y)
            if i % 2:
                maps.append(self.norm(y).transpose(1, 2).reshape(n, c, h, w))
        merged = torch.cat([linear(m) for linear, m in zip(self.linear, maps, strict=True)], 1)
        return to(self.head(self.fuse(merged)), x)


DENSE: dict[str, Callable[[], nn.Module]] = {
    "u2net": U2Net,
    "erfnet": ERFNet,
    "bisenet": BiSeNet,
    "fpn": FPN,
    "pan": PAN,
    "unet": UNet,
    "linknet": LinkNet,
    "deeplab": DeepLab,
    "hrnet": HRNet,
    "segformer": SegFormer,
}
