"""Tiny random BERT and GPT-2 models of Hugging Face transformers, as references.

Run by hand where torch, transformers and safetensors are installed, from the root of a
checkout:

    python tests/reference/make_hf_transformers.py

It writes the folders `hf_bert` and `hf_gpt2` beside itself; README.md says what is in
them. This file shares no code with the library, on purpose.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).parent
VOCAB, LAYERS, HEADS, POSITIONS, ROWS, LENGTH = 8, 2, 3, 16, 4, 12
WIDTH = 8 * HEADS

Tensors = dict[str, torch.Tensor]


def make_bert() -> transformers.PreTrainedModel:
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=POSITIONS,
        pad_token_id=None,  # else PyTorch gives that row of the embedding no gradient
        attn_implementation="eager",
    )
    return transformers.BertForMaskedLM(config)


def make_gpt2() -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    return transformers.GPT2LMHeadModel(config)


def shake(model: torch.nn.Module) -> None:
    """Moves every weight far from its initial scale, biases and norms too."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.25 * torch.randn_like(p))


def make_inputs() -> Tensors:
    """Rows of different lengths; some tokens hidden from attention, the first never."""
    length = torch.tensor([LENGTH, 9, 5, LENGTH])
    valid = torch.arange(LENGTH)[None] < length[:, None]
    visible = valid & (torch.rand(ROWS, LENGTH) > 0.3)
    visible[:, 0] = True
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH))
    return {"ids": ids, "valid": valid, "visible": visible}


def make(name: str, model: transformers.PreTrainedModel, wanted: list[str]) -> None:
    """Writes one folder: model, inputs, logits, hidden states, gradients of a loss.

    The loss is the sum over valid positions of logits * cos(0, 1, 2, ...), an arbitrary
    linear function.
    """
    shake(model)
    model.eval()
    x = make_inputs()
    out = model(
        input_ids=x["ids"],
        attention_mask=x["visible"].long(),
        output_hidden_states=True,
    )
    slope = torch.arange(out.logits.numel()).cos().reshape(out.logits.shape)
    (out.logits * slope * x["valid"][..., None]).sum().backward()
    tensors = x | {"logits": out.logits}
    tensors |= {f"hidden_{i}": h for i, h in enumerate(out.hidden_states)}
    grads = {n: p.grad for n, p in model.named_parameters()}
    tensors |= {f"grad/{n}": grads[n] for n in wanted}

    folder = HERE / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    about = {"torch": torch.__version__, "transformers": transformers.__version__}
    save_file(
        {n: t.detach().contiguous() for n, t in sorted(tensors.items())},
        folder / "expected.safetensors",
        {"about": json.dumps(about)},
    )
    for path in sorted(folder.iterdir()):
        print(f"{name}/{path.name}: {path.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    make(
        "hf_bert",
        make_bert(),
        [
            "bert.embeddings.word_embeddings.weight",
            "bert.embeddings.LayerNorm.weight",
            "bert.encoder.layer.0.attention.self.query.weight",
            "bert.encoder.layer.1.output.dense.bias",
        ],
    )
    make(
        "hf_gpt2",
        make_gpt2(),
        [
            "transformer.wte.weight",
            "transformer.wpe.weight",
            "transformer.h.0.attn.c_attn.weight",
            "transformer.h.1.mlp.c_proj.weight",
        ],
    )


if __name__ == "__main__":
    main()
