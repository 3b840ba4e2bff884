"""Random models of real shapes: speed needs no real weights."""

from __future__ import annotations

import random
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

CONFIGS: dict[str, Any] = {
    "llama-3-8b": lambda: LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    ),
    "llama-3.2-1b": lambda: LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    ),
    "qwen2.5-7b": lambda: Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    ),
    "qwen2.5-1.5b": lambda: Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    ),
    "qwen2.5-0.5b": lambda: Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
    ),
    "gemma-2-2b": lambda: Gemma2Config(
        vocab_size=256000,
        hidden_size=2304,
        intermediate_size=9216,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        sliding_window=4096,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "gemma-3-4b": lambda: Gemma3TextConfig(
        vocab_size=262208,
        hidden_size=2560,
        intermediate_size=10240,
        num_hidden_layers=34,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        sliding_window=1024,
        max_position_embeddings=131072,
        tie_word_embeddings=True,
    ),
    "tiny": lambda: LlamaConfig(
        vocab_size=4000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    ),
}

PAIRS = {
    "llama": ("llama-3-8b", "llama-3.2-1b"),
    "qwen": ("qwen2.5-7b", "gemma-2-2b"),
    "qwen-small": ("qwen2.5-1.5b", "qwen2.5-0.5b"),
    "tiny": ("tiny", "tiny"),
}

CHAT = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def random_model(
    name: str, device: str, dtype: torch.dtype, seed: int, shrink: int = 1
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model with random weights, made on its device, and a tokenizer of its vocabulary's size.

    `shrink` divides the number of layers, and leaves their widths.
    """
    config = CONFIGS[name]()
    config.num_hidden_layers //= shrink
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    tokenizer = random_tokenizer(config.vocab_size)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model.eval(), tokenizer


def random_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with random merges; smaller ones are prefixes of larger ones."""
    generator = random.Random(0)
    letters = sorted(ByteLevel.alphabet())
    vocab = {letter: id for id, letter in enumerate(letters)}
    short = list(letters)  # to grow tokens of some four characters, as real ones have
    merges = []
    while len(vocab) < size - 1:
        head, tail = generator.choice(short), generator.choice(letters)
        if head + tail not in vocab:
            vocab[head + tail] = len(vocab)
            merges.append((head, tail))
            if len(head) < 5:
                short.append(head + tail)
    backend = Tokenizer(BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", chat_template=CHAT
    )


def weight_bytes(model: PreTrainedModel) -> int:
    """What one token's forward must read: every weight once, of the input embedding one row."""
    embedding = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is embedding
    total = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return total - (0 if tied else embedding.numel() * embedding.element_size())
