"""What a pair's confidence is worth: the temperatures and the α that were fitted to it.

`blendin calibrate` fits a `Calibration` and writes it; `Blend(calibration=...)` decides by it. The
gate and α read probabilities at its temperatures, and what is blended stays as the models say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .files import write_whole
from .text_files import read_text
from .values import Real, SettingTypeError, check_fields, setting, shown, told

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
"""Of the file; a later one may say what this reader does not know."""

ABOUT = "about"
"""The file's own remarks (models, data, figures), which no decision reads."""

EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1 before their logit, or a certain model would have
an infinite one; near 1 float32 tells no finer than 6e-8."""

TEMPERATURE = Real(
    0.01, 100, symbol="T", advice="use a temperature from 0.01 to 100; 1 leaves probabilities alone"
)
COEFFICIENT = Real(
    -1000, 1000, none="α as the paper has it", advice="use a number from -1000 to 1000, or None"
)


@dataclass(frozen=True)
class Calibration:
    """The temperatures of base and guide, and what else was fitted to a pair.

    Attributes:
        base_temperature: T_b; p_b and P_B(t_g) are read from softmax(logits / T_b).
        guide_temperature: T_g; p_g is read from softmax(logits / T_g). t_g itself stays the guide's
            own choice.
        a: of logit α = a + b·(logit p_g − logit p_b) + c·P_B(t_g), which takes the place of the
            adaptive α; None, like b and c, where it was not fitted.
        b: the weight of the difference in confidence.
        c: the weight of the agreement P_B(t_g).
        threshold: τ, for policies that are given none; None where it was not fitted.
    """

    base_temperature: float = setting(1.0, TEMPERATURE)
    guide_temperature: float = setting(1.0, TEMPERATURE)
    a: float | None = setting(None, COEFFICIENT)
    b: float | None = setting(None, COEFFICIENT)
    c: float | None = setting(None, COEFFICIENT)
    threshold: float | None = setting(
        None, Real(0, 2, symbol="τ", none="none", advice="use a number from 0 to 1, or None")
    )

    def __post_init__(self) -> None:
        check_fields(self)
        missing = [name for name in ("a", "b", "c") if getattr(self, name) is None]
        if 0 < len(missing) < 3:
            raise ValueError(
                f"a, b and c of a calibration belong together, and {' and '.join(missing)} is "
                "missing: give all three, or none for the adaptive α"
            )

    @property
    def fits_alpha(self) -> bool:
        """Whether it has an α of its own."""
        return self.a is not None

    def alpha(self, base_top_prob: Tensor, guide_top_prob: Tensor, agreement: Tensor) -> Tensor:
        """α, `[N]` float32, from `[N]` probabilities at the temperatures, where it fits one."""
        assert self.a is not None and self.b is not None and self.c is not None
        of_guide, of_base = _logit(guide_top_prob), _logit(base_top_prob)
        return (self.a + self.b * (of_guide - of_base) + self.c * agreement).sigmoid()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """From a file that `save` or `blendin calibrate` wrote.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no calibration, of a later version, or a value in it is wrong; names
                the file.
        """
        try:
            content = json.loads(read_text(Path(path)))
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"{path} is no JSON ({error}): give a file that `blendin calibrate` wrote"
            ) from None
        try:
            return cls.of(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def of(cls, content: Any) -> Self:
        """From what `to_dict` gives.

        Raises:
            ValueError: it is no calibration, of a later version, or a value in it is wrong.
        """
        if not isinstance(content, Mapping):
            raise SettingTypeError(
                f"{told(content)} is no calibration: give an object of its values"
            )
        given = {name: value for name, value in content.items() if name != ABOUT}
        version = given.pop("version", VERSION)
        if version != VERSION:
            raise ValueError(
                f"the calibration has version {told(version)} and this blendin reads {VERSION}: "
                "run `blendin calibrate` anew, or install the blendin that wrote it"
            )
        names = [each.name for each in fields(cls)]
        if not given:
            raise ValueError(f"there is no calibration in it: it has some of {', '.join(names)}")
        if unknown := sorted(map(str, given.keys() - set(names))):
            raise ValueError(f"a calibration has no {unknown[0]!r}: use {', '.join(names)}")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Version and values, for JSON."""
        return {"version": VERSION, **asdict(self)}

    def save(self, path: str | os.PathLike[str], about: Mapping[str, Any] | None = None) -> None:
        """Writes it as JSON.

        Args:
            path: of the file, which is replaced at once.
            about: remarks to keep with it (models, data, figures).

        Raises:
            OSError: it cannot be written.
        """
        content = self.to_dict() | ({} if about is None else {ABOUT: dict(about)})
        write_whole(Path(path), json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def as_calibration(name: str, value: Any) -> Calibration | None:
    """The kind of a calibration: one, what `Calibration.of` takes, or the path of its file.

    Raises:
        ValueError: for anything else, and for a file that is none or cannot be read.
    """
    if value is None or isinstance(value, Calibration):
        return value
    if isinstance(value, Mapping):
        return Calibration.of(value)
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise SettingTypeError(
            f"{shown(name)} is {told(value)}; use a Calibration or the path of its file"
        )
    try:
        return Calibration.load(value)
    except OSError as error:
        raise ValueError(
            f"{shown(name)}: {value} cannot be read ({error.strerror}): give a file that "
            "`blendin calibrate` wrote"
        ) from error


def refuse_paths(settings: Mapping[str, Any]) -> None:
    """Checks the settings of a request from outside: it must not make a server read its files.

    Raises:
        ValueError: the calibration is not given as an object.
    """
    value = settings.get("calibration")
    if value is not None and not isinstance(value, Mapping):
        raise SettingTypeError(
            f"{shown('calibration')} is {told(value)}: a request gives the object itself, such as "
            '{"base_temperature": 1.4}; files are for the server\'s own settings'
        )


def _logit(probability: Tensor) -> Tensor:
    return probability.clamp(EDGE, 1 - EDGE).logit()
