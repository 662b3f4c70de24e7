"""The metrics of a run: a parquet table on disk, `(S, L, R)` arrays in memory."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sandbox.errors import SandboxError, StoreError
from sandbox.store.folders import RunFolder

FILE = "metrics.parquet"


@dataclass(frozen=True)
class Metrics:
    """Everything recorded at the evaluations of one group.

    Attributes:
      steps: samples seen at each evaluation, `(R,)`.
      seeds: the group's seeds.
      strategies: the lanes' names.
      columns: name -> `(S, L, R)`; NaN where a lane was absent or had failed.
    """

    steps: np.ndarray
    seeds: tuple[int, ...]
    strategies: tuple[str, ...]
    columns: dict[str, np.ndarray]

    def curves(self, lane: str, metric: str = "accuracy") -> np.ndarray:
        """One metric of one strategy, `(S, R)`.

        Raises:
          StoreError: the run has no such strategy or metric.
        """
        if lane not in self.strategies or metric not in self.columns:
            raise StoreError(
                f"the run has strategies {', '.join(self.strategies)} and metrics"
                f" {', '.join(self.columns)}; {lane!r} / {metric!r} was asked for."
            )
        return self.columns[metric][:, self.strategies.index(lane)]

    def table(self) -> pa.Table:
        """Tidy rows `step, seed, strategy, ...metrics`, ordered by the first three."""
        shape = (len(self.steps), len(self.seeds), len(self.strategies))
        index = np.indices(shape).reshape(3, -1)
        table = {
            "step": np.asarray(self.steps, np.int64)[index[0]],
            "seed": np.asarray(self.seeds, np.int64)[index[1]],
            "strategy": np.asarray(self.strategies)[index[2]],
        }
        for name, values in self.columns.items():
            table[name] = np.moveaxis(values, -1, 0).reshape(-1)
        return pa.table(table)

    def to_parquet(self) -> bytes:
        """The table as parquet with page checksums."""
        sink = pa.BufferOutputStream()
        pq.write_table(self.table(), sink, compression="zstd", write_page_checksum=True)
        return sink.getvalue().to_pybytes()


def to_pandas(table: pa.Table) -> Any:
    """A table as a `pandas.DataFrame`.

    Raises:
      SandboxError: pandas, which nothing else here needs, is not installed.
    """
    if find_spec("pandas") is None:
        raise SandboxError(
            "to_pandas needs pandas, which is not installed (pip install pandas);"
            " table() gives the same rows without it."
        )
    return table.to_pandas()


def read_metrics(run: RunFolder) -> Metrics:
    """Reads a finished run's table, after checking it against the manifest."""
    run.check(FILE)
    try:
        # A thread of Arrow's that still holds these bytes when Python ends aborts it
        # (apache/arrow#34314), so it starts none.
        data = pa.BufferReader((run.path / FILE).read_bytes())
        table = pq.ParquetFile(data, pre_buffer=False).read(use_threads=False)
        raw = {
            n: table.column(n).to_numpy(zero_copy_only=False)
            for n in table.column_names
        }
        steps = np.unique(raw.pop("step"))
        seeds = tuple(int(s) for s in np.unique(raw.pop("seed")))
        names = raw.pop("strategy")
        n_lanes = len(names) // max(len(steps) * len(seeds), 1)
        strategies = tuple(str(s) for s in names[:n_lanes])
        shape = (len(steps), len(seeds), n_lanes)
        columns = {n: np.moveaxis(v.reshape(shape), 0, -1) for n, v in raw.items()}
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as e:
        raise StoreError(
            f"{run.path / FILE} is no table of metrics ({e!s:.200})."
        ) from e
    return Metrics(steps, seeds, strategies, columns)
