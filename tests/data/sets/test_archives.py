from __future__ import annotations

from pathlib import Path

from lightning_cosprune.data.sets.archives import github_archive, zenodo_archives


def test_the_archives_of_the_tau_sets_are_known():
    archives = zenodo_archives("TAU-urban-acoustic-scenes-2020-mobile-development")
    assert len(archives) == 18
    assert round(sum(archive.bytes for archive in archives) / 1e9, 1) == 27.4
    assert all(len(archive.md5) == 32 for archive in archives)
    assert archives[0].url.startswith("https://zenodo.org/records/3819968/files/TAU-urban-acoustic-scenes-2020-mobile")
    assert Path(archives[0].name).suffix == ".zip"


def test_an_archive_of_github_is_known_by_its_repository():
    archive = github_archive("karolpiczak/ESC-10")
    assert archive.name == "ESC-10-master.zip"
    assert archive.url == "https://github.com/karolpiczak/ESC-10/archive/master.zip"
    assert archive.page == "https://github.com/karolpiczak/ESC-10"
    assert (archive.bytes, archive.md5) == (None, None)
