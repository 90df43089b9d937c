"""Merging what is the same and what looks alike, held against every pair compared and every component walked."""

import random
import time
from collections import defaultdict
from itertools import combinations

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image
from pydantic import ValidationError

from parti_data.ledger import LedgerRow, write_measures
from parti_data.perceptual_hash import HASH_BITS, HASH_HEX, band_values, mirrored_hash, pack_hashes
from parti_data.rules import Rules
from parti_data.thumbnails import make_thumbnail
from pipelines.candidates import Packing
from pipelines.duplicates import Duplicates
from pipelines.fragments import fragment_path
from pipelines.judge_pairs import Judging, judge_split
from pipelines.link_near_duplicates import (
    EDGES,
    LOOK,
    Components,
    assign_roots,
    find_components,
    link_band,
    near_pairs,
    spread_over_bands,
)
from pipelines.merge_duplicates import Merge, MergeDuplicates, gather_rows, link_same, merge_alike
from pipelines.runner import make_pipeline

EXACT, NEAR = Duplicates(), Duplicates(near=True, keep_variants=False, max_distance=15)
ZERO = HASH_HEX * "0"
A, B, C, X = (digit * 32 for digit in "abcf")


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def with_flipped(text: str, bits: list[int]) -> str:
    return f"{int(text, 16) ^ sum(1 << bit for bit in bits):0{HASH_HEX}x}"


def clusters(seed: int, num_clusters: int = 6, size: int = 8) -> dict[str, str]:
    """Hashes by key: chains in which each is a few bits from the one before, some equal, and some far from all."""
    draw = random.Random(seed)
    hashes = {}
    for _ in range(num_clusters):
        text = f"{draw.getrandbits(HASH_BITS):0{HASH_HEX}x}"
        for _ in range(size):
            text = with_flipped(text, draw.sample(range(HASH_BITS), draw.choice([0, 4, 15, 16, 20])))
            hashes[f"{draw.getrandbits(128):032x}"] = text
    return hashes


def walked_components(keys: list[str], edges: set[frozenset[str]]) -> set[frozenset[str]]:
    """The components of a graph, by walking it."""
    neighbours = defaultdict(set)
    for one, other in map(sorted, edges):
        neighbours[one].add(other)
        neighbours[other].add(one)
    found, left = set(), set(keys)
    while left:
        reached = {left.pop()}
        while more := {near for key in reached for near in neighbours[key]} - reached:
            reached |= more
        left -= reached
        found.add(frozenset(reached))
    return found


def group(pairs, draw: random.Random | None = None) -> list[tuple]:
    """What GroupByKey does, in any order."""
    groups = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    items = list(groups.items())
    if draw:
        draw.shuffle(items)
        for _, values in items:
            draw.shuffle(values)
    return items


def kept(key: str, captions: list[str], num_pixels: int = 100, look: str = ZERO) -> LedgerRow:
    return LedgerRow(
        key=key, source="x.tar", source_key="row", outcome="kept", reason="", detail="", merged_into="",
        captions=captions, width=num_pixels, height=1, num_bytes=9, format="PNG", perceptual_hash=look, scores={},
        attributes={}, path="x.tar", offset=0, size=9,
    )  # fmt: skip


ALL_PASS = Rules(min_side_px=0, max_aspect_ratio=0, min_caption_chars=0, boilerplate=[])


@pytest.fixture
def merge_all(tmp_path):
    """The chain without Beam, on rows by split and place."""

    def merge(rows: list[list[LedgerRow]], duplicates: Duplicates, draw: random.Random | None = None, num_buckets=3):
        for split, content in enumerate(rows):
            write_measures(fragment_path(str(tmp_path), split), content)
        judging, packing = Judging(ALL_PASS, str(tmp_path)), Packing(num_buckets, duplicates.near, duplicates.near)
        with_looks = duplicates.compares_looks()
        judged = [pair for split in range(len(rows)) for pair in judge_split(split, judging, packing)]
        if duplicates.near:
            spread = [pair for one in group(judged, draw) for pair in spread_over_bands(one, duplicates, packing)]
            linked = [pair for one in group(spread, draw) for pair in link_band(one, duplicates)]
            found = [pair for one in group(linked, draw) for pair in find_components(one)]
            members = [pair for one in group(found, draw) for pair in assign_roots(one)]
        else:
            members = [pair for one in group(judged, draw) for pair in link_same(one, packing)]
        gathered = [pair for one in group(members, draw) for pair in gather_rows(one, judging, with_looks)]
        return sorted(merge for one in group(gathered, draw) for merge in merge_alike(one, duplicates))

    return merge


