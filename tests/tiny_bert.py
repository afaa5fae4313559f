"""A BERT of 3 layers whose weights are the same numbers with every version of every library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "_", ".", "a", "photo", "of", "with", "and"),
    *("the", "shoe", "##s", "boot", "color", "leather", "material", "red", "white", "black"),
    *("canvas", "suede", "wool", "sandals", "ankle", "loafers", "rubber", "fabric", "pair", "run"),
)


def save_tiny_bert(folder: Path, layers: int = 3) -> Path:
    """Write model and tokenizer as ``save_pretrained`` does, and return ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    model = BertModel(config)
    random = np.random.default_rng(5)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            values = torch.from_numpy(random.normal(0, 0.3, tuple(weight.shape)))
            weight.copy_(1 + values if "LayerNorm.weight" in name else values)
    model.save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return folder
