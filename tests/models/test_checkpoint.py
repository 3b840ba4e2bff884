"""A checkpoint that cannot be used is one sentence with role and folder, before any work starts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import model
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from blendin import BlendInGenerator
from blendin.cli.app import app
from blendin.models import default_pair
from blendin.spelling import did_you_mean

OTHER = ("llama", "sentencepiece", 1)
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    lm, tok = model("llama", "byte-level")
    lm.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def changed(name: str, **values: Any) -> Callable[[Path], None]:
    """Sets values in a JSON file; None takes one out."""

    def change(folder: Path) -> None:
        held = json.loads((folder / name).read_text()) | values
        kept = {key: value for key, value in held.items() if value is not None}
        (folder / name).write_text(json.dumps(kept))

    return change


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_text(text))


def void(_: object) -> None:
    """So that a lambda returns nothing."""


def without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def truncated(name: str, keep: float) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(keep * len(data))])

    return cut


def renamed(name: str, other: str) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).rename(folder / other))


def sharded(folder: Path) -> None:
    """In two shards, of which one was not downloaded."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    (folder / "model.safetensors").unlink()
    shards = {"model-00001-of-00002.safetensors": names[:4]}
    shards["model-00002-of-00002.safetensors"] = names[4:]
    for shard, held in shards.items():
        save_file({name: weights[name] for name in held}, folder / shard, {"format": "pt"})
    places = {name: shard for shard, held in shards.items() for name in held}
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def with_a_shard_missing(folder: Path) -> None:
    sharded(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def with_a_shard_cut(folder: Path) -> None:
    sharded(folder)
    truncated("model-00002-of-00002.safetensors", 0.5)(folder)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_weights(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return rewrite


def adapter_alone(folder: Path) -> None:
    emptied(folder)
    config = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-2-7b-hf"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(2)}, folder / "adapter_model.safetensors")


def checkpoints_in_it(folder: Path) -> None:
    (folder / "checkpoint-500").mkdir()
    for each in list(folder.iterdir()):
        if each.is_file():
            each.rename(folder / "checkpoint-500" / each.name)


def ggufs_in_it(folder: Path) -> None:
    emptied(folder)
    (folder / "tiny.Q4_0.gguf").write_bytes(b"GGUF")


def hub_cache(folder: Path) -> None:
    emptied(folder)
    for name in ("blobs", "refs", "snapshots"):
        (folder / name).mkdir()


T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")

BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (emptied, "the folder is empty: download"),
    "without config": (without("config.json"), "no config.json, so it is no checkpoint"),
    "checkpoints in it": (checkpoints_in_it, "checkpoint-500 in it has one: name '.*-500'"),
    "GGUFs in it": (ggufs_in_it, "holds GGUF files: name one, '.*tiny.Q4_0.gguf'"),
    "the hub's cache": (hub_cache, "the hub's cache of a model: name the hub id"),
    "an adapter": (adapter_alone, "PEFT adapter of meta-llama/Llama-2-7b-hf, without the model"),
    "diffusers": (
        lambda f: (without("config.json")(f), written("model_index.json", "{}")(f))[0],
        "diffusers pipeline",
    ),
    "Meta's own": (
        lambda f: (without("config.json")(f), written("params.json", "{}")(f))[0],
        "its maker's own format",
    ),
    "config cut": (truncated("config.json", 0.5), r"config.json is damaged: it is no JSON \("),
    "config empty": (written("config.json", ""), "config.json is damaged: it is no JSON"),
    "config a list": (written("config.json", "[]"), "config.json is damaged: it holds no JSON obj"),
    "generation_config cut": (
        truncated("generation_config.json", 0.5),
        "generation_config.json is damaged",
    ),
    "tokenizer_config cut": (
        truncated("tokenizer_config.json", 0.5),
        "tokenizer_config.json is damaged",
    ),
    "braces in JSON": (written("config.json", "{role} {0}"), "config.json is damaged"),
    "tokenizer cut": (truncated("tokenizer.json", 0.5), "its tokenizer cannot be read"),
    "tokenizer empty": (written("tokenizer.json", ""), "its tokenizer cannot be read"),
    "without tokenizer": (without(*TOKENIZER), "has no tokenizer .*{role}_kwargs={'tokenizer'"),
    "without tokenizer.json": (without("tokenizer.json"), "has no tokenizer .no tokenizer.json"),
    "weights cut": (truncated("model.safetensors", 0.9), "model.safetensors is truncated or dam"),
    "weights cut in the header": (truncated("model.safetensors", 0.001), "truncated or damaged"),
    "weights empty": (written("model.safetensors", ""), "truncated or damaged"),
    "a shard missing": (with_a_shard_missing, "1 of 2 weight files are missing, the first model-0"),
    "a shard cut": (with_a_shard_cut, "model-00002-of-00002.safetensors is truncated"),
    "index cut": (
        lambda f: (sharded(f), truncated("model.safetensors.index.json", 0.5)(f))[0],
        "model.safetensors.index.json is damaged",
    ),
    "weights a pointer": (
        written("model.safetensors", POINTER),
        "model.safetensors is a git-LFS pointer.*git lfs pull",
    ),
    "tokenizer a pointer": (written("tokenizer.json", POINTER), "tokenizer.json is a git-LFS poi"),
    "config a pointer": (written("config.json", POINTER), "config.json is a git-LFS pointer"),
    "pickled": (pickled, "weights are pickled, .*writes safetensors"),
    "a pickle a pointer": (
        lambda f: (pickled(f), written("pytorch_model.bin", POINTER)(f))[0],
        "pytorch_model.bin is a git-LFS pointer",
    ),
    "pickled as .pth": (
        lambda f: (pickled(f), renamed("pytorch_model.bin", "consolidated.00.pth")(f))[0],
        "weights are pickled",
    ),
    "TensorFlow's": (renamed("model.safetensors", "tf_model.h5"), "are another framework's"),
    "weights by another name": (
        renamed("model.safetensors", "weights.safetensors"),
        "no model.safetensors, but weights.safetensors",
    ),
    "without weights": (without("model.safetensors"), "the folder has no weights: download"),
    "without a head": (
        with_weights(lambda held: void(held.pop("lm_head.weight"))),
        "no weights for lm_head.weight, which would be random",
    ),
    "without a layer": (
        with_weights(lambda held: [held.pop(n) for n in [*held] if ".layers.1." in n] and None),
        r"no weights for model.layers.1.* and \d+ more, which would be random",
    ),
    "of other shapes": (changed("config.json", hidden_size=64), "cannot be loaded"),
    "an unknown model_type": (
        changed("config.json", model_type="lama"),
        "knows no model_type 'lama': upgrade .*did you mean 'llama'",
    ),
    "without model_type": (changed("config.json", model_type=None), "names no model_type"),
    "code of its own": (
        changed("config.json", model_type="mine", auto_map={"AutoConfig": "m.Config"}),
        "model_type 'mine' comes with code of its own: pass trust_remote_code=True",
    ),
    "T5": (changed("config.json", **T5), "T5ForConditionalGeneration, of the kind 't5'"),
    "BART": (
        changed("config.json", model_type="bart", is_encoder_decoder=True),
        "an encoder-decoder",
    ),
    "ViT": (
        changed("config.json", model_type="vit", architectures=["ViTModel"]),
        "no causal language model but ViTModel",
    ),
    "sentence-transformers": (written("modules.json", "[]"), "a sentence-transformers checkpoint"),
    "an embedding model": (
        with_weights(
            lambda held: void(
                [held.__setitem__(n.removeprefix("model."), held.pop(n)) for n in [*held]]
                and held.pop("lm_head.weight")
            )
        ),
        "no weights for lm_head.weight",
    ),
    "a quantization nobody has": (
        changed("config.json", quantization_config={"quant_method": "spqr", "bits": 3}),
        "loaded|takes a package",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder_is_one_sentence(what: str, saved: Path, tmp_path: Path) -> None:
    role = "guide" if len(what) % 2 else "base"
    spoil, message = BROKEN[what]
    folder = tmp_path / "broken {x}"
    shutil.copytree(saved, folder)
    spoil(folder)
    pair: dict[str, Any] = {"base": model(*OTHER), "guide": model(*OTHER), role: folder}
    with pytest.raises(ValueError) as error:
        BlendInGenerator(**pair)
    text = str(error.value)
    assert re.search(message.replace("{role}", role), text), text
    assert text.startswith(f"{role}={str(folder)!r}") and "\n" not in text


@pytest.mark.parametrize("spoil", ["empty", "weights cut", "without tokenizer", "T5"])
def test_a_broken_guide_is_found_before_the_base_is_loaded(
    spoil: str, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(saved, folder)
    BROKEN[spoil][0](folder)
    monkeypatch.setattr("blendin.generator.load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="guide="):
        BlendInGenerator(saved, folder)


def test_what_is_whole_is_loaded(saved: Path, tmp_path: Path) -> None:
    lm = BlendInGenerator(saved, model(*OTHER)).base.model
    for spoil in (
        sharded,
        written("README.md", "x"),
        changed("config.json", architectures=["LlamaModel"]),
        without("generation_config.json"),
        without("tokenizer_config.json"),
    ):
        folder = tmp_path / str(id(spoil))
        shutil.copytree(saved, folder)
        spoil(folder)
        other = BlendInGenerator(folder, model(*OTHER)).base.model
        assert torch.equal(lm.lm_head.weight, other.lm_head.weight)


def test_a_tokenizer_may_come_from_elsewhere(saved: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(saved, bare)
    without(*TOKENIZER)(bare)
    tok = model("llama", "byte-level")[1]
    ways: list[tuple[Any, dict[str, Any]]] = [
        ((bare, tok), {}),
        ([tok, str(bare)], {}),
        (bare, {"tokenizer": tok}),
        (bare, {"tokenizer": saved}),
        (bare, {"tokenizer": str(saved)}),
    ]
    for given, options in ways:
        gen = BlendInGenerator(given, model(*OTHER), base_kwargs=options)
        assert gen.base.tokenizer.get_vocab() == tok.get_vocab()


def test_a_folder_in_the_folder(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "inner")
    gen = BlendInGenerator(tmp_path, model(*OTHER), base_kwargs={"subfolder": "inner"})
    assert gen.base.name == str(tmp_path)
    with pytest.raises(ValueError, match=r"there is no folder .*outer"):
        BlendInGenerator(tmp_path, model(*OTHER), base_kwargs={"subfolder": "outer"})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("m.gguf", b"", "m.gguf is no GGUF file, or a damaged one"),
        ("m.gguf", b"<html>Not found</html>", "m.gguf is no GGUF file"),
        ("m.GGUF", POINTER.encode(), "m.GGUF is a git-LFS pointer"),
        ("m.GGUF", b"GGUF", "GGUF file is truncated"),
        ("m.Gguf", b"GGUF\x03\x00\x00\x00" + bytes(30), "GGUF file is truncated|cannot be read"),
        ("m.bin", b"x", "weights are pickled"),
        ("m.pth", b"x", "weights are pickled"),
        ("model.safetensors", b"x", "a file and no GGUF: name the folder that it is in"),
        ("config.json", b"{}", "a file and no GGUF: name the folder that it is in"),
    ],
)
def test_a_file_that_is_no_gguf(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        BlendInGenerator(model(*OTHER), path)
    assert str(error.value).startswith(f"guide={str(path)!r}") and "\n" not in str(error.value)


def gguf_file(path: Path, architecture: str) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_tensor("token_embd.weight", torch.zeros(8, 8).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("name", ["tiny.gguf", "TINY.GGUF"])
def test_a_gguf_of_an_unknown_architecture(name: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    gguf_file(tmp_path / name, "nobodys")
    with pytest.raises(ValueError, match=r"base=.*truncated, or of a kind"):
        BlendInGenerator(tmp_path / name, model(*OTHER))


@pytest.mark.parametrize("name", ["m.gguf", "M.GGUF", "m.Gguf", "Mixed.Q4_0.gGuF"])
def test_a_gguf_is_handed_on_under_a_name_that_transformers_knows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"GGUF, and more")
    read: list[bytes] = []

    def from_pretrained(path: str, gguf_file: str, **_: Any) -> Any:
        assert gguf_file.endswith(".gguf")
        read.append(Path(path, gguf_file).read_bytes())
        tok = model("llama", "byte-level")[1]
        return tok if len(read) == 1 else (model("llama", "byte-level")[0], {})

    monkeypatch.setattr("blendin.models.tokenizer.AutoTokenizer.from_pretrained", from_pretrained)
    monkeypatch.setattr(
        "blendin.models.loader.AutoModelForCausalLM.from_pretrained", from_pretrained
    )
    gen = BlendInGenerator(tmp_path / name, model(*OTHER))
    assert read == [b"GGUF, and more"] * 2
    assert gen.base.name == str(tmp_path / name)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("bfloat61", "did you mean 'bfloat16'"),
        ("flaot32", "did you mean 'float32'"),
        ("Float32", "did you mean 'float32'"),
        ("fp16", "did you mean 'float16'"),
        ("bf16", "did you mean 'bfloat16'"),
        ("fp32", "did you mean 'float32'"),
        ("autom", "did you mean 'auto'"),
        ("nn", "use 'auto', 'float32'"),
        ("", "use 'auto', 'float32'"),
        (16, "dtype is 16; use 'auto'"),
        (float, "dtype is <class 'float'>; use"),
        ("int8", "holds no fractions.*quantization_config"),
        (torch.int8, "holds no fractions.*quantization_config"),
    ],
)
def test_a_dtype_that_is_none(dtype: Any, message: str, saved: Path) -> None:
    with pytest.raises(ValueError, match=f"base=.*{message}"):
        BlendInGenerator(saved, saved, dtype=dtype)
    with pytest.raises(ValueError, match=f"guide=.*{message}"):
        BlendInGenerator(model(*OTHER), saved, guide_kwargs={"dtype": dtype})


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", "float64"),
        ("float", "float32"),
        ("half", "float16"),
        ("double", "float64"),
        ("torch.bfloat16", "bfloat16"),
        (torch.float32, "float32"),
        ({"": "float32"}, None),
    ],
)
def test_a_dtype_as_torch_names_it(dtype: Any, expected: str | None, saved: Path) -> None:
    gen = BlendInGenerator(saved, model(*OTHER), base_kwargs={"dtype": dtype})
    assert expected is None or gen.base.precision == expected


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("dtyp", "dtype"),
        ("devise_map", "device_map"),
        ("quantisation_config", "quantization_config"),
        ("attn_implementatoin", "attn_implementation"),
        ("nonsense_xyz", None),
    ],
)
def test_an_option_that_from_pretrained_does_not_have(
    option: str, meant: str | None, saved: Path
) -> None:
    with pytest.raises(ValueError, match=f"base=.*no option {option}") as error:
        BlendInGenerator(saved, model(*OTHER), base_kwargs={option: "x"})
    assert (f"did you mean {meant!r}" in str(error.value)) == (meant is not None)


