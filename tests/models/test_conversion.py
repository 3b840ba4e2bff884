"""A conversion reads a GGUF's tables once, and reads in them what transformers reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

from transformers import modeling_gguf_pytorch_utils as reading  # noqa: E402

from blendin.models import conversion  # noqa: E402


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A GGUF with tables of every kind, and one tensor in blocks."""
    writer = gguf.GGUFWriter(path := tmp_path / "tiny.gguf", "gemma3")
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_embedding_length(32)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_token_list(["<pad>", "\u2581the", "é", "<0x0A>"])
    writer.add_token_scores([0.0, -1.5, -2.0, -3.0])
    writer.add_token_types([3, 1, 1, 6])
    writer.add_add_bos_token(True)
    weights = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    packed = gguf.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("token_embd.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were parsed, once `_read_once` is in force; ends with the test."""
    files = list[str]()
    whole = gguf.GGUFReader.__init__

    def counted(self: Any, path: Any, *arguments: Any) -> None:
        files.append(str(path))
        whole(self, path, *arguments)

    monkeypatch.setattr(gguf.GGUFReader, "__init__", counted)
    for module, name in (
        (gguf, "GGUFReader"),
        (gguf, "get_tensor_name_map"),
        (reading, "load_gguf_checkpoint"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # taken back afterwards
    conversion._read_once()
    return files


def test_the_tables_are_read_once_however_the_file_is_named(
    file: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    for name in (str(file), file, file.name, os.path.join("..", file.parent.name, file.name)):
        reading.load_gguf_checkpoint(name)
        reading.load_gguf_checkpoint(name, return_tensors=False)
        gguf.GGUFReader(name)
    assert parsed == [os.path.realpath(file)]


def test_what_is_read_is_what_transformers_reads_and_belongs_to_the_caller(
    file: Path, request: pytest.FixtureRequest
) -> None:
    expected = reading.load_gguf_checkpoint(file)
    (theirs,) = gguf.GGUFReader(file).tensors
    request.getfixturevalue("parsed")
    assert expected["config"]["vocab_size"] == 4 and expected["config"]["hidden_size"] == 32
    for _ in range(2):
        found = reading.load_gguf_checkpoint(file)
        assert found == expected
        found["config"].clear()
    (ours,) = gguf.GGUFReader(file).tensors
    assert type(ours.data) is np.ndarray and np.array_equal(ours.data, theirs.data)
    assert (ours.name, ours.tensor_type) == (theirs.name, theirs.tensor_type)
