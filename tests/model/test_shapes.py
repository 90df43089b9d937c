import pytest

from model.noble import NobleShape
from model.priors.parti import PartiShape
from model.shapes import make_shape
from model.tokenizers.vit_vqgan import TransformerSize, ViTVQGANShape
from parti_data.errors import ConfigError


def test_a_table_changes_what_it_names_and_leaves_the_rest():
    shape = make_shape(PartiShape, {"width": 64, "num_heads": 2, "dropout": 0.2}, codebook_size=16)
    assert (shape.width, shape.num_heads, shape.dropout, shape.codebook_size) == (64, 2, 0.2, 16)
    assert shape.num_decoder_layers == PartiShape.num_decoder_layers


def test_a_table_in_the_table_may_be_named():
    shape = make_shape(ViTVQGANShape, {"encoder": {"num_layers": 2}, "decoder": "large"})
    assert shape.encoder == TransformerSize(num_layers=2)
    assert (shape.decoder.num_layers, shape.decoder.num_heads, shape.decoder.width) == (32, 16, 1280)


def test_a_table_in_the_table_may_begin_with_a_preset():
    shape = make_shape(ViTVQGANShape, {"encoder": {"preset": "base", "num_layers": 2}})
    assert shape.encoder == TransformerSize(2, 12, 768, 3072)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None),
        ("code", NobleShape()),
        ("paper", NobleShape.PRESETS["paper"]),
        ({"rank": 8, "phase_multiplier": 3}, NobleShape(rank=8, phase_multiplier=3)),
        ({"preset": "paper", "rank": 64}, NobleShape.PRESETS["paper"]),
    ],
)
def test_a_table_that_may_be_absent_is_none_or_like_any_other(value, wanted):
    assert make_shape(PartiShape, {"noble": value}).noble == wanted
    assert make_shape(PartiShape, {}).noble is None


@pytest.mark.parametrize(
    ("kind", "table", "message"),
    [
        (PartiShape, {"widht": 64}, "expected a known key, found 'widht'; did you mean 'width'"),
        (PartiShape, [64], r"architecture: expected a table, found \[64\]; change it"),
        (PartiShape, {"codebook_size": 64}, "expected a known key, found 'codebook_size'"),
        (PartiShape, {"width": 192.5}, "architecture.width: expected a whole number, found 192.5"),
        (PartiShape, {"width": 100, "num_heads": 3}, r"architecture.width: expected a multiple of 4 \* num_heads = 12"),
        (PartiShape, {"max_text_length": 1}, "architecture.max_text_length: expected at least 2, found 1; raise it"),
        (PartiShape, {"kernel_side": 4}, "architecture.kernel_side: expected an odd number from 1, found 4; change it"),
        (PartiShape, {"qk_norm": 1}, "architecture.qk_norm: expected true or false, found 1; change it"),
        (PartiShape, {"norm": "batch"}, "architecture.norm: expected one of layer, rms, found 'batch'; change it"),
        (ViTVQGANShape, {"patch_side": 7}, "architecture.image_side: expected a multiple of patch_side = 7, found 256"),
        (PartiShape, {"noble": "draft"}, "architecture.noble: expected a table or one of code, paper, found 'draft'"),
        (PartiShape, {"noble": True}, "architecture.noble: expected a table or one of code, paper, found True"),
        (PartiShape, {"noble": {"preset": 1}}, "architecture.noble.preset: expected one of code, paper, found 1"),
        (PartiShape, {"noble": {"rank": 0}}, "architecture.noble.rank: expected at least 1, found 0; raise it"),
        (PartiShape, {"noble": {"phase_std": -0.1}}, "architecture.noble.phase_std: expected at least 0, found -0.1"),
        (PartiShape, {"noble": {"preset": "code", "ranks": 8}}, "architecture.noble: .*'ranks'; did you mean 'rank'"),
        (PartiShape, {"width": True}, "architecture.width: expected a whole number, found True"),
        (PartiShape, {"dropout": "0.1"}, "architecture.dropout: expected a number, found '0.1'"),
        (PartiShape, {"dropout": 1}, "architecture.dropout: expected a share from 0 to below 1, found 1; change it"),
        (PartiShape, {"num_encoder_layers": 0}, "architecture.num_encoder_layers: expected at least 1, found 0"),
        (PartiShape, {"num_decoder_layers": 0}, "architecture.num_decoder_layers: expected at least 1, found 0"),
        (PartiShape, {"hidden": 0}, "architecture.hidden: expected at least 1, found 0; raise it"),
        (ViTVQGANShape, {"codebook_size": 1}, "architecture.codebook_size: expected at least 2, found 1; raise it"),
        (
            ViTVQGANShape,
            {"positions": "rope"},
            "architecture.positions: expected one of learned, sincos, rotary, found",
        ),
        (ViTVQGANShape, {"encoder": "tiny"}, "architecture.encoder: expected a table or one of small, base, large"),
        (ViTVQGANShape, {"decoder": 8}, "architecture.decoder: expected a table or one of small, base, large, found 8"),
        (ViTVQGANShape, {"decoder": {"layers": 8}}, "architecture.decoder: .*'layers'; did you mean 'num_layers'"),
        (ViTVQGANShape, {"encoder": {"width": 9.5}}, "architecture.encoder.width: expected a whole number, found 9.5"),
        (ViTVQGANShape, {"encoder": {"num_heads": 0}}, "architecture.encoder.width: expected a multiple of 4"),
        (
            ViTVQGANShape,
            {"decoder": {"num_layers": 0}},
            "architecture.decoder.num_layers: expected at least 1, found 0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(kind, table, message):
    with pytest.raises(ConfigError, match=message):
        make_shape(kind, table, **({"codebook_size": 8} if kind is PartiShape else {}))
