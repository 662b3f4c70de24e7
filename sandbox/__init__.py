"""A JAX sandbox for the theory of distillation as an implicit curriculum.

Nothing is imported here: `import sandbox` is free, and each part is imported from
the module that defines it, e.g. `from sandbox.tasks.parity import Parity`.
"""

__version__ = "0.1.0"
