"""Write what README.md and docs/results.md show of the committed records: `python docs/results.py`.

The figure docs/results.svg has the validation accuracy by epoch of every experiment that reproduces a published one.
The accuracy tables go between their marks, `<!-- NAME OF THE DATA SET -->` and `<!-- end -->`.
"""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.lines import Line2D

from tinyclf.experiments import catalog
from tinyclf.report.accuracy import accuracy_table, markdown_report
from tinyclf.report.figures import Line, curve_table, draw, line_style, percent_label, styled, svg
from tinyclf.report.runs import PUBLISHED, group_runs, load_histories, published_curve, read_runs
from tinyclf.utils.paths import PROJECT

DATASET = "tiny-imagenet"
FIGURE = PROJECT / "docs" / "results.svg"
PAGES = {  # the tables of each page, by data set, and the way from the page to the project
    PROJECT / "README.md": (["tiny-imagenet"], "."),
    PROJECT / "docs" / "results.md": (["tiny-imagenet", "tiny-imagenet-20"], ".."),
}
END = "\n<!-- end -->"
LINKS = {  # of what the goals in experiments.toml name
    "giung2-jax": "https://github.com/cs-giung/giung2-jax",
    "AdAutoMix": "https://arxiv.org/abs/2312.11954",
}


@styled
def figure() -> str:
    """The figure as SVG: ours solid, several seeds as mean with a band of one standard deviation; published dotted."""
    runs, histories = group_runs(read_runs(DATASET)), load_histories(DATASET)
    drawing, axes = plt.subplots(figsize=(8, 4.8))
    handles = []
    for number, name in enumerate(PUBLISHED):
        style, title = line_style(number), catalog.read_experiments(DATASET)[name].title
        if name in runs:
            counted = histories[histories["run"].isin(runs[name]["runs"])]
            table = curve_table(Line(title, name, counted, "val"), "accuracy")
        else:
            style = style | {"marker": "", "linestyle": ":"}
            published = published_curve(name, DATASET, "val_accuracy")
            table = pd.DataFrame({"accuracy": float("nan"), "deviation": float("nan"), "published": published})
            table = table.reset_index()
        draw(axes, table, style, title)
        handles.append(Line2D([], [], label=title, **style))
    ink = axes.xaxis.label.get_color()
    handles += [Line2D([], [], color=ink, label="ours"), Line2D([], [], color=ink, linestyle=":", label="published")]
    axes.set(xlabel="epoch", ylabel="validation accuracy (top-1)", ylim=0)
    axes.locator_params("x", integer=True)
    axes.yaxis.set_major_formatter(percent_label)
    drawing.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    plt.close(drawing)
    return svg(drawing)


def page(text: str, datasets: list[str], project: str) -> str:
    """A page with the accuracy tables of `datasets` between their marks; project: leads from it to the README."""
    for dataset in datasets:
        before, rest = text.split(mark := f"<!-- {dataset} -->\n", 1)
        report = markdown_report(accuracy_table(dataset), project)
        for name, address in LINKS.items():
            report = report.replace(name, f"[{name}]({address})")
        text = before + mark + report + END + rest.split(END, 1)[1]
    return text


if __name__ == "__main__":
    FIGURE.write_text(figure(), "utf-8")
    for path, (datasets, project) in PAGES.items():
        path.write_text(page(path.read_text("utf-8"), datasets, project), "utf-8")
