"""Counts of kernels and bytes, on a program written by hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.bench.gpu_programs import Cost, cost_of

ROOT = Path(__file__).parents[2]
PROGRAM = """\
HloModule jit_f, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%fused (q: f32[8]) -> f32[8] {
  %q = f32[8]{0} parameter(0)
  ROOT %e = f32[8]{0} exponential(%q)
}

%fused.1 (stack: f32[8], at: s32[]) -> bf16[2] {
  %stack = f32[8]{0} parameter(0)
  %at = s32[] parameter(1)
  %part = f32[2]{0} dynamic-slice(%stack, %at), dynamic_slice_sizes={2}
  ROOT %half = bf16[2]{0} convert(%part)
}

%fused.2 (all: f32[8], new: bf16[2], where: s32[]) -> f32[8] {
  %all = f32[8]{0} parameter(0)
  %new = bf16[2]{0} parameter(1)
  %where = s32[] parameter(2)
  %wide = f32[2]{0} convert(%new)
  ROOT %written = f32[8]{0} dynamic-update-slice(%all, %wide, %where)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %y = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused
  %z = bf16[2]{0} fusion(%y, %i), kind=kInput, calls=%fused.1
  %k = f32[8]{0} fusion(%y, %z, %i), kind=kLoop, calls=%fused.2
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %k)
}

%short (a: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} parameter(0)
}

%long (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%b)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8]{0}) tuple(%zero, %x)
  %w = (s32[], f32[8]{0}) while(%start), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %r = f32[8]{0} get-tuple-element(%w), index=1
  %s = (f32[8]{0}, f32[8]{0}) copy-start(%r)
  %d = f32[8]{0} copy-done(%s)
  ROOT %o = f32[8]{0} conditional(%zero, %d, %d), branch_computations={%short, %long}
}
"""


def test_loops_slices_and_branches_count_as_what_they_move() -> None:
    body = Cost(3, (32 + 32) + (8 + 4 + 4) + (4 + 4 + 8))
    start, negated = Cost(1, 32 + 32), Cost(0.5, (32 + 32) / 2)
    assert cost_of(PROGRAM) == body * 5 + start + negated
    once = PROGRAM.replace('"known_trip_count"', '"unknown"')
    assert cost_of(once) == body + start + negated


@pytest.mark.long
def test_without_a_compiler_for_gpus_it_says_so() -> None:
    command = [sys.executable, "-m", "experiments.bench.gpu_programs"]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "nothing was compiled" in done.stderr and "cuda13" in done.stderr
