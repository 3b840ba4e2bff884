"""What a GPU would compile, compiled here: it spills nothing, loads in full vectors, and neither
races nor wraps where a run on a CPU could not tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from interpreted import INTERPRETED

pytest.importorskip("triton")

from cubins import build, faults
from launches import KERNELS, decoded

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the interpreter's kernels are not compiled")


@pytest.mark.parametrize(
    ("size", "dtype", "rows", "top_k"),
    [
        (151936, torch.bfloat16, 1, 100),
        (128256, torch.float16, 1024, 3),  # programs of several chunks
        (262208, torch.float32, 64, 512),
    ],
)
def test_what_decoding_launches_is_without_fault(
    size: int, dtype: torch.dtype, rows: int, top_k: int
) -> None:
    launches = decoded(size, dtype, rows, top_k)
    assert {each.kernel for each in launches} == {
        name for names in KERNELS.values() for name in names
    }
    for launch in launches:
        assert not faults(launch, build(launch, 90)), launch


def test_what_is_taken_out_of_a_build_is_missed() -> None:
    launch = next(x for x in decoded(151936, torch.bfloat16, 1, 100) if x.kernel == "_topk")
    built = build(launch, 90)

    def said(old: str, new: str, part: str = "ttir") -> str:
        text, count = re.subn(old, new, getattr(built, part), flags=re.MULTILINE)
        assert count
        return "; ".join(faults(launch, built._replace(**{part: text})))

    assert "chosen_groups is read before a barrier" in said(r"^ *(ttg|gpu)\.barrier.*\n", "")
    assert "not 2 barriers" in said(r"bar\.sync", "membar", "ptx")
    assert "may wrap: %listed" in said(r"(muli .*: )i64", r"\1i32")
    assert "all programs write one probs" in said("tt.get_program_id", "arith.constant")


def test_every_launch_goes_to_the_device_of_its_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    on: list[torch.Tensor] = []

    @contextmanager
    def on_device(tensor: torch.Tensor) -> Iterator[None]:
        on.append(tensor)
        yield
        on.pop()

    seen = []
    for name in KERNELS:
        monkeypatch.setattr(f"blendin.kernels.{name}.on_device", on_device)
    monkeypatch.setattr("launches._launch", lambda *_: seen.append(len(on)) or len(seen))
    decoded(1000, torch.bfloat16, rows=2, top_k=10)
    assert seen and set(seen) == {1}


def test_no_vocabulary_and_no_batch_is_compiled_anew() -> None:
    """But for sizes rounded up to powers of two, and the rows that a program reads at once."""
    for dtype in (torch.bfloat16, torch.float32):
        first = decoded(128256, dtype, rows=2, top_k=100)
        for size, rows, top_k in ((128256, 3, 90), (100352, 1, 100), (120001, 5, 99)):
            assert decoded(size, dtype, rows, top_k) == first


def test_rows_that_begin_anywhere_are_loaded_in_full_vectors() -> None:
    """V = 50257: rows of 16 bits begin at odd addresses."""
    launch = next(x for x in decoded(50257, torch.bfloat16, 3, 100) if x.kernel == "_stream")
    assert not faults(launch, build(launch, 90))
