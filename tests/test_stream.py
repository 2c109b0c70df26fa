from pathlib import Path

import numpy as np
import pytest

from cmcl_jax.open_stream import distinct_orders, open_stream, ordered
from cmcl_jax.stream import StreamError
from feature_cache.errors import CacheError, UnknownNameError
from tests.tiny_caches import STEPS, WIDTHS, write_tiny_caches


def test_pairs_are_put_in_storage_order(tiny_caches: Path) -> None:
    stream = open_stream(STEPS, tiny_caches, "tiny")
    assert [step.modalities for step in stream.steps] == [
        ("vision", "text"),
        ("text", "audio"),
        ("text", "depth"),
        ("vision", "depth"),
    ]
    assert stream.steps[0].name == "1 birds vision–text"
    assert stream.widths == WIDTHS


def test_training_rows_are_padded_to_the_longest_step(tiny_caches: Path) -> None:
    stream = open_stream(STEPS, tiny_caches, "tiny")
    step = stream.steps[2]
    features = stream.training_features(step, step.modalities)
    assert features.by_role["a"].shape == (56, 12)
    assert int(features.rows) == 24
    np.testing.assert_array_equal(features.valid, np.arange(56) < 24)
    np.testing.assert_array_equal(features.by_role["b"][:24], stream.caches["rooms"].features("train", "depth"))
    assert not features.by_role["a"][24:].any()


def test_a_row_limit_shortens_every_step(tiny_caches: Path) -> None:
    stream = open_stream(STEPS, tiny_caches, "tiny", row_limit=30)
    assert [stream.rows(step) for step in stream.steps] == [30, 30, 24, 24]


