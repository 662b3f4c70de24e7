"""The scripts beside the tests: what they compare, they compare to the last bit."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests import compare_results
from tests.golden import retrain


def result(folder: Path, name: str, **claim: Any) -> None:
    base = {"id": "P1", "obtained": 0.1, "lower": None, "upper": math.inf}
    folder.mkdir(exist_ok=True)
    data = {"claims": [base | {"point": True} | claim, {"id": "P2", "point": None}]}
    (folder / f"{name}.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({}, "x.smoke: equal"),
        ({"seeds": 3}, "x.smoke: equal"),
        ({"obtained": 0.1 + 2**-56}, "P1 obtained: 0.1 != 0.10000000000000002 (rel"),
        ({"lower": 0.0}, "P1 lower: None != 0.0\n"),
        ({"upper": "inf"}, "P1 upper: inf != 'inf'\n"),
        ({"upper": math.nan}, "P1 upper: inf != nan"),
        ({"point": 1}, "P1 point: True != 1\n"),
        ({"id": "P3"}, "P3 is only in "),
    ],
)
def test_results_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], claim: dict, words: str
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    result(a, "x.smoke")
    result(b, "x.smoke", **claim)
    assert compare_results.compare(a, b) is ("equal" in words)
    assert words in capsys.readouterr().out
    result(a, "y.smoke", obtained=math.nan)
    assert not compare_results.compare(a, b)
    assert f"y.smoke: differs\n  only in {a}" in capsys.readouterr().out
    result(b, "y.smoke", obtained=math.nan)
    assert compare_results.compare(a, b, ["y"])
    assert "x.smoke" not in capsys.readouterr().out


def test_sums_are_compared() -> None:
    a = {"golden | steps": "1", "golden | loss": "2"}
    assert retrain.differences(a, dict(reversed(a.items()))) == []
    b = {"golden | steps": "0", "bert | steps": "1"}
    assert retrain.differences(a, b) == [
        "golden | steps: differs",
        "golden | loss: only in one",
        "bert | steps: only in one",
    ]
    with retrain.checkout(retrain.ROOT) as tree:
        assert tree == retrain.ROOT
