"""`sandbox import`: the arguments, checked before jax starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sandbox.cli.stored import root_of
from sandbox.command import Root
from sandbox.tasks.grammar import load_grammar


@dataclass(frozen=True)
class Import:
    """Stores checkpoints of another program as a teacher that can be probed.

    Reads BERT and GPT-2 as Hugging Face transformers saves them (config.json and
    model.safetensors): one folder, or a folder of checkpoint-500/, step_1000/, ...

    Examples:
      sandbox import bert-on-cfg3b --grammar cfg3b --start 13 14 15
      sandbox import gpt2/ --grammar my.pcfg --task next --tokens 5 6 7 0 1 2 3
      sandbox import bert-on-cfg3b --grammar cfg3b --samples-per-step 512

    The models are evaluated on strings of the grammar. Prints the run's hash, which
    `sandbox probe` and TeacherRef take.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """a saved model, or a folder of them named by their step"""
    grammar: Annotated[str, tyro.conf.arg(metavar="FILE_OR_NAME")]
    """the grammar of its strings, as of `sandbox grammar`"""
    start: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SYMBOL [SYMBOL ...]")] = ()
    """start from these symbols instead"""
    at_most: Annotated[int, tyro.conf.arg(help_behavior_hint="(default: any)")] = 0
    """strings of at most so many tokens, as of `sandbox grammar`"""
    task: Literal["masked", "next"] = "masked"
    """what it predicts"""
    tokens: Annotated[
        tuple[int, ...],
        tyro.conf.arg(
            metavar="INT [INT ...]", help_behavior_hint="(default: 0 1 2 ...)"
        ),
    ] = ()
    """its own numbers of the terminals, in the order of `sandbox grammar`, then of BOS,
    EOS, PAD and MASK"""
    samples_per_step: int = 1
    """strings of one step of its training, to count samples as other runs do"""
    root: Root = None

    def run(self) -> int:
        """Reads, stores, and says what the run is called."""
        root = root_of(self.root)
        grammar = load_grammar(self.grammar, self.start or None)
        if self.at_most:
            grammar = grammar.at_most(self.at_most)
        # lazily: they import jax, which no mistake should wait for.
        from sandbox.tasks.masking import MaskedLM
        from sandbox.tasks.next_token import NextToken
        from sandbox.train.imported import found, import_run

        folders = found(self.folder)
        kind = MaskedLM if self.task == "masked" else NextToken
        run = import_run(
            folders,
            kind(grammar=grammar),
            samples_per_step=self.samples_per_step,
            tokens=self.tokens or None,
            root=root,
        )
        accuracy = run.metrics.curves("teacher")[0]
        print(f"{run.folder.path}: {len(folders)} checkpoints of {run.spec.model}")
        print(
            f"accuracy {accuracy[0]:.3f} at the first, {accuracy[-1]:.3f} at the last"
        )
        return 0