def marker(split: int) -> tuple[int, Merge]:
    return split, Merge(-1, [], "")


def dealt_out(hashes: dict[str, str], num_pixels: dict[str, int] | None = None) -> list[list[LedgerRow]]:
    rows: list[list[LedgerRow]] = [[], [], []]
    for number, (key, text) in enumerate(hashes.items()):
        rows[number % 3].append(kept(key, [f"caption {number}"], (num_pixels or {}).get(key, 100), text))
    return rows


@pytest.mark.parametrize("duplicates", [EXACT, NEAR], ids=["exact", "near"])
def test_the_first_row_of_an_image_survives_with_all_captions(merge_all, duplicates):
    looks = iter(clusters(5, 4, 1).values())
    a, b, x = next(looks), next(looks), next(looks)
    rows = [
        [kept(X, ["x"], look=x), kept(A, ["a1", "a2"], look=a)],
        [kept(A, ["a1"], look=a), kept(B, ["b"], look=b), kept(A, ["a3"], look=a)],
    ]
    merges = [(0, Merge(1, ["a1", "a2", "a3"], "")), (1, Merge(0, ["a1"], A)), (1, Merge(2, ["a3"], A))]
    assert merge_all(rows, duplicates) == sorted([marker(0), marker(1), *merges])


@pytest.mark.parametrize("duplicates", [EXACT, NEAR], ids=["exact", "near"])
def test_where_nothing_is_kept_or_shared_every_split_still_has_its_marker(merge_all, duplicates):
    looks = list(clusters(5, 2, 1).values())
    rows = [[], [kept(A, ["a"], look=looks[0])], [kept(B, ["b"], look=looks[1])._replace(outcome="dropped")], []]
    assert merge_all(rows, duplicates) == [marker(split) for split in range(4)]


def test_a_survivor_takes_so_many_captions_and_no_more(merge_all):
    rows = [[kept(A, [f"caption {number}"]) for number in range(5)]]
    assert merge_all(rows, Duplicates(max_captions=3))[1] == (0, Merge(0, ["caption 0", "caption 1", "caption 2"], ""))


@pytest.mark.parametrize(("num_captions", "is_placeholder"), [(3, False), (4, True)])
@pytest.mark.parametrize("near", [False, True])
def test_an_image_under_too_many_different_captions_is_a_placeholder(merge_all, num_captions, is_placeholder, near):
    rows = [[kept(A, [f"caption {number % num_captions}"]) for number in range(6)]]
    _, *merges = merge_all(rows, Duplicates(near=near, max_captions_per_image=3))
    assert [merge.row for _, merge in merges] == list(range(6))
    assert {merge.dropped for _, merge in merges} == {"image_placeholder" if is_placeholder else ""}


def test_a_placeholder_is_dropped_and_takes_nothing_with_it(merge_all):
    rows = [[*(kept(A, [f"caption {row}"]) for row in range(3)), kept(X, ["x"])]]
    _, *merges = merge_all(rows, Duplicates(near=True, max_captions_per_image=2))
    assert [(merge.row, merge.dropped) for _, merge in merges] == [(row, "image_placeholder") for row in range(3)]


def test_an_image_of_one_row_is_no_placeholder_however_many_its_captions(merge_all):
    rows = [[kept(A, ["1", "2", "3"])]]
    for near in (False, True):
        assert merge_all(rows, Duplicates(near=near, max_captions_per_image=2)) == [marker(0)]


@pytest.mark.parametrize("max_distance", [0, 4, 15])
@pytest.mark.parametrize("mirrored", [False, True])
def test_what_is_merged_is_what_comparing_every_pair_connects(merge_all, max_distance, mirrored):
    duplicates = NEAR.model_copy(update={"max_distance": max_distance, "mirrored": mirrored})
    num_components = set()
    for seed in range(6):
        draw = random.Random(seed)
        hashes = clusters(seed)
        hashes = {key: mirrored_hash(text) if draw.random() < 0.3 else text for key, text in hashes.items()}
        near = {
            frozenset((one, other))
            for one, other in combinations(hashes, 2)
            if distance(hashes[one], hashes[other]) <= max_distance
            or (mirrored and distance(hashes[one], mirrored_hash(hashes[other])) <= max_distance)
        }
        expected = walked_components(list(hashes), near)
        rows = dealt_out(hashes)
        survivor = {
            rows[split][merge.row].key: merge.merged_into
            for split, merge in merge_all(rows, duplicates, draw)
            if merge.merged_into
        }
        found = group((survivor.get(key, key), key) for key in hashes)
        assert {frozenset(members) for _, members in found} == expected
        assert all(root == min(members) for root, members in found)
        num_components.add(len(expected))
    assert 1 < max(num_components) < 48


