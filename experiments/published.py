"""Values read off the published figures (arXiv 2410.05464), to be drawn beside ours.

Samples in millions; good to about 0.01 in accuracy and 2% in samples.
"""

ACCURACY: dict[str, list[tuple[float, float]]] = {
    "teacher": [(9.0, 0.5), (10.0, 0.5), (10.2, 0.75), (11.0, 1.0)],
    "progressive": [(10.0, 0.5), (11.0, 1.0)],
    "one_shot": [(10.0, 0.5), (20.0, 0.5)],
    "ce": [(10.0, 0.5), (18.0, 0.5), (20.0, 0.65)],
}
"""Figure 1 (left): width-50,000 teacher, width-100 students."""

SPIKE: dict[str, list[tuple[float, float]]] = {
    "teacher": [(9.7, 0.5), (10.2, 0.75), (10.8, 1.0)],
    "inside": [(10.2, 0.09)],
    "outside": [(10.2, 0.02)],
    "middle": [(0.1, 0.72), (1.5, 1.0)],
    "before": [(2.0, 0.5)],
    "after": [(2.0, 0.5)],
}
"""The spike figure: teacher, degree-1 correlations, (2, 1M)-progressive students.

The student of the middle checkpoint is at 1.0 half a million samples after its switch.
"""

PCFG_ACCURACY: dict[str, list[tuple[float, float]]] = {
    "ce": [(2, 0.745), (4, 0.866), (8, 0.926), (16, 0.927)],
    "one_shot": [(2, 0.77), (4, 0.90), (8, 0.928), (16, 0.953)],
    "progressive": [(2, 0.80), (4, 0.921), (8, 0.957), (16, 0.962)],
    "teacher": [(2, 0.91), (4, 0.96), (8, 0.97), (16, 0.98)],
}
"""Figure 1 (right): cfg3b, 32 heads to 8; each point is a run of its own length.

Steps in thousands; good to about 0.01.
"""

TRANSFORMER_ACCURACY: dict[str, list[tuple[float, float]]] = {
    "teacher": [(3.2, 0.5), (3.7, 1.0)],
    "progressive": [(3.4, 0.5), (3.8, 1.0)],
    "one_shot": [(8.0, 0.5)],
    "ce": [(8.0, 0.5)],
}
"""Figure 1 (middle): GPT-2 with 32 heads, GPT-2 with 4."""
