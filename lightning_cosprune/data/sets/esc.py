"""ESC-10 and ESC-50: small real sets that anyone can try, in the layouts that their author gave them."""

from __future__ import annotations

import pandas as pd

from lightning_cosprune.data.sets.archives import github_archive
from lightning_cosprune.data.sets.published import PublishedScenes
from lightning_cosprune.data.tables import COLUMNS, SceneFolder

FOLDS = 5
CLIPS_PER_CLASS = 40


class ESCFolder(SceneFolder):
    """What the layouts share: every clip has a fold, and comes from a recording on Freesound."""

    def read(self, fold: int) -> dict[str, pd.DataFrame]:
        """The clips of a fold as ``test`` and those of the others as ``train``.

        Args:
            fold: Number of the fold.

        Returns:
            As :meth:`SceneFolder.read`.

        Raises:
            FileNotFoundError: The folder or a file in it is missing.
            ValueError: There is no such fold, or the files depart from the layout.
        """
        meta = self.read_meta()
        if not 1 <= fold <= FOLDS:
            raise ValueError(f"{self.owner}: expected a fold from 1 to {FOLDS}, found fold={fold}. Choose one of them.")
        inside = (meta["fold"] == str(fold)).to_numpy()
        columns = [*COLUMNS, "line", "source"]
        sides = {"train": meta.loc[~inside, columns], "test": meta.loc[inside, columns]}
        sides = {side: table.reset_index(drop=True) for side, table in sides.items()}
        self._check_sides(**sides)
        return sides

    def _described(self, clips: pd.DataFrame) -> pd.DataFrame:
        """Adds what is the same for all: takes of one recording belong together, the device is not known."""
        clips = clips.assign(city=None, device="freesound", parent=clips["identifier"])
        return clips.set_index("filename", drop=False)


class ESC10Folder(ESCFolder):
    """A folder a class, ``001 - Dog bark``, and in its names fold, recording and take: ``1-100032-A.ogg``."""

    def read_meta(self) -> pd.DataFrame:
        """What the names say.

        Returns:
            As :meth:`SceneFolder.read_meta`, with the columns ``fold`` and ``source``.

        Raises:
            FileNotFoundError: The folder is missing, or a class has fewer clips than it should.
        """
        self._check_root("the layout of ESC-10", "the folders 001 - Dog bark to 010 - Fire crackling")
        names = [path.relative_to(self.root).as_posix() for path in sorted(self.root.glob("0?? - */?-*-?.*"))]
        clips = pd.DataFrame({"filename": names}, dtype="string")
        parts = clips["filename"].str.extract(
            r"^(?P<folder>\d+ - (?P<scene_label>[^/]+))/(?P<fold>\d)-(?P<identifier>\d+)-[A-Z]\.(?:ogg|wav|flac)$"
        )
        clips = clips.join(parts)[parts["fold"].notna().to_numpy()]
        counts = clips["folder"].value_counts()
        short = counts[counts < CLIPS_PER_CLASS]
        if len(counts) < 10 or len(short):
            what = f"{len(counts)} of 10 folders" if len(counts) < 10 else f"{short.iloc[0]} in {short.index[0]!r}"
            raise FileNotFoundError(
                f"{self.owner}: expected {CLIPS_PER_CLASS} clips in each of 10 folders such as '001 - Dog bark', found "
                f"{what}. Write `download=True`, or unpack the archive again."
            )
        clips["scene_label"] = clips["scene_label"].str.lower().str.replace(" ", "_")
        return self._described(clips.assign(line=range(1, len(clips) + 1), source="the folder listing"))


class ESC50Folder(ESCFolder):
    """``meta/esc50.csv`` and ``audio``."""

    def read_meta(self) -> pd.DataFrame:
        """What the csv file says of every clip.

        Returns:
            As :meth:`SceneFolder.read_meta`, with the columns ``fold`` and ``source``.

        Raises:
            FileNotFoundError: The folder or its csv file is missing.
            ValueError: A column is missing or empty, or a file occurs twice.
        """
        self._check_root("the layout of ESC-50", "meta/esc50.csv")
        path = self.root / "meta" / "esc50.csv"
        clips = self._read_csv(path, ["filename", "fold", "category", "src_file"], separator=",")
        clips = clips.rename(columns={"category": "scene_label", "src_file": "identifier"})
        clips["filename"] = "audio/" + clips["filename"]
        return self._described(clips.assign(source=self._short(path)))


class ESC10(PublishedScenes):
    """ESC-10: 400 clips of five seconds, ten classes of forty, from 304 recordings on Freesound, Ogg Vorbis, 44.1 kHz.

    A small real set to try things on, of sound events rather than scenes. Its author put the clips into five folds, no
    recording in two of them: the clips of ``fold`` are the test, the others training and validation. One fold is 80
    clips, of which one is 1.25 points of accuracy: compare over all five, and over several seeds.

    Args:
        root: Folder with ``001 - Dog bark`` and nine more, or where to download to.
        download: Whether the archive, 40 MB, is fetched from GitHub.
        keep_archives: Whether the archive stays.
        **options: Those of :class:`DCASEScenes`.

    Source: K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015.
    """

    set_name = "ESC-10"
    archives = (github_archive("karolpiczak/ESC-10"),)
    licence = "CC BY 3.0, the author of each clip is named in its README"
    landmark = "001 - Dog bark"
    folder_type = ESC10Folder


class ESC50(PublishedScenes):
    """ESC-50: 2,000 clips of five seconds, fifty classes of forty, from recordings on Freesound, 16-bit wav, 44.1 kHz.

    A real set to try things on, of sound events rather than scenes. Its author put the clips into five folds, no
    recording in two of them: the clips of ``fold`` are the test, the others training and validation.

    Args:
        root: Folder with ``meta/esc50.csv`` and ``audio``, or where to download to.
        download: Whether the archive, 600 MB, is fetched from GitHub.
        keep_archives: Whether the archive stays.
        **options: Those of :class:`DCASEScenes`.

    Source: K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015.
    """

    set_name = "ESC-50"
    archives = (github_archive("karolpiczak/ESC-50"),)
    licence = "CC BY-NC 3.0, the author of each clip is named in its LICENSE"
    landmark = "meta/esc50.csv"
    folder_type = ESC50Folder
