"""Rows of `experiments.bench.online_sgd`, their goals and table."""

from dataclasses import dataclass
from typing import Any

from experiments.bench.timing import RATE, WORDS, Candidate, ratio
from sandbox.text import table

GOALS: dict[tuple[str, int, str], tuple[float, float, float]] = {
    ("labels", 100, "torch"): (100, 90, 149),
    ("labels", 1000, "torch"): (40, 30, 46),
    ("labels", 5000, "torch"): (13, 11, 16),
    ("labels", 50_000, "torch"): (9, 8, 11.5),
    ("distill", 1000, "torch"): (20, 20, 29),
    ("lanes", 100, "one"): (2, 2, 2.7),
}
"""(row, width, other engine) -> goal, bar on a noisy machine, what a prototype had."""


def goal_of(row: str, m: int, other: str, obtained: float) -> dict[str, Any]:
    """The goal of a ratio and whether it was met; empty where there is none."""
    found = GOALS.get((row, m, other))
    if found is None:
        return {}
    goal, bar, prototype = found
    return {
        "goal": goal,
        "noisy_bar": bar,
        "prototype": prototype,
        "met": obtained >= goal,
        "met_noisy_bar": obtained >= bar,
    }


@dataclass
class Row:
    """One line of the table: engines that take turns on one problem."""

    kind: str
    m: int
    candidates: dict[str, Candidate]
    flop: float | None = None

    def record(self, roof: float) -> dict[str, Any]:
        """Rates, ratios against their goals, and the share of the floor."""
        rates = {name: c.record() for name, c in self.candidates.items()}
        first, *others = self.candidates
        ratios = {}
        for other in others:
            found = ratio(rates[first], rates[other])
            found |= goal_of(self.kind, self.m, other, found["obtained"])
            ratios[f"{first}:{other}"] = found
        floor = None
        if self.flop is not None:
            floor = {
                "flop_per_step": self.flop,
                "floor_per_s": roof * 1e9 / self.flop,
                "fraction": rates[first][RATE] * self.flop / (roof * 1e9),
            }
        return {
            "row": self.kind, "m": self.m, "rates": rates, "ratios": ratios,
            "floor": floor,
        }  # fmt: skip


def print_tables(result: dict[str, Any]) -> None:
    """Prints one table, the lanes, the cores, and what the numbers mean."""
    hardware, roof = result["hardware"], result["roof_gflop_per_s"]["median"]
    load, sizes = result["load_average"], result["sizes"]
    print(
        f"\nbatch-1 training, d={sizes['d']}, k={sizes['k']}: steps per second of"
        f" {WORDS}, median of {result['rounds']}"
    )
    rows = [_cells(row) for row in result["rows"] if row["row"] != "lanes"]
    header = ("problem", "blocked", "plain scan", "torch", *_RATIOS)
    print(table(header, rows, right="l" + "r" * (len(header) - 1)))
    for row in result["rows"]:
        if row["row"] == "lanes":
            print(_lanes(row, sizes["lanes"]))
    for row in result["all_cores"]:
        print(
            f"m={row['m']:,} on {row['cores']} cores: {row['wall_per_s']:,.0f} steps/s"
            f" of wall time, {row['to_one_core']:.2f}x one core"
        )
    print(
        f"floor: a step's operations at the {roof:.0f} GFLOP/s of a large product here;"
        f" {hardware['cpu']}; load {load['before']:.1f} to {load['after']:.1f};"
        f" {result['goals_met']} goals met; {result['wall_seconds']:.0f} s in all"
    )


_RATIOS = (":torch", "goal", "met", ":plain", "of floor", "compile s")
_MET = {True: "yes", False: "NO", None: ""}


def _cells(row: dict[str, Any]) -> list[str]:
    rates, ratios = row["rates"], row["ratios"]

    def rate(name: str) -> str:
        return f"{rates[name][RATE]:,.0f}" if name in rates else ""

    def times(name: str) -> str:
        found = ratios.get(f"blocked:{name}")
        return f"{found['obtained']:.1f}x" if found else ""

    against = ratios.get("blocked:torch", {})
    goal = against.get("goal")
    kind = {"labels": "labels", "distill": "distilled"}[row["row"]]
    return [
        f"{kind}, m={row['m']:,}",
        rate("blocked"),
        rate("generic"),
        rate("torch"),
        times("torch"),
        f">= {goal:g}" if goal else "",
        _MET[against.get("met")],
        times("generic"),
        f"{row['floor']['fraction']:.0%}",
        f"{rates['blocked']['compile_seconds']:.1f}",
    ]


def _lanes(row: dict[str, Any], n: int) -> str:
    rates, ratio = row["rates"], row["ratios"]["lanes:one"]
    goal = ratio.get("goal")
    verdict = f", goal >= {goal:g}: {_MET[ratio['met']]}" if goal else ""
    return (
        f"{n} students of m={row['m']:,} on one stream:"
        f" {rates['lanes'][RATE]:,.0f} steps/s in all, one alone"
        f" {rates['one'][RATE]:,.0f}: {ratio['obtained']:.1f}x{verdict}"
    )
