"""Files are replaced whole or stay as they were, and an error names the file."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from blendin.files import folder_refusal, naming, refusal, write_whole

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


def test_a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o600)
    write_whole(path, "new \ud800é")
    assert path.read_text("utf-8") == "new \\ud800é"
    assert path.stat().st_mode & 0o777 == 0o600
    write_whole(path, b"\xff")
    assert path.read_bytes() == b"\xff" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    whole = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        whole(self, data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(path, "new")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one(tmp_path: Path) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "link"
    path.write_text("old")
    link.symlink_to(path)
    write_whole(link, "new")
    assert link.is_symlink() and path.read_text() == "new"


def test_a_folder_that_takes_no_new_file_has_its_own_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "a.txt", Path.write_bytes

    def refused(self: Path, data: bytes) -> int:
        if self.name == "a.txt":
            return whole(self, data)
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(PermissionError) as caught:
        write_whole(path, "new")
    assert caught.value.filename == str(path)
    path.touch()
    write_whole(path, "new")
    assert path.read_text() == "new"


@needs_full
def test_a_device_stays_one() -> None:
    with pytest.raises(OSError, match="/dev/full"):
        write_whole(FULL, "x")
    assert FULL.is_char_device()
    write_whole(os.devnull, "x")
    assert Path(os.devnull).is_char_device()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "x")
    reader.join(60)
    assert read == ["x"] and pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd")
def test_what_is_open_already_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb", buffering=0) as file:
        file.write(b"answer\n")
        write_whole(f"/dev/fd/{file.fileno()}", "trace\n")
    assert path.read_text() == "answer\ntrace\n"


def named(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "file").touch()
    return {
        "it is a folder": tmp_path,
        "its folder does not exist": tmp_path / "none" / "a",
        "": tmp_path / "a",
    }


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    for reason, path in named(tmp_path).items():
        assert (refusal(path) or "") == reason
    assert refusal(Path("")) == refusal(Path("..")) == "it is a folder"
    assert refusal(tmp_path / "file") is refusal(Path(os.devnull)) is None
    assert refusal(tmp_path / "file" / "a") == "its folder does not exist"
    assert folder_refusal(tmp_path / "new" / "newer") is None
    assert "file is no folder" in str(folder_refusal(tmp_path / "file" / "a"))
    assert "file is no folder" in str(folder_refusal(tmp_path / "file"))


def test_what_is_write_protected_is_known_before(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert refusal(tmp_path / "file") == "it is write-protected"
    assert refusal(tmp_path / "a") == "its folder is write-protected"
    assert "is write-protected" in str(folder_refusal(tmp_path / "a"))


@pytest.mark.parametrize("check", [refusal, folder_refusal, lambda path: write_whole(path, "")])
def test_a_name_that_is_too_long_is_named(tmp_path: Path, check: Any) -> None:
    path = tmp_path / ("x" * 300)
    with pytest.raises(OSError, match="too long") as caught:
        check(path / "a" if check is folder_refusal else path)
    assert "xxx" in caught.value.filename


def test_an_error_without_a_number_goes_through() -> None:
    with pytest.raises(ConnectionError, match=r"^no server$"), naming("a"):
        raise ConnectionError("no server")
