import hashlib

import numpy as np
import pytest
from pydantic import ValidationError

from parti_data.held_out import HeldOut, is_held_out
from parti_data.images import Drop

VARIANTS = [":.*", r"\b(?:wo)?m[ae]n\b", r"\bfacing right\b"]


def hex_key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def test_the_two_sides_have_every_pair_once():
    training, held_out = HeldOut(share=0.1), HeldOut(share=0.1, keep="held_out")
    drops = [(training.judge(hex_key(n), ["x"]), held_out.judge(hex_key(n), ["x"])) for n in range(5000)]
    assert set(drops) == {(None, Drop("for_training")), (Drop("held_out"), None)}
    assert sum(drop is None for _, drop in drops) == pytest.approx(500, abs=80)


def test_by_key_the_share_is_that_which_a_tokenizer_holds_out():
    rule = HeldOut(share=0.3)
    assert all((rule.judge(hex_key(n), ["x"]) is not None) == is_held_out(hex_key(n), 0.3) for n in range(100))


@pytest.mark.parametrize("keep", ["training", "held_out"])
def test_without_a_share_all_is_kept(keep):
    assert HeldOut(keep=keep, variants=VARIANTS).judge(hex_key(0), ["x"]) is None


def test_variants_of_a_motif_lie_on_one_side():
    rule = HeldOut(share=0.5, variants=VARIANTS)
    luck = np.random.default_rng(0)
    sides = []
    for number in range(200):
        names = [f"Woman juggler {number}", f"man juggler {number}: dark skin tone", f"juggler {number}  facing right"]
        drops = {rule.judge(luck.bytes(16).hex(), [name, "another"]) for name in names}
        assert len(drops) == 1
        sides.append(drops.pop())
    assert set(sides) == {None} | {Drop("held_out", f"juggler {n}") for n, side in enumerate(sides) if side}
    assert 70 < sides.count(None) < 130


@pytest.mark.parametrize(
    ("caption", "motif"),
    [
        ("man golfing: medium-dark skin tone", "golfing"),
        ("woman kneeling facing right", "kneeling"),
        ("couple with heart woman, man: light skin tone, dark skin tone", "couple with heart"),
        ("a salesman", "a salesman"),
        ("woman", ""),
    ],
)
def test_a_motif_is_what_all_its_variants_name(caption, motif):
    assert HeldOut(variants=VARIANTS).motif(caption) == motif


def test_what_is_no_regular_expression_is_refused():
    with pytest.raises(ValidationError, match=r"'\(' should be a regular expression \(missing \)"):
        HeldOut(variants=["("])
    with pytest.raises(ValidationError, match="less than 1"):
        HeldOut(share=1.0)
