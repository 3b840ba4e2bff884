"""Tiny tokenizers and models for the tests, built in code: nothing is downloaded.

The models are random, so what they write is noise: text with stray bytes and the odd chat word.
That is what the tests want. They are wide awake too: the probability of the best token spreads
over (0, 1), and the attention is strong enough that they seldom loop.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordPiece
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

Architecture = Literal["llama", "qwen2", "gemma3"]

CORPUS: list[str] = [
    "The quick brown fox jumps over the lazy dog.",
    "Question: How many apples are there in the basket?\nAnswer: There are 12 apples.",
    'She said: "I don\'t think so." Then she left the room, and the door closed behind her.',
    "Natalia sold 48 clips in April, and then she sold half as many clips in May.",
    "Let's think step by step. First, 48 / 2 = 24. Then 48 + 24 = 72. The answer is 72.",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))\n",
    "Paris is the capital of France; Berlin is the capital of Germany.",
    "Sorry, I can not help with that. Here is what I can do instead:\n\n1. Ask.\n2. Wait.\n",
    "你好,世界。今天天气很好,我们去公园吧。",
    "こんにちは、世界。私は学生です。東京に住んでいます。",
    "안녕하세요 세계. 오늘은 날씨가 좋습니다.",
    "Der schöne Garten war größer, als wir dachten. Où est le café? ¿Dónde está el niño?",
    "Привет, мир! Как дела?",
    "I am so happy 😀😀 today! 🎉🎉 See you 👍 soon ❤️",
    "0123456789 10 20 30 40 50 60 70 80 90 100 200 300 1000 2024 3.14159",
    "Tabs\tand  double  spaces\r\nand lines\n\n\nend here.",
]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

GEMMA_CHAT = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

_BLANK = "\u2581"  # SentencePiece's visible space


def _special(*names: str) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in names]


# -- tokenizers ------------------------------------------------------------------------------------


def byte_level_tokenizer(vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """GPT-2 style: every byte is a token, no BOS, ChatML. The special tokens come last."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size - 4,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(_special("<|end|>", "<|im_start|>", "<|im_end|>", "<|pad|>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def sentencepiece_tokenizer(
    prefix_space: bool = False, *, vocab_size: int = 500, byte_fallback: bool = True
) -> PreTrainedTokenizerFast:
    """SentencePiece style, as Gemma's is; with `prefix_space` as Llama-2's is.

    Ids: <pad> <eos> <bos> <unk>, the turn tokens, the bytes, "\\n\\n" (added but not special),
    then pieces. So every ASCII character of the corpus has two ids, the byte's being the lower
    one, and " the" is there twice as a piece. Half of the corpus' other characters have no piece
    and are written in bytes. Without `byte_fallback` there are no byte tokens.
    """
    learner = Tokenizer(BPE())
    learner.normalizer = normalizers.Replace(" ", _BLANK)
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [Split(_BLANK, "merged_with_next"), Split(Regex("\n+"), "isolated")]
    )
    head = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    if byte_fallback:
        head += [f"<0x{byte:02X}>" for byte in range(256)]
    head.append("\n\n")
    counts = Counter(c for line in CORPUS for c in line if ord(c) >= 0x80)
    frequent = sorted(counts, key=lambda c: (-counts[c], c))[: len(counts) // 2]
    alphabet = ["\n", _BLANK, *(chr(c) for c in range(0x21, 0x7F)), *frequent]
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(head) - 1,
        limit_alphabet=len(alphabet),  # no further characters: the trainer picks them at random
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator(CORPUS, trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    order = head + [piece for piece in pieces if piece not in head] + [" the"]
    tokenizer = Tokenizer(
        BPE(
            vocab={piece: i for i, piece in enumerate(order)},
            merges=[tuple(merge) for merge in learned["merges"]],
            unk_token="<unk>",
            byte_fallback=byte_fallback,
            fuse_unk=True,
        )
    )
    steps: list[Any] = [normalizers.Replace(" ", _BLANK)]
    undo: list[Any] = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix_space:
        steps.insert(0, normalizers.Prepend(_BLANK))
        undo.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(undo)
    tokenizer.add_special_tokens(_special(*head[:6]))
    tokenizer.add_tokens([AddedToken("\n\n", special=False, normalized=False)])
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        chat_template=GEMMA_CHAT,
        clean_up_tokenization_spaces=False,
    )


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """BERT style: lower-cased, words in ## pieces. Its tokens have no definite bytes."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:;?!'\"()+-*/="
    order = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    order += [f"##{letter}" for letter in letters]
    order += ["the", "how", "many", "are", "there", "##ing", "##ed", "##s"]
    order = list(dict.fromkeys(order))
    tokenizer = Tokenizer(WordPiece({w: i for i, w in enumerate(order)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(_special(*order[:5]))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


# -- models ----------------------------------------------------------------------------------------


def end_token_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids a tiny model's `generate` stops at: EOS and the end of a turn."""
    names = ["<|end|>", "<|im_end|>", "<eos>", "<end_of_turn>"]
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary[name] for name in names if name in vocabulary)


