"""The TAU Urban Acoustic Scenes sets, as the DCASE challenges of 2019 to 2025 used them."""

from __future__ import annotations

from typing import ClassVar

from lightning_cosprune.data.fold import Fold
from lightning_cosprune.data.sets.archives import zenodo_archives
from lightning_cosprune.data.sets.published import PublishedScenes


class _TAUScenes(PublishedScenes):
    """What tells the sets apart, whose folders look alike.

    Attributes:
        in_pieces: Whether clips are pieces of recordings.
        many_devices: Whether more than one device recorded them.
    """

    licence = "Tampere University's licence, for experimental and non-commercial use, in its documents"
    in_pieces: ClassVar[bool] = False
    many_devices: ClassVar[bool] = True

    def _read_fold(self) -> Fold:
        fold = super()._read_fold()
        train = fold.clips["train"]
        in_pieces = bool((train["parent"] != train["filename"]).any())
        devices = sorted({*train["device"], *fold.clips["test"]["device"]})
        many = devices != ["a"]  # part of a set of many devices may be of one, but that of one device has no other
        if (in_pieces, many) != (self.in_pieces, self.many_devices):
            pieces = {True: "one-second pieces, such as audio/airport-lisbon-1000-40000-0-a.wav", False: "recordings"}
            kinds = {True: "several devices", False: "device a alone"}
            found = f"{pieces[in_pieces].partition(',')[0]}, such as {train['filename'].iloc[0]}"
            raise ValueError(
                f"{self._owner}: expected {self.set_name}, {pieces[self.in_pieces]} of {kinds[self.many_devices]}, "
                f"found {found}, of the device{'s' * (len(devices) > 1)} {', '.join(devices)}: another set, or a part "
                "of this one that cannot be told from another. Use the class of its year, or "
                f"DCASEScenes(root, features={self.default_features!r}) for the front end of this one."
            )
        return fold


class TAUUrbanAcousticScenes2019(_TAUScenes):
    """TAU Urban Acoustic Scenes 2019: 14,400 clips of ten seconds from twelve cities, one device, 48 kHz stereo.

    9,185 training and 4,185 test clips; the 1,030 clips of neither are all of Milan. The front end is that of the
    baseline of DCASE 2019, task 1A, which ranked by class-averaged accuracy.

    Args:
        root: Folder with meta.csv, or where to download to.
        download: Whether missing archives are fetched from Zenodo: 36 GB, and 2 GB more while they are unpacked.
        keep_archives: Whether the archives stay.
        **options: Those of :class:`DCASEScenes`.

    Source: Mesaros, Heittola and Virtanen, Zenodo record 2589280.
    """

    set_name = "TAU-urban-acoustic-scenes-2019-development"
    archives = zenodo_archives(set_name)
    default_features = "dcase2019"
    many_devices = False


class TAUUrbanAcousticScenes2020Mobile(_TAUScenes):
    """TAU Urban Acoustic Scenes 2020 Mobile: 23,035 ten-second clips, ten cities, nine devices, six of them simulated.

    13,962 training and 2,968 test clips; devices s4 to s6 are in the test only. It is the set of DCASE 2020 and 2021,
    task 1A, and of Singh and Plumbley's papers; the front end is that of the baseline of 2021, which ranked by log
    loss.

    Args:
        root: Folder with meta.csv, or where to download to.
        download: Whether missing archives are fetched from Zenodo: 27 GB, and 2 GB more while they are unpacked.
        keep_archives: Whether the archives stay.
        **options: Those of :class:`DCASEScenes`.

    Source: Heittola, Mesaros and Virtanen, Zenodo record 3819968.
    """

    set_name = "TAU-urban-acoustic-scenes-2020-mobile-development"
    archives = zenodo_archives(set_name)
    default_features = "dcase2021"


class TAUUrbanAcousticScenes2022Mobile(_TAUScenes):
    """TAU Urban Acoustic Scenes 2022 Mobile: the recordings of 2020 in 230,350 pieces of one second.

    139,620 training and 29,680 test pieces. It is the set of DCASE 2022 to 2025, task 1; the front end is that of the
    baseline of 2022, ``features="dcase2024"`` that of the baseline of 2024. The ``parent`` of a piece names its
    recording; :func:`reassemble` writes the recordings. ``split="split5.csv"`` and so on train on the official subsets
    of 2024; ``train_fraction`` makes subsets of the same structure and sizes.

    Args:
        root: Folder with meta.csv, or where to download to.
        download: Whether missing archives are fetched from Zenodo: 28 GB, and 2 GB more while they are unpacked.
        keep_archives: Whether the archives stay.
        **options: Those of :class:`DCASEScenes`.

    Source: Heittola, Mesaros and Virtanen, Zenodo record 6337421.
    """

    set_name = "TAU-urban-acoustic-scenes-2022-mobile-development"
    archives = zenodo_archives(set_name)
    default_features = "dcase2022"
    in_pieces = True
