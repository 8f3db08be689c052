"""No text file is read or written in the encoding of whatever machine this is."""

import ast

from tinyclf.utils.paths import PROJECT

FILES = [
    path for folder in ("tinyclf", "benchmarks", ".ci", "docs") for path in sorted((PROJECT / folder).rglob("*.py"))
]
POSITION = {"read_text": 0, "write_text": 1, "open": 2, "fdopen": 2}  # of `encoding` among the arguments


def without_encoding(text: str) -> list[int]:
    """The lines of calls that would take the machine's encoding. Path.open has one argument less than open has."""
    lines = []
    for call in ast.walk(ast.parse(text)):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        owner = getattr(getattr(call.func, "value", None), "id", "")
        if name not in POSITION or owner in ("os", "Image", "webbrowser"):
            continue
        texts = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)]
        binary = any(isinstance(value, str) and "b" in value and len(value) <= 3 for value in texts)
        given = any(keyword.arg == "encoding" for keyword in call.keywords) or len(call.args) > POSITION[name]
        if not binary and not given:
            lines.append(call.lineno)
    return lines


def test_every_file_names_its_encoding():
    assert {str(path): lines for path in FILES if (lines := without_encoding(path.read_text("utf-8")))} == {}


def test_a_call_without_an_encoding_is_found():
    for call in ("p.read_text()", "p.write_text(x)", "open(p)", "p.open('w')", "open(p, 'w', newline='')"):
        assert without_encoding(call) == [1], call