def test_pickles_cannot_be_asked_for(saved: Path) -> None:
    with pytest.raises(ValueError, match="use_safetensors=False asks for pickled"):
        BlendInGenerator(saved, model(*OTHER), base_kwargs={"use_safetensors": False})
    assert BlendInGenerator(saved, model(*OTHER), base_kwargs={"use_safetensors": True}).base


def test_kernels_from_the_hub_are_asked_for_in_vain_before_anything_is_loaded(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("blendin.generator.load", None)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    available = "blendin.models.checkpoint.is_kernels_available"
    asked: Any = {"guide_kwargs": {"use_kernels": True}}
    monkeypatch.setattr(available, lambda: False)
    with pytest.raises(ValueError, match=r"guide='.*: guide_kwargs has use_kernels, .* no package"):
        BlendInGenerator(model(*OTHER), saved, **asked)
    monkeypatch.setattr(available, lambda: True)
    with pytest.raises(TypeError, match="not callable"):
        BlendInGenerator(model(*OTHER), saved, **asked)
    assert "there is no GPU here" in caplog.text


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gemma3-270m", default_pair.DEFAULT_BASE),
        ("Gemma-3-270M", default_pair.DEFAULT_BASE),
        ("smolm2-135m-instruct", default_pair.DEFAULT_GUIDE),
    ],
)
def test_an_embedded_name_that_is_misspelt(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no waiting for the hub
    with pytest.raises(ValueError, match=f"base=.*did you mean '{meant}'"):
        BlendInGenerator(name, model(*OTHER))


def test_a_folder_that_is_misspelt(saved: Path) -> None:
    with pytest.raises(ValueError, match=f"guide=.*did you mean '{saved.name}'"):
        BlendInGenerator(model(*OTHER), saved.parent / f"{saved.name}x")


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("bland", ["blend", "nudge"], "; did you mean 'blend'?"),
        ("BLEND", ["blend"], "; did you mean 'blend'?"),
        ("max_new_token", ["max_new_tokens", "system"], "; did you mean 'max_new_tokens'?"),
        ("quite else", ["blend"], ""),
        ("x", [], ""),
    ],
)
def test_a_close_name_is_suggested(name: str, known: list[str], expected: str) -> None:
    assert did_you_mean(name, known) == expected


def test_names_of_policies_and_settings_are_suggested() -> None:
    gen = BlendInGenerator(model(*OTHER), model(*OTHER))
    with pytest.raises(ValueError, match=r"'bland' is unknown; .*did you mean 'blend'"):
        gen.generate("x", policy="bland")
    with pytest.raises(TypeError, match=r"max_new_token: no such .*did you mean 'max_new_tokens'"):
        gen.generate("x", max_new_token=3)
    with pytest.raises(TypeError, match=r"temprature: no such .*did you mean 'temperature'"):
        gen.generate(["x"], temprature=3)


def test_the_command_line_says_it_in_one_line(saved: Path) -> None:
    arguments = ["generate", "x", "--base", str(saved), "--guide", str(saved)]
    result = CliRunner().invoke(app, [*arguments, "--dtype", "bfloat61"])
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "did you mean 'bfloat16'" in result.stderr.replace("\n", " ")
