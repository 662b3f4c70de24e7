"""Trains a two-layer perceptron on sparse parity in PyTorch, as a reference.

Run by hand, with the `bench` extra installed, from the root of a checkout:

    python tests/reference/make_torch_mlp.py

It writes `torch_mlp.safetensors` beside itself; README.md says what is in it. This
file shares no code with the library, on purpose.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

D, K, M = 20, 3, 32
OUT = Path(__file__).with_name("torch_mlp.safetensors")

Tensors = dict[str, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_model() -> torch.nn.Sequential:
    """Linear(d, m)-ReLU-Linear(m, 2) with PyTorch's default initialisation."""
    return torch.nn.Sequential(
        torch.nn.Linear(D, M), torch.nn.ReLU(), torch.nn.Linear(M, 2)
    )


def make_inputs(steps: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform +-1 inputs (steps, batch, d); class 0 where the parity is +1."""
    x = 2 * torch.randint(0, 2, (steps, batch, D)) - 1
    y = (1 - x[..., :K].prod(-1)) // 2
    return x, y


def weights(model: torch.nn.Module, prefix: str) -> Tensors:
    return {f"{prefix}{n}": p.detach().clone() for n, p in model.named_parameters()}


def train(
    x: torch.Tensor,
    target: torch.Tensor,
    loss: Loss,
    make_optimizer: Callable[..., torch.optim.Optimizer],
    keep: tuple[int, ...],
    prefix: str = "",
) -> Tensors:
    model = make_model()
    optimizer = make_optimizer(model.parameters())
    out = weights(model, f"{prefix}init/")
    losses = []
    for step in range(len(x)):
        optimizer.zero_grad()
        value = loss(model(x[step].double()), target[step])
        value.backward()
        optimizer.step()
        losses.append(value.item())
        if step + 1 in keep:
            out |= weights(model, f"{prefix}step_{step + 1}/")
    return out | {f"{prefix}losses": torch.tensor(losses)}


def kl(logits: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(q, softmax(logits)), averaged over the batch."""
    return torch.nn.functional.kl_div(
        logits.log_softmax(-1), q, reduction="batchmean", log_target=False
    )


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    cross_entropy = torch.nn.CrossEntropyLoss()

    def sgd(params: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.01)  # type: ignore[arg-type]

    def adam(params: object) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, lr=1e-3)  # type: ignore[arg-type]

    x, y = make_inputs(1000, 1)
    out = train(x, y, cross_entropy, sgd, (10, 100, 1000))
    out |= {"x": x[:, 0].to(torch.int8), "y": y[:, 0].to(torch.int8)}

    x, y = make_inputs(200, 4)
    out |= train(x, y, cross_entropy, adam, (10, 100, 200), "adam/")
    out |= {"adam/x": x.to(torch.int8), "adam/y": y.to(torch.int8)}

    x, _ = make_inputs(1000, 1)
    q = torch.randn(1000, 1, 2).mul(2.0).softmax(-1)
    out |= train(x, q, kl, sgd, (10, 100, 1000), "distill/")
    out |= {"distill/x": x[:, 0].to(torch.int8), "distill/q": q[:, 0]}

    about = {
        "torch": torch.__version__,
        "seed": 0,
        "d": D,
        "k": K,
        "m": M,
        "support": "first k inputs",
        "class_0": "product +1",
    }
    # One entry, because the order of several is not kept from run to run.
    metadata = {"about": json.dumps(about)}
    save_file({n: t.contiguous() for n, t in sorted(out.items())}, OUT, metadata)
    print(f"{OUT.name}: {len(out)} arrays, {OUT.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
