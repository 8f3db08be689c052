"""Draw docs/architecture.svg, the layers of tinyclf: `python docs/architecture.py`.

The layers are those of the README's section "Where things are", the arrows come from the imports in the code. An arrow
leads from what is imported to what imports it, unless others lead there already (transitive reduction). Of those from
layer to layer one is drawn for all, as every layer builds on the one before it.
"""

import ast
import colorsys
import itertools
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PICTURE = PROJECT / "docs" / "architecture.svg"
Graph = dict[str, set[str]]  # what each one imports

# Sizes in pixels
CHIP = (116, 27)  # width and height of a module's box
GAP = (40, 9)  # between two of them
PAD = 13  # within a layer's box
TITLE = 140  # the part of a layer's box that its title takes
BETWEEN = 26  # two layers


def layers() -> dict[str, list[str]]:
    """The modules of each layer, in the README's order, by its title."""
    section = (PROJECT / "README.md").read_text().split("## Where things are")[1].split("\n## ")[0]
    items = re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=^\S|\Z)", section, re.M | re.S)
    return {title: list(dict.fromkeys(re.findall(r"`(\w+)`", text))) for title, text in items}


def imports() -> Graph:
    """Which modules of tinyclf each of them imports, at its top or in a function; not for type checking alone."""
    paths = [path for path in sorted((PROJECT / "tinyclf").glob("*.py")) if not path.stem.startswith("__")]
    return {path.stem: imported(ast.parse(path.read_text())) & {each.stem for each in paths} for path in paths}


def imported(node: ast.AST) -> set[str]:
    """The modules of tinyclf that the code of `node` imports."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return set()
    if isinstance(node, ast.Import):
        names = [each.name for each in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{each.name}" for each in node.names]
    else:
        names = []
    found = {name.split(".")[1] for name in names if name.startswith("tinyclf.")}
    return found.union(*map(imported, ast.iter_child_nodes(node)))


def reduced(graph: Graph) -> Graph:
    """`graph`, which has no cycle, without what follows from the rest of it."""

    def reached(name: str) -> set[str]:
        return graph[name].union(*map(reached, graph[name]))

    return {name: used - set().union(*map(reached, used)) for name, used in graph.items()}


def columns(graph: Graph) -> list[list[str]]:
    """The modules of one layer in columns: each as near as can be to what uses it, in rows that cross few arrows."""
    users = {name: [other for other in graph if name in graph[other]] for name in graph}

    def depth(name: str) -> int:
        return max((1 + depth(used) for used in graph[name]), default=0)

    def place(name: str) -> int:
        return min((place(user) - 1 for user in users[name]), default=depth(name))

    found = [[name for name in graph if place(name) == column] for column in range(1 + max(map(place, graph)))]

    def tangle(orders: tuple[tuple[str, ...], ...]) -> tuple[int, float]:
        height = {name: row - (len(order) - 1) / 2 for order in orders for row, name in enumerate(order)}
        arrows = [(used, name) for name in graph for used in graph[name]]
        crossed = sum(
            place(a) < place(d) and place(c) < place(b) and (height[a] - height[c]) * (height[b] - height[d]) < 0
            for (a, b), (c, d) in itertools.combinations(arrows, 2)
        )
        return crossed, sum(abs(height[a] - height[b]) for a, b in arrows)

    best = min(itertools.product(*(itertools.permutations(each) for each in found)), key=tangle)
    return [list(order) for order in best]


def picture() -> str:
    """The picture as SVG: text is text, nothing is painted behind the layers, and dark pages get other colours."""
    graph = reduced(imports())
    places = {
        title: columns({module: graph[module] & set(modules) for module in modules})
        for title, modules in layers().items()
    }
    widest = max(map(len, places.values()))
    width = TITLE + widest * CHIP[0] + (widest - 1) * GAP[0] + PAD
    parts: list[str] = []
    light, dark, y = "", "", 1.0
    for number, (title, order) in enumerate(places.items()):
        if number:
            parts.append(f'<path d="M{width / 2:g} {y - BETWEEN + 4:g}v{BETWEEN - 8}m-5 -6l5 6l5 -6"/>')
        drawn, height = layer(title, order, graph, y, width)
        parts.append(f'<g class="l{number}">\n{drawn}\n</g>')
        light += colours(number, len(places), 0.95, 0.99, 0.6, 0.22)
        dark += colours(number, len(places), 0.17, 0.25, 0.62, 0.9)
        y += height + BETWEEN
    drawn = "\n".join(parts)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="-1 0 {width + 2:g} {y - BETWEEN + 1:g}">
<title>The layers of tinyclf, each below those that it uses</title>
<style>
text {{ font: 600 15px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }}
.module {{ font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace }}
path {{ fill: none; stroke: #8b949e; stroke-width: 1.5; stroke-linecap: round; stroke-linejoin: round }}
{light}@media (prefers-color-scheme: dark) {{
{dark}}}
</style>
{drawn}
</svg>
"""


def layer(title: str, order: list[list[str]], graph: Graph, y: float, width: float) -> tuple[str, float]:
    """A layer whose box starts at height `y`, with its title, its modules and the arrows between them; its height."""
    rows = max(map(len, order))
    height = 2 * PAD + rows * CHIP[1] + (rows - 1) * GAP[1]
    middle = y + height / 2
    at = {  # where a module's box has the middle of its left side
        name: (TITLE + column * (CHIP[0] + GAP[0]), middle + (row - (len(names) - 1) / 2) * (CHIP[1] + GAP[1]))
        for column, names in enumerate(order)
        for row, name in enumerate(names)
    }
    parts = [f'<rect y="{y:g}" width="{width:g}" height="{height:g}" rx="10"/>']
    parts.append(f'<text x="{PAD + 4}" y="{middle + 5:g}">{title}</text>')
    for name, (x, here) in at.items():
        parts.append(
            f'<rect class="chip" x="{x:g}" y="{here - CHIP[1] / 2:g}" width="{CHIP[0]}" height="{CHIP[1]}" rx="6"/>'
        )
        parts.append(
            f'<text class="module" text-anchor="middle" x="{x + CHIP[0] / 2:g}" y="{here + 4.5:g}">{name}</text>'
        )
        for start, there in sorted(at[used] for used in graph[name] & at.keys()):
            start, end = start + CHIP[0] + 2, x - 4
            bend = min(GAP[0], end - start) / 2
            curve = f"C{start + bend:g} {there:g} {end - bend:g} {here:g} {end:g} {here:g}"
            parts.append(f'<path d="M{start:g} {there:g}{curve}m-5 -4l5 4l-5 4"/>')
    return "\n".join(parts), height


def colours(number: int, of: int, box: float, chip: float, line: float, text: float) -> str:
    """The style of a layer: a hue of its own, from green over blue and red to yellow, in four shades from 0 to 1."""

    def shade(light: float) -> str:
        return "#" + "".join(
            f"{round(255 * each):02x}" for each in colorsys.hls_to_rgb((0.45 + 0.67 * number / of) % 1, light, 0.45)
        )

    return (
        f".l{number} rect {{ fill: {shade(box)}; stroke: {shade(line)} }} .l{number} .chip {{ fill: {shade(chip)} }} "
        f".l{number} path {{ stroke: {shade(line)} }} .l{number} text {{ fill: {shade(text)} }}\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(picture())
