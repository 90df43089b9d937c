import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("parti_data", "model", "pipelines")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imported(module: str) -> set[str]:
    """Every module that the module imports anywhere in its text."""
    names = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in SOURCES else str(node.module) for name in inner}
    return names


def test_there_are_modules_to_look_at():
    assert {"parti_data.token_dataset", "model.tokenizers.vit_vqgan", "pipelines.command_line"} <= SOURCES.keys()


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("parti_data", {"torch", "apache_beam", "model", "pipelines"}),
        ("model", {"apache_beam", "pipelines"}),
    ],
)
def test_imports_go_in_one_direction(package, forbidden):
    for module in SOURCES:
        if module.partition(".")[0] == package:
            assert not {name.partition(".")[0] for name in imported(module)} & forbidden, module


def test_no_modules_import_each_other_in_a_circle():
    edges = {module: (imported(module) & SOURCES.keys()) - {module} for module in SOURCES}
    done: set[str] = set()
    while ready := {module for module in edges if module not in done and edges[module] <= done}:
        done |= ready
    assert set(edges) == done, f"in or behind a circle: {sorted(set(edges) - done)}"


def test_no_module_has_a_name_that_says_nothing():
    names = {part for module in SOURCES for part in module.split(".")}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}
