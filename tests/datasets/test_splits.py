import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.datasets.base import Item
from feature_cache.datasets.splits import caption_key, members, partition
from feature_cache.errors import UnknownNameError
from feature_cache.manifest import SPLITS


def caption_of(item: Item) -> str:
    return item.caption


items = st.lists(st.tuples(st.text("abc", max_size=2), st.integers(-1, 3)), max_size=60).map(
    lambda rows: [Item(f"{number:03d}", caption, label) for number, (caption, label) in enumerate(rows)]
)


@settings(deadline=None)
@given(items)
def test_every_item_is_in_one_split_and_no_key_in_two(rows: list[Item]) -> None:
    splits = partition(rows, caption_of)
    assert sorted(item.id for split in SPLITS for item in splits[split]) == [item.id for item in rows]
    homes = {(item.caption, split) for split in SPLITS for item in splits[split]}
    assert len(homes) == len({caption for caption, _ in homes})


@settings(deadline=None)
@given(items, st.randoms(use_true_random=False))
def test_splits_do_not_depend_on_the_order_in_which_items_are_found(rows: list[Item], rng: random.Random) -> None:
    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert partition(shuffled, caption_of) == partition(rows, caption_of)


@settings(deadline=None)
@given(items)
def test_items_of_a_split_are_sorted_by_id(rows: list[Item]) -> None:
    for group in partition(rows, caption_of).values():
        assert [item.id for item in group] == sorted(item.id for item in group)


def test_every_class_is_divided_70_to_10_to_20() -> None:
    rows = [Item(f"{i:04d}", f"thing {i}", label=i % 4) for i in range(400)]
    splits = partition(rows, caption_of)
    for split, expected in zip(SPLITS, (70, 10, 20), strict=True):
        assert Counter(item.label for item in splits[split]) == dict.fromkeys(range(4), expected)


def test_the_assignment_is_the_one_that_committed_caches_were_made_with() -> None:
    rows = [Item(str(i), caption) for i, caption in enumerate(["apple", "bread", "cheese", "dates", "eggs", "figs"])]
    # `printf figs | sha256sum` and so on: 3a7b apple, 46da eggs, 873a cheese, 9856 bread, dd01 figs, f18e dates
    splits = partition(rows, caption_of)
    assert [item.caption for item in splits["train"]] == ["apple", "bread", "cheese", "eggs"]
    assert [item.caption for item in splits["validation"]] == ["figs"]
    assert [item.caption for item in splits["test"]] == ["dates"]


@pytest.mark.parametrize(
    "first, second",
    [
        ("Chair 1", "Chair 2"),
        ("Concept Sedan 01", "concept sedan 02"),
        ("Bill 10€", "Bill 50€"),
        ("house", "houses"),
        ("Hôi An", "Hoi An"),
        ("flag A", "flag B"),
        ("1st place medal", "2nd place medal"),
    ],
)
def test_numbers_letters_case_accents_and_plurals_do_not_tell_captions_apart(first: str, second: str) -> None:
    assert caption_key(first) == caption_key(second)


def test_words_given_as_variants_do_not_tell_captions_apart() -> None:
    assert caption_key("woman cook", "man woman") == caption_key("man cook", "man woman") == "cook"
    assert caption_key("woman cook") != caption_key("man cook")


def test_different_things_have_different_keys() -> None:
    assert caption_key("coffee table") != caption_key("coffee cup")


def test_an_unknown_split_is_named_with_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match="There is no split 'trian'; did you mean train"):
        members({}, "trian")
