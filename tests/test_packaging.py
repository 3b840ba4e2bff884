"""What an installation contains, and that the kernels' folder never stands in for `kernels`."""

import importlib.util
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def python(code: str, cwd: Path, *path: Path) -> str:
    """Runs `code` in a fresh interpreter with `cwd`, then `path`, first on sys.path."""
    places = [str(cwd), *map(str, path)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:1] = {places!r}\n{code}"],
        cwd=cwd, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_package_on_disk_is_listed_for_installation() -> None:
    found = {"blendin"}
    for top, name in ((ROOT / "blendin", "blendin"), (ROOT / "kernels", "blendin.kernels")):
        for init in top.rglob("__init__.py"):
            found.add(".".join((name, *init.parent.relative_to(top).parts)))
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_every_file_that_is_no_module_is_listed_for_installation() -> None:
    listed = {
        path.relative_to(ROOT)
        for package, patterns in PROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    found = {path.relative_to(ROOT) for path in (ROOT / "blendin").rglob("*.*") if path.is_file()}
    code = ROOT / "blendin/hf/repo/custom_generate/generate.py"  # of the Hub's, not of a package
    others = {path for path in found if path.suffix not in (".py", ".pyc")}
    assert others | {code.relative_to(ROOT)} == listed


def test_the_package_is_typed_and_its_version_is_the_installeds() -> None:
    import blendin

    assert (ROOT / "blendin" / "py.typed").is_file()
    assert "version" in PROJECT["project"]["dynamic"]
    assert blendin.__version__ == metadata.version("blendin")


def test_outside_the_repository_there_are_blendin_kernels_and_no_kernels(tmp_path: Path) -> None:
    if importlib.util.find_spec("blendin.kernels") is None:
        pytest.skip("blendin is not installed")
    code = "import blendin.kernels as k; print(k.__name__, k.__file__)"
    assert python(code, tmp_path).split() == ["blendin.kernels", str(ROOT / "kernels/__init__.py")]
    where = "import importlib.util as u; spec = u.find_spec('kernels'); print(spec and spec.origin)"
    assert str(ROOT) not in python(where, tmp_path)


def test_transformers_imports_in_the_repositorys_root() -> None:
    """Where `import kernels` finds our folder, which transformers takes for Hugging Face's."""
    from transformers.utils import is_kernels_available

    code = (
        "from transformers.integrations import hub_kernels\n"
        "from transformers.utils import is_kernels_available\n"
        "print(is_kernels_available())"
    )
    assert python(code, ROOT) == str(is_kernels_available())


def test_in_the_repositorys_root_kernels_is_an_empty_package(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    code = (
        "import kernels; print(getattr(kernels, '__version__', None), list(kernels.__path__))\n"
        "import importlib.util as u; print(u.find_spec('kernels.gate'))"
    )
    if "site-packages" not in python("import kernels; print(kernels.__file__)", ROOT):
        assert python(code, ROOT).split() == ["None", "[]", "None"]


def test_the_kernels_folder_steps_aside_for_the_real_package(tmp_path: Path) -> None:
    real = tmp_path / "kernels"
    real.mkdir()
    (real / "__init__.py").write_text("__version__ = '0.18.2'\nfrom .part import answer\n")
    (real / "part.py").write_text("answer = 42\n")
    code = "from kernels import answer; import kernels.part; print(answer, kernels.__version__)"
    assert python(code, ROOT, tmp_path) == "42 0.18.2"
