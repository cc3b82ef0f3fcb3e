"""Random changes to training batches, on the training device; nothing happens outside training.

Each is a module from one :class:`~lightning_cosprune.data.SceneBatch` to another, for ``DCASEScenes(augment=[...])``.
Chance comes from PyTorch's global generator on the CPU, whatever the device, so ``seed_everything`` decides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_cosprune.data.dataset import SceneBatch

Domain = Literal["features", "waveform"]


class Augmentation(nn.Module):
    """A random change to training batches. Subclasses write :meth:`augment`.

    In evaluation mode the batch passes untouched.
    """

    domain: Domain = "features"

    def prepare(self, *, num_classes: int, devices: Sequence[str], sample_rate: int) -> None:
        """Learn about the set, before the first batch; :class:`DCASEScenes` calls it.

        Args:
            num_classes: Scenes to tell apart.
            devices: Names of the recording devices, in the order of their numbers in the batches.
            sample_rate: Of the waveforms.
        """

    def forward(self, batch: SceneBatch) -> SceneBatch:
        """The batch, changed in training mode.

        Args:
            batch: With ``features`` of shape ``(batch, 1, mels, frames)``, or ``(batch, samples)`` where ``domain`` is
                ``"waveform"``.

        Returns:
            A new batch, or the given one.
        """
        if not self.training:
            return batch
        with torch.no_grad():
            return self.augment(batch)

    def augment(self, batch: SceneBatch) -> SceneBatch:
        """The changed batch; ``batch`` itself must stay as it is.

        Args:
            batch: As for :meth:`forward`.

        Returns:
            A new batch.
        """
        raise NotImplementedError


class Mixup(Augmentation):
    r"""Convex combinations of two clips and of their labels.

    .. math:: \tilde x_i = \lambda_i x_i + (1 - \lambda_i) x_{\pi(i)}, \qquad \lambda_i \sim \mathrm{Beta}(\alpha,
        \alpha)

    with a random permutation :math:`\pi` of the batch. Labels become probabilities, ``(batch, num_classes)``, mixed
    alike; :class:`~lightning_cosprune.models.SceneClassifier` takes either kind.

    Args:
        alpha: Of the beta distribution; the smaller, the closer mixtures are to one of the two clips.
        p: Probability that a batch is mixed.

    Source: Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018, equation 1,
    which recommends ``alpha`` in [0.1, 0.4]; here every clip has a lambda of its own.
    """

    def __init__(self, alpha: float = 0.2, p: float = 1.0) -> None:
        super().__init__()
        self.alpha = _positive(self, "alpha", alpha)
        self.p = _probability(self, p)
        self.num_classes: int | None = None

    def prepare(self, *, num_classes: int, devices: Sequence[str], sample_rate: int) -> None:  # noqa: ARG002
        """Learn the number of scenes."""
        self.num_classes = num_classes

    def augment(self, batch: SceneBatch) -> SceneBatch:
        """The mixed batch.

        Returns:
            With soft labels, also where chance leaves the clips as they are: all batches of a run look alike.
        """
        labels = batch.scene
        if not labels.is_floating_point():
            if self.num_classes is None:
                raise _unprepared(self, "num_classes=10, devices=[...], sample_rate=44100")
            labels = functional.one_hot(labels, self.num_classes).to(batch.features.dtype)
        if not _chance(self.p):
            return batch._replace(scene=labels)
        share, partner = _shares(self.alpha, batch.features), _permutation(batch.features)
        features = torch.lerp(batch.features[partner], batch.features, _like(share, batch.features))
        return batch._replace(
            features=features, scene=torch.lerp(labels[partner], labels, share[:, None].to(labels.dtype))
        )


class FreqMixStyle(Augmentation):
    r"""Mean and standard deviation of every band mixed with those of another clip; the content stays.

    .. math:: \tilde x_i = \sigma^{mix}_i \, \frac{x_i - \mu_i}{\sigma_i} + \mu^{mix}_i, \qquad
        \mu^{mix}_i = \lambda_i \mu_i + (1 - \lambda_i) \mu_{\pi(i)}

    and likewise for :math:`\sigma`, with statistics over a band's frames. Devices colour bands, so a clip comes to
    sound as if partly recorded by another one. Labels stay. Whether bands are normalised before or after makes no
    difference.

    Args:
        p: Probability that a batch is mixed.
        alpha: Of the beta distribution of :math:`\lambda`.
        eps: Added to variances.

    Source: Schmid, Masoudian, Koutini and Widmer, "Knowledge Distillation from Transformers for Low-Complexity Acoustic
    Scene Classification", DCASE Workshop 2022, with statistics per frequency as in Kim et al., "Domain Generalization
    with Relaxed Instance Frequency-wise Normalization", INTERSPEECH 2022, of MixStyle by Zhou et al., ICLR 2021.
    """

    def __init__(self, p: float = 0.4, alpha: float = 0.3, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = _probability(self, p)
        self.alpha = _positive(self, "alpha", alpha)
        self.eps = _positive(self, "eps", eps)

    def augment(self, batch: SceneBatch) -> SceneBatch:
        """The mixed batch.

        Returns:
            With the labels it had.
        """
        if not _chance(self.p):
            return batch
        features = batch.features
        variance, mean = torch.var_mean(features, dim=(1, 3), keepdim=True, correction=0)
        std = (variance + self.eps).sqrt()
        share, partner = _like(_shares(self.alpha, features), features), _permutation(features)
        mixed_mean, mixed_std = torch.lerp(mean[partner], mean, share), torch.lerp(std[partner], std, share)
        return batch._replace(features=(features - mean) / std * mixed_std + mixed_mean)


class _Mask(Augmentation):
    axis: ClassVar[int]

    def __init__(self, max_width: int, num_masks: int = 1, fill: float = 0.0) -> None:
        super().__init__()
        for name, number in (("max_width", max_width), ("num_masks", num_masks)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"`{type(self).__name__}({name}={number!r})`: expected a positive whole number.")
        self.max_width = max_width
        self.num_masks = num_masks
        self.fill = fill

    def augment(self, batch: SceneBatch) -> SceneBatch:
        """The masked batch.

        Returns:
            With masks of its own for each clip.
        """
        features = batch.features
        size = features.shape[self.axis]
        if self.max_width >= size:
            raise ValueError(
                f"`{type(self).__name__}(max_width={self.max_width})`: expected less than the {size} that features of "
                f"shape {tuple(features.shape)} have there. A quarter of it is a common choice."
            )
        width = torch.randint(self.max_width + 1, (len(features), self.num_masks, 1))
        # Rounded down from a uniform number: every position at which the mask fits is equally likely.
        start = (torch.rand(width.shape, dtype=torch.float64) * (size - width + 1)).long()
        position = torch.arange(size)
        masked = ((position >= start) & (position < start + width)).any(dim=1).to(features.device)
        shape = [len(features), 1, 1, 1]
        shape[self.axis] = size
        return batch._replace(features=features.masked_fill(masked.reshape(shape), self.fill))


class FrequencyMask(_Mask):
    """A random range of neighbouring bands of each clip is blotted out.

    The width is uniform on 0 to ``max_width``, then the position is uniform among those where it fits.

    Args:
        max_width: Most bands a mask covers, fewer than there are.
        num_masks: Masks for each clip; they may overlap.
        fill: What covered values become. 0 is a band's mean where bands are normalised; where they are not, as with
            ``features="dcase2024"``, write ``math.log(1e-5)``, which is silence there.

    Source: Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition", INTERSPEECH
    2019, section 2. The DCASE 2024 baseline covers up to 48 of its 256 bands.
    """

    axis = 2


class TimeMask(_Mask):
    """A random range of neighbouring frames of each clip is blotted out.

    The width is uniform on 0 to ``max_width``, then the position is uniform among those where it fits.

    Args:
        max_width: Most frames a mask covers, fewer than there are.
        num_masks: Masks for each clip; they may overlap.
        fill: What covered values become, as for :class:`FrequencyMask`.

    Source: Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition", INTERSPEECH
    2019, section 2.
    """

    axis = 3


class TimeRoll(Augmentation):
    """Each clip is shifted in time by a random amount, and what leaves at one end comes in at the other.

    Args:
        max_fraction: Farthest shift, either way, as a fraction of the clip, in (0, 1]. The DCASE 2024 baseline rolls
            one-second waveforms by up to 0.1 s.
        domain: ``"features"`` rolls frames, ``"waveform"`` samples.

    Source: Schmid et al., "Data-Efficient Low-Complexity Acoustic Scene Classification in the DCASE 2024 Challenge",
    DCASE Workshop 2024.
    """

    def __init__(self, max_fraction: float = 0.1, domain: Domain = "features") -> None:
        super().__init__()
        if not 0 < max_fraction <= 1:
            raise ValueError(
                f"`TimeRoll(max_fraction={max_fraction})`: expected a fraction of the clip in (0, 1]. To roll by up to "
                "a tenth of it write 0.1."
            )
        if domain not in {"features", "waveform"}:
            raise ValueError(f"`TimeRoll(domain={domain!r})`: expected 'features' or 'waveform'. Choose one.")
        self.max_fraction = max_fraction
        self.domain = domain

    def augment(self, batch: SceneBatch) -> SceneBatch:
        """The rolled batch.

        Returns:
            With a shift of its own for each clip.
        """
        features = batch.features
        length = features.shape[-1]
        farthest = int(self.max_fraction * length)
        shift = torch.randint(-farthest, farthest + 1, (len(features), 1))
        source = ((torch.arange(length) - shift) % length).to(features.device)
        source = source.reshape(len(features), *[1] * (features.ndim - 2), length).expand_as(features)
        return batch._replace(features=features.gather(-1, source))


class DeviceImpulseResponse(Augmentation):
    r"""Clips of one device are convolved with the impulse response of a random other microphone.

    .. math:: \tilde x = (x * h)[0 : \mathrm{len}(x)]

    Responses are used as they are, at the level they were recorded with; stereo ones are averaged and other rates
    resampled. Clips of other devices stay as they are, bit for bit.

    Args:
        folder: Folder with wav, flac or ogg files of impulse responses, at any depth, such as MicIRP's.
        device: Device whose clips are convolved: the good recorder that most training clips are from.
        p: Probability for each of its clips.

    Raises:
        ValueError: The folder holds no audio, or a response is silent.

    Source: Morocutti, Schmid, Koutini and Widmer, "Device-Robust Acoustic Scene Classification via Impulse Response
    Augmentation", EUSIPCO 2023.
    """

    domain: Domain = "waveform"

    def __init__(self, folder: str | Path, device: str = "a", p: float = 0.6) -> None:
        super().__init__()
        self.folder = Path(folder).expanduser()
        self.device = device
        self.p = _probability(self, p)
        suffixes = {".wav", ".flac", ".ogg"}
        self.paths = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in suffixes)
        if not self.paths:
            raise ValueError(
                f"`DeviceImpulseResponse(folder={str(folder)!r})`: expected impulse responses as wav, flac or ogg "
                "files, found none. Unpack a collection such as MicIRP there."
            )
        self.device_number: int | None = None
        self.register_buffer("responses", None, persistent=False)
        self.responses: Tensor | None

    def prepare(self, *, num_classes: int, devices: Sequence[str], sample_rate: int) -> None:  # noqa: ARG002
        """Learn the device's number and read the responses at the waveforms' rate."""
        from lightning_cosprune.data.features.audio import read_clip, read_header

        owner = f"`DeviceImpulseResponse(folder={str(self.folder)!r})`"
        if self.device not in devices:
            raise ValueError(
                f"`DeviceImpulseResponse(device={self.device!r})`: expected one of the devices of the set, "
                f"{', '.join(devices)}. Name the one that most training clips are from."
            )
        responses = []
        for path in self.paths:
            header = read_header(path, owner)
            samples = max(1, round(header.samples * sample_rate / header.sample_rate))
            responses.append(torch.from_numpy(read_clip(path, sample_rate, samples, owner)))
            if not responses[-1].any():
                raise ValueError(f"{owner}: expected an impulse response in {path}, found silence. Remove the file.")
        self.device_number = devices.index(self.device)
        self.responses = nn.utils.rnn.pad_sequence(responses, batch_first=True)

    def augment(self, batch: SceneBatch) -> SceneBatch:
        """The batch with some clips convolved.

        Returns:
            With the labels and devices it had.
        """
        if self.responses is None:
            raise _unprepared(self, "num_classes=10, devices=['a', 'b'], sample_rate=44100")
        # Drawn for all clips: what one clip meets does not depend on which devices the others are from.
        chosen = torch.rand(len(batch.device)) < self.p
        response = torch.randint(len(self.responses), (len(batch.device),))
        device = batch.features.device
        rows = torch.nonzero((batch.device == self.device_number) & chosen.to(device)).squeeze(1)
        if not len(rows):
            return batch
        waveforms = batch.features.clone()
        responses = self.responses.to(device)[response.to(device)[rows]]
        waveforms[rows] = _convolve(waveforms[rows], responses.to(waveforms.dtype))
        return batch._replace(features=waveforms)


class BatchTransform(nn.Module):
    """All that happens to a batch on the training device: augmentation of sound, front end, augmentation of features.

    Args:
        front_end: From waveforms to features; ``None`` where batches hold features already.
        augment: In the order in which they are applied. Those of the waveform come first, whatever the order.
    """

    def __init__(self, front_end: nn.Module | None, augment: Sequence[Augmentation]) -> None:
        super().__init__()
        self.waveform = nn.Sequential(*(one for one in augment if one.domain == "waveform"))
        self.front_end = front_end
        self.features = nn.Sequential(*(one for one in augment if one.domain == "features"))

    def forward(self, batch: SceneBatch) -> SceneBatch:
        """Features, augmented in training mode.

        Args:
            batch: As its loader gave it, on any device.

        Returns:
            The batch for the network.
        """
        batch = self.waveform(batch)
        if self.front_end is not None:
            with torch.no_grad():
                batch = batch._replace(features=self.front_end(batch.features))
        augmented: SceneBatch = self.features(batch)
        return augmented


def _convolve(waveforms: Tensor, responses: Tensor) -> Tensor:
    # Row by row through the Fourier domain, long enough that nothing comes round; cut to the length of the waveforms.
    samples = waveforms.shape[-1]
    length = 1 << (samples + responses.shape[-1] - 2).bit_length()
    product = torch.fft.rfft(waveforms, length) * torch.fft.rfft(responses, length)
    convolved: Tensor = torch.fft.irfft(product, length)[..., :samples]
    return convolved


def _chance(p: float) -> bool:
    return bool(torch.rand(()) < p)


def _shares(alpha: float, features: Tensor) -> Tensor:
    one = torch.tensor(alpha, dtype=torch.float64)
    share: Tensor = torch.distributions.Beta(one, one).sample((len(features),))
    return share.to(features.device, features.dtype)


def _permutation(features: Tensor) -> Tensor:
    return torch.randperm(len(features)).to(features.device)


def _like(share: Tensor, features: Tensor) -> Tensor:
    return share.reshape(-1, *[1] * (features.ndim - 1))


def _probability(owner: nn.Module, p: float) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"`{type(owner).__name__}(p={p})`: expected a probability in [0, 1]. For every time write 1.")
    return p


def _positive(owner: nn.Module, name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise ValueError(f"`{type(owner).__name__}({name}={value})`: expected a positive number.")
    return value


def _unprepared(owner: nn.Module, arguments: str) -> RuntimeError:
    name = type(owner).__name__
    return RuntimeError(
        f"`{name}`: expected to know the set before its first batch. Pass it as DCASEScenes(augment=[{name}(...)]), or "
        f"call prepare({arguments}) yourself."
    )


def check_augment(augment: Any, cache: str, owner: str) -> tuple[Augmentation, ...]:
    """The augmentations of a data module.

    Args:
        augment: One, several or ``None``.
        cache: What the data module keeps, ``"features"`` or ``"waveforms"``.
        owner: Name of the data module, the beginning of the error.

    Returns:
        All of them.

    Raises:
        TypeError: One is no :class:`Augmentation`.
        ValueError: One works on waveforms, and features are kept.
    """
    several = () if augment is None else (augment,) if isinstance(augment, nn.Module) else tuple(augment)
    for one in several:
        if not isinstance(one, Augmentation):
            raise TypeError(
                f"`{owner}(augment=...)`: expected Augmentation modules, found {one!r}. Subclass Augmentation and "
                "write its augment method."
            )
        if one.domain == "waveform" and cache != "waveforms":
            raise ValueError(
                f"`{owner}(augment=..., cache={cache!r})`: expected augmentations of features, found "
                f"{type(one).__name__}, which changes the sound itself. Write cache='waveforms'."
            )
    return several
