"""Every published result: which runs, which figure, which claims.

`STUDIES` is read by `python -m paper_repro` before anything heavy is imported.
"""

STUDIES = {
    "parity_mlp": "Accuracy against samples on sparse parity (claims P1, P2, P3).",
    "parity_curriculum": "The spike in a teacher's correlations (claims P5, P6).",
    "parity_place": "Which checkpoints teach, and a rule without labels (PL, LF).",
    "parity_width": "Samples to .90 against width and learning rate (claim P7).",
    "parity_regions": "Where checkpoints help: temperature, noise, width (claim M).",
    "parity_hierarchy": "Tree labels: students, and which node leaks when (claim P8).",
    "parity_transformer": "Accuracy against samples with transformers (claim P4).",
    "parity_theory": "The analysed two-stage setting: closed forms and batches (P9).",
    "sample_complexity": "Samples to .90 against d: fitted exponents (claim P9).",
    "pcfg_accuracy": "Accuracy against steps on PCFG strings (claim G1).",
    "pcfg_curriculum": "Phases, n-grams and the best checkpoint (claims G2, G3, G4).",
    "pcfg_nonterminals": "N-grams and nonterminals over training (claim G5).",
    "pcfg_autoregressive": "Next tokens, another grammar and rate (claim G6).",
    "which_knowledge": "Parts of a checkpoint's target, and other losses (W1 to W4).",
    "final_teacher_only": "Students of the final teacher alone (claims F1 to F6).",
    "which_teacher": "Scores of checkpoints against their students (T1 to T4).",
    "who_moves": "Teachers and students that move, at equal passes (V1 to V7).",
    "methods": "Every method of our sources on the same tasks (claim A).",
    "multi_view": "Ensembles and their students where a class has two views (claim E).",
    "pcfg_bayes": "Exact ceilings and use of context on grammars (nothing is trained).",
}
SCALES = ("smoke", "cpu", "paper")
