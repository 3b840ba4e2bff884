"""Every causal architecture of the installed transformers, tiny and random.

`SMALL` shrinks whatever of it a configuration has; `OVERRIDES` has a line for each architecture
that needs more. What still cannot be built tiny says why (`NotTiny`).
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

# fmt: off
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim",
                     "attention_hidden_size", "lru_width", "emb_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers",
                     "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "mamba_n_heads",
                     "decoder_attention_heads", "encoder_attention_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "d_ff",
                     "ffn_hidden_size", "d_inner", "block_ff_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "context_length"), 128),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "mamba_d_head",
                     "expert_ffn_hidden_size", "embedding_size", "mamba_head_dim"), 16),
    **dict.fromkeys(("head_dim", "q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "v_head_dim",
                     "qk_nope_head_dim", "d_kv", "d_head", "state_size", "mamba_d_state",
                     "ssm_state_size", "linear_key_head_dim", "linear_value_head_dim",
                     "global_head_dim", "hidden_size_per_layer_input", "index_head_dim",
                     "sliding_window", "attention_window_size"), 8),
    "num_key_value_heads": 2, "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2,
    "n_group": 1, "topk_group": 1, "n_groups": 1, "mamba_n_groups": 1, "mamba_expand": 2,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "conv_L_cache": 3, "time_step_rank": 4,
    "index_n_heads": 2, "index_topk": 64, "zero_expert_num": 0,
}

ROPE = {"rope_type": "default", "rope_theta": 1e4}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "ernie4_5_moe": {"moe_k": 2},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": {"head_dim": 8, "rope_parameters": ROPE},
    "hunyuan_v1_moe": {"head_dim": 8, "rope_parameters": ROPE},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
              "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"head_dim": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8},
    "ministral": {"head_dim": 8},
    "moshi": {"sliding_window": 128},  # its forward knows a window in a cache alone
    "nemotron": {"num_key_value_heads": 2},
    "recurrent_gemma": {"num_hidden_layers": 3,
                        "block_types": ["recurrent", "recurrent", "attention"]},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "local"],
                 "attention_head_size": 8, "feed_forward_size": 48, "local_attn_chunk_length": 4},
    "xlm": {"causal": True},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "mamba", "hybrid"],
               "hybrid_layer_ids": [2], "mamba_ngroups": 1, "n_mamba_heads": 8, "mamba_headdim": 8,
               "attention_hidden_size": 64, "attention_head_dim": 16, "num_mem_blocks": 1,
               "use_shared_attention_adapter": False},
}
# fmt: on

LAYER_LISTS = ("layer_types", "mlp_layer_types", "hybrid_override_pattern", "no_rope_layers",
               "block_types", "layers_block_type")  # fmt: skip
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")
SLOW = {"blt", "kimi_linear"}
"""Right by hand and left out here: their kernels for CPUs take minutes."""

ARCHITECTURES = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - SLOW)


class NotTiny(Exception):
    """Why an architecture is not built here."""


def tiny_architecture(kind: str, vocab_size: int, end_ids: list[int]) -> Any:
    """A random float32 model that is wide awake: what comes next hangs on the text.

    Raises:
        NotTiny: where its configuration asks for more than `SMALL` knows.
    """
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    architecture = getattr(transformers, name if isinstance(name, str) else name[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            config = _config(kind, vocab_size)
            with torch.device("meta"):
                count = architecture(config).num_parameters()
            if count > 5_000_000:
                raise NotTiny(f"{kind} has {count / 1e6:.0f} million parameters at least")
            model = architecture(config).float().eval()
            model(input_ids=torch.randint(10, 200, (2, 12)))
        except Exception as error:
            raise NotTiny(f"{kind}: {type(error).__name__}: {error}") from error
        _wake(model)
    model.generation_config = GenerationConfig(eos_token_id=end_ids, pad_token_id=0)
    return model


def _config(kind: str, vocab_size: int) -> Any:
    whole = CONFIG_MAPPING[kind]()
    text = whole.get_text_config()
    cls = type(text)

    def has(name: str) -> bool:
        fixed = getattr(cls, name, None)
        read_only = isinstance(fixed, property) and fixed.fset is None
        return not read_only and name not in cls.attribute_map and name in vars(text)

    given = {name: value for name, value in SMALL.items() if has(name) and vars(text)[name]}
    if "kv_lora_rank" in given and "qk_rope_head_dim" in given:  # latent attention
        given.pop("head_dim", None)
        given["num_key_value_heads"] = given["num_attention_heads"]
    overrides = OVERRIDES.get(kind, {})
    for name in LAYER_LISTS:
        layers = vars(text).get(name)
        if isinstance(layers, list | tuple) and layers and has(name) and name not in overrides:
            kinds = list(dict.fromkeys(layers))
            given[name] = (kinds * 2)[: max(2, len(kinds))]
            given |= {count: len(given[name]) for count in LAYER_COUNTS if count in given}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return cls(**{**given, **special, "vocab_size": vocab_size, **overrides})


@torch.no_grad()
def _wake(model: Any) -> None:
    for name, weight in model.named_parameters():
        if "A_log" in name or "conv" in name:
            continue
        if weight.dim() == 2:
            is_embedding = "embed" in name or "wte" in name
            weight.normal_(0, 1.0 if is_embedding else 1.5 * weight.shape[-1] ** -0.5)
        elif weight.dim() == 3:
            weight.normal_(0, weight.shape[-1] ** -0.5)
