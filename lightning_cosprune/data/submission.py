"""The output file that the DCASE challenges ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from lightning_cosprune.arguments import names_in, path_of
from lightning_cosprune.data.disk import writing_to, written_beside


def write_submission(
    path: str | Path, filenames: Sequence[str], probabilities: Tensor | Sequence[Tensor], scene_labels: Sequence[str]
) -> None:
    r"""Write a system output of task 1: tab separated, one row a clip.

    The columns are ``filename``, ``scene_label`` (the most probable one) and the probability of each scene, in the
    order of their names. The file is written beside its place and renamed.

    Args:
        path: Where to write it.
        filenames: Of the clips.
        probabilities: Softmax values, ``(clips, scenes)``; or batches of them, as ``trainer.predict`` returns.
        scene_labels: Names of the scenes, in the order of the columns of ``probabilities``.

    Raises:
        ValueError: The numbers of clips or scenes do not agree, or a row is no probability distribution.
        OSError: The file cannot be written, as where the disk is full; one that was there stays.

    Source: the submission format of DCASE 2020 to 2024, task 1.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_submission(f"{folder}/out.csv", ["audio/0.wav"], torch.tensor([[0.25, 0.75]]), ["bus", "tram"])
        ...     print(Path(folder, "out.csv").read_text().replace("\t", " "), end="")
        filename scene_label bus tram
        audio/0.wav tram 0.250000 0.750000
    """
    path = path_of(path, "`write_submission(path={})`", "the file to write")
    filenames = names_in(filenames, "`write_submission(filenames={})`", "the names of the clips")
    scene_labels = names_in(scene_labels, "`write_submission(scene_labels={})`", "the names of the scenes")
    batches = [probabilities] if isinstance(probabilities, Tensor) else probabilities
    if not isinstance(batches, (list, tuple)) or not batches or not all(isinstance(one, Tensor) for one in batches):
        raise TypeError(
            f"`write_submission(probabilities={' '.join(f'{probabilities!r:.60}'.split())})`: expected a tensor "
            f"(clips, scenes), or a list of such, found a {type(probabilities).__name__}. Pass what `trainer.predict` "
            "returned."
        )
    if len({one.shape[1:] for one in batches}) > 1 or not batches[0].ndim:
        raise ValueError(
            "`write_submission(probabilities=...)`: expected batches (clips, scenes) of the same scenes, found the "
            f"shapes {', '.join(str(tuple(one.shape)) for one in batches[:4])}. Pass what `trainer.predict` returned."
        )
    values = torch.cat(list(batches)).detach().double().cpu()
    if values.ndim != 2 or values.shape != (len(filenames), len(scene_labels)):
        raise ValueError(
            f"`write_submission(probabilities=...)`: expected the shape ({len(filenames)}, {len(scene_labels)}), one "
            f"row a file and one column a scene, found {tuple(values.shape)}. Predict the clips in `filenames`, "
            "and name every scene in `scene_labels`."
        )
    wrong = ((values < 0).any(dim=1) | ~((values.sum(dim=1) - 1).abs() < 1e-3)).nonzero().squeeze(1).tolist()
    if wrong:
        raise ValueError(
            f"`write_submission(probabilities=...)`: expected softmax values, found {len(wrong)} rows that are none, "
            f"the first of {filenames[wrong[0]]!r}: {[round(value, 3) for value in values[wrong[0]].tolist()]}. Apply "
            "softmax to class scores."
        )
    order = sorted(range(len(scene_labels)), key=lambda scene: scene_labels[scene])
    table = pd.DataFrame(values[:, order].numpy(), columns=[scene_labels[scene] for scene in order])
    table.insert(0, "scene_label", [scene_labels[scene] for scene in values.argmax(dim=1).tolist()])
    table.insert(0, "filename", list(filenames))
    target = path
    text = table.to_csv(sep="\t", index=False, float_format="%.6f", lineterminator="\n").encode()
    with writing_to(target.parent, f"`write_submission(path={str(target)!r})`", len(text)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(target) as file:
            file.write(text)
