"""Rates of the device at hand: each is written once; the numbers are not tested."""

from pathlib import Path

import pytest

from experiments import device
from sandbox.errors import ConfigError
from sandbox.store.files import read_json, write_json


@pytest.mark.parametrize(
    "kind", ["facts", *(pytest.param(k, marks=pytest.mark.long) for k in device.KINDS)]
)
def test_every_rate_is_written_once(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "rates" / "found.json"
    device.measure(kind, out=out, quick=True)()
    found = read_json(out)
    assert found["quick"] and found["platform"] and found["versions"]
    assert all(r["rate"] > 0 and r["seconds"] > 0 for r in found["rates"].values())
    first = next(iter(found["rates"]))
    found["rates"][first]["rate"] = 1.5
    write_json(out, found)
    if kind == "facts":
        device.measure(kind, out=out, quick=True)()
        assert read_json(out) == found


def test_a_misspelt_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean facts"):
        device.measure("fact", out=tmp_path / "x.json")
