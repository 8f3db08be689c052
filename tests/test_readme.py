"""README.md and docs/ say what the records, the notebooks and the package say."""

import ast
import re
import runpy
import shutil
import subprocess

import nbformat
import pytest

from tinyclf.utils.paths import NOTEBOOKS, PROJECT

README = (PROJECT / "README.md").read_text()
PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("*/README.md")])
MAKE = runpy.run_path(str(PROJECT / "docs" / "results.py"))  # benchmarks/ has a module `results` as well


def test_pages_and_figures_are_those_of_the_committed_records(monkeypatch):
    changed = ["git", "-C", str(PROJECT), "status", "--porcelain", "--", "reports"]
    if shutil.which("git") and subprocess.run(changed, capture_output=True, text=True).stdout:
        pytest.skip("reports/ was changed since the last commit: the pages go with that commit")
    monkeypatch.setenv("TINYCLF_REPORTS", str(PROJECT / "reports"))
    for path in MAKE["PAGES"]:
        assert (PROJECT / path).read_text() == MAKE["page"](path), "run python docs/results.py"
    for name, figure in MAKE["FIGURES"].items():
        texts = (PROJECT / "docs" / name).read_text(), MAKE["svg"](figure())
        before, now = (re.sub(r"Matplotlib v[\d.]+", "Matplotlib", text) for text in texts)
        assert before == now, "run python docs/results.py"


def test_the_notebooks_are_listed_in_their_order_and_wording():
    table = README.split("## The notebooks")[1].split("\n## ")[0]
    titles = [nbformat.read(path, 4).cells[0].source.splitlines()[0] for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    assert re.findall(r"^\| \[.+?\]\(notebooks/.+?\) \| (.+?) \|", table, re.M) == [title[2:] for title in titles]


def test_the_recipe_of_the_readme_is_that_of_the_first_step():
    cells = "\n".join(cell.source for cell in nbformat.read(NOTEBOOKS / "1_baseline.ipynb", 4).cells)
    recipe = README.split("```python\n")[1].split("```")[0]
    for line in re.findall(r"^(?:model[^#\n]*\)|use_\w+\(model, |criterion .*|history .*?\))", recipe, re.M):
        assert line in cells


def test_every_link_leads_somewhere_and_python_parses():
    for path in PAGES:
        text = path.read_text()
        for target in re.findall(r"\]\(([^)]+)\)", text):
            file, _, anchor = target.partition("#")
            page = (path.parent / file) if file else path
            assert target.startswith("http") or page.exists(), f"{path.name}: {target}"
            if anchor and not target.startswith("http"):
                headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
                slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, f"{path.name}: {target}"
        for code in re.findall(r"^```python\n(.+?)^```", text, re.M | re.S):
            ast.parse(code)


def test_the_architecture_names_every_module():
    page = (PROJECT / "docs" / "architecture.md").read_text().split("## The modules")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)/(.+?)` \|", page, re.M)
    named = {f"{folder}/{file}" for folder, files in rows for file in files.split("`, `")}
    modules = (PROJECT / "tinyclf").glob("*/*.py")
    assert named == {f"{path.parent.name}/{path.name}" for path in modules if path.stem != "__init__"}