def test_equal_captions_are_one_group_where_text_is_in_the_pair(tiny_caches: Path) -> None:
    stream = open_stream(STEPS, tiny_caches, "tiny")
    with_text, without = (stream.test_features(stream.tasks[i]) for i in (2, 3))
    same = with_text.groups[:, None] == with_text.groups
    np.testing.assert_array_equal(same, np.arange(16)[:, None] // 2 == np.arange(16) // 2)
    assert len(set(np.asarray(without.groups).tolist())) == 16


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (
            ("brids", ("vision", "text"), ("recall",)),
            StreamError,
            "no features of the dataset 'brids'.*nearest there: birds",
        ),
        (
            ("birds", ("vision", "txt"), ("recall",)),
            UnknownNameError,
            r"modality of step 1 \(birds\) 'txt'; did you mean text",
        ),
        (
            ("birds", ("vision", "text"), ("recal",)),
            UnknownNameError,
            "metric of step 1 .* 'recal'; did you mean recall",
        ),
        (
            ("birds", ("text", "text"), ("recall",)),
            StreamError,
            "must have different modalities, but they are ",
        ),
        (("rooms", ("vision", "depth"), ("accuracy",)), StreamError, "needs text among its modalities"),
    ],
)
def test_what_a_step_gets_wrong_is_named(tiny_caches: Path, step: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_stream([step], tiny_caches, "tiny")


def test_items_without_a_caption_are_not_correct_for_each_other(tmp_path: Path) -> None:
    write_tiny_caches(tmp_path / "tiny", captioned=False)
    stream = open_stream(STEPS, tmp_path, "tiny")
    assert len(set(np.asarray(stream.test_features(stream.tasks[0]).groups).tolist())) == 16


@pytest.mark.parametrize(
    "steps",
    [
        ("birds", ("vision", "text"), ("recall",)),
        (("birds", ("vision", "text")),),
        (("birds", ("vision", "text"), "recall"),),
        (("birds", ("vision", "text"), ()),),
        ((3, ("vision", "text"), ("recall",)),),
    ],
    ids=["no outer tuple", "no metrics", "metric not in a tuple", "empty metrics", "number as dataset"],
)
def test_a_step_of_another_form_is_shown_with_one_that_is_right(tiny_caches: Path, steps: tuple) -> None:
    with pytest.raises(StreamError, match="Step 1 of config.stream.steps is .* A step is .dataset"):
        open_stream(steps, tiny_caches, "tiny")


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    write_tiny_caches(tmp_path / "tiny", splits={"train": 0, "test": 4})
    with pytest.raises(StreamError, match=r"The train split of .*birds is empty"):
        open_stream(STEPS, tmp_path, "tiny")
    write_tiny_caches(tmp_path / "again" / "tiny", splits={"train": 4, "test": 0})
    stream = open_stream(STEPS, tmp_path / "again", "tiny")
    with pytest.raises(StreamError, match=r"The test split of .*birds is empty"):
        stream.test_features(stream.tasks[0])


def test_a_cache_in_the_folder_of_another_is_refused(tmp_path: Path) -> None:
    write_tiny_caches(tmp_path / "tiny")
    (tmp_path / "tiny" / "birds").rename(tmp_path / "tiny" / "robins")
    with pytest.raises(StreamError, match="robins holds the features of tiny for birds: rename the folder"):
        open_stream([("robins", ("vision", "text"), ("recall",))], tmp_path, "tiny")


def test_a_changed_byte_in_a_cache_is_found_before_training(tmp_path: Path) -> None:
    write_tiny_caches(tmp_path / "tiny")
    file = tmp_path / "tiny" / "notes" / "train-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CacheError, match="train-00000.safetensors"):
        open_stream(STEPS, tmp_path, "tiny")


def test_an_unknown_encoder_names_the_nearest_and_the_command(tiny_caches: Path) -> None:
    with pytest.raises(
        StreamError, match="no features of the encoder 'tinny'; the nearest there: tiny.*--encoder=tinny"
    ):
        open_stream(STEPS, tiny_caches, "tinny")


def test_an_empty_stream_is_refused(tiny_caches: Path) -> None:
    with pytest.raises(StreamError, match="config.stream.steps is empty"):
        open_stream([], tiny_caches, "tiny")


def test_widths_of_a_modality_must_agree_over_datasets(tmp_path: Path) -> None:
    write_tiny_caches(tmp_path / "tiny")
    write_tiny_caches(tmp_path / "other", {**WIDTHS, "text": 8})
    (tmp_path / "tiny" / "notes").rename(tmp_path / "tiny" / "away")
    (tmp_path / "other" / "notes").rename(tmp_path / "tiny" / "notes")
    with pytest.raises(
        StreamError, match=r"text features of step 2 \(notes\) have width 8, elsewhere in the stream 12"
    ):
        open_stream(STEPS, tmp_path, "tiny")


def test_an_order_seed_permutes_the_steps_and_numbers_them_anew(tiny_caches: Path) -> None:
    def tasks(order_seed: int | None) -> list[str]:
        stream = open_stream(STEPS, tiny_caches, "tiny", order_seed=order_seed)
        assert [step.number for step in stream.steps] == [1, 2, 3, 4]
        return [task.name for task in stream.tasks]

    listed = tasks(None)
    orders = [tasks(seed) for seed in range(6)]
    assert all(sorted(order) == sorted(listed) for order in orders)
    assert orders == [tasks(seed) for seed in range(6)]
    assert len({tuple(order) for order in orders}) > 3
    assert orders[3] == [listed[place] for place in np.random.default_rng(3).permutation(4)]


@pytest.mark.parametrize("order_seed", [-1, 1.0, True, "first"])
def test_an_order_seed_that_is_no_seed_is_named(tiny_caches: Path, order_seed: object) -> None:
    with pytest.raises(StreamError, match=f"order_seed must be None.* or an integer .* but it is {order_seed!r}"):
        open_stream(STEPS, tiny_caches, "tiny", order_seed=order_seed)  # type: ignore[arg-type]


def test_a_malformed_step_is_named_by_its_place_in_the_list(tiny_caches: Path) -> None:
    steps = [*STEPS[:3], ("birds", "vision", ("recall",))]
    with pytest.raises(StreamError, match=r"Step 4 of config.stream.steps is \('birds', 'vision'"):
        open_stream(steps, tiny_caches, "tiny", order_seed=0)


def test_orders_that_are_asked_for_differ_even_where_few_exist() -> None:
    for n_steps, count in ((1, 1), (3, 6), (5, 12)):
        seeds = distinct_orders(n_steps, count)
        assert len({tuple(ordered(range(n_steps), seed)) for seed in seeds}) == count
        passed_over = set(range(seeds[-1])) - set(seeds)
        met = {seed: tuple(ordered(range(n_steps), seed)) for seed in range(seeds[-1] + 1)}
        assert all(met[seed] in [met[earlier] for earlier in seeds if earlier < seed] for seed in passed_over)
    with pytest.raises(StreamError, match="A stream of 3 steps has only 6 orders, but 7 are asked for"):
        distinct_orders(3, 7)
