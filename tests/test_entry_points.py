"""Commands answer at once, mistakes are one screen, and a copied template works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
        timeout=200,
    )


@pytest.mark.parametrize(
    ("module", "args", "code"),
    [
        ("paper_repro", [], 0),
        ("paper_repro", ["--help"], 0),
        ("paper_repro", ["parity_mpl"], 2),
        ("paper_repro", ["parity_mlp", "--scale", "big"], 2),
        ("experiments.parity_mlp", ["--help"], 0),
        ("experiments.parity_mlp", ["smoke", "--help"], 0),
        ("experiments.parity_mlp", ["smoke", "--setting.task.kk", "3"], 2),
        ("experiments.parity_mlp", ["smoke", "--setting.task.k", "30"], 2),
        ("experiments.parity_curriculum", ["cpu", "--tau", "-1"], 2),
        ("experiments.template", ["--help"], 0),
    ],
)
def test_help_and_mistakes_do_not_import_jax(module, args, code):
    script = NO_JAX.format(argv=[module, *args], module=module)
    done = run("-c", script)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_study_gets_a_suggestion():
    assert "did you mean parity_mlp" in run("-m", "paper_repro", "parity_mpl").stderr


MAJORITY = """z = x[:, supports[0]]
        return (z.sum(-1) < 0).astype(int)
"""


def test_a_new_target_from_the_template(tmp_path):
    """The newcomer's path: copy, write a majority, get teacher, probe and figure."""
    text = (ROOT / "experiments" / "template.py").read_text()
    start = text.index("s = x[:, supports[0]]")
    end = text.index("\n\n\n@dataclass", start)
    folder = tmp_path / "experiments"
    folder.mkdir()
    copy = folder / "my_idea.py"
    copy.write_text(text[:start] + MAJORITY + text[end:])
    runs = tmp_path / "runs"
    done = run(
        str(copy), "smoke", "--setting.task.d", "10", "--setting.task.k", "3",
        "--setting.n-teachers", "2", "--setting.group", "2", "--setting.spacing", "256",
        "--setting.student-eval-every", "256", "--setting.teacher-width", "64",
        "--setting.teacher-limit", "7680", "--setting.choice-points", "2048",
        "--steps", "1",
        PYTHONPATH=str(ROOT), SANDBOX_RUNS=str(runs), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((runs / "figures").glob("my_idea.smoke.*.png"))) == 1
    (teacher,) = (runs / "teacher").iterdir()
    probe = run(
        "-m", "sandbox", "probe", str(teacher), "--probes", "fourier",
        "--study", "my_idea", "--points", "2000", "--steps", "0",
        PYTHONPATH=f"{ROOT}{os.pathsep}{folder}", SANDBOX_RUNS=str(runs), cwd=tmp_path,
    )  # fmt: skip
    assert probe.returncode == 0, probe.stdout + probe.stderr
