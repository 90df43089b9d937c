from typing import ClassVar

import pytest
from pydantic import Field

from parti_data.config import StageConfig, StrictModel, apply_override
from parti_data.errors import ConfigError
from parti_data.rules import Rules
from parti_data.sources import Source, SyntheticSource, WebDatasetSource


class Inner(StrictModel):
    depth: int = 1
    factor: float = 1.0


class Outer(StageConfig):
    inner: Inner = Field(default_factory=Inner)
    source: Source = Field(default_factory=SyntheticSource)
    effort: int = 0

    UNDECIDING: ClassVar[frozenset[str]] = frozenset({"effort"})


def load(*overrides: str) -> Outer:
    return Outer.load(None, ["output=here", *overrides])


def test_overrides_beat_the_file_and_the_file_beats_the_defaults(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('output = "there"\n[inner]\ndepth = 2\nfactor = 3\n')
    config = Outer.load(str(path), ["inner.depth=5"])
    assert (config.output, config.inner) == ("there", Inner(depth=5, factor=3.0))


@pytest.mark.parametrize(
    ("override", "value"),
    [("a=1", 1), ("a=1.5", 1.5), ("a=true", True), ('a="1"', "1"), ("a=[1, 2]", [1, 2]), ("a=runs/x y", "runs/x y"),
     ("a=b=c", "b=c"), ("a=", "")],
)  # fmt: skip
def test_an_override_is_toml_or_else_plain_text(override, value):
    values: dict = {}
    apply_override(values, override)
    assert values == {"a": value}


def test_what_does_not_change_the_output_is_not_deciding():
    assert load("effort=3").deciding() == load("output=elsewhere").deciding()
    assert load("inner.depth=3").deciding() != load().deciding()
    assert "output" not in load().deciding()


def test_the_source_is_the_kind_that_is_named_and_synthetic_by_default():
    assert load("source.seed=3").source == SyntheticSource(seed=3)
    assert load("source.kind=webdataset", "source.path=x").source == WebDatasetSource(kind="webdataset", path="x")


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load().effort = 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.dept=1", r"^overrides: expected a known key, found 'inner.dept'; did you mean 'inner.depth'\?$"),
        ("source.kind=webdataset source.pth=a", "found 'source.pth'; did you mean 'source.path'"),
        ("efort=1", r"found 'efort'; did you mean 'effort'\?"),
        ("source.num_pair=1", r"found 'source.num_pair'; did you mean 'source.num_pairs'\?"),
        ("inner.depth=deep", "expected for 'inner.depth' that input should be a valid integer.*found 'deep'; change"),
        ("inner.depth=1.5", "expected for 'inner.depth' that input should be a valid integer, found 1.5"),
        ("output=7", "expected for 'output' that input should be a valid string, found 7"),
        ("output=", "expected for 'output' that string should have at least 1 character, found ''; change it"),
        ("source.kind=webdataset source.path=", "for 'source.path' that string should have at least 1 character"),
        ("source.kind=tar", "expected for 'source' that input tag 'tar' found.*'synthetic', 'webdataset'"),
        ("source.kind=webdataset", "expected a value for 'source.path', found none; add it to the file or as sou"),
        ("source.path=x", r"expected for 'source' a table that names its kind, found \{'path': 'x'\}; add sou"),
        ("source.pairs_per_split=0", "for 'source.pairs_per_split' that input should be greater than 0, found 0"),
        ("output.x=1", "output.x=1: expected a table at 'output', found a value; check the key"),
        ("effort", "effort: expected key=value, found no '='; write for example output=runs/mine"),
        ("=1", "=1: expected key=value, found no '='"),
        ("output=a\udcff", r"output=a\\udcff: expected UTF-8, found other bytes; write it in UTF-8$"),
        (f"effort={'[' * 5000}", r"^effort=\[{33}…: expected TOML or a text, found lists nested too deep to read"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_refused_with_its_key_and_value(override, message):
    with pytest.raises(ConfigError, match=message):
        load(*override.split())


def test_a_missing_value_is_asked_for_by_name():
    with pytest.raises(ConfigError, match="^overrides: expected a value for 'output', found none; add it to the file"):
        Outer.load(None, [])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none.toml: expected a TOML file, found none \(No such file"):
        Outer.load(f"{tmp_path}/none.toml", [])


@pytest.mark.parametrize("content", [b"output = \n", b"\xff\xfe", b"output = " + b"[" * 5000])
def test_a_file_that_is_not_toml_is_refused(tmp_path, content):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="a.toml: expected TOML, found .*; mend (that line|it)$"):
        Outer.load(str(path), [])


def test_a_pattern_that_is_no_regular_expression_is_refused():
    with pytest.raises(ValueError, match=r"'\(' should be a regular expression"):
        Rules(boilerplate=["("])
