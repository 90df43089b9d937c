import pytest

from model.sampling.prompts import Prompt, encode_prompts, read_prompts
from parti_data.errors import ConfigError
from parti_data.text import END, PAD


class Letters:
    """A stand-in for a text tokenizer: an id for each letter."""

    def encode(self, caption: str) -> list[int]:
        return [*map(ord, caption), END]


def test_prompts_come_from_the_config_and_from_lines(tmp_path):
    (tmp_path / "prompts.txt").write_text("one\n\n two \n")
    prompts = read_prompts(["zero"], str(tmp_path / "prompts.txt"), "text")
    assert prompts == [Prompt("zero"), Prompt("one"), Prompt("two")]


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.tsv"])
def test_a_mark_of_the_byte_order_is_no_text(tmp_path, name):
    lines = "Prompt\none" if name.endswith(".tsv") else "one"
    (tmp_path / name).write_text(lines, encoding="utf-8-sig")
    assert read_prompts([], str(tmp_path / name), "text") == [Prompt("one")]


def test_only_the_ends_of_lines_part_prompts(tmp_path):
    (tmp_path / "prompts.tsv").write_bytes("Prompt\r\na\u2028b\r\nc\x0bd".encode())
    assert read_prompts([], str(tmp_path / "prompts.tsv"), "text") == [Prompt("a\u2028b"), Prompt("c\x0bd")]


def test_parti_prompts_are_read_as_published(shared):
    prompts = read_prompts([], str(shared / "data" / "parti-prompts" / "PartiPrompts.tsv"), "text")
    assert len(prompts) == 1632
    assert prompts[0] == Prompt("bond", "Abstract", "Basic")
    assert len({prompt.category for prompt in prompts}) == 12
    assert len({prompt.challenge for prompt in prompts}) == 11


def test_no_prompts_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="sample: expected prompts, found none"):
        read_prompts([], "", "text")
    with pytest.raises(ConfigError, match="expected prompts as UTF-8 text, found"):
        read_prompts([], str(tmp_path / "none.txt"), "text")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate((1 << 26) + 1)
    with pytest.raises(ConfigError, match="expected prompts of at most 64 MiB, found more; split prompts_file"):
        read_prompts([], str(tmp_path / "huge.txt"), "text")
    (tmp_path / "bad.tsv").write_text("text\nx\n")
    with pytest.raises(ConfigError, match="expected a column 'Prompt', found"):
        read_prompts([], str(tmp_path / "bad.tsv"), "text")


def test_prompts_are_padded_and_a_long_one_is_cut_with_an_end():
    ids = encode_prompts([Prompt("a"), Prompt("abc"), Prompt("abcdef")], Letters(), 4)  # type: ignore[arg-type]
    a, b, c = map(ord, "abc")
    assert ids.tolist() == [[a, END, PAD, PAD], [a, b, c, END], [a, b, c, END]]
