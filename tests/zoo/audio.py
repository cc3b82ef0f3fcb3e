"""Families of audio networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.case import (
    FROZEN,
    GUARDED,
    PASSED_ON,
    SPECTROGRAM,
    UNCUT,
    WAVEFORM,
    Case,
    Net,
    conv,
    conv_bn,
    pooled,
)
from zoo.vision import InvertedResidual, classifier


class Recurrent(nn.Module):
    """A CRNN: convolutions, then a recurrent layer over the frames."""

    def __init__(self, recurrent: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.recurrent = recurrent(8, 6, batch_first=True, **options)
        self.head = nn.Linear(12 if options.get("bidirectional") else 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x).relu()).relu().mean(dim=2)
        hidden, _ = self.recurrent(x.transpose(1, 2))
        return self.head(hidden.mean(dim=1))


class Gated(nn.Module):
    """WaveNet: dilated convolutions, tanh times sigmoid, residual and skip sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 8, 1)
        self.filters = nn.ModuleList(nn.Conv1d(8, 6, 3, padding=2**i, dilation=2**i) for i in range(2))
        self.gates = nn.ModuleList(nn.Conv1d(8, 6, 3, padding=2**i, dilation=2**i) for i in range(2))
        self.residuals = nn.ModuleList(nn.Conv1d(6, 8, 1) for _ in range(2))
        self.skips = nn.ModuleList(nn.Conv1d(6, 4, 1) for _ in range(2))
        self.out = nn.Conv1d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.stem(x), 0
        for one, gate, residual, skip in zip(self.filters, self.gates, self.residuals, self.skips, strict=True):
            y = one(x).tanh() * gate(x).sigmoid()
            x, total = x + residual(y), total + skip(y)
        return self.out(total.relu())


