"""Links in an adapter folder: inside it and inside the hub's cache they are followed, elsewhere they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from petune.errors import AdapterFileError
from petune.storage import links
from petune.storage.adapter_file import ADAPTER, read, write
from petune.storage.folders import Folders
from tests.storage import making


def _moved(path: Path, target: Path, link: str) -> None:
    """Moves a file and leaves a link in its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)
    path.symlink_to(link)


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    """The file is the folder's own, whatever it is called."""
    folder = write(tmp_path / "it", making.small())
    _moved(folder / ADAPTER, folder / "kept.bin", "kept.bin")
    assert read(folder).manifest["name"] == "small"


@pytest.mark.parametrize("inner", ["", "inner/folder"])
def test_a_snapshot_of_the_hub_may_link_to_the_blobs_of_its_repository(tmp_path: Path, inner: str) -> None:
    """Also from a folder inside the snapshot."""
    repository = tmp_path / "models--a--b"
    folder = write(repository / "snapshots" / "main" / inner, making.small())
    up = "../" * (2 + len(Path(inner).parts))
    _moved(folder / ADAPTER, repository / "blobs" / "ab12", f"{up}blobs/ab12")
    assert read(folder).manifest["name"] == "small"


def test_blobs_that_are_a_link_themselves_are_no_cache(tmp_path: Path) -> None:
    """Else an archive could bring along a way to any folder of the machine."""
    repository = tmp_path / "models--a--b"
    folder = write(repository / "snapshots" / "main", making.small())
    _moved(folder / ADAPTER, tmp_path / "elsewhere" / "ab12", "../../blobs/ab12")
    (repository / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterFileError, match="outside of the folder"):
        links.check(folder)


def test_the_folder_itself_may_be_reached_by_a_link(tmp_path: Path) -> None:
    """Who names a link has chosen it."""
    folder = write(tmp_path / "it", making.small())
    (tmp_path / "link").symlink_to(folder)
    assert read(tmp_path / "link").manifest["name"] == "small"


def test_a_file_that_is_gone_again_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer's temporary file may vanish between the look at the folder and the look at the file."""
    folder = write(tmp_path / "it", making.small())
    (folder / ".petune-1-00000000.tmp").write_bytes(b"")
    plain = Path.stat

    def vanishing(path: Path, **given: bool) -> object:
        if path.suffix == ".tmp":
            path.unlink()
        return plain(path, **given)

    monkeypatch.setattr(Path, "stat", vanishing)
    links.check(folder)


def test_a_store_follows_no_link_out_of_itself(tmp_path: Path) -> None:
    """Inside it a link is a second name; one that leads out is refused when it is used, and says why."""
    write(tmp_path / "store" / "it", making.small())
    write(tmp_path / "outside", making.small())
    (tmp_path / "store" / "again").symlink_to("it")
    (tmp_path / "store" / "away").symlink_to("../outside")
    (tmp_path / "same").symlink_to("store")
    for root in ("store", "same"):
        folders = Folders(tmp_path / root)
        assert folders.names() == ("again", "away", "it")
        assert read(folders.find("again")).manifest["name"] == "small"
        with pytest.raises(AdapterFileError, match=r"away is a link to .*outside of the store.*mapping"):
            folders.find("away")
    assert Folders({"away": tmp_path / "store" / "away"}).find("away")
