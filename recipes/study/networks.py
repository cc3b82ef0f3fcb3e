"""The networks of the studies by name, as large as the scenes want them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_cosprune.data import DCASEScenes
from lightning_cosprune.models import (
    PANN,
    Cnn6,
    Cnn10,
    Cnn14,
    CPMobile,
    DCASE2021Baseline,
    DCASE2022Baseline,
    SceneClassifier,
    VGGishASC,
)

OF_MAPS = {"DCASE2021Baseline": DCASE2021Baseline, "DCASE2022Baseline": DCASE2022Baseline}
TAGGERS: dict[str, type[PANN]] = {"Cnn14": Cnn14, "Cnn10": Cnn10, "Cnn6": Cnn6}
NAMES = (*OF_MAPS, *TAGGERS, "CPMobile", "VGGishASC")


class ClipPatches(nn.Module):
    """A network over patches of 0.96 s, for whole clips: its scores averaged over patches that overlap by half.

    Args:
        network: Maps patches of ``(batch, 1, frames, bands)`` to class scores.
        frames: Frames of a patch.
    """

    def __init__(self, network: nn.Module, frames: int = 96) -> None:
        super().__init__()
        self.network = network
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of clips, whose features are ``(batch, 1, bands, frames)``; short ones are filled up."""
        missing = self.frames - x.shape[3]
        x = torch.nn.functional.pad(x, (0, missing)) if missing > 0 else x
        patches = x[:, 0].unfold(2, self.frames, self.frames // 2).permute(0, 2, 3, 1)
        scores: Tensor = self.network(patches.flatten(0, 1)[:, None])
        return scores.unflatten(0, patches.shape[:2]).mean(dim=1)


def build(network: str, scenes: DCASEScenes, options: dict[str, Any], weights: str | None = None) -> nn.Module:
    """The network of this name, with as many classes as there are scenes."""
    classes, (_, bands, frames) = len(scenes.scene_labels), scenes.feature_shape
    if network not in NAMES:
        raise ValueError(f"`model.network={network}`: expected {', '.join(NAMES)}. Correct the name.")
    if weights is not None:
        if network not in TAGGERS:
            raise ValueError(
                f"`model.weights={weights}` of {network}: expected one of {', '.join(TAGGERS)}, whose checkpoints are "
                "published. Leave it out."
            )
        tagger = TAGGERS[network].from_pretrained(weights)
        tagger.fc_audioset = nn.Linear(tagger.fc_audioset.in_features, classes)
        return tagger
    try:
        if network in OF_MAPS:
            return OF_MAPS[network](classes, bands, frames, **options)
        if network in TAGGERS:
            return TAGGERS[network](classes, **options)
        return CPMobile(classes, **options) if network == "CPMobile" else ClipPatches(VGGishASC(classes, **options))
    except TypeError as error:
        raise ValueError(
            f"`model.options={options}`: expected arguments of {network}, found {error}. Correct the name."
        ) from error


def scene_classifier(
    scenes: DCASEScenes,
    network: str = "DCASE2021Baseline",
    options: dict[str, Any] | None = None,
    weights: str | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
) -> SceneClassifier:
    """The module that is trained.

    Args:
        scenes: What it is to tell apart.
        network: Its name.
        options: Its further arguments, such as widths.
        weights: A published checkpoint to begin with.
        learning_rate: Of Adam.
        weight_decay: Of Adam.
    """
    return SceneClassifier(
        build(network, scenes, options or {}, weights),
        len(scenes.scene_labels),
        scenes.devices,
        learning_rate,
        weight_decay,
    )
