import pytest

from model.priors.parti import PartiShape
from model.shapes import make_shape
from model.tokenizers.vit_vqgan import ViTVQGANShape
from parti_data.errors import ConfigError


def test_a_table_changes_what_it_names_and_leaves_the_rest():
    shape = make_shape(PartiShape, {"width": 64, "num_heads": 2, "dropout": 0.2}, codebook_size=16)
    assert (shape.width, shape.num_heads, shape.dropout, shape.codebook_size) == (64, 2, 0.2, 16)
    assert shape.num_decoder_layers == PartiShape.num_decoder_layers


@pytest.mark.parametrize(
    ("kind", "table", "message"),
    [
        (PartiShape, {"widht": 64}, "expected a known key, found 'widht'; did you mean 'width'"),
        (PartiShape, {"codebook_size": 64}, "expected a known key, found 'codebook_size'"),
        (PartiShape, {"width": 192.5}, "architecture.width: expected a whole number, found 192.5"),
        (PartiShape, {"width": 100, "num_heads": 3}, r"architecture.width: expected a multiple of 4 \* num_heads = 12"),
        (ViTVQGANShape, {"patch_side": 7}, "architecture.image_side: expected a multiple of patch_side = 7, found 256"),
        (ViTVQGANShape, {"num_heads": 0}, "architecture.width: expected a multiple"),
    ],
)
def test_what_does_not_fit_is_refused(kind, table, message):
    with pytest.raises(ConfigError, match=message):
        make_shape(kind, table, **({"codebook_size": 8} if kind is PartiShape else {}))
