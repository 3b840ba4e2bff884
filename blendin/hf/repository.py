"""The folder that `custom_generate=` takes by its path, or from the Hub by its name."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..files import folder_refusal

REPO = Path(__file__).with_name("repo")
"""`model.generate(custom_generate=str(REPO), trust_remote_code=True, ...)`."""


def write_repo(folder: str | Path) -> Path:
    """Copies it, to be uploaded: `hf upload YOU/NAME FOLDER`.

    Args:
        folder: where to; made if it is not there. Files of the same names must not be there.

    Returns:
        The folder.

    Raises:
        ValueError: it cannot be written to, or has one of the files already.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    files = sorted(path for path in REPO.rglob("*") if path.is_file() and path.suffix != ".pyc")
    if reason := folder_refusal(folder):
        raise ValueError(f"{folder} cannot be used: {reason}; name a writable folder")
    for file in files:
        if (target := folder / file.relative_to(REPO)).exists():
            raise ValueError(f"{target} is there already: name a new folder, or take it away")
    for file in files:
        target = folder / file.relative_to(REPO)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return folder
