import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import extract_features
from feature_cache import CacheError, UnknownNameError, UserError, commands, datasets, encoders, open_cache
from feature_cache.commands import bring, extract
from feature_cache.encoders.base import choose_device
from feature_cache.registry import resolve
from tests.feature_cache.conftest import Tiny
from tests.feature_cache.tiny import TinyBind, Tones

FLAGS = ["encoder", "dataset", "data_root", "cache_dir", "batch_size", "device", "dtype", "shard_size", "overwrite"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says, with exit code 2, of arguments that make no sense: its last line."""
    with pytest.raises(SystemExit) as stopped:
        extract_features.main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


def test_help_explains_every_flag_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        extract_features.main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert all(f"--{flag}" in said for flag in [*FLAGS, "max_failure_rate"])
    assert "python extract_features.py --encoder=pocketbind --dataset=pocket" in said
    assert "With --overwrite it starts over each time" in said
    assert all(name in said for name in [*encoders.REGISTRY, *datasets.REGISTRY])
    assert all(re.search(rf"  {command} +\w+", said) for command in commands.REGISTRY)


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [("--bach_size=3", "--batch_size"), ("--encodr=tinybind", "--encoder"), ("--cachedir=x", "--cache_dir")],
)
def test_unknown_flag_is_named_with_the_nearest(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], typo: str, nearest: str
) -> None:
    said = refused(capsys, "--encoder=tinybind", "--dataset=tones", typo)
    assert repr(typo) in said
    assert said.partition("nearest are: ")[2].startswith(nearest)
    assert repr(typo) in refused(capsys, typo)


def test_abbreviated_flag_is_unknown(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'--enc=tinybind'" in refused(capsys, "--enc=tinybind", "--dataset=tones")


def test_unknown_encoder_and_dataset_are_named_with_the_nearest(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "--encoder=tinybond", "--dataset=tones")
    assert "no encoder 'tinybond'; did you mean tinybind" in said
    said = refused(capsys, "--encoder=tinybind", "--dataset=tones,toness")
    assert "no dataset 'toness'; did you mean tones" in said
    assert "Valid names: " + ", ".join(sorted([*datasets.REGISTRY, *datasets.GROUPS])) in said


@pytest.mark.parametrize(
    ("flag", "found"),
    [
        ("--batch_size=0", "'0'"),
        ("--shard_size=many", "'many'"),
        ("--dtype=float64", "'float64'"),
        ("--device=tpu", "'tpu'"),
        ("--max_failure_rate=2", "2"),
        ("--max_failure_rate=nan", "nan"),
    ],
)
def test_impossible_value_is_named_with_its_flag(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], flag: str, found: str
) -> None:
    said = refused(capsys, "--encoder=tinybind", "--dataset=tones", flag)
    assert flag.partition("=")[0] in said
    assert found in said


@pytest.mark.parametrize(("given", "missing"), [("--encoder=tinybind", "--dataset"), ("--dataset=tones", "--encoder")])
def test_missing_flag_is_named(tiny: Tiny, capsys: pytest.CaptureFixture[str], given: str, missing: str) -> None:
    assert f"{missing} is missing" in refused(capsys, given)


def test_a_source_that_does_not_have_a_dataset_is_refused_before_anything_is_done(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "--encoder=tinybind", "--dataset=ucf101,esc50,tones", "--source=tfds")
    assert "--source=tfds is for ucf101 and nyudv2; leave it away for esc50, tones" in said


def test_missing_media_are_reported_without_a_traceback_and_leave_no_folder(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert tiny.extract(f"--data_root={tmp_path / 'nowhere'}") == 1
    said = capsys.readouterr().err
    assert f"tones: The tones are missing: {tmp_path / 'nowhere' / 'tones'} is not a folder. Run `make tones`." in said
    assert not tiny.cache.exists()


def test_missing_media_of_one_dataset_do_not_keep_another_from_being_extracted(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(datasets.REGISTRY, "nothing", "tests.feature_cache.test_extract_cli:Nothing")
    assert tiny.extract("--dataset=nothing,tones") == 1
    open_cache(tiny.cache).verify()


class Nothing(Tones):
    """A dataset of which the media are missing everywhere."""

    name = "nothing"

    def __init__(self, data_root: Path) -> None:
        super().__init__(data_root / "nothing")


class Others(Tones):
    """The same tones under another name."""

    name = "others"


def test_a_group_extracts_every_dataset_of_it_into_its_own_folder(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.GROUPS, "both", ("tones", "others"))
    monkeypatch.setitem(datasets.REGISTRY, "others", "tests.feature_cache.test_extract_cli:Others")
    assert tiny.extract("--dataset=both") == 0
    for name in ("tones", "others"):
        cache = open_cache(tiny.cache_dir / "tinybind" / name)
        cache.verify()
        assert cache.manifest.dataset == name


def test_device_precision_and_weights_reach_the_encoder(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[tuple[object, ...]] = []
    original = TinyBind.__init__
    monkeypatch.setattr(TinyBind, "__init__", lambda self, *given: devices.append(given) or original(self, *given))
    tiny.extract("--device=cpu", "--weights=here")
    assert devices == [("cpu", "float32", Path("here"))]


def test_stopping_by_hand_says_how_to_go_on(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: TinyBind, modality: str, batch: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TinyBind, "embed", interrupted)
    assert tiny.extract() == 130
    assert "give the same command again" in capsys.readouterr().err
    assert tiny.extract("--overwrite") == 130
    assert "give the same command without --overwrite" in capsys.readouterr().err


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change(path: Path) -> None:
    """Damage that does not show in the size."""
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")


def make_folder(path: Path) -> None:
    path.unlink()
    (path / "below").mkdir(parents=True)


@pytest.mark.parametrize("damage", [cut, change, make_folder, Path.unlink])
@pytest.mark.parametrize(
    ("name", "redone"),
    [
        ("train-00000.safetensors", ["0", "1", "2", "3"]),
        ("train-00000.parquet", ["0", "1", "2", "3"]),
        ("classes.safetensors", []),
        ("manifest.json", []),
    ],
)
def test_commands_of_the_error_message_repair_the_cache_and_redo_only_the_shard(
    tiny: Tiny, name: str, redone: list[str], damage: Callable[[Path], None]
) -> None:
    tiny.extract("--shard_size=4")
    before = tiny.files()
    tiny.embedded("audio")
    path = tiny.cache / name
    damage(path)
    with pytest.raises(CacheError) as error:
        open_cache(tiny.cache).verify()
    commands = [shlex.split(part) for part in str(error.value).split("`")[1::2]]
    for command in commands:
        if command[0] == "rm":
            subprocess.run(command, check=True)
    extraction = next(command for command in commands if command[0] == "python")
    assert extraction[1] == "extract_features.py"
    more = [f"--data_root={tiny.data_root}", "--shard_size=4"]
    assert extract_features.main([*extraction[2:], *more]) == 0
    assert sorted(tiny.embedded("audio")) == redone
    open_cache(tiny.cache).verify()
    assert tiny.files() == before


def test_commands_of_the_error_message_can_be_pasted_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "my caches" / "pocketbind" / "emoji"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(CacheError) as error:
        open_cache(folder)
    remove, extraction, checkout = (shlex.split(part) for part in str(error.value).split("`")[1::2])
    assert remove[2:] == [str(folder / "manifest.json")]
    assert extraction[2:] == ["--encoder=pocketbind", "--dataset=emoji", f"--cache_dir={tmp_path / 'my caches'}"]
    assert checkout[3:] == [str(folder)]


def test_imported_features_are_not_replaced_unasked(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.extract() == 0
    out = tiny.cache_dir.parent / "out"
    assert extract_features.main(["export", "--to=npz", f"--cache={tiny.cache}", f"--path={out}"]) == 0
    named = ["--encoder=tinybind", "--dataset=tones", f"--cache_dir={tiny.cache_dir}", "--overwrite"]
    assert extract_features.main(["import", "--from=npz", f"--path={out}", *named]) == 0
    before = tiny.files()
    capsys.readouterr()
    assert "imported" in said_of_a_failure(tiny, capsys)
    assert tiny.files() == before
    assert tiny.extract("--overwrite") == 0
    assert open_cache(tiny.cache).manifest.preprocessing_version != "unknown"


def test_commands_of_the_error_message_are_understood_whoever_made_the_cache(tmp_path: Path) -> None:
    """A table of pairs made that of a dataset, and an import that of an encoder, which no registry has."""
    for name in ("imagebind/esc50", "imagebind/birds", "mine/birds", "mine/esc50"):
        with pytest.raises(CacheError) as error:
            open_cache(tmp_path / name)
        _, script, *arguments = shlex.split(str(error.value).split("`")[1])
        assert script == "extract_features.py"
        if arguments[0] == "import":
            flags = bring.parse_import([argument.replace("FORMAT", "npz") for argument in arguments[1:]])
        else:
            flags = extract.parse(arguments)
        called = getattr(flags, "name", None) or str(flags.dataset).strip("[]'")
        assert f"{flags.encoder}/{called}" == name and flags.cache_dir == tmp_path


def said_of_a_failure(tiny: Tiny, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert tiny.extract(*flags) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


def test_cache_dir_below_a_file_is_named(tiny: Tiny, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = said_of_a_failure(tiny, capsys, f"--cache_dir={tmp_path / 'file'}")
    assert said.startswith(f"tones: {tmp_path / 'file'}/tinybind")
    assert "Not a directory" in said
    assert "--cache_dir" in said


@pytest.mark.parametrize("name", ["train-00001.safetensors", "train-00001.parquet", "classes.safetensors"])
def test_folder_in_place_of_a_cache_file_is_named(tiny: Tiny, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tiny.cache / name).mkdir(parents=True)
    said = said_of_a_failure(tiny, capsys)
    assert f"tones: {tiny.cache / name}: Is a directory" in said
    assert not list(tiny.cache.glob("*.tmp"))


def test_folder_called_like_a_temporary_does_no_harm(tiny: Tiny) -> None:
    (tiny.cache / "x.tmp").mkdir(parents=True)
    assert tiny.extract() == 0


def test_cuda_without_a_gpu_is_refused_with_what_to_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(UserError, match="--device=cuda needs a GPU.*--device=cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == "cuda"


def test_registered_encoders_and_datasets_say_their_versions_without_torch(
    subprocess_environment: dict[str, str],
) -> None:
    code = (
        "import sys, time; start = time.monotonic();"
        "from feature_cache import datasets, encoders; from feature_cache.registry import resolve;"
        "e = [resolve(encoders.REGISTRY, 'encoder', n) for n in encoders.REGISTRY];"
        "d = [resolve(datasets.REGISTRY, 'dataset', n) for n in datasets.REGISTRY];"
        "assert [x.name for x in e] == list(encoders.REGISTRY) and all(x.preprocessing_version for x in e);"
        "assert [x.name for x in d] == list(datasets.REGISTRY) and all(x.version for x in d);"
        "[x('cpu') for x in e];"
        "print(sorted({'torch', 'transformers', 'jax', 'jaxlib'} & sys.modules.keys()), time.monotonic() - start < 3)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=subprocess_environment, capture_output=True, text=True)
    assert done.stdout.strip() == "[] True", done.stderr


def test_finished_extraction_takes_under_three_seconds_in_a_process_of_its_own(
    tiny: Tiny, subprocess_environment: dict[str, str]
) -> None:
    tiny.extract()
    code = (
        "import sys; from tests.feature_cache import tiny; import extract_features; tiny.register();"
        "code = extract_features.main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *tiny.flags()], env=subprocess_environment, capture_output=True, text=True
    )
    assert time.monotonic() - start < 3
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stderr


def test_registry_imports_only_what_is_asked_for() -> None:
    registry = {"path": "pathlib:Path", "broken": "no_such_module:Thing"}
    assert resolve(registry, "thing", "path") is Path
    with pytest.raises(ModuleNotFoundError):
        resolve(registry, "thing", "broken")
    with pytest.raises(UnknownNameError, match="no thing 'brokn'; did you mean broken"):
        resolve(registry, "thing", "brokn")