def test_pairs_of_a_band_are_all_that_share_its_value_within_the_distance():
    hashes = list(clusters(2, 20, 10).values())
    packed = pack_hashes(hashes)
    for band in (0, 7, 15):
        values = band_values(packed, band, 15)
        expected = {
            frozenset((one, other))
            for one, other in combinations(range(len(hashes)), 2)
            if values[one] == values[other] and distance(hashes[one], hashes[other]) <= 15
        }
        found = [
            pair
            for places in near_pairs(packed, band, 15)
            for pair in zip(*map(np.ndarray.tolist, places), strict=True)
        ]
        assert len(found) == len(expected) > 20
        assert set(map(frozenset, found)) == expected


def test_edges_of_a_band_are_as_few_as_connect_its_images():
    looks = np.zeros(300, LOOK)
    looks["id"] = np.random.default_rng(0).permutation(300)
    looks["hash"][:, 0] = looks["id"] % 3  # three hashes, two bits apart at most, that differ in bands 6 and 7 alone
    ((_, edges),) = link_band(("band 3", [looks.tobytes()]), NEAR)
    assert len(np.frombuffer(edges, "<u8")) == 2 * 2
    ((_, edges),) = link_band(("band 0", [looks[:100].tobytes(), looks[100:].tobytes()]), NEAR)
    assert len(np.frombuffer(edges, "<u8")) == 2 * 299


@pytest.mark.parametrize("num_hashes", [1, 2])
def test_a_hundred_thousand_images_with_equal_hashes_cost_no_square(num_hashes):
    looks = np.zeros(100_000, LOOK)
    looks["id"] = np.random.default_rng(0).permutation(len(looks))
    looks["hash"][:, 0] = looks["id"] % num_hashes
    started = time.process_time()
    edges = [pair for band in range(16) for pair in link_band((f"band {band}", [looks.tobytes()]), NEAR)]
    assert {name for name, _ in edges} == {EDGES}
    roots = np.concatenate([
        np.frombuffer(content, "<u8").reshape(-1, 2)
        for _, (_, content) in find_components((EDGES, [content for _, content in edges]))
    ])  # fmt: skip
    assert time.process_time() - started < 10
    assert len(roots) == 100_000
    assert set(roots[:, 1].tolist()) == {0}


def test_components_do_not_depend_on_the_order_of_edges():
    edges = [(number, number + 1) for number in range(300) if number % 10 != 9]
    expected = {number: number // 10 * 10 for number in range(300)}
    for seed in range(5):
        random.Random(seed).shuffle(edges)
        components = Components()
        assert all(components.join(*(edge if seed % 2 else edge[::-1])) for edge in edges)
        assert not any(components.join(*edge) for edge in edges)
        assert components.roots() == expected


def test_the_image_with_most_pixels_survives_then_the_smallest_key_and_takes_the_captions_of_all(merge_all):
    near = {B: ZERO, A: with_flipped(ZERO, [1]), C: with_flipped(ZERO, [2, 3])}
    rows = dealt_out(near, {A: 50, B: 80, C: 80})
    assert merge_all(rows, NEAR) == [
        marker(0),
        (0, Merge(0, ["caption 0", "caption 2", "caption 1"], "")),
        marker(1),
        (1, Merge(0, ["caption 1"], B, is_near=True)),
        marker(2),
        (2, Merge(0, ["caption 2"], B, is_near=True)),
    ]
    capped = merge_all(rows, NEAR.model_copy(update={"max_captions": 2}))
    assert capped[1] == (0, Merge(0, ["caption 0", "caption 2"], ""))


def test_a_row_that_is_the_same_image_as_a_loser_stays_merged_into_the_loser_and_gives_its_caption(merge_all):
    near = with_flipped(ZERO, [5])
    loser, winner = A, B
    rows = [
        [kept(loser, ["l1"], 10, near), kept(winner, ["w1"], 20)],
        [kept(winner, ["w2", "w1"], 20), kept(loser, ["l2"], 10, near)],
    ]
    assert merge_all(rows, NEAR) == [
        marker(0),
        (0, Merge(0, ["l1"], winner, is_near=True)),
        (0, Merge(1, ["w1", "w2", "l1", "l2"], "")),
        marker(1),
        (1, Merge(0, ["w2", "w1"], winner)),
        (1, Merge(1, ["l2"], loser)),
    ]


def test_where_nothing_looks_alike_merging_is_that_of_exact_duplicates_alone(merge_all):
    rows = dealt_out(clusters(3, 6, 1))
    rows[2].append(rows[0][0]._replace(captions=["again"]))
    expected = merge_all(rows, EXACT)
    assert merge_all(rows, NEAR) == expected
    assert len(expected) == 3 + 2


def thumbnail(seed: int, side: int = 100) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return make_thumbnail(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))


