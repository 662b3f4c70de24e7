"""The PyTorch side of the transformer benchmark: Hugging Face's BERT, eager, sdpa.

Imported only where torch and transformers are installed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]


def one_thread() -> dict[str, str]:
    """Keeps torch on one thread and returns the versions."""
    torch.set_num_threads(1)
    return {"torch": torch.__version__, "transformers": transformers.__version__}


def training_loop(
    batches: Sequence[Any], *, layers: int, heads: int, positions: int, dropout: float
) -> Callable[[int], None]:
    """A function that trains a fresh BERT on the batches in turn, n times over.

    Args:
      batches: records with `ids`, `labels`, `scored` and `visible`, `(B, N)` each.
      layers: number of layers.
      heads: of size 8 each.
      positions: rows of the position embedding.
      dropout: of hidden states and of attention weights.
    """
    width = 8 * heads
    config = transformers.BertConfig(
        vocab_size=8,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )

    def tensors(b: Any) -> dict[str, torch.Tensor]:
        labels = np.where(b.scored, b.labels, -100)
        return {
            "input_ids": torch.from_numpy(b.ids.astype(np.int64)),
            "attention_mask": torch.from_numpy(b.visible.astype(np.int64)),
            "labels": torch.from_numpy(labels.astype(np.int64)),
        }

    inputs = [tensors(b) for b in batches]

    def run(n: int) -> None:
        loss = torch.zeros(())
        for _ in range(n):
            for x in inputs:
                optimizer.zero_grad()
                loss = model(**x).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        if not torch.isfinite(loss):
            raise RuntimeError("the loss became non-finite; its speed means nothing")

    return run
