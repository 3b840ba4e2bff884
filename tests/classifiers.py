"""Tiny text-classification models, saved as users have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tiny import wordpiece_tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)


def saved_classifier(
    folder: Path,
    labels: Mapping[int, str],
    *,
    always: int | None = None,
    family: str = "bert",
    positions: int = 64,
) -> Path:
    """A random model with its tokenizer; `always` is the label that it gives whatever it reads."""
    tokenizer = wordpiece_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": positions,
        "pad_token_id": tokenizer.pad_token_id,
        "id2label": dict(labels),
        "label2id": {name: id for id, name in labels.items()},
    }
    model: Any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "bert":
            model = BertForSequenceClassification(BertConfig(**settings))
        else:
            model = RobertaForSequenceClassification(RobertaConfig(**settings))
    if always is not None:
        head = model.classifier if family == "bert" else model.classifier.out_proj
        with torch.no_grad():
            head.bias[always] += 10
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
