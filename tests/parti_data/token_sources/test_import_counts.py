import pytest

from parti_data.errors import SourceError
from parti_data.token_sources.import_counts import ImportCounts, sum_counts
from parti_data.token_sources.token_grid import TokenGrid
from parti_data.token_sources.tokenized import Fault

GRID = TokenGrid(64, 4)


def counted(taken: int, *faults: Fault) -> ImportCounts:
    counts = ImportCounts()
    for _ in range(taken):
        counts.take(2)
    for number, fault in enumerate(faults):
        counts.drop(f"a {number}", fault)
    return counts


def test_every_image_is_taken_or_dropped_once_with_its_reason():
    total = sum_counts([counted(3, Fault("no_caption", "x")), counted(2, Fault("no_caption", "y"), Fault("odd", "z"))])
    assert (total.read, total.images, total.rows) == (8, 5, 10)
    assert total.dropped == {"no_caption": 2, "odd": 1}
    assert total.examples == {"no_caption": "a 0: x", "odd": "a 1: z"}
    assert ImportCounts.model_validate_json(total.model_dump_json()) == total


def test_so_much_may_be_dropped_and_no_more():
    counts = counted(99, Fault("no_caption", "x"))
    counts.refuse("p", 0.01, GRID)
    counts.refuse("p", 1.0, GRID)
    ImportCounts().refuse("p", 0.0, GRID)
    with pytest.raises(
        SourceError, match=r"p: expected at most 0% of images dropped, found 1 of 100 \(no_caption 1; su"
    ):
        counts.refuse("p", 0.0, GRID)


def test_the_commonest_reason_is_said_with_an_example():
    counts = counted(1, Fault("no_caption", "x"), Fault("unreadable", "torn"), Fault("unreadable", "too"))
    with pytest.raises(
        SourceError, match=r"found 3 of 4 \(unreadable 2, no_caption 1; such as a 1: torn\); mend the s"
    ):
        counts.refuse("p", 0.5, GRID)


def test_many_shapes_and_long_names_stay_small():
    faults = [Fault("wrong_shape", f"tokens of shape ({number},)") for number in range(1000)]
    counts = counted(0, *faults)
    counts.drop("x" * 100_000, Fault("odd", "y"))
    assert len(counts.model_dump_json()) < 2000
    with pytest.raises(SourceError, match=r"p: expected images of one grid, 16 tokens each, found 0 such, and shapes"):
        counts.refuse("p", 0.5, GRID)


def test_one_wrong_shape_throughout_is_not_called_ragged():
    with pytest.raises(SourceError, match=r"shape \(9,\)\); a view should have 16 tokens, so look which tokenizer mad"):
        counted(0, *[Fault("wrong_shape", "tokens of shape (9,)")] * 5).refuse("p", 0.5, GRID)
