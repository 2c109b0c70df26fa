import re
from pathlib import Path

import pytest

import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--confg=x"], "there is no flag '--confg=x'; the nearest are: --config"),
        (["train"], "this command needs --config and --workdir"),
        (["--workdr=x"], "there is no flag '--workdr=x'; the nearest are: --workdir"),
        (["report"], "this command needs --workdir"),
        (["report", "--workdir=x", "--config.seeds=2"], "there is no flag '--config.seeds=2'"),
        (["--config.method", "dns"], "write --config.method=dns, in one word"),
        (["trian"], "invalid choice: 'trian' .choose from '?demo'?, '?train'?, '?report'?"),
    ],
)
def test_a_command_that_makes_no_sense_is_named_and_ends_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run.main(arguments)
    assert exit_info.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=tests/tiny_confg.py"], "there is no such file; the nearest are: tests/tiny_config.py"),
        (
            ["--config=tests/tiny_config.py", "--config.sedes=1"],
            "There is no field in config 'sedes'; did you mean seeds",
        ),
        (
            ["--config=tests/tiny_config.py", "--config.method=vanila"],
            "There is no method 'vanila'; did you mean vanilla",
        ),
        (
            ["--config=tests/tiny_config.py", "--config.encoder=tinny"],
            "no features of the encoder 'tinny'; the nearest there",
        ),
    ],
)
def test_a_mistake_in_the_config_is_one_paragraph_and_ends_with_1(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["train", *flags, f"--workdir={tmp_path / 'run'}"]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "run").exists()


def test_train_and_report_write_table_and_figures(
    tiny_caches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in run.DEMO_METHODS:
        flags = ["--config=tests/tiny_config.py", f"--config.cache_dir={tiny_caches}", f"--config.method={method}"]
        assert run.main(["train", *flags, f"--workdir={tmp_path / method}"]) == 0
    capsys.readouterr()
    assert (
        run.main(["report", "--workdir", str(tmp_path / "vanilla"), str(tmp_path / "dns"), f"--out={tmp_path / 'out'}"])
        == 0
    )
    shown = capsys.readouterr().out
    for word in ("zero-shot", "vanilla", "dns", "synthetic", "R@10"):
        assert word in shown
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"report.md", "accuracy_and_recall.png", "tasks.png"}


def test_report_writes_into_the_runs_folder_unless_told_otherwise(
    tiny_caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--config=tests/tiny_config.py", f"--config.cache_dir={tiny_caches}", f"--workdir={tmp_path / 'run'}"]
    assert run.main(["train", *flags]) == 0
    (tmp_path / "run" / "report.md").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run.main(["report", f"--workdir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "report.md").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_workdir_that_is_a_file_is_named(
    tiny_caches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    flags = ["--config=tests/tiny_config.py", f"--config.cache_dir={tiny_caches}", f"--workdir={tmp_path / 'file'}"]
    assert run.main(["train", *flags]) == 1
    assert f"{tmp_path / 'file'}: File exists. Choose another --workdir" in capsys.readouterr().err


def test_the_demo_does_not_take_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--config.method=dns"]) == 1
    assert "The demo trains vanilla and dns; for one of them, use" in capsys.readouterr().err


def test_the_demo_trains_its_methods_and_reports(
    tiny_caches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config=tests/tiny_config.py", f"--config.cache_dir={tiny_caches}", f"--workdir={tmp_path}"]
    assert run.main(flags) == 0
    assert "zero-shot" in capsys.readouterr().out
    assert (tmp_path / "accuracy_and_recall.png").stat().st_size > 10_000
    assert run.main(flags) == 0  # again: only the report
