"""Clips mixed with others of their batch: the whole of them, or what their bands are like."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lightning_cosprune.data.augment.augmentation import Augmentation, positive, probability, unprepared
from lightning_cosprune.data.dataset import SceneBatch


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
        self.alpha = positive(self, "alpha", alpha)
        self.p = probability(self, p)
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
                raise unprepared(self, "num_classes=10, devices=[...], sample_rate=44100")
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
        self.p = probability(self, p)
        self.alpha = positive(self, "alpha", alpha)
        self.eps = positive(self, "eps", eps)

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
