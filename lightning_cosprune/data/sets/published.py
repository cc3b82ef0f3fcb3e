"""Sets with a public home: fetched from there, and missed by name where they are not on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from lightning_cosprune.data.disk import check_readable
from lightning_cosprune.data.fold import Fold
from lightning_cosprune.data.scenes import DCASEScenes
from lightning_cosprune.data.sets.archives import Archive
from lightning_cosprune.data.sets.download import download
from lightning_cosprune.data.tables import nearby


class PublishedScenes(DCASEScenes):
    """What sets with a public home share.

    Attributes:
        set_name: Their name there.
        archives: What they consist of.
        licence: What the user accepts by using them.
        landmark: The file or folder by which a root is known.

    Args:
        root: Folder of the set, or where to download to.
        download: Whether missing archives are fetched.
        keep_archives: Whether the archives stay.
        **options: Those of :class:`DCASEScenes`.
    """

    set_name: ClassVar[str]
    archives: ClassVar[tuple[Archive, ...]]
    licence: ClassVar[str]
    landmark: ClassVar[str] = "meta.csv"

    def __init__(
        self, root: str | Path, *, download: bool = False, keep_archives: bool = False, **options: Any
    ) -> None:
        super().__init__(root, **options)
        self.download = download
        self.keep_archives = keep_archives

    def prepare_data(self) -> None:
        """Downloads what is missing, if asked to, and extracts the features into the cache."""
        if self.download and not self._is_whole():
            download(
                self.archives,
                self.root,
                licence=f"{self.licence} ({self.archives[0].page})",
                keep_archives=self.keep_archives,
                progress=self.progress,
            )
        super().prepare_data()

    def _is_whole(self) -> bool:
        """Whether every clip that the metadata name is there, whoever put it there."""
        try:
            names = self._folder().read_meta()["filename"]
        except FileNotFoundError:
            return False
        folders = {name.rpartition("/")[0] for name in names}
        there = {f"{folder}/{path.name}" for folder in folders for path in (self.root / folder).glob("*")}
        return there.issuperset(names)

    def _read_fold(self) -> Fold:
        check_readable(self.root, self._owner)
        if not (self.root / self.landmark).exists():
            raise FileNotFoundError(
                f"{self._owner}: expected {self.set_name} there, found no {self.landmark}. Write `download=True` and "
                f"let `prepare_data()` fetch it, or unpack the archives of {self.archives[0].page} and give the folder "
                f"that holds {self.landmark}{nearby(self.root, self.landmark)}."
            )
        return super()._read_fold()
