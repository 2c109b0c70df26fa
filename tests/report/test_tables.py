"""What the table says, in both renderings."""

import io
from typing import Any

import pytest
from rich.console import Console

from cmcl_jax.metrics.transfer import SUMMARY
from cmcl_jax.report.tables import RESULTS, TRANSFER, Table, make_table


def summary(synthetic: bool = False, std: float = 0.5, seeds: int = 2, **means: float | None) -> dict[str, Any]:
    """Every mean is 50 unless named."""
    values = {name: means.get(name, 50.0) for name in SUMMARY}
    entries = {
        name: {"mean": mean, "std": None if mean is None else std, "seeds": [mean] * seeds}
        for name, mean in values.items()
    }
    return {**entries, "method": "any", "synthetic": synthetic}


def terminal(table: Table, width: int = 80) -> str:
    output = io.StringIO()
    Console(file=output, width=width).print(table.rich())
    return output.getvalue()


def markdown_cells(table: Table) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.markdown().splitlines()]
    return {label: cells for label, *cells in lines}


def test_markdown_shows_mean_and_deviation_with_one_decimal_and_the_best_in_bold() -> None:
    vanilla = summary(acc=30.04, bwt_a=-6.36, r10=39.0, zero_shot_acc=16.0, zero_shot_r10=20.0)
    dns = summary(acc=35.96, bwt_a=-1.0, r10=39.02, zero_shot_acc=16.0, zero_shot_r10=20.0)
    cells = markdown_cells(make_table([("vanilla", vanilla), ("dns", dns)]))
    assert cells["method"] == ["Acc ↑", "BWT_A ↑", "R@1 ↑", "R@5 ↑", "R@10 ↑", "BWT_R10 ↑"]
    assert cells["zero-shot"][:2] == ["16.0 ± 0.5", "–"]
    assert cells["vanilla"][:2] == ["30.0 ± 0.5", "−6.4 ± 0.5"]
    assert cells["dns"][:2] == ["**36.0 ± 0.5**", "**−1.0 ± 0.5**"]
    assert cells["vanilla"][4] == cells["dns"][4] == "**39.0 ± 0.5**", "equal as shown, so both are best"


def test_the_zero_shot_start_wins_where_training_made_things_worse() -> None:
    cells = markdown_cells(make_table([("vanilla", summary(acc=10.0, zero_shot_acc=16.0))]))
    assert cells["zero-shot"][0] == "**16.0 ± 0.5**" and cells["vanilla"][0] == "10.0 ± 0.5"


def test_less_forgetting_is_better() -> None:
    table = make_table([("a", summary(forgetting_r10=4.0)), ("b", summary(forgetting_r10=-1.0))], TRANSFER)
    cells = markdown_cells(table)
    column = cells["method"].index("Forgetting_R10 ↓")
    assert (cells["a"][column], cells["b"][column]) == ("4.0 ± 0.5", "**−1.0 ± 0.5**")


def test_terminal_and_markdown_show_the_same_numbers() -> None:
    table = make_table([("vanilla", summary(acc=12.3)), ("dns", summary(acc=45.6, bwt_a=-0.04))])
    shown = {words[0]: " ".join(words[1:]) for words in map(str.split, terminal(table).splitlines()) if words}
    for label, cells in list(markdown_cells(table).items())[2:]:
        assert " ".join(cell.strip("*").replace(" ± ", " ±") for cell in cells) == shown[label]


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    runs = [("vanilla", summary(bwt_a=-10.0, bwt_r10=-10.0)), ("dns", summary())]
    narrow, wide = (terminal(make_table(runs), width) for width in (80, 200))
    assert [line.rstrip() for line in narrow.splitlines()] == [line.rstrip() for line in wide.splitlines()]


def test_a_difference_that_rounds_to_zero_has_no_minus() -> None:
    assert markdown_cells(make_table([("dns", summary(bwt_a=-0.04))]))["dns"][1] == "**+0.0 ± 0.5**"


def test_one_seed_shows_no_deviation() -> None:
    assert markdown_cells(make_table([("dns", summary(std=0.0, seeds=1))]))["dns"][0] == "**50.0**"


def test_a_stream_without_accuracy_shows_dashes() -> None:
    without = summary(acc=None, bwt_a=None, zero_shot_acc=None)
    cells = markdown_cells(make_table([("dns", without)]))
    assert cells["dns"][:2] == cells["zero-shot"][:2] == ["–", "–"]


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_is_named_in_the_title_if_any_run_has_it(synthetic: bool) -> None:
    table = make_table([("a", summary()), ("b", summary(synthetic=synthetic))], title="Five steps")
    assert ("synthetic" in table.title) == ("synthetic" in terminal(table)) == synthetic


def test_starts_that_differ_get_a_row_each() -> None:
    table = make_table([("a", summary(zero_shot_r10=10.0)), ("b", summary(zero_shot_r10=11.0))])
    assert [row.label for row in table.rows] == ["zero-shot of a", "zero-shot of b", "a", "b"]


def test_random_scores_get_a_row_above_zero_shot_if_their_level_is_known() -> None:
    level = {"chance_acc": {"mean": 6.25, "std": 0.0, "seeds": []}, "chance_r10": {"mean": 1.0, "std": 0, "seeds": []}}
    table = make_table([("a", summary() | level), ("b", summary() | level), ("older", summary())])
    assert [row.label for row in table.rows] == ["random", "zero-shot", "a", "b", "older"]
    assert markdown_cells(table)["random"] == ["6.2", "–", "–", "–", "1.0", "–"]
    other = level | {"chance_r10": {"mean": 2.0, "std": 0.0, "seeds": []}}
    apart = make_table([("a", summary() | level), ("b", summary() | other)])
    assert [row.label for row in apart.rows][:3] == ["random of a", "random of b", "zero-shot"]
    assert [row.label for row in make_table([("a", summary() | level)], TRANSFER).rows] == ["zero-shot", "a"]


def test_labels_are_shown_literally() -> None:
    table = make_table([("dns [red] (runs|a)", summary())], RESULTS)
    assert "[red]" in terminal(table, 200)
    assert "runs\\|a" in table.markdown()
