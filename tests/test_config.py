from pathlib import Path

import pytest

from cmcl_jax.config import ConfigError, check_config, load_config
from cmcl_jax.methods import method_from_config
from cmcl_jax.methods.dns import DualNullSpace
from cmcl_jax.methods.dns_released import ReleasedDualNullSpace
from feature_cache.errors import UnknownNameError, UserError

POCKET = "configs/pocket.py"


def test_overrides_reach_nested_fields_with_their_types() -> None:
    config = load_config(POCKET, ["training.epochs=2", "dns.input_threshold=0.5", "method=dns", "stream.row_limit=7"])
    assert (config.training.epochs, config.dns.input_threshold, config.method) == (2, 0.5, "dns")
    assert config.stream.row_limit == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sedes=3", "There is no field in config 'sedes'; did you mean seeds"),
        ("training.epoch=3", "There is no field in config.training 'epoch'; did you mean epochs"),
        ("trainin.epochs=3", "There is no field in config 'trainin'; did you mean training"),
        ("training.epochs.x=3", "There is no field in config.training.epochs 'x'"),
        ("training.epochs=many", "--config.training.epochs='many': the field is of type int, but this is of type str"),
        ("dns.rule=3", "the field is of type str, but this is of type int"),
        ("stream.order_seed=first", "the field is of type int, but this is of type str"),
        ("stream.order_seed=1.5", "the field is of type int, but this is of type float"),
        ("training.epochs", "--config.training.epochs needs its value in the same word"),
    ],
)
def test_a_wrong_override_is_named_with_the_nearest_fields(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(POCKET, [override])


def test_a_missing_config_file_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="configs/pokcet.py: there is no such file; the nearest are: configs/pocket.py"
    ):
        load_config("configs/pokcet.py")


def test_a_file_without_get_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match="defines no get_config"):
        load_config(str(tmp_path / "empty.py"))


@pytest.mark.parametrize(
    ("encoder", "learning_rate", "threshold"),
    [("imagebind", 1e-4, 0.01), ("languagebind", 1e-3, 1e-4), ("unibind", 1e-4, 0.01)],
)
def test_the_papers_configs_have_its_stream_and_hyperparameters(
    encoder: str, learning_rate: float, threshold: float
) -> None:
    config = load_config(f"configs/paper.py:{encoder}")
    assert [step[0] for step in config.stream.steps] == (
        ["ucf101", "esc50", "nyudv2", "clotho"] + ["vggsound_s"] * 3 + ["tvl"] * 3 + ["llvip"]
    )
    method = method_from_config(config)
    assert isinstance(method, ReleasedDualNullSpace)
    assert (method.project, method.input_threshold, method.output_threshold) == ("gradients", threshold, 0.0)
    training = method.training
    assert (training.epochs, training.batch_size, training.learning_rate) == (5, 64, learning_rate)
    assert (training.weight_decay, training.direction, config.seeds) == (1e-3, "a_to_b", 10)


def test_an_unknown_variant_and_method_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="variant of configs/paper.py 'imagebnd'.*imagebind"):
        load_config("configs/paper.py:imagebnd")
    with pytest.raises(UnknownNameError, match="There is no method 'dsn'; did you mean dns"):
        method_from_config(load_config(POCKET, ["method=dsn"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=0", "config.seeds must be at least 1, but it is 0"),
        ("seeds=-2", "config.seeds must be at least 1, but it is -2"),
        ("checkpoints_kept=0", "config.checkpoints_kept must be at least 1"),
        ("checkpoint_minutes=-1", "config.checkpoint_minutes must be None or at least 0, but it is -1.0"),
        ("stream.row_limit=0", "config.stream.row_limit must be at least 1"),
        ("evaluation.credit=all", "config.evaluation.credit must be one of diagonal, any, but it is 'all'"),
        ("evaluation.split=tset", "config.evaluation.split must be one of train, validation, test, but it is 'tset'"),
        ("dtype=float16", "config.dtype must be one of float32, float64, but it is 'float16'"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_it_may_be(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(load_config(POCKET, [override]))


@pytest.mark.parametrize("override", ["epochs=True", "clip_norm=None", "learning_rate=0.0", "temperature=-1.0"])
def test_a_training_value_that_is_no_positive_number_is_named(override: str) -> None:
    field = override.partition("=")[0]
    with pytest.raises(UserError, match=f"config.training.{field} must be a number greater than 0"):
        method_from_config(load_config(POCKET, [f"training.{override}"]))


def test_a_config_without_variants_says_so(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("def get_config(): ...")
    with pytest.raises(ConfigError, match="plain.py has no variants; write --config=.*plain.py"):
        load_config(f"{tmp_path}/plain.py:large")


def test_dns_settings_are_checked_against_the_mode() -> None:
    given = ["method=dns", "dns.output_threshold=0.25"]
    method = method_from_config(load_config(POCKET, [*given, "dns.one_sided=True"]))
    assert isinstance(method, DualNullSpace)
    assert (method.output_threshold, method.one_sided) == (0.25, True)
    with pytest.raises(UserError, match="config.dns.one_sided has no meaning with config.dns.mode = 'released'"):
        method_from_config(load_config(POCKET, [*given, "dns.mode=released", "dns.one_sided=True"]))
    with pytest.raises(UnknownNameError, match="config.dns.mode 'ors'; did you mean ours"):
        method_from_config(load_config(POCKET, [*given, "dns.mode=ors"]))
    with pytest.raises(UnknownNameError, match="config.dns.rule 'relativ'; did you mean relative"):
        method_from_config(load_config(POCKET, [*given, "dns.rule=relativ"]))
    with pytest.raises(
        UserError,
        match="input_threshold must be at least 0 and less than 1 by the relative rule",
    ):
        method_from_config(load_config(POCKET, [*given, "dns.input_threshold=-1.0"]))
