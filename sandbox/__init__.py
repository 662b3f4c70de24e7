"""A JAX sandbox for the theory of distillation as an implicit curriculum.

Example:
    >>> import sandbox as sb
    >>> run = sb.fit(sb.RunSpec(...))  # trains, or opens what is stored
    >>> run.plot()
    >>> sb.open("3f9a").to_pandas()

`import sandbox` is free: what `dir(sandbox)` lists is imported from the module that
defines it when it is first asked for. All else is imported from its module.
"""

# pyright: reportUnusedImport=false

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` gives, for editors; a test compares the two
    from sandbox.distill import methods
    from sandbox.distill.losses import Loss, Objective, Sum
    from sandbox.distill.sources import (
        Final,
        Labels,
        LiveSource,
        NShot,
        PerSeed,
        Progressive,
        Source,
        UntilSaturation,
    )
    from sandbox.distill.strategy import Strategy
    from sandbox.distill.targets import Anneal, Target, Transform
    from sandbox.distill.updates import Update
    from sandbox.distill.views import View
    from sandbox.models.bit_transformer import BitTransformer
    from sandbox.models.mlp import MLP
    from sandbox.models.transformer import Transformer
    from sandbox.plotting.curves import band
    from sandbox.plotting.style import styled
    from sandbox.probes.alignment import AlignmentProbe
    from sandbox.probes.fourier import FourierProbe, degree1_gap
    from sandbox.probes.ngram import NgramProbe
    from sandbox.probes.nonterminals import NonterminalProbe
    from sandbox.probes.offline import Probe
    from sandbox.probes.offline import measure_trajectory as measure
    from sandbox.probes.spectrum import SpectrumProbe
    from sandbox.probes.transitions import locate
    from sandbox.study import (
        Result,
        Setting,
        Study,
        Teachers,
        TwoLayer,
        UntilLearned,
        accuracy,
        at_least,
        at_most,
        ce,
        n_shot,
        one_shot,
        panels,
        preset,
        progressive,
        strips,
        two_shot,
    )
    from sandbox.tasks.base import BooleanTask
    from sandbox.tasks.boolean import Expansion, staircase
    from sandbox.tasks.data import Data, Finite
    from sandbox.tasks.gaussian import GaussianTask, MultiIndex
    from sandbox.tasks.grammar import load_grammar
    from sandbox.tasks.hierarchy import Hierarchy
    from sandbox.tasks.masking import MaskedLM
    from sandbox.tasks.multi_view import MultiView
    from sandbox.tasks.next_token import NextToken
    from sandbox.tasks.parity import (
        ExplicitSupport,
        FirstSupport,
        NoisyParity,
        Parity,
        RandomSupport,
    )
    from sandbox.theory.sample_complexity import samples_to
    from sandbox.train.battery import battery
    from sandbox.train.loop import Evaluation, fit
    from sandbox.train.optim import SGD, Adam, LearningRate
    from sandbox.train.progress import Silent
    from sandbox.train.run import Run
    from sandbox.train.run import open_run as open
    from sandbox.train.spec import RunSpec, Stop, TeacherRef

__version__ = "0.1.0"

_NAMES = {
    "distill.losses": "Loss Objective Sum",
    "distill.methods": ":methods",
    "distill.sources": (
        "Final Labels LiveSource NShot PerSeed Progressive Source UntilSaturation"
    ),
    "distill.strategy": "Strategy",
    "distill.targets": "Anneal Target Transform",
    "distill.updates": "Update",
    "distill.views": "View",
    "models.bit_transformer": "BitTransformer",
    "models.mlp": "MLP",
    "models.transformer": "Transformer",
    "plotting.curves": "band",
    "plotting.style": "styled",
    "probes.alignment": "AlignmentProbe",
    "probes.fourier": "FourierProbe degree1_gap",
    "probes.ngram": "NgramProbe",
    "probes.nonterminals": "NonterminalProbe",
    "probes.offline": "Probe measure_trajectory:measure",
    "probes.spectrum": "SpectrumProbe",
    "probes.transitions": "locate",
    "study": (
        "Result Setting Study Teachers TwoLayer UntilLearned accuracy at_least at_most"
        " ce n_shot one_shot panels preset progressive strips two_shot"
    ),
    "tasks.base": "BooleanTask",
    "tasks.boolean": "Expansion staircase",
    "tasks.data": "Data Finite",
    "tasks.gaussian": "GaussianTask MultiIndex",
    "tasks.grammar": "load_grammar",
    "tasks.hierarchy": "Hierarchy",
    "tasks.masking": "MaskedLM",
    "tasks.multi_view": "MultiView",
    "tasks.next_token": "NextToken",
    "tasks.parity": "ExplicitSupport FirstSupport NoisyParity Parity RandomSupport",
    "theory.sample_complexity": "samples_to",
    "train.battery": "battery",
    "train.loop": "Evaluation fit",
    "train.optim": "SGD Adam LearningRate",
    "train.progress": "Silent",
    "train.run": "Run open_run:open",
    "train.spec": "RunSpec Stop TeacherRef",
}
"""Module -> what it offers here; `name:as` is called otherwise, `:as` is itself."""
_HOMES = {
    name.rpartition(":")[2]: (f"sandbox.{module}", name.partition(":")[0])
    for module, names in _NAMES.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    """Imports what is offered here when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sandbox' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    found: Any = import_module(module)
    globals()[name] = getattr(found, attribute) if attribute else found
    return globals()[name]


def __dir__() -> list[str]:
    """All that is offered, imported or not."""
    return sorted({*globals(), *_HOMES})


_BACKENDS = (
    "agg cairo pdf pgf ps svg template gtk3agg gtk3cairo gtk4agg gtk4cairo macosx nbagg"
    " notebook inline ipympl widget qtagg qtcairo qt5agg qt5cairo tkagg tkcairo webagg"
    " wx wxagg wxcairo"
)


def _has_backend(name: str) -> bool:
    """Whether matplotlib can be imported with a name in $MPLBACKEND."""
    if not name.startswith("module://"):
        return name.lower() in _BACKENDS.split()
    top = name.removeprefix("module://").partition(".")[0]
    return top.isidentifier() and find_spec(top) is not None


# A notebook names its own backend to every process that it starts, also to one that
# has no such module. Figures here are drawn without any.
if not _has_backend(os.environ.get("MPLBACKEND") or "agg"):
    os.environ["MPLBACKEND"] = "agg"
