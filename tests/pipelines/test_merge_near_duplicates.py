"""Merging what looks alike, held against every pair compared and every component walked."""

import random
import time
from collections import defaultdict
from itertools import combinations

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from pydantic import ValidationError

from parti_data.perceptual_hash import HASH_BITS, HASH_HEX, mirrored_hash
from pipelines.judge_pairs import Candidate
from pipelines.merge_duplicates import Duplicates, Merge, merge_group
from pipelines.merge_near_duplicates import (
    EDGES,
    Components,
    MergeNearDuplicates,
    find_components,
    link_band,
    merge_component,
    rekey_by_root,
    spread_over_bands,
)
from pipelines.runner import make_pipeline

NEAR = Duplicates(near=True)
ZERO = HASH_HEX * "0"


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


def merge_all(candidates: list, duplicates: Duplicates, draw: random.Random | None = None) -> list[tuple[int, Merge]]:
    """The chain without Beam."""
    spread = [pair for one in group(candidates, draw) for pair in spread_over_bands(one, duplicates)]
    linked = [pair for one in group(spread, draw) for pair in link_band(one, duplicates)]
    rooted = [pair for one in group(linked, draw) for pair in find_components(one)]
    rekeyed = [pair for one in group(rooted, draw) for pair in rekey_by_root(one)]
    return sorted(merge for one in group(rekeyed, draw) for merge in merge_component(one, duplicates))


