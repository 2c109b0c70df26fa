import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.datasets.base import Item
from feature_cache.datasets.pocket.gm_names import INSTRUMENTS
from feature_cache.datasets.pocket.lookalikes import FAMILIES
from feature_cache.datasets.splits import caption_key, members, partition, split_of
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


def test_a_key_is_in_the_same_split_in_every_dataset_whatever_else_is_there() -> None:
    rows = [Item(f"{i:04d}", f"thing {'abcdefghij'[i % 10] * (i // 10 + 2)}") for i in range(200)]
    of_all, of_some = partition(rows, caption_of), partition(rows[::3], caption_of)
    for split in SPLITS:
        assert of_some[split] == tuple(item for item in of_all[split] if item in rows[::3])


def test_about_60_10_and_30_percent_of_the_keys_are_in_the_splits() -> None:
    counts = Counter(split_of(f"thing number {i}") for i in range(10_000))
    for split, expected in zip(SPLITS, (6000, 1000, 3000), strict=True):
        assert abs(counts[split] - expected) < 200  # four standard deviations of a binomial count


def test_the_assignment_is_the_one_that_committed_caches_were_made_with() -> None:
    # `printf figs | sha256sum` and so on, as fractions of 2^256: apple 3a7b… = 0.23, bread 9856… = 0.595,
    # cheese 873a… = 0.53, dates f18e… = 0.94, eggs 46da… = 0.28, figs dd01… = 0.86
    keys = ["apple", "bread", "cheese", "dates", "eggs", "figs"]
    assert [split_of(key) for key in keys] == ["train", "train", "train", "test", "train", "test"]


def test_what_an_instrument_is_called_is_trained_on_everywhere() -> None:
    assert {split_of(caption_key(name)) for name in INSTRUMENTS} == {"train"}


def test_things_that_look_alike_share_a_split_and_no_thing_is_in_two_families() -> None:
    for family in FAMILIES:
        assert len({split_of(key) for key in family}) == 1
    keys = [key for family in FAMILIES for key in family]
    assert len(set(keys)) == len(keys)


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


def test_words_for_variants_do_not_tell_captions_apart() -> None:
    assert caption_key("woman cook") == caption_key("Man cook") == "cook"
    assert caption_key("small oven") == caption_key("double oven") == "oven"


def test_different_things_have_different_keys() -> None:
    assert caption_key("coffee table") != caption_key("coffee cup")


def test_an_unknown_split_is_named_with_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match="There is no split 'trian'; did you mean train"):
        members({}, "trian")
