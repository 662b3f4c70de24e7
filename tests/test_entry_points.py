"""Commands answer at once, mistakes are one screen, and a copied template works."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

import paper_repro

ROOT = Path(__file__).resolve().parent.parent
NO_JAX = (
    "import sys, runpy\n"
    "sys.argv = {argv!r}\n"
    "try:\n"
    "    runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    "except SystemExit as e:\n"
    "    code = e.code or 0\n"
    "else:\n"
    "    code = 0\n"
    "heavy = [m for m in ('jax', 'flax', 'nltk') if m in sys.modules]\n"
    "sys.exit(f'imported {{heavy}}' if heavy else code)\n"
)


def run(*command, cwd=ROOT, **env):
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **env},
        timeout=600,
    )


@pytest.mark.parametrize(
    ("module", "args", "code"),
    [
        ("paper_repro", [], 0),
        ("paper_repro", ["--help"], 0),
        ("sandbox", ["--help"], 0),
        ("paper_repro", ["report", "--help"], 0),
        ("paper_repro", ["parity_mpl"], 2),
        ("paper_repro", ["parity_mlp", "--scale", "big"], 2),
        ("experiments", [], 0),
        ("experiments", ["parity_mlp"], 2),
    ],
)
def test_help_and_mistakes_do_not_import_jax(module, args, code):
    script = NO_JAX.format(argv=[module, *args], module=module)
    done = run("-c", script)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert max(map(len, done.stdout.splitlines()), default=0) <= 80


def test_every_study_is_listed():
    listed = run("-m", "experiments").stdout
    assert all(f"\n{name} " in listed for name in [*paper_repro.STUDIES, "template"])


STUDIES = [
    (["parity_mlp", "--help"], 0),
    (["parity_mlp", "smoke", "--help"], 0),
    (["parity_mlp", "smoke", "--setting.task.kk", "3"], 2),
    (["parity_mlp", "smoke", "--setting.task.k", "30"], 2),
    (["parity_curriculum", "cpu", "--tau", "-1"], 2),
    (["template", "--help"], 0),
]
IN_TURN = (
    "import sys, runpy\n"
    "codes = []\n"
    "for name, *args in {lines!r}:\n"
    "    sys.argv = [name, *args]\n"
    "    try:\n"
    "        runpy.run_module(f'experiments.{{name}}', run_name='__main__')\n"
    "    except SystemExit as e:\n"
    "        codes.append(e.code or 0)\n"
    "sys.exit(None if codes == {codes} else codes)\n"
)


def test_help_and_mistakes_of_studies():
    """In one process, which imports jax once."""
    lines, codes = ([row[i] for row in STUDIES] for i in (0, 1))
    done = run("-c", IN_TURN.format(lines=lines, codes=codes))
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stderr.splitlines()
    assert len(told) == codes.count(2), done.stderr
    assert all(line.startswith("error: ") for line in told)


def test_a_misspelt_study_gets_a_suggestion():
    assert "did you mean parity_mlp" in run("-m", "paper_repro", "parity_mpl").stderr


TEMPLATE = ROOT / "experiments" / "template.py"
EDITS = {
    # a majority as the target
    "s = x[:, supports[0]].cumprod(-1)[:, self.step - 1 :: self.step]\n": (
        "z = x[:, supports[0]]\n"
    ),
    "return (s.sum(-1) + s[:, 0] / 2 < 0).astype(int)": (
        "return (z.sum(-1) < 0).astype(int)"
    ),
    # one more lane
    "st.progressive(t.spacing, self.tau)]": (
        "st.progressive(t.spacing, self.tau),\n"
        "            st.progressive(t.spacing, self.tau, speed=2.0, name='hasty')]"
    ),
}


@pytest.mark.long
@pytest.mark.timeout(900)  # compiles a study's whole chain in processes of their own
def test_a_new_target_and_a_lane_from_the_template(tmp_path):
    """The newcomer's path: one file of one's own, edited, gives all that is there."""
    env = {"PYTHONPATH": str(ROOT), "SANDBOX_RUNS": str(tmp_path / "runs")}
    new = run("-m", "sandbox", "new", "my_idea.py", cwd=tmp_path, **env)
    assert new.returncode == 0, new.stdout + new.stderr
    study = tmp_path / "my_idea.py"
    text = study.read_text()
    assert text == TEMPLATE.read_text()
    for old, edited in EDITS.items():
        assert text.count(old) == 1, old
        text = text.replace(old, edited)
    study.write_text(text)
    done = run(
        "my_idea.py", "smoke", "--setting.task.d", "10", "--setting.task.k", "3",
        "--setting.n-teachers", "2", "--setting.group", "2", "--setting.spacing", "256",
        "--setting.student-every", "256", "--setting.teacher.width", "64",
        "--setting.budget.limit", "5120", "--setting.budget.cap", "2",
        "--setting.rule.points", "1024", "--steps", "1", cwd=tmp_path, **env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "runs" / "studies").glob("my_idea.smoke.*")
    made = {p.name for p in folder.iterdir()}
    assert {"figure.png", "claims.json", "summary.csv"} <= made
    rows = list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    n90 = {r["strategy"]: float(r["value"]) for r in rows if r["quantity"] == "n90"}
    assert list(n90) == ["teacher", "ce", "one_shot", "progressive", "hasty"]
    assert n90["hasty"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my_idea.py", "runs"]
    (teacher,) = (tmp_path / "runs" / "teacher").iterdir()
    probe = run(
        "-m", "sandbox", "probe", str(teacher), "--probes", "fourier",
        "--study", "my_idea", "--points", "2000", "--steps", "0", cwd=tmp_path,
        **env | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
    )  # fmt: skip
    assert probe.returncode == 0, probe.stdout + probe.stderr