def candidates_of(hashes: dict[str, str], num_pixels: dict[str, int] | None = None) -> list[tuple[str, Candidate]]:
    return [
        (key, Candidate(row % 3, row // 3, [f"caption {row}"], (num_pixels or {}).get(key, 100), text))
        for row, (key, text) in enumerate(hashes.items())
    ]


@pytest.mark.parametrize("max_distance", [0, 4, 15])
@pytest.mark.parametrize("mirrored", [False, True])
def test_edges_connect_what_comparing_every_pair_connects(max_distance, mirrored):
    duplicates = Duplicates(near=True, max_distance=max_distance, mirrored=mirrored)
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
        spread = [pair for one in group(candidates_of(hashes)) for pair in spread_over_bands(one, duplicates)]
        linked = [pair for one in group(spread, draw) for pair in link_band(one, duplicates)]
        edges = {frozenset(edge) for name, edge in linked if name == EDGES}
        assert edges <= near
        expected = walked_components(list(hashes), near)
        assert walked_components(list(hashes), edges) == expected
        roots = dict(find_components((EDGES, [edge for name, edge in linked if name == EDGES])))
        found = group((roots.get(key, key), key) for key in hashes)
        assert {frozenset(members) for _, members in found} == expected
        assert all(root == min(members) for root, members in found)
        num_components.add(len(expected))
    assert 1 < max(num_components) < 48


def test_an_edge_comes_from_the_lowest_band_that_two_hashes_share_and_from_no_other():
    hashes = {"a": ZERO, "b": with_flipped(ZERO, [HASH_BITS - 1, HASH_BITS - 2])}  # the first two bits, dealt to 0, 1
    spread = [pair for one in group(candidates_of(hashes)) for pair in spread_over_bands(one, NEAR)]
    bands = {
        name: [edge for _, edge in link_band((name, values), NEAR)]
        for name, values in group(spread)
        if name.startswith("band")
    }
    assert {name: edges for name, edges in bands.items() if edges} == {"band 2 0": [("a", "b")]}


@pytest.mark.parametrize("num_hashes", [1, 2])
def test_a_hundred_thousand_images_with_equal_hashes_cost_no_square(num_hashes):
    hashes = [with_flipped(ZERO, [0] * number) for number in range(num_hashes)]
    looks = [bytes.fromhex(hashes[number % num_hashes]) + f"{number:032x}".encode() for number in range(100_000)]
    random.Random(0).shuffle(looks)
    started = time.process_time()
    edges = [edge for _, edge in link_band(("band 0 0", looks), NEAR)]
    assert time.process_time() - started < 10
    assert len(edges) == 99_999
    roots = dict(find_components((EDGES, edges)))
    assert len(roots) == 100_000
    assert set(roots.values()) == {f"{0:032x}"}
    assert list(link_band(("band 1 0", looks), NEAR)) == []


def test_components_do_not_depend_on_the_order_of_edges():
    edges = [(f"{number:03d}", f"{number + 1:03d}") for number in range(300) if number % 10 != 9]
    expected = {f"{number:03d}": f"{number // 10 * 10:03d}" for number in range(300)}
    for seed in range(5):
        random.Random(seed).shuffle(edges)
        components = Components()
        assert all(components.join(*(edge if seed % 2 else edge[::-1])) for edge in edges)
        assert not any(components.join(*edge) for edge in edges)
        assert components.roots() == expected


def test_the_image_with_most_pixels_survives_then_the_smallest_key_and_takes_the_captions_of_all():
    near = {"b": ZERO, "a": with_flipped(ZERO, [1]), "c": with_flipped(ZERO, [2, 3])}
    candidates = candidates_of(near, {"a": 50, "b": 80, "c": 80})
    assert merge_all(candidates, NEAR) == [
        (0, Merge(0, ["caption 0", "caption 2", "caption 1"], "")),
        (1, Merge(0, ["caption 1"], "b", is_near=True)),
        (2, Merge(0, ["caption 2"], "b", is_near=True)),
    ]
    capped = merge_all(candidates, Duplicates(near=True, max_captions=2))
    assert capped[0] == (0, Merge(0, ["caption 0", "caption 2"], ""))


def test_a_row_that_is_the_same_image_as_a_loser_stays_merged_into_the_loser_and_gives_its_caption():
    near = with_flipped(ZERO, [5])
    candidates = [
        ("loser", Candidate(1, 4, ["l2"], 10, near)), ("winner", Candidate(1, 2, ["w2", "w1"], 20, ZERO)),
        ("loser", Candidate(0, 3, ["l1"], 10, near)), ("winner", Candidate(0, 7, ["w1"], 20, ZERO)),
    ]  # fmt: skip
    assert merge_all(candidates, NEAR) == [
        (0, Merge(3, ["l1"], "winner", is_near=True)),
        (0, Merge(7, ["w1", "w2", "l1", "l2"], "")),
        (1, Merge(2, ["w2", "w1"], "winner")),
        (1, Merge(4, ["l2"], "loser")),
    ]


def test_where_nothing_looks_alike_merging_is_that_of_exact_duplicates_alone():
    hashes = {key: text for key, (_, text) in zip("abcdef", sorted(clusters(3, 6, 1).items()), strict=True)}
    candidates = [*candidates_of(hashes), ("a", Candidate(2, 9, ["again"], 100, hashes["a"]))]
    expected = sorted(merge for one in group(candidates) for merge in merge_group(one, NEAR))
    assert merge_all(candidates, NEAR) == expected
    assert len(expected) == 2


def test_a_placeholder_is_dropped_and_takes_nothing_with_it():
    candidates = [("p", Candidate(0, row, [f"caption {row}"], 10, ZERO)) for row in range(3)]
    candidates += [("x", Candidate(0, 5, ["x"], 10, ZERO))]
    merges = merge_all(candidates, Duplicates(near=True, max_captions_per_image=2))
    assert [(merge.row, merge.dropped) for _, merge in merges] == [(row, "image_placeholder") for row in range(3)]


def many_candidates() -> list[tuple[str, Candidate]]:
    hashes = clusters(11, 10, 6)
    draw = random.Random(5)
    candidates = candidates_of(hashes, {key: draw.choice([100, 200]) for key in hashes})
    again = [(key, row._replace(row=row.row + 100, captions=["again"])) for key, row in candidates[::7]]
    return [*candidates, *again, *((f"split {number}", Candidate(number, -1, [])) for number in range(4))]


def test_the_order_of_arrival_does_not_matter():
    candidates = many_candidates()
    expected = merge_all(candidates, NEAR)
    assert sum(merge.is_near for _, merge in expected) > 10
    assert sum(merge.row < 0 for _, merge in expected) == 4
    for seed in range(10):
        draw = random.Random(seed)
        draw.shuffle(candidates)
        assert merge_all(candidates, NEAR, draw) == expected


@pytest.mark.parametrize("arguments", [["--direct_num_workers=1"], ["--direct_num_workers=2"]])
def test_as_a_transform_it_gives_what_the_functions_give(beam_options, arguments):
    candidates = many_candidates()
    with make_pipeline(beam_options(*arguments)) as pipeline:
        found = pipeline | beam.Create(candidates) | MergeNearDuplicates(NEAR)
        assert_that(found, equal_to(merge_all(candidates, NEAR)))


@pytest.mark.parametrize("max_distance", [-1, 32])
def test_a_distance_that_bands_do_not_serve_is_refused(max_distance):
    with pytest.raises(ValidationError, match="max_distance"):
        Duplicates(near=True, max_distance=max_distance)
