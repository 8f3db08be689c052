"""Sections of a page: folded where asked for, left out where they have nothing to show, open where an error is."""

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tinyclf.report.sections import arrange


def heading(title, *tags):
    return new_markdown_cell(f"## {title}\n\nText of {title}.", metadata={"tags": list(tags)})


def code(*outputs, tags=()):
    return new_code_cell("code", outputs=list(outputs), metadata={"tags": list(tags)})


SOME = new_output("stream", text="some")
WRONG = new_output("error", ename="E", evalue="wrong", traceback=[])


def arranged(*cells):
    notebook = new_notebook(cells=[new_markdown_cell("# Title"), *cells])
    arrange(notebook, left_out="notebook-only")
    return notebook.cells[1:]


def test_a_folded_section_opens_at_its_heading_and_closes_at_its_last_cell_on_the_page():
    first, middle, last, other = arranged(
        heading("One", "folded"), code(SOME), code(), code(tags=["notebook-only"]), heading("Two")
    )
    assert first.metadata["opens"] == "One" and first.source.strip() == "Text of One."
    assert "closes" not in middle.metadata and last.metadata["closes"] and "opens" not in other.metadata
    assert last.metadata["shown"] and not middle.metadata["shown"], "code is shown where it has no output"


def test_an_optional_section_without_output_is_left_out():
    cells = arranged(heading("None", "folded", "optional"), code(), heading("Some", "optional"), code(SOME))
    assert [cell.source.partition("\n")[0] for cell in cells] == ["## Some", "code"]
    assert len(arranged(heading("Recipe", "folded"), code())) == 2


def test_a_section_with_an_error_stays_open():
    cells = arranged(heading("Training", "folded", "optional"), code(WRONG))
    assert cells[0].source.startswith("## Training") and "opens" not in cells[0].metadata
