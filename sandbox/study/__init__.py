"""Studies: teachers, the curriculum in their checkpoints, students, figure, claims.

`sandbox.study.study` has the concept and an example; `python -m sandbox new FILE`
writes a template.
"""

# pyright: reportUnusedImport=false

from sandbox.study.claims import (
    Claim,
    Statistic,
    above,
    at_least,
    at_most,
    below,
    later,
    pace,
    positive,
)
from sandbox.study.figures import (
    accuracy,
    brief,
    counts_by_part,
    counts_text,
    endings,
    families,
    learned,
    legend,
    note,
    paces,
    panels,
    published,
    ratios,
    strips,
)
from sandbox.study.lanes import (
    Capped,
    Lane,
    ce,
    label_of,
    n_shot,
    one_shot,
    progressive,
    two_shot,
)
from sandbox.study.ngrams import Ngrams, Probed
from sandbox.study.result import Quantity, Result, Taught, of_teachers
from sandbox.study.rules import ByDrop, ByGap, ByNode
from sandbox.study.setting import (
    CosineAdam,
    Fixed,
    Heads,
    Setting,
    Strings,
    TwoLayer,
    UntilLearned,
)
from sandbox.study.study import Study, preset
from sandbox.study.teachers import Teachers