class Cnn14Like(nn.Module):
    """PANNs: bn0 over mel bands, blocks of two convolutions, mean over frequency, max plus mean over time."""

    def __init__(self, attention: bool = False) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(8)
        self.conv1, self.bn1 = conv(1, 8, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = conv(8, 12, bias=False), nn.BatchNorm2d(12)
        self.fc1 = nn.Linear(12, 10)
        self.attention = nn.Conv1d(10, 5, 1) if attention else None
        self.classify = nn.Conv1d(10, 5, 1) if attention else nn.Linear(10, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
        x = self.bn1(self.conv1(x)).relu()
        x = nn.functional.avg_pool2d(self.bn2(self.conv2(x)).relu(), 2)
        x = nn.functional.dropout(x.mean(dim=3), 0.2, self.training)
        if self.attention is None:
            embedding = self.fc1(x.amax(dim=2) + x.mean(dim=2)).relu()
            return {"clipwise_output": self.classify(embedding).sigmoid(), "embedding": embedding}
        x = self.fc1(x.transpose(1, 2)).relu().transpose(1, 2)
        weights = self.attention(x).clamp(-10, 10).softmax(dim=2)
        frames = self.classify(x).sigmoid()
        return {"clipwise_output": (weights * frames).sum(dim=2), "framewise_output": frames}


class BroadcastResidual(nn.Module):
    """BC-ResNet: a block over both dimensions, one over the mean of frequencies, broadcast; sub-spectral norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU())
        self.frequency = nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=8, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.time = nn.Sequential(
            nn.Conv2d(8, 8, (1, 3), padding=(0, 1), groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.Conv2d(8, 8, 1),
        )
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.frequency(x)
        batch, channels, bands, frames = y.shape
        y = self.norm(y.reshape(batch, channels * 2, bands // 2, frames)).reshape(y.shape)
        x = x + y + self.time(y.mean(dim=2, keepdim=True))
        return self.head(pooled(self.last(x).relu()))


class Spectrogram(nn.Module):
    """torchlibrosa's front: frozen kernels of a Fourier transform, a frozen mel matrix, a logarithm."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(9), torch.arange(16)) * torch.pi / 8
        self.real, self.imaginary = (nn.Conv1d(1, 9, 16, stride=4, bias=False) for _ in range(2))
        self.real.weight = nn.Parameter(angles.cos()[:, None], requires_grad=False)
        self.imaginary.weight = nn.Parameter(angles.sin()[:, None], requires_grad=False)
        self.mel = nn.Parameter(torch.rand(9, 6, generator=torch.Generator().manual_seed(0)), requires_grad=False)
        self.conv1, self.conv2, self.head = conv_bn(1, 8), conv_bn(8, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        power = self.real(x) ** 2 + self.imaginary(x) ** 2
        mel = (power.transpose(1, 2) @ self.mel).clamp(min=1e-10).log10()
        return self.head(pooled(self.conv2(self.conv1(mel[:, None]))))


class Conformer(nn.Module):
    """A transformer encoder over the frames that a convolutional stem makes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(1, 6), conv_bn(6, 4)
        self.project = nn.Linear(32, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x)).permute(0, 3, 1, 2).flatten(2)
        return self.head(self.encoder(self.project(x)).mean(dim=1))


class DotAttention(nn.Module):
    """Attention written with einsum over maps of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 8)
        self.query, self.key, self.value = (nn.Conv2d(8, 8, 1) for _ in range(3))
        self.out = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (torch.einsum("bct,bcs->bts", query, key) / 8).softmax(dim=-1)
        x = x + torch.einsum("bts,bcs->bct", weights, value).unflatten(2, (8, 8))
        return self.head(pooled(self.out(x).relu()))


def m5() -> nn.Module:
    def block(channels: int, filters: int, kernel: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv1d(channels, filters, kernel, stride, kernel // 2),
            nn.BatchNorm1d(filters),
            nn.ReLU(),
            nn.MaxPool1d(2),
        )

    return nn.Sequential(
        block(1, 8, 9, 2), block(8, 8, 3), block(8, 12, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 5)
    )


def dilated() -> nn.Module:
    """A causal TCN: padding on both sides, of which the right is cut off again."""

    class Causal(nn.Module):
        def __init__(self, channels: int, filters: int, dilation: int) -> None:
            super().__init__()
            self.cut = 2 * dilation
            self.conv = nn.Conv1d(channels, filters, 3, padding=self.cut, dilation=dilation)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)[:, :, : -self.cut].relu()

    return nn.Sequential(Causal(1, 8, 1), Causal(8, 8, 2), Causal(8, 6, 4), nn.Conv1d(6, 5, 1))


def glu() -> nn.Module:
    """A gated linear unit: the first half of the channels times the sigmoid of the second."""
    return Net(
        lambda net, x: net.head(pooled(net.last(nn.functional.glu(net.gated(net.stem(x)), dim=1)).relu())),
        stem=conv_bn(1, 8),
        gated=conv(8, 12),
        last=nn.Conv2d(6, 4, 1),
        head=nn.Linear(4, 5),
    )


def halves(split: Any) -> Any:
    return lambda: Net(
        lambda net, x: net.head(pooled(torch.cat([net.a((y := split(net.stem(x)))[0]), net.b(y[1])], 1))),
        stem=conv_bn(1, 8),
        a=conv(4, 4),
        b=conv(4, 6),
        head=nn.Linear(10, 5),
    )


AUDIO = [
    Case("crnn lstm", lambda: Recurrent(nn.LSTM), SPECTROGRAM, ("conv1", "conv2")),
    Case("crnn gru, bidirectional", lambda: Recurrent(nn.GRU, bidirectional=True), SPECTROGRAM, ("conv1", "conv2")),
    Case(
        "crnn lstm, stacked and bidirectional",
        lambda: Recurrent(nn.LSTM, bidirectional=True, num_layers=2),
        SPECTROGRAM,
        ("conv1", "conv2"),
    ),
    Case("crnn rnn", lambda: Recurrent(nn.RNN), SPECTROGRAM, ("conv1", "conv2")),
    Case(
        "crnn, frequencies in the frames",
        lambda: Net(
            lambda net, x: net.head(net.gru(net.conv(x).permute(0, 3, 1, 2).flatten(2))[0][:, -1]),
            conv=conv(1, 8),
            gru=nn.GRU(64, 6, batch_first=True),
            head=nn.Linear(6, 5),
        ),
        SPECTROGRAM,
        ("conv",),
    ),
    Case("m5", m5, WAVEFORM, ("0.0", "1.0", "2.0")),
    Case("causal tcn", dilated, WAVEFORM, ("0.conv", "1.conv", "2.conv"), {"3": PASSED_ON}),
    Case(
        "wavenet",
        Gated,
        WAVEFORM,
        (
            *("stem", "filters.0", "filters.1", "gates.0", "gates.1"),
            *("residuals.0", "residuals.1", "skips.0", "skips.1"),
        ),
        {"out": PASSED_ON},
        unread=("residuals.1",),
    ),
    Case("cnn14", Cnn14Like, SPECTROGRAM, ("conv1", "conv2")),
    Case(
        "cnn14, attention pooling",
        lambda: Cnn14Like(attention=True),
        SPECTROGRAM,
        ("conv1", "conv2"),
        {"attention": PASSED_ON, "classify": PASSED_ON},
    ),
    Case("bc-resnet", BroadcastResidual, SPECTROGRAM, ("stem.0", "frequency", "time.0", "time.3", "last")),
    Case(
        "cp-mobile",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), InvertedResidual(8, 8, respond=True)), 8),
        SPECTROGRAM,
        ("0.0.0", "0.1.project.0"),
        {"0.1.expand.0": GUARDED, "0.1.depthwise.0": GUARDED},
    ),
    Case("spectrogram within", Spectrogram, WAVEFORM, ("conv1.0", "conv2.0"), {"real": FROZEN, "imaginary": FROZEN}),
    Case("transformer on a stem", Conformer, SPECTROGRAM, ("conv1.0", "conv2.0")),
    Case(
        "einsum attention",
        DotAttention,
        SPECTROGRAM,
        ("out",),
        {"stem.0": GUARDED, "query": GUARDED, "key": GUARDED, "value": GUARDED},
    ),
    Case("glu", glu, SPECTROGRAM, ("stem.0", "gated", "last")),
    Case("chunk", halves(lambda x: x.chunk(2, dim=1)), SPECTROGRAM, ("stem.0", "a", "b")),
    Case("split", halves(lambda x: x.split([4, 4], dim=1)), SPECTROGRAM, ("a", "b"), {"stem.0": UNCUT}),
    Case("slices", halves(lambda x: (x[:, :4], x[:, 4:])), SPECTROGRAM, ("a", "b"), {"stem.0": UNCUT}),
    Case(
        "max and mean",
        lambda: Net(
            lambda net, x: net.head(torch.cat([(y := net.body(x)).amax((2, 3)), pooled(y)], 1)),
            body=conv_bn(1, 8),
            head=nn.Linear(16, 5),
        ),
        SPECTROGRAM,
        ("body.0",),
    ),
    Case(
        "statistics pooling",
        lambda: Net(
            lambda net, x: net.head(torch.cat([(y := net.body(x)).mean(2), y.std(2)], 1)),
            body=nn.Conv1d(1, 8, 5),
            head=nn.Linear(16, 5),
        ),
        WAVEFORM,
        ("body",),
    ),
]
