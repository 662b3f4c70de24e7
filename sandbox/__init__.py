"""A JAX sandbox for the theory of distillation as an implicit curriculum.

Nothing of it is imported here: `import sandbox` is free, and each part is imported from
the module that defines it, e.g. `from sandbox.tasks.parity import Parity`.
"""

import os
from importlib.util import find_spec

__version__ = "0.1.0"

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
