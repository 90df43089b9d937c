import pytest
import yaml

from parti_data.dataset_card import CardText, ExportedShards, size_category, write_card
from parti_data.token_shard import ShardMetadata

METADATA = ShardMetadata(
    image_tokenizer="a" * 64, image_tokenizer_name="vqgan | <b>\nx", codebook_size=70_000, grid_side=4,
    num_quantizers=2, image_side=32, resize_recipe="r", resize_library="l", precision="float32", text_tokenizer="b",
    text_vocabulary_size=70_000, config_digest="c", input_digest="d",
)  # fmt: skip


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (3_000_000, "1M<n<10M"),
        (2 * 10**9, "1B<n<10B"),
        (10**13, "n>100B"),
    ],
)
def test_sizes_are_called_as_the_hub_calls_them(num_rows, expected):
    assert size_category(num_rows) == expected


@pytest.mark.parametrize("text", ['A: "title"\n---\n# x', "Émoji 🎨"])
def test_front_matter_is_yaml_whatever_the_title(text):
    card = write_card(CardText(text, text), ExportedShards(METADATA, 5, 100, 50, "e"))
    front = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert front["pretty_name"] == front["license"] == text
    types = {feature.pop("name"): feature for feature in front["dataset_info"]["features"]}
    assert types["image_tokens"] == {"sequence": "uint32", "length": 32}
    assert types["text_ids"] == {"sequence": {"sequence": "uint32"}}


def test_names_of_strangers_stay_in_their_cell():
    card = write_card(CardText("t", ""), ExportedShards(METADATA, 5, 100, 50, "e"))
    assert "| image tokenizer | vqgan \\| &lt;b> x |" in card
    assert "license" not in card
    assert "| grid | 4 x 4, 2 tokens a position, which stand together |" in card
