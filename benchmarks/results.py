"""From the rounds, the rows of the CSV, to ratios, verdicts and the page in Markdown."""

from dataclasses import dataclass

import pandas as pd

from tinyclf.report.format import Column, markdown

MEMORY = "memory"
CALM = 0.25  # cores that other processes may keep busy without disturbing a turn
AGAINST = {  # what is measured: whose rate the others' are divided by
    "loader on one core": "published",
    "loader on all cores": "published",
    "training": "limit",
    "training at 224": "limit",
    "evaluation": "limit",
}
MEANING = {
    "loader on one core": "The loader alone, with one thread and no workers, as a multiple of the published way.",
    "loader on all cores": "The loader alone, with every thread, or with the number of workers that came out fastest.",
    "training": "Training, as a share of the limit: a bare step (forward, cross-entropy, backward, SGD) on one batch.",
    "training at 224": "The same on images that are enlarged to 224x224 as they are loaded.",
    "evaluation": "Evaluation, as a share of the limit: a bare forward pass on one batch.",
}


def markdown_table(frame: pd.DataFrame) -> str:
    """A frame in Markdown: its columns, and every value as text."""
    columns = [Column(name, lambda row, name=name: str(row[name]), number=False) for name in frame]
    return markdown(frame.to_dict("records"), columns)


@dataclass(frozen=True)
class Target:
    """What tinyclf is to reach in one measure: a ratio at least, or of memory, a number of GB at most."""

    measure: str
    wanted: float

    @property
    def text(self) -> str:
        """The target in words."""
        if self.measure == MEMORY:
            return f"training on the whole set under {self.wanted:g} GB"
        return f"{self.measure} at least {self.wanted:g} x {AGAINST[self.measure]}"

    def verdict(self, measured: float | None) -> str:
        """`reached` or `short`; `not measured` without a figure."""
        if measured is None:
            return "not measured"
        return "reached" if (measured < self.wanted if self.measure == MEMORY else measured >= self.wanted) else "short"


def targets(device: str) -> list[Target]:
    """The targets, which differ between CPU and GPU."""
    training = 0.97 if device == "cpu" else 0.95
    wanted = (("loader on one core", 8), ("training", training), ("evaluation", 0.97), (MEMORY, 2.5))
    return [Target(*target) for target in wanted]


def ratios(frame: pd.DataFrame, measure: str) -> pd.DataFrame:
    """By contestant: the median of its ratios, each within one round, their quartiles, and its median rate.

    Rounds in which other processes took more than CALM of a core from it, or from whom it is compared with, are left
    out where at least three remain. Columns: `ratio`, `low`, `high`, `rate` (images/s), `workers`,
    and how many rounds were `used`, undisturbed (`calm`) and all (`rounds`).
    """
    rows = frame[frame.measure == measure]
    names = list(rows.contestant.unique())
    rates, others = (
        rows.pivot(index="round", columns="contestant", values=column)[names] for column in ("value", "others")
    )
    by_round = rates.div(rates[AGAINST[measure]], axis=0)
    calm = by_round[(others <= CALM).mul(others[AGAINST[measure]] <= CALM, axis=0)]
    used = pd.DataFrame({name: (calm if calm[name].count() >= 3 else by_round)[name] for name in names})
    return pd.DataFrame(
        {
            "ratio": used.median(),
            "low": used.quantile(0.25),
            "high": used.quantile(0.75),
            "rate": rates[used.notna()].median(),
            "workers": rows.groupby("contestant").workers.first(),
            "used": used.count(),
            "calm": calm.count(),
            "rounds": by_round.count(),
        }
    ).loc[names]


def gigabytes(frame: pd.DataFrame) -> pd.Series:
    """Peak memory of each contestant whose memory was measured, in GB (10^9 bytes)."""
    return frame[frame.measure == MEMORY].set_index("contestant").value * 2**20 / 1e9


def figure_of(frame: pd.DataFrame, measure: str) -> float | None:
    """What the target of `measure` looks at: tinyclf's median ratio, or its GB. None where it was not measured."""
    if measure not in set(frame.measure):
        return None
    return float(gigabytes(frame)["tinyclf"] if measure == MEMORY else ratios(frame, measure).ratio["tinyclf"])


def page(frame: pd.DataFrame, title: str, about: dict[str, str], device: str) -> str:
    """The tables in Markdown. about: what it ran on, by name."""
    lines = []
    for target in targets(device):
        measured = figure_of(frame, target.measure)
        text = "" if measured is None else f"{measured:.3g}"
        lines.append({"target": target.text, "measured": text, "verdict": target.verdict(measured)})
    parts = [f"# {title}", *(f"- {name}: {text}" for name, text in about.items()), ""]
    parts += [markdown_table(pd.DataFrame(lines)), ""]
    for measure in (name for name in AGAINST if name in set(frame.measure)):
        rows = [
            {
                "contestant": name,
                f"ratio to {AGAINST[measure]}": f"{row.ratio:.3g}",
                "quartiles": f"{row.low:.3g} to {row.high:.3g}",
                "images/s": f"{row.rate:,.0f}",
                "workers": f"{row.workers:.0f}",
                "rounds": f"{row.used:.0f} of {row.rounds:.0f}" + ("" if row.used == row.calm else ", disturbed"),
            }
            for name, row in ratios(frame, measure).iterrows()
        ]
        parts += [f"## {measure.capitalize()}", "", MEANING[measure], "", markdown_table(pd.DataFrame(rows)), ""]
    if MEMORY in set(frame.measure):
        rows = [{"contestant": name, "peak, GB": f"{value:.2f}"} for name, value in gigabytes(frame).items()]
        text = (
            "The peak resident memory of a process that trains and evaluates, without workers. tinyclf's also reads "
            "every image of the set once."
        )
        parts += ["## Memory", "", text, "", markdown_table(pd.DataFrame(rows)), ""]
    parts.append(
        "Contestants take turns of a few steps in one process; a ratio is the median over the rounds of the ratios "
        "within each, which the quartiles are of, too. Rounds in which other processes kept more than "
        f"{CALM:g} cores busy are left out where at least three remain; else all count, marked as disturbed. Workers "
        "run during their own turn alone; the clock starts once they are up and work steadily. Files are read from the "
        "system's cache."
    )
    return "\n".join(parts) + "\n"
