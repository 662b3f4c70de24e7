"""Every published result: which runs, which figure, which claims.

`STUDIES` is read by `python -m paper_repro` before anything heavy is imported.
"""

STUDIES = {
    "parity_mlp": "Do students of checkpoints learn parity sooner? (P1 to P3)",
    "parity_curriculum": "What do checkpoints leak, and which one teaches? (P5, P6)",
    "parity_place": "Which place teaches, and which rule finds it? (PL, LF)",
    "parity_width": "What does width buy? (P7)",
    "parity_regions": "Do they help at any temperature, label noise, width? (M)",
    "parity_hierarchy": "Does it hold for trees of parities, level by level? (P8)",
    "parity_transformer": "Does it hold for transformers? (P4)",
    "parity_theory": "How do samples grow where all is in closed form? (P9)",
    "sample_complexity": "How do samples grow with d and k for networks? (P9)",
    "pcfg_accuracy": "Do checkpoints help on strings of a grammar? (G1)",
    "pcfg_curriculum": "Do n-grams take the place of monomials? (G2 to G4)",
    "pcfg_nonterminals": "Are n-grams and nonterminals learned in order? (G5)",
    "pcfg_autoregressive": "And for next tokens, another grammar, rate of masks? (G6)",
    "which_knowledge": "Which part of a checkpoint's target helps? (W1 to W4)",
    "final_teacher_only": "Is the curriculum in the final teacher, too? (F1 to F6)",
    "which_teacher": "Which score tells how well a checkpoint teaches? (T1 to T4)",
    "who_moves": "What if the teacher moves, at equal passes? (V1 to V7)",
    "methods": "How do our sources' methods do on the same tasks? (A)",
    "multi_view": "Why do ensembles and their students win? (E1 to E6)",
    "pcfg_bayes": "What can no model exceed on a grammar? (nothing is trained)",
}
SCALES = ("smoke", "cpu", "paper")
