"""The PyTorch side of the batch-1 benchmark: plain eager loops, data in memory.

Imported only where torch is installed (`pip install -e ".[bench]"`).
"""

from collections.abc import Callable

import numpy as np
import torch  # pyright: ignore[reportMissingImports]


def _mlp(d: int, m: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Linear(d, m), torch.nn.ReLU(), torch.nn.Linear(m, 2)
    )


def one_thread() -> str:
    """Keeps torch on one thread and returns its version."""
    torch.set_num_threads(1)
    return torch.__version__


def labels_loop(x: np.ndarray, y: np.ndarray, *, m: int, lr: float) -> Callable:
    """A function that trains a fresh width-m network for n batch-1 steps on labels."""
    rows = torch.from_numpy(np.array(x)).split(1)
    labels = torch.from_numpy(np.array(y, np.int64)).split(1)
    model = _mlp(x.shape[1], m)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def run(n: int) -> None:
        for t in range(n):
            i = t % len(rows)
            optimizer.zero_grad()
            loss = criterion(model(rows[i]), labels[i])
            loss.backward()
            optimizer.step()

    return run


def distill_loop(x: np.ndarray, *, m: int, m_teacher: int, lr: float) -> Callable:
    """The same on a frozen teacher's probabilities, one teacher pass a sample."""
    rows = torch.from_numpy(np.array(x)).split(1)
    model, teacher = _mlp(x.shape[1], m), _mlp(x.shape[1], m_teacher)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def run(n: int) -> None:
        for t in range(n):
            row = rows[t % len(rows)]
            with torch.no_grad():
                target = teacher(row).softmax(-1)
            optimizer.zero_grad()
            log_q = model(row).log_softmax(-1)
            loss = torch.nn.functional.kl_div(log_q, target, reduction="batchmean")
            loss.backward()
            optimizer.step()

    return run