def test_variants_that_only_their_hashes_connect_are_left_as_they_are(merge_all):
    """An image of one row keeps all its captions and is no placeholder; rows of one image are merged as ever."""
    duplicates = Duplicates(near=True, max_captions=2, max_captions_per_image=2)
    captions = ["1", "2", "3"]
    rows = [
        [kept(A, captions)._replace(thumbnail=thumbnail(1)), kept(B, ["b"])._replace(thumbnail=thumbnail(2))],
        [kept(B, ["b2"])._replace(thumbnail=thumbnail(2)), kept(C, captions, 50)._replace(thumbnail=thumbnail(3))],
    ]
    markers = [marker(0), marker(1)]
    assert merge_all(rows, duplicates) == sorted([*markers, (0, Merge(1, ["b", "b2"], "")), (1, Merge(0, ["b2"], B))])
    rows[1][1] = rows[1][1]._replace(thumbnail=thumbnail(1, 60))
    assert (1, Merge(1, captions, A, is_near=True)) in merge_all(rows, duplicates)


def test_copies_are_merged_whatever_the_order_of_arrival(merge_all):
    seeds = [number % 5 for number in range(20)]
    hashes = {f"{number:032x}": ZERO for number in range(20)}
    rows = dealt_out(hashes)
    rows = [[row._replace(thumbnail=thumbnail(seeds[int(row.key, 16)])) for row in split] for split in rows]
    expected = merge_all(rows, Duplicates(near=True))
    assert sum(merge.is_near for _, merge in expected) == 15
    for seed in range(5):
        assert merge_all(rows, Duplicates(near=True), random.Random(seed), num_buckets=1 + seed) == expected


def many_rows() -> list[list[LedgerRow]]:
    hashes = clusters(11, 10, 6)
    draw = random.Random(5)
    rows = dealt_out(hashes, {key: draw.choice([100, 200]) for key in hashes})
    rows.append([row._replace(captions=["again"]) for row in rows[0][::7] + rows[1][::5]])
    return rows


def test_the_order_of_arrival_and_the_number_of_buckets_do_not_matter(merge_all):
    expected = merge_all(many_rows(), NEAR)
    assert sum(merge.is_near for _, merge in expected) > 10
    assert sum(merge.row < 0 for _, merge in expected) == 4
    for seed in range(10):
        assert merge_all(many_rows(), NEAR, random.Random(seed), num_buckets=1 + seed) == expected


@pytest.mark.parametrize("duplicates", [EXACT, NEAR], ids=["exact", "near"])
@pytest.mark.parametrize("arguments", [["--direct_num_workers=1"], ["--direct_num_workers=2"]])
def test_as_a_transform_it_gives_what_the_functions_give(beam_options, arguments, duplicates, merge_all, tmp_path):
    expected = merge_all(many_rows(), duplicates)
    judging, packing = Judging(ALL_PASS, str(tmp_path)), Packing(3, duplicates.near, duplicates.near)
    candidates = [pair for split in range(4) for pair in judge_split(split, judging, packing)]
    with make_pipeline(beam_options(*arguments)) as pipeline:
        found = pipeline | beam.Create(candidates) | MergeDuplicates(duplicates, judging, packing)
        assert_that(found, equal_to(expected))


@pytest.mark.parametrize("max_distance", [-1, 32])
def test_a_distance_that_bands_do_not_serve_is_refused(max_distance):
    with pytest.raises(ValidationError, match="max_distance"):
        Duplicates(near=True, max_distance=max_distance)
