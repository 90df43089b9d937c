"""Copies grouped by their thumbnails, held against every pair compared and every component walked."""

import random
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from parti_data.copies import are_copies
from parti_data.perceptual_hash import mirrored_hash, perceptual_hash
from parti_data.thumbnails import make_thumbnail, read_thumbnails
from pipelines import group_copies as module
from pipelines.duplicates import Duplicates
from pipelines.group_copies import Look, group_copies, nearest_before

NEAR = Duplicates(near=True)
Groups = set[frozenset[int]]


def clock(hour: float, width: int = 128) -> Image.Image:
    image = Image.new("RGB", (512, 512), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((20, 20, 490, 490), fill=(250, 220, 90), outline=(60, 50, 160), width=30)
    across, down = np.sin(hour * np.pi / 6), -np.cos(hour * np.pi / 6)
    pen.line((256, 256, 256 + 150 * across, 256 + 150 * down), fill=(20, 20, 20), width=30)
    return image.resize((width, width), Image.Resampling.BOX)


def look(image: Image.Image) -> Look:
    return Look(perceptual_hash(image), make_thumbnail(image))


def clocks(num_hours: int, copies: int) -> list[Look]:
    """So many copies of each, in sizes that grow."""
    return [look(clock(hour, 96 + 9 * number)) for number in range(copies) for hour in range(num_hours)]


def as_sets(groups: list[list[int]]) -> Groups:
    return {frozenset(group) for group in groups}


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def walked(looks: list[Look], duplicates: Duplicates) -> Groups:
    """The components of all pairs that are near and copies."""
    pixels = read_thumbnails([one.thumbnail for one in looks])
    groups = {place: {place} for place in range(len(looks))}
    for one, other in combinations(range(len(looks)), 2):
        hashes = [looks[one].perceptual_hash, looks[other].perceptual_hash]
        turned = [hashes[0], mirrored_hash(hashes[1])]
        ways = (hashes, turned)[: 1 + duplicates.mirrored]
        is_near = any(distance(*way) <= duplicates.max_distance for way in ways)
        left, right = pixels[one : one + 1], pixels[other : other + 1]
        is_copy = are_copies(left, right)[0] or (duplicates.mirrored and are_copies(left[:, :, ::-1], right)[0])
        if is_near and is_copy:
            joined = groups[one] | groups[other]
            groups |= dict.fromkeys(joined, joined)
    return {frozenset(group) for group in groups.values()}


@pytest.mark.parametrize("mirrored", [False, True])
def test_groups_are_the_components_of_all_pairs_that_are_near_and_copies(mirrored):
    duplicates = Duplicates(near=True, mirrored=mirrored)
    looks = clocks(12, 2)
    found = as_sets(group_copies(looks, duplicates))
    assert found == walked(looks, duplicates)
    both_ways = {frozenset((hour, (12 - hour) % 12)) for hour in range(12)}
    hours = both_ways if mirrored else {frozenset((hour,)) for hour in range(12)}
    assert found == {frozenset(hour + 12 * copy for hour in group for copy in range(2)) for group in hours}


def test_the_hashes_of_clocks_alone_do_not_tell_them_apart():
    looks = clocks(12, 1)
    near = [(a, b) for a, b in combinations(looks, 2) if distance(a.perceptual_hash, b.perceptual_hash) <= 17]
    assert len(near) > 12


def test_groups_come_in_the_order_of_the_looks_whatever_stands_between_them():
    looks = clocks(4, 3)
    order = random.Random(0).sample(range(12), 12)
    groups = group_copies([looks[place] for place in order], NEAR)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    assert all(group == sorted(group) for group in groups)
    assert {frozenset(order[place] for place in group) for group in groups} == as_sets(group_copies(looks, NEAR))


def test_a_copy_of_a_copy_is_in_the_group():
    looks = [look(clock(2)), look(clock(5)), look(clock(2, 100)), look(clock(2, 110))]
    assert group_copies(looks, NEAR) == [[0, 2, 3], [1]]
    far = [one._replace(perceptual_hash=number * "f" * 8 + "0" * (64 - 8 * number)) for number, one in enumerate(looks)]
    assert group_copies(far, NEAR) == [[0], [1], [2], [3]]


def test_the_nearest_before_are_those_of_sorting_all(monkeypatch):
    draw = random.Random(0)
    monkeypatch.setattr(module, "MOST_COMPARED", 5)
    base = draw.getrandbits(256)
    hashes = [base ^ sum(1 << bit for bit in draw.sample(range(256), draw.choice([0, 2, 9]))) for _ in range(60)]
    packed = np.frombuffer(b"".join(value.to_bytes(32, "big") for value in hashes), "<u8").reshape(-1, 4)
    found = nearest_before(packed, NEAR)
    assert found.shape == (60, 5)
    for place, row in enumerate(found.tolist()):
        ranked = sorted(((hashes[place] ^ hashes[other]).bit_count(), other) for other in range(place))
        expected = [other for apart, other in ranked if apart <= 17][:5]
        assert row == expected + [-1] * (5 - len(expected))


@pytest.mark.parametrize("num_pictures", [1, 150])
def test_the_work_grows_with_the_images_and_not_with_their_square(monkeypatch, num_pictures):
    """Of 150 images with one hash: all copies of one, or none."""
    compared = []
    draws = [np.random.default_rng(number % num_pictures) for number in range(150)]
    drawn = [Image.fromarray(draw.integers(0, 256, (4, 4, 3), np.uint8)) for draw in draws]
    looks = [Look("0" * 64, make_thumbnail(picture)) for picture in drawn]

    def compare(left, right):
        compared.append(len(left))
        return are_copies(left, right)

    monkeypatch.setattr(module, "are_copies", compare)
    monkeypatch.setattr(module, "MOST_COMPARED", 8)
    assert len(group_copies(looks, NEAR)) == num_pictures
    assert sum(compared) == (149 if num_pictures == 1 else sum(min(place, 8) for place in range(150)))