def mute_ids(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> list[int]:
    """Ids no intervention could emit: special but no end, padded, or a duplicate in bytes."""
    ends = set(end_token_ids(tokenizer))
    special = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    mute = (special | set(tokenizer.all_special_ids)) - ends
    mute |= set(range(len(tokenizer), vocab_size))
    vocabulary = tokenizer.get_vocab()
    if "<bos>" in vocabulary:  # the SentencePiece one; the byte-level one has no duplicates
        for byte in range(0x80):  # a byte that is also written as a piece
            piece = chr(byte).replace(" ", _BLANK)
            if f"<0x{byte:02X}>" in vocabulary and piece in vocabulary:
                mute.add(vocabulary[f"<0x{byte:02X}>"])
        mute.add(max(vocabulary[" the"], vocabulary[f"{_BLANK}the"]))
    return sorted(mute)


def _word_starts(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of tokens that begin with a space or a newline, in either spelling."""
    blanks = ("\u0120", "\u010a", _BLANK, "\n")
    return sorted(i for token, i in tokenizer.get_vocab().items() if token.startswith(blanks))


def _suppressor(mute: Iterable[int], ends: Iterable[int]) -> Any:
    """A forward hook for lm_head; see `tiny_model`."""
    mute_list, end_list = list(mute), list(ends)

    def hook(module: torch.nn.Module, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., mute_list] = -1e4
        # Two ends that win together but neither alone would stop us and not `generate`.
        end_logits = logits[..., end_list]
        others = logits.clone()
        others[..., end_list] = -1e4
        best = others.amax(dim=-1, keepdim=True)
        cap = best - 0.1 - torch.log(torch.tensor(float(len(end_list)), dtype=logits.dtype))
        no_end_wins = end_logits.amax(dim=-1, keepdim=True) < best
        logits[..., end_list] = torch.where(no_end_wins, end_logits.minimum(cap), end_logits)
        return logits

    return hook


def tiny_model(
    architecture: Architecture,
    tokenizer: PreTrainedTokenizerFast,
    seed: int = 0,
    *,
    sharpness: float = 3.3,
    extra_vocab: int = 7,
    suppress: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Any:
    """A random causal LM with `extra_vocab` padded rows, in eval mode.

    `sharpness` is the spread of its logits: higher is more confident. With `suppress`, a forward
    hook on lm_head (so in `generate` too, but lost on saving) mutes the ids no intervention could
    emit, and keeps several end tokens from winning only by their sum: then the parity rules with
    `generate` hold exactly. Float64 is the dtype of the weights; transformers still computes
    norms and rotary angles in float32.
    """
    vocab_size = len(tokenizer) + extra_vocab
    ends = end_token_ids(tokenizer)
    hidden = 32
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any
        if architecture == "llama":
            model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, head_dim=16, **common))
        elif architecture == "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=2, **common))
        elif architecture == "gemma3":
            layer_types = ["sliding_attention", "full_attention"] * 2
            model = Gemma3ForCausalLM(
                Gemma3TextConfig(
                    num_hidden_layers=4,
                    head_dim=16,
                    query_pre_attn_scalar=16,
                    sliding_window=8,
                    layer_types=layer_types,
                    **common,
                )
            )
        else:
            raise ValueError(f"unknown architecture {architecture!r}")
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "embed_tokens" in name:  # Gemma scales its embeddings by sqrt(hidden) itself
                    weight.normal_(0, hidden**-0.5 if architecture == "gemma3" else 1.0)
                elif name == "lm_head.weight":
                    weight.normal_(0, sharpness * hidden**-0.5)
                    weight[_word_starts(tokenizer)] *= 1.4  # words are short
                    weight[ends] *= 1.1  # and texts end now and then
                elif weight.dim() == 2:  # strong layers: what comes next hangs on the context
                    weight.normal_(0, 2.0 * weight.shape[1] ** -0.5)
                elif name.endswith("bias"):
                    weight.normal_(0, 0.3)
    model = model.to(dtype).eval()
    model.generation_config.eos_token_id = ends
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if suppress:
        model.lm_head.register_forward_hook(_suppressor(mute_ids(tokenizer, vocab_size), ends))
    return model


class Around(torch.nn.Module):
    """As PEFT's models are: a module with the model in it, which lends its attributes."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)

    def get_base_model(self) -> Any:
        return self.inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)
