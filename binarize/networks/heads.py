"""Last parts of dense networks: from maps to logits or depth."""

from __future__ import annotations

from torch import Tensor, nn

DEPTH_CHANNELS = 32


class SegmentationHead(nn.Module):
    """conv 3x3, BN, ReLU, conv 1x1: (N, C, H, W) -> logits (N, num_classes, H, W)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_classes, H, W)."""
        return self.classifier(self.act(self.norm(self.conv(x))))


class DepthHead(nn.Module):
    """conv 3x3, ReLU, conv 1x1, sigmoid: (N, C, H, W) -> depth (N, 1, H, W) in (0, max_depth)."""

    def __init__(self, channels: int, max_depth: float) -> None:
        super().__init__()
        self.max_depth = max_depth
        self.conv = nn.Conv2d(channels, DEPTH_CHANNELS, 3, padding=1)
        self.act = nn.ReLU()
        self.classifier = nn.Conv2d(DEPTH_CHANNELS, 1, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 1, H, W)."""
        return self.gate(self.classifier(self.act(self.conv(x)))) * self.max_depth


class ScoreHead(nn.Module):
    """conv 3x3, BN, ReLU, Dropout2d, conv 1x1: (N, C, H, W) -> scores (N, outputs, H, W).

    Args:
        channels: C.
        hidden: channels between the two convolutions.
        outputs: number of classes; 1 for depth, whose scores `DepthRange` turns into metres.
        dropout: probability that a channel is dropped in training.
    """

    def __init__(self, channels: int, hidden: int, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.act = nn.ReLU()
        self.drop = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, outputs, H, W)."""
        return self.classifier(self.drop(self.act(self.norm(self.conv(x)))))


class DepthRange(nn.Module):
    """Scores of any range -> depth in (0, max_depth), by a sigmoid; the shape stays."""

    def __init__(self, max_depth: float) -> None:
        super().__init__()
        self.max_depth = max_depth
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> the same shape."""
        return self.gate(x) * self.max_depth
