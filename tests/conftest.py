"""Shared fixtures; the tiny models run on one thread, which is faster for their size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from tiny import byte_level_tokenizer, sentencepiece_tokenizer, tiny_model
from transformers import PreTrainedTokenizerFast

from blendin import BlendInGenerator
from blendin.engine.sequence import SequenceState
from blendin.models import default_pair as pairs

TOKENIZERS = {
    "byte-level": byte_level_tokenizer,
    "sentencepiece": sentencepiece_tokenizer,
    "prefixed": lambda: sentencepiece_tokenizer(prefix_space=True),
    "no-bytes": lambda: sentencepiece_tokenizer(byte_fallback=False),
}


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return TOKENIZERS[kind]()


@cache
def model(architecture: Any, kind: str, seed: int = 0) -> tuple[Any, PreTrainedTokenizerFast]:
    """A tiny float64 (model, tokenizer); cached, so that a property test can draw many pairs."""
    return tiny_model(architecture, tokenizer(kind), seed), tokenizer(kind)


@cache
def generator(base: tuple[str, str, int], guide: tuple[str, str, int]) -> BlendInGenerator:
    """Each of (architecture, tokenizer kind, seed)."""
    return BlendInGenerator(model(*base), model(*guide))


def fail_third_step(monkeypatch: pytest.MonkeyPatch, length: int, message: str) -> None:
    """Sequences with this `max_new_tokens` fail at their third step."""
    record = SequenceState.record

    def faulty(self: SequenceState, *args: Any, **fields: Any) -> Any:
        if self.limits.max_new_tokens == length and len(self.output.steps) == 2:
            raise FloatingPointError(message)
        return record(self, *args, **fields)

    monkeypatch.setattr(SequenceState, "record", faulty)


SLOW_FILES = {"test_access.py", "test_lies.py", "test_remote.py", "test_served.py"}
SLOW_FILES |= {"test_server.py", "test_source.py", "test_terminals.py", "test_threads.py"}
"""Files that take long together: `scripts/test --fast` leaves them out, and `adversarial/`."""


LONGEST_FILES = (
    "test_default_pair.py", "test_exactness.py", "test_kernels.py", "test_remote.py",
    "test_architectures.py", "test_default_pair_files.py", "test_threads.py", "test_defer.py",
    "test_batch.py", "test_runs.py", "test_testing.py", "test_terminals.py", "test_fused.py",
)  # fmt: skip
"""Come first, in the order of their time, or one of two workers would end alone with them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        if item.path.name in SLOW_FILES or item.path.parent.name == "adversarial":
            item.add_marker(pytest.mark.slow)


def readable(value: object) -> str:
    """The name of a parameter in a test's, the same in every process: no address in it."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread for tiny models, all of them for the real pair."""
    before = torch.get_num_threads()
    if request.node.get_closest_marker("pair") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pair_folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """--base and --guide of a tiny pair."""
    arguments = []
    for role, kind in (("base", "byte-level"), ("guide", "sentencepiece")):
        folder = tmp_path_factory.mktemp(role)
        lm, tok = model("llama", kind)
        lm.save_pretrained(folder)
        tok.save_pretrained(folder)
        arguments += [f"--{role}", str(folder)]
    return arguments


@pytest.fixture(scope="session")
def default_pair() -> BlendInGenerator:
    """The real default pair in float32, loaded once."""
    missing = [
        name for name in (pairs.DEFAULT_BASE, pairs.DEFAULT_GUIDE) if not pairs.is_installed(name)
    ]
    if missing:
        pytest.skip(f"not installed: {', '.join(pairs.EMBEDDED[name].pip for name in missing)}")
    return BlendInGenerator(dtype=torch.float32)
