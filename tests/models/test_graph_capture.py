"""What of a captured forward fails is left out of it, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from blendin.models.compiled_layers import CompiledLayers
from blendin.models.graph_capture import GraphContents


class Layers:
    """In the place of `CompiledLayers`."""

    is_refused = False
    refuse = CompiledLayers.refuse
    name = "tiny"


@pytest.mark.parametrize("broken", [(), ("gate",), ("layers",), ("gate", "layers")], ids=str)
def test_what_fails_is_left_out_and_said_once(
    broken: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    contents: Any = GraphContents("tiny")
    contents.gate, contents.layers = SimpleNamespace(), Layers()
    own, gate, layers = SimpleNamespace(), contents.gate, contents.layers

    def capture(model: Any, gate: Any) -> tuple[bool, bool]:
        if model is not own and "layers" in broken:
            raise ValueError("no compiler")
        if gate is not None and "gate" in broken:
            raise ValueError("no kernel")
        return model is layers, gate is not None

    expected = ("layers" not in broken, "gate" not in broken)
    for _ in range(2):
        assert contents.captured(own, capture) == expected
    assert (layers.is_refused, contents.gate) == (not expected[0], gate if expected[1] else None)
    assert caplog.text.count("no compiler") == ("layers" in broken)
    assert caplog.text.count("no kernel") == ("gate" in broken)


@pytest.mark.parametrize("fails", ["with all", "ever"])
def test_the_forwards_own_failures_stay_its_own(
    fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory that is short, or what cannot be captured at all, says nothing of gate and layers."""
    contents: Any = GraphContents("tiny")
    contents.gate, contents.layers = SimpleNamespace(), Layers()

    def capture(model: Any, gate: Any) -> None:
        if fails == "with all":
            raise torch.OutOfMemoryError("CUDA out of memory")
        raise RuntimeError("not permitted under capture")

    with pytest.raises(RuntimeError):
        contents.captured(SimpleNamespace(), capture)
    assert contents.gate is not None and "beside its CUDA graphs" not in caplog.text
    assert contents.layers.is_refused == (fails == "ever")
