"""The default pair's conversion: damaged, raced, killed, starved, it hands out whole copies."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_disk import FAULTS, Disk, faulty, in_a_child
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blendin.models import default_pair as pairs

GGUF = b"GGUF of a tiny model" * 50
FILES = {
    "model.safetensors": b"weights" * 1000,
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b'{"version": "1.0"}',
}


def gguf(scratch: Path) -> Path:
    path = scratch / "tiny.gguf"
    with path.open("wb") as file:
        file.write(GGUF)
    return path


TINY = pairs.EmbeddedModel(
    name="tiny",
    hub_id="nobody/tiny",
    packages=("json",),
    pip="pip install tiny==1",
    licence="MIT",
    licence_url="https://example.org/mit",
    gguf_sha256=hashlib.sha256(GGUF).hexdigest(),
    gguf=gguf,
    notices=("__init__.py",),
)


def convert(source: Path, destination: Path) -> None:
    assert source.read_bytes() == GGUF
    for name, data in FILES.items():
        with (destination / name).open("wb") as file:
            file.write(data)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(pairs.EMBEDDED, "tiny", TINY)
    monkeypatch.setattr(pairs, "_convert_in_child", convert)
    monkeypatch.setattr(pairs, "FREE_BYTES_NEEDED", 0)
    at(tmp_path / "cache", monkeypatch)
    return tmp_path / "cache"


def at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLENDIN_CACHE", str(root))


def check(folder: Path) -> None:
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {*FILES, "LICENSE.txt", "__init__.py"}
    assert not [path for path in folder.parent.iterdir() if ".tmp-" in path.name]


@pytest.mark.parametrize("damaged_before", [False, True], ids=["fresh", "rebuilt"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_conversion_that_ends_at_any_write_leaves_no_half_copy(
    fault: str, damaged_before: bool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        here = root / str(number)
        at(here, monkeypatch)
        if damaged_before:
            (pairs.folder("tiny") / "config.json").write_text("{}")
        disk = Disk(here, number, fault)

        def begin(disk: Disk = disk) -> None:
            with faulty(disk):
                pairs.folder("tiny")

        if fault == "killed":
            status = in_a_child(begin)
            assert status in (0, -signal.SIGKILL)
        else:
            try:
                begin()
                status = 0
            except ValueError as error:
                status = 1
                assert "BLENDIN_CACHE" in str(error) or "force-reinstall" in str(error)
        check(pairs.folder("tiny"))
        if status == 0:
            break
    assert number > 8


@pytest.mark.parametrize("damaged_before", [False, True], ids=["fresh", "rebuilt"])
def test_processes_that_race_all_get_a_whole_copy(damaged_before: bool, root: Path) -> None:
    if damaged_before:
        (pairs.folder("tiny") / "config.json").write_text("{}")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                check_files(pairs.folder("tiny"))
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    check(pairs.folder("tiny"))


def check_files(folder: Path) -> None:
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "more.json")


def into_a_pipe(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def into_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


ODD: dict[str, Callable[[Path], object]] = {
    "a folder in it": lambda folder: (folder / "more").mkdir(),
    "a pipe in it": pipe,
    "a pipe for a manifest": into_a_pipe,
    "a link to nothing": lambda folder: (folder / "more").symlink_to("/nowhere"),
    "a link that goes round": lambda folder: (folder / "more").symlink_to(folder / "more"),
    "a link to a device": lambda folder: (folder / "more").symlink_to("/dev/zero"),
    "a file in its place": into_a_file,
    "deep JSON for a manifest": lambda folder: (folder / "manifest.json").write_text("[" * 10**6),
    "a list for a manifest": lambda folder: (folder / "manifest.json").write_text("[]"),
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("odd", ODD)
def test_what_is_not_a_copy_is_replaced(odd: str, root: Path) -> None:
    ODD[odd](pairs.folder("tiny"))
    check(pairs.folder("tiny"))


def test_a_file_system_without_locks_is_an_error_that_names_the_setting(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", none)
    with pytest.raises(pairs.PairError, match=r"flock.*BLENDIN_CACHE"):
        pairs.folder("tiny")


def test_a_user_without_a_home_is_an_error_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.delenv("BLENDIN_CACHE", raising=False)
    with pytest.raises(pairs.PairError, match="BLENDIN_CACHE"):
        pairs.cache_root()


def test_an_intact_copy_needs_no_writing(root: Path) -> None:
    folder = pairs.folder("tiny")
    disk = Disk(root, 0, "read-only")
    with faulty(disk):
        assert pairs.folder("tiny") == folder
    assert disk.done == []


@pytest.mark.fuzz
@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from([*FILES, "manifest.json"]),
    place=st.integers(0, 10_000),
    cut=st.integers(0, 20),
    new=st.binary(max_size=20),
)
def test_any_change_of_a_byte_is_found(
    name: str, place: int, cut: int, new: bytes, root: Path
) -> None:
    folder = pairs.folder("tiny")
    before = (folder / name).read_bytes()
    place %= len(before) + 1
    (folder / name).write_bytes(before[:place] + new + before[place + cut :])
    check(pairs.folder("tiny"))
