"""Reliance on n-grams along the training of teachers, for studies of masked strings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from sandbox.errors import require
from sandbox.probes.ngram import NgramProbe
from sandbox.store.bounds import Increasing, Within
from sandbox.study.result import Result
from sandbox.study.rules import Checked
from sandbox.study.setting import Fixed, Setting
from sandbox.tasks.masking import MaskedLM
from sandbox.train.run import Run

Size = Annotated[int, Within(1, 2**20)]


@dataclass(frozen=True)
class Probed:
    """What the n-gram probe found.

    Attributes:
      steps: optimizer steps of the probed checkpoints, `(P,)`.
      values: every array of the probe, `(T, P)`; NaN where a teacher did not learn.
    """

    steps: np.ndarray
    values: Mapping[str, np.ndarray]

    def m_robust(self, n: int) -> np.ndarray:
        """Median reliance on n-grams, `(T, P)`."""
        return self.values[f"m_robust/{n}/median"]

    def peaks(self, n: int) -> np.ndarray:
        """Step at which it is largest, `(T,)`."""
        y = self.m_robust(n)
        return np.where(np.isnan(y[:, 0]), np.nan, self.steps[y.argmax(1)])


@dataclass(frozen=True, kw_only=True)
class Ngrams(Checked):
    """The n-gram probe of a teacher's checkpoints.

    Attributes:
      steps: of the probed checkpoints; 0 and the teacher's end are probed as well.
      strings: of the probe.
      places: positions of each string that are probed.
      windows: sizes n of the n-grams.
    """

    steps: Annotated[tuple[int, ...], Increasing()] = tuple(range(50, 600, 50))
    strings: Size = 128
    places: Size = 4
    windows: Annotated[tuple[Size, ...], Increasing()] = (2, 3, 4, 5)

    called = "ngrams"

    def check(self, s: Setting) -> None:
        """Refuses settings that cannot be probed."""
        require(
            isinstance(s.made_task, MaskedLM),
            "setting.task must be masked: the n-gram probe masks tokens.",
        )
        require(
            isinstance(s.budget, Fixed),
            "setting.budget must be Fixed: teachers are probed at the same steps.",
        )
        end, known = s.budget.expects[1], s.spacing
        require(
            all(0 < n < end and n % known == 0 for n in self.steps),
            f"ngrams.steps must be multiples of setting.spacing = {known} below"
            f" budget.teacher = {end}, got {self.steps}.",
        )

    def measure(self, r: Result) -> Probed:
        """Probes the teachers of a study, or opens what was measured."""
        steps = np.asarray([0, *self.steps, r.setting.budget.expects[1]])
        at = [r.setting.samples(int(n)) for n in steps]
        return Probed(steps, r.probe("teacher", self._of, at))

    def _of(self, run: Run) -> NgramProbe:
        return NgramProbe(
            task=run.spec.task,  # pyright: ignore[reportArgumentType]
            model=run.spec.model,
            windows=self.windows,
            strings=self.strings,
            places=self.places,
        )
