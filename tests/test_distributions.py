"""What is uploaded: a wheel and an sdist, checked, with the version of the tag, that install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
VERSION = "7.8.9"

for tool in ("build", "setuptools_scm", "twine", "check_wheel_contents"):
    pytest.importorskip(tool, reason=f"needs {tool}: pip install 'blendin[dev]'")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    without = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "SETUPTOOLS_SCM"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=without | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(*arguments: str, cwd: Path) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    return run("git", *who, *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this tree's files, and a tag."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a checkout: what is not tracked is in no distribution")
    folder = tmp_path_factory.mktemp("checkout")
    for name in run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("docs/", "benchmarks/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    git("init", "-q", "-b", "main", cwd=folder)
    git("add", "-A", cwd=folder)
    git("commit", "-q", "-m", "all", cwd=folder)
    git("tag", f"v{VERSION}", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def distributions(checkout: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from what is in it, without git."""
    run(sys.executable, "-P", "-m", "build", "--no-isolation", ".", cwd=checkout)
    (sdist,), (wheel,) = (checkout / "dist").glob("*.tar.gz"), (checkout / "dist").glob("*.whl")
    return sdist, wheel


def test_both_have_the_tags_version_and_pass_the_indexs_checks(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    sdist, wheel = distributions
    assert sdist.name == f"blendin-{VERSION}.tar.gz"
    assert wheel.name == f"blendin-{VERSION}-py3-none-any.whl"
    run(sys.executable, "-P", "-m", "twine", "check", "--strict", sdist, wheel, cwd=tmp_path)
    run(sys.executable, "-P", "-m", "check_wheel_contents", wheel, cwd=tmp_path)


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(
    checkout: Path, distributions: tuple[Path, Path]
) -> None:
    tracked = set(git("ls-files", "blendin", "kernels", cwd=checkout).split())
    expected = {f"blendin/{name}" if name.startswith("kernels/") else name for name in tracked}
    with zipfile.ZipFile(distributions[1]) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected
    with tarfile.open(distributions[0]) as sdist:
        assert tracked <= {name.partition("/")[2] for name in sdist.getnames()}


def test_a_clean_environment_runs_what_the_wheel_installs(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its own, but for the dependencies, which are read from where the tests run."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    (python,) = (tmp_path / "venv").glob("*/python")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "-q", "--no-deps", "--no-index", distributions[1], cwd=tmp_path)
    alone: dict[str, Any] = {"cwd": tmp_path, "PYTHONPATH": ""}
    own = Path(run(python, "-c", "import blendin; print(blendin.__file__)", **alone).strip())
    assert own.is_relative_to(tmp_path / "venv")
    code = (
        "import sys; from importlib.util import find_spec; sys.path.append(sys.argv.pop(1));"
        "assert find_spec('blendin.kernels').origin.startswith(sys.prefix);"
        "from blendin.cli import main; main()"
    )
    site = sysconfig.get_paths()["purelib"]
    said = run(python, "-P", "-c", code, site, "--version", **alone)
    assert said == f"blendin {VERSION}\n"
    run(python, "-P", "-c", code, site, "custom-generate", "repo", **alone)
    assert (tmp_path / "repo/custom_generate/generate.py").is_file()


def test_an_archive_and_a_bare_folder_have_a_version_too(checkout: Path, tmp_path: Path) -> None:
    git("archive", "--format=tar", "-o", str(tmp_path / "a.tar"), "HEAD", cwd=checkout)
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.extractall(tmp_path / "archive", filter="data")
    asked = (sys.executable, "-P", "-m", "setuptools_scm")
    assert run(*asked, cwd=tmp_path / "archive").strip() == VERSION
    (tmp_path / "archive" / ".git_archival.txt").unlink()
    assert run(*asked, cwd=tmp_path / "archive").strip() == "0.1.0.dev0"
