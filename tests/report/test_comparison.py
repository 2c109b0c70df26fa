"""Comparisons of finished runs: what may be paired, and that page, figures and numbers say what the runs say."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from rich.console import Console
from scipy import stats

from cmcl_jax.report import RunError
from cmcl_jax.report.comparison import Comparison, load_comparison
from cmcl_jax.report.comparison_figures import differences, levels
from cmcl_jax.report.comparison_report import write_comparison
from cmcl_jax.report.comparison_tables import as_json, differences_table, levels_table
from cmcl_jax.report.comparison_tasks import tasks_table

MakeRun = Callable[..., Path]
Folders = dict[str, list[Path]]
FORGETS = {"vanilla": 3.0, "dns": 0.5, "joint": 0.2}
ORDERS = (0, 1, 3)


@pytest.fixture
def folders(make_run: MakeRun) -> Folders:
    """Three methods, three orders, four seeds."""
    return make_comparison(make_run)


def make_comparison(make_run: MakeRun, orders: tuple[int, ...] = ORDERS, **changes: object) -> Folders:
    return {
        method: [
            make_run(
                method,
                forgets,
                folder=f"{method}/order{order}",
                order_seed=order,
                noise=10 * order + place,
                **{"seeds": 4, "stepwise": method != "joint", **changes},
            )
            for order in orders
        ]
        for place, (method, forgets) in enumerate(FORGETS.items())
    }


def change(folder: Path, name: str, **entries: object) -> None:
    file = folder / f"{name}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def final(folders: Folders, method: str, matrix: str = "r10") -> np.ndarray:
    """`[orders, seeds]` means over tasks after the last step, from the files themselves."""
    return np.array([np.nanmean(np.load(path / f"{matrix}_matrix.npy")[:, -1], axis=-1) for path in folders[method]])


def cells(markdown: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in markdown.splitlines()]
    return {label: values for label, *values in lines}


def test_levels_are_means_with_the_t_interval_over_orders(folders: Folders) -> None:
    table = cells(levels_table(load_comparison(folders)).markdown())
    assert list(table)[2:] == ["zero-shot", *FORGETS]
    for method in FORGETS:
        for column, matrix in ((0, "accuracy"), (4, "r10")):
            means = final(folders, method, matrix).mean(axis=1)
            half = stats.t.interval(0.95, 2, scale=stats.sem(means))[1]
            assert table[method][column].strip("*") == f"{means.mean():.1f} ± {half:.1f}"
    assert table["joint"][1] == table["joint"][5] == "–"


def test_the_zero_shot_start_has_no_order_and_its_interval_is_over_seeds(folders: Folders) -> None:
    for paths in folders.values():
        for path in paths:
            summary = json.loads((path / "summary.json").read_text())
            starts = [19.0, 20.0, 21.0, 22.0]
            change(path, "summary", zero_shot_r10={**summary["zero_shot_r10"], "seeds": starts})
    half = stats.t.interval(0.95, 3, scale=stats.sem(starts))[1]
    assert cells(levels_table(load_comparison(folders)).markdown())["zero-shot"][4] == f"20.5 ± {half:.1f}"


def test_one_order_has_intervals_over_seeds_and_says_so(make_run: MakeRun, tmp_path: Path) -> None:
    folders = make_comparison(make_run, orders=(0,))
    scores = final(folders, "dns")[0]
    half = stats.t.interval(0.95, 3, scale=stats.sem(scores))[1]
    assert cells(levels_table(load_comparison(folders)).markdown())["dns"][4] == f"{scores.mean():.1f} ± {half:.1f}"
    report = write_comparison(folders, tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "Student's over its seeds" in page and "Student's over the orders" not in page
    assert all(row.cells[2] == "–" for row in report.tables[1].rows), "no test over orders"


def test_random_scores_have_a_row_without_an_interval(folders: Folders) -> None:
    for paths in folders.values():
        for path in paths:
            change(path, "summary", chance_r10={"mean": 1.25, "std": 0.0, "seeds": []})
    comparison = load_comparison(folders)
    assert cells(levels_table(comparison).markdown())["random"] == ["–", "–", "–", "–", "1.2", "–"]
    assert as_json(comparison)["levels"]["dns"]["chance_r10"] == 1.25


def test_differences_are_paired_by_order_and_seed(folders: Folders) -> None:
    table = cells(differences_table(load_comparison(folders)).markdown())
    apart = final(folders, "dns") - final(folders, "vanilla")
    means = apart.mean(axis=1)
    half = stats.t.interval(0.95, 2, scale=stats.sem(means))[1]
    p = [stats.ttest_1samp(values, 0).pvalue for values in (apart.ravel(), means)]
    p.append(stats.wilcoxon(apart.ravel()).pvalue)
    expected = [
        f"**+{apart.mean():.1f} ± {half:.1f}**",
        *(f"{x:.3f}" if x >= 0.001 else "< 0.001" for x in p),
        "12 of 12",
    ]
    assert table["dns · R@10 ↑"] == expected
    assert "joint · Acc ↑" in table and "joint · BWT_A ↑" not in table


def test_a_difference_for_the_worse_is_not_emphasised(make_run: MakeRun) -> None:
    folders = make_comparison(make_run)
    swapped = {"vanilla": folders["dns"], "dns": folders["vanilla"]}
    row = cells(differences_table(load_comparison(swapped)).markdown())["dns · R@10 ↑"]
    assert row[0].startswith("−") and row[4] == "0 of 12"


def test_without_vanilla_the_first_method_is_the_baseline(folders: Folders) -> None:
    comparison = load_comparison({method: folders[method] for method in ("joint", "dns")})
    assert (comparison.baseline, comparison.others) == ("joint", ("dns",))
    assert load_comparison({method: folders[method] for method in ("joint", "vanilla")}).baseline == "vanilla"


def test_both_tables_fit_a_terminal_of_80_columns(folders: Folders) -> None:
    comparison = load_comparison(folders)
    for table in (levels_table(comparison), differences_table(comparison)):
        narrow, wide = io.StringIO(), io.StringIO()
        Console(file=narrow, width=80).print(table.rich())
        Console(file=wide, width=200).print(table.rich())
        lines = [[line.rstrip() for line in output.getvalue().splitlines()] for output in (narrow, wide)]
        assert lines[0] == lines[1]


def test_every_task_has_its_levels_before_just_after_its_step_and_at_the_end(folders: Folders) -> None:
    table = cells(tasks_table(load_comparison(folders)).markdown())
    matrices = {method: [np.load(path / "r10_matrix.npy") for path in paths] for method, paths in folders.items()}
    zero_shot, vanilla, _, joint = table["furniture text–depth · R@10"]  # learned in step 3, in the third column
    expected = [np.mean([matrix[:, row, 2].mean() for matrix in matrices["vanilla"]]) for row in (0, 3, 5)]
    assert float(zero_shot) == pytest.approx(expected[0], abs=0.051)
    assert [float(level) for level in vanilla.split(" → ")] == pytest.approx(expected[1:], abs=0.051)
    final_of_joint = np.mean([matrix[:, -1, 2].mean() for matrix in matrices["joint"]])
    assert float(joint.strip(" |")) == pytest.approx(final_of_joint, abs=0.051)  # it has no step of its own
    assert "furniture vision–depth · Acc" not in table  # which has no text


def test_the_json_has_every_number_of_the_tables(folders: Folders, tmp_path: Path) -> None:
    write_comparison(folders, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert (content["methods"], content["baseline"], content["order_seeds"]) == (list(FORGETS), "vanilla", [0, 1, 3])
    assert (content["seeds"], content["confidence"], content["interval_over"]) == (4, 0.95, "orders")
    np.testing.assert_allclose(content["levels"]["dns"]["r10"]["scores"], final(folders, "dns"))
    assert content["levels"]["joint"]["bwt_a"] == {"mean": None, "half": None, "scores": [[None] * 4] * 3}
    found = content["differences"]["dns"]["r10"]
    apart = final(folders, "dns") - final(folders, "vanilla")
    assert found["mean"] == pytest.approx(apart.mean())
    assert found["p_pairs"] == pytest.approx(stats.ttest_1samp(apart.ravel(), 0).pvalue)
    assert (found["better"], found["pairs"]) == (12, 12)
    assert content["differences"]["joint"]["bwt_r10"] is None


@pytest.mark.parametrize("missing", ["folder", "summary"])
def test_a_run_that_is_missing_or_unfinished_is_named(folders: Folders, missing: str) -> None:
    run = folders["dns"][1]
    if missing == "folder":
        run.rename(run.with_name("elsewhere"))
    else:
        (run / "summary.json").unlink()
    with pytest.raises(RunError, match=f"lacks the run {run}: .*Give the command `python run.py compare"):
        load_comparison(folders)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"seeds": 5}, "seeds: 4 -> 5"),
        ({"first_seed": 7}, "first_seed: None -> 7"),
        ({"caches": {"emoji": "other"}}, "caches: None -> {'emoji': 'other'}"),
        ({"stream": {"order_seed": 2}}, "stream.order_seed: 1 -> 2"),
        ({"stream": {"order_seed": 1, "row_limit": 9}}, "stream.row_limit: None -> 9"),
    ],
)
def test_runs_that_cannot_be_paired_are_named_with_the_difference(
    folders: Folders, entries: dict[str, object], message: str
) -> None:
    odd = folders["dns"][1]
    change(odd, "config", **entries)
    with pytest.raises(RunError) as error:
        load_comparison(folders)
    assert f"{folders['vanilla'][1]} and {odd} cannot be paired: they differ in {message}" in str(error.value)


def test_orders_of_one_method_must_share_their_config(folders: Folders) -> None:
    for method in FORGETS:
        change(folders[method][2], "config", dtype="float64")
    with pytest.raises(RunError, match="order0 and .*order3 cannot be paired: they differ in dtype: None -> 'float64'"):
        load_comparison(folders)


def test_where_a_cache_lies_does_not_matter(folders: Folders) -> None:
    change(folders["dns"][1], "config", cache_dir="/elsewhere", checkpoints_kept=9)
    assert load_comparison(folders).orders == 3


@pytest.mark.parametrize("given", [{}, {"vanilla": []}])
def test_nothing_to_compare_is_an_error(given: Folders) -> None:
    with pytest.raises(RunError, match="nothing to compare"):
        load_comparison(given)


def test_methods_need_the_same_number_of_orders(folders: Folders) -> None:
    with pytest.raises(RunError, match="their numbers differ"):
        load_comparison({**folders, "dns": folders["dns"][:2]})


@pytest.fixture
def comparison(folders: Folders) -> Comparison:
    return load_comparison(folders)


def test_the_level_figure_shows_means_and_intervals_over_orders(comparison: Comparison, folders: Folders) -> None:
    panels = levels(comparison).axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "Accuracy, mean over 4 test tasks",
        "R@10, mean over 5 test tasks",
    ]
    for axes, matrix in zip(panels, ("accuracy", "r10"), strict=True):
        for place, method in enumerate(FORGETS):
            (line,) = [line for line in axes.lines if line.get_label() == method]
            curves = np.array([np.nanmean(np.load(path / f"{matrix}_matrix.npy"), axis=-1) for path in folders[method]])
            of_orders = curves.mean(axis=1)
            np.testing.assert_allclose(line.get_ydata(), of_orders.mean(axis=0))
            outline = np.asarray(axes.collections[place].get_paths()[0].vertices)
            half = stats.t.ppf(0.975, 2) * stats.sem(of_orders, axis=0)
            heights = outline[outline[:, 0] == 5, 1]
            expected = of_orders.mean(axis=0)[5] + np.array([-1, 1]) * half[5]
            np.testing.assert_allclose([heights.min(), heights.max()], expected)


def test_the_difference_figure_shows_the_differences_of_the_table(comparison: Comparison) -> None:
    [axes] = differences(comparison).axes
    bars = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    assert len(bars) == 6 + 4  # joint has no BWT
    found = as_json(comparison)["differences"]
    expected = [entry for method in ("dns", "joint") for entry in found[method].values() if entry]
    for bar, entry in zip(bars, expected, strict=True):
        assert bar.lines[0].get_ydata()[0] == pytest.approx(entry["mean"])
        low, high = sorted(np.ravel(cap.get_ydata())[0] for cap in bar.lines[1])
        assert (low, high) == pytest.approx((entry["mean"] - entry["half"], entry["mean"] + entry["half"]))
    assert [handle for handle in axes.get_legend_handles_labels()[1]] == ["vanilla", "dns", "joint"]


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_runs_are_named_in_tables_and_figures(make_run: MakeRun, synthetic: bool) -> None:
    folders = make_comparison(make_run, orders=(0, 1))
    change(folders["dns"][1], "summary", synthetic=synthetic)
    comparison = load_comparison(folders)
    titles = [table(comparison).title for table in (levels_table, differences_table)]
    titles += [figure(comparison).get_suptitle() for figure in (levels, differences)]
    assert all(("(synthetic data)" in title) == synthetic for title in titles)


def test_a_single_score_has_neither_interval_nor_band(make_run: MakeRun, tmp_path: Path) -> None:
    folders = make_comparison(make_run, orders=(0,), seeds=1)
    comparison = load_comparison(folders)
    assert not any(axes.collections for axes in levels(comparison).axes)
    report = write_comparison(folders, tmp_path / "out")
    assert all("±" not in cell for table in report.tables for row in table.rows for cell in row.cells)
    assert report.tables[0].title == "5 steps on pocketbind, 1 order × 1 seed"


def test_one_method_is_reported_without_differences(folders: Folders, tmp_path: Path) -> None:
    report = write_comparison({"dns": folders["dns"]}, tmp_path / "out")
    assert len(report.tables) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "comparison.json", "levels.png"}
    assert "Paired" not in (tmp_path / "out" / "report.md").read_text()


def test_the_same_runs_give_the_same_bytes(folders: Folders, tmp_path: Path) -> None:
    for out in ("one", "two"):
        report = write_comparison(folders, tmp_path / out)
    assert {path.name for path in report.files} == {"report.md", "comparison.json", "levels.png", "differences.png"}
    assert all((tmp_path / "one" / path.name).read_bytes() == path.read_bytes() for path in report.files)
