"""`extract_features.py describe`, and the looking behind it."""

import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

import extract_features
from feature_cache import datasets
from feature_cache.datasets.pocket.archives import ARCHIVES
from feature_cache.registry import resolve
from feature_cache.sources.inventory import count, verdict
from feature_cache.sources.provenance import PROVENANCE, Hub, Manual
from feature_cache.sources.tables import vggsound_clips
from feature_cache.sources.vggsound import CANDIDATES
from tests import raw_datasets


def describe(capsys: pytest.CaptureFixture[str], name: str, root: Path) -> tuple[int, str]:
    code = extract_features.main(["describe", f"--dataset={name}", f"--data_root={root}"])
    return code, capsys.readouterr().out


def look(name: str, root: Path) -> dict[str, tuple[int, int | None]]:
    source = PROVENANCE[name]
    findings = [check(source.path(root)) for check in source.checks]
    return {finding.what: (finding.found, finding.expected) for finding in findings}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw_datasets.write_raw_datasets(tmp_path_factory.mktemp("raw"))


def test_the_seven_are_the_papers_in_its_order_and_have_readers() -> None:
    assert tuple(PROVENANCE) == datasets.PAPER
    for name, source in PROVENANCE.items():
        assert source.name == name
        reader = resolve(datasets.REGISTRY, "dataset", name)
        assert any(part.startswith(source.folder) for part in reader.layout.split()), name


@pytest.mark.parametrize("name", PROVENANCE)
def test_everything_a_user_needs_is_said_of_a_dataset_that_is_not_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    source = PROVENANCE[name]
    code, said = describe(capsys, name, tmp_path / "media")
    assert code == 1 and f"{name}: not there" in said
    for words in (source.license, source.terms, source.homepage, *(path for path, _ in source.layout)):
        assert words in said
    assert f"download --dataset={name} --data_root={tmp_path / 'media'}" in said
    missing = [line for line in said.splitlines() if line.startswith("  missing: ")]
    assert missing and len(missing) == len(set(missing)) and not (tmp_path / "media").exists()


@pytest.mark.parametrize("name", PROVENANCE)
def test_the_readers_layouts_are_recognised(raw: Path, name: str) -> None:
    """What the readers read counts, and nothing else does."""
    n = raw_datasets.ITEMS
    expected: dict[str, dict[str, tuple[int, int | None]]] = {
        "ucf101": {
            "clips of all splits": (2 * n, 13_320),  # without the hidden files that lie about
            "classes to train": (n, 101), "classes to test": (n - 1, 101),
        },
        "esc50": {"files": (2, 2), "rows": (5 * n, 2_000)},
        "nyudv2": {
            "pictures to train": (n, 47_584), "depth maps to train": (n, 47_584), "pictures to test": (n, 654),
            "depth maps to test": (n, 654),
        },
        "clotho": {"tables of captions": (2, 2), "sounds to train": (n, n), "sounds to test": (n, n)},
        "vggsound_s": {"the list": (1, 1), "clips to train": (n, n + 1), "clips to test": (n, n + 1)},
        "tvl": {"tables": (8, 8), "files to train": (8, 8), "files to test": (8, 8)},
        "llvip": {
            "visible pictures to train": (n, 12_025), "infrared pictures to train": (n, 12_025),
            "visible pictures to test": (n, 3_463), "infrared pictures to test": (n, 3_463),
        },
    }  # fmt: skip
    assert look(name, raw) == expected[name]


@pytest.mark.parametrize("name", ["clotho", "tvl"])
def test_a_dataset_whose_tables_name_its_files_is_complete_with_all_of_them(
    capsys: pytest.CaptureFixture[str], raw: Path, tmp_path: Path, name: str
) -> None:
    root = tmp_path / "media"
    shutil.copytree(raw / PROVENANCE[name].folder, root / PROVENANCE[name].folder)
    assert describe(capsys, name, root)[0] == 0
    victim = sorted(path for path in root.rglob("*") if path.suffix in (".wav", ".jpg"))[0]
    victim.unlink()
    code, said = describe(capsys, name, root)
    assert code == 1 and f"{name}: incomplete" in said
    assert f"missing: {victim.relative_to(root / PROVENANCE[name].folder)}" in said


def test_many_datasets_at_once_are_complete_only_together(capsys: pytest.CaptureFixture[str], raw: Path) -> None:
    assert describe(capsys, "clotho,tvl", raw)[0] == 0
    code, said = describe(capsys, "paper", raw)
    assert code == 1 and "clotho: complete" in said and "llvip: incomplete" in said


@pytest.mark.parametrize("name", PROVENANCE)
@pytest.mark.parametrize(
    "damage", ["empty files", "noise", "an open quote", "folders instead of files", "a file instead of the folder"]
)
def test_damage_and_half_downloads_are_described_without_an_error(
    capsys: pytest.CaptureFixture[str], raw: Path, tmp_path: Path, name: str, damage: str
) -> None:
    folder = tmp_path / PROVENANCE[name].folder
    if damage == "a file instead of the folder":
        folder.write_bytes(b"?")
    else:
        shutil.copytree(raw / PROVENANCE[name].folder, folder)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            path.unlink()
            if damage == "folders instead of files":
                path.mkdir()
            else:
                contents = {"empty files": b"", "an open quote": b'file_name,"' + b"x" * 200_000}
                path.write_bytes(contents.get(damage, bytes(range(256)) * 3))
    code, said = describe(capsys, name, tmp_path)
    assert code == 1 and f"{name}: " in said


def test_sounds_of_clotho_count_however_their_accents_are_spelled(tmp_path: Path) -> None:
    apart, together = (unicodedata.normalize(form, "Café à Zürich.wav") for form in ("NFD", "NFC"))
    assert apart != together
    for split, on_disk, in_table in (("development", apart, together), ("evaluation", together, apart)):
        (tmp_path / split).mkdir()
        (tmp_path / split / on_disk).write_bytes(b"RIFF")
        (tmp_path / f"clotho_captions_{split}.csv").write_text(f"file_name,caption_1\n{in_table},c\n")
    findings = [check(tmp_path) for check in PROVENANCE["clotho"].checks]
    assert [(finding.found, finding.expected) for finding in findings] == [(2, 2), (1, 1), (1, 1)]


def test_unfinished_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "LLVIP").mkdir()
    for name in ("a.jpg", ".b.jpg.part", "c.jpg.part", ".d.jpg"):
        (tmp_path / "LLVIP" / name).write_bytes(b"1")
    finding = count("pictures", "LLVIP", "*.jpg", 2)(tmp_path)
    assert (finding.found, finding.complete, verdict([finding])) == (1, False, "incomplete")
    assert verdict([replace(finding, found=2)]) == "complete" and verdict([replace(finding, found=0)]) == "not there"


def test_clips_of_vggsound_are_counted_up_to_what_the_paper_takes(
    monkeypatch: pytest.MonkeyPatch, raw: Path, tmp_path: Path
) -> None:
    from feature_cache.sources.inventory import first_listed

    finding = first_listed("clips", "train", 2)(raw / "vggsound")
    assert (finding.found, finding.expected, finding.missing) == (2, 2, ())
    finding = first_listed("clips", "train", 100)(raw / "vggsound")
    assert finding.missing[0].endswith("/gone--at-once_000007.mp4")
    assert list(vggsound_clips(raw / "vggsound/vggsound.csv", "test", 2)) == [
        "gone--at-once_000007",
        "--test0000_000000",
    ]


def test_the_paper_finds_its_clips_among_those_that_are_unpacked() -> None:
    """With 199,176 of 199,467 clips there, or were it only half of them."""
    from feature_cache.datasets.vggsound_s import LIMITS

    assert {split: 2 * limit for split, limit in LIMITS.items()} == CANDIDATES


def test_the_pocket_suite_and_anyones_own_data_are_described_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, said = describe(capsys, "emoji,spoken", tmp_path)
    assert code == 1 and "make pocket-media" in said and "emoji: incomplete" in said and "spoken: incomplete" in said
    first = ARCHIVES[0]
    assert f"{first.package} ({first.url}): not in {first.folder(tmp_path)}\n" in said
    code, said = describe(capsys, "folder", tmp_path)
    assert code == 0 and "--pairs=" in said


def test_facts_about_origins_are_well_formed() -> None:
    for source in PROVENANCE.values():
        assert source.layout and source.checks and source.items
        if isinstance(source.origin, Hub):
            assert source.origin.repo.count("/") == 1
        elif isinstance(source.origin, Manual):
            assert any("{folder}" in step for step in source.origin.steps)
        else:
            for url in source.origin:
                assert url.url.startswith("https://zenodo.org/records/") and url.path in url.url
                assert url.md5 is not None and len(url.md5) == 32 and int(url.md5, 16)


def test_describing_needs_neither_torch_nor_jax_nor_the_hubs_client(tmp_path: Path) -> None:
    code = (
        "import sys, extract_features; extract_features.main(['describe', '--dataset=paper', "
        f"'--data_root={tmp_path}']); "
        "print(sorted({'torch', 'jax', 'transformers', 'huggingface_hub', 'PIL', 'av'} & set(sys.modules)))"
    )
    repository = Path(extract_features.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["describe", "download"])
def test_help_and_typos(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        extract_features.main([command, "--help"])
    assert stopped.value.code == 0 and "python extract_features.py" in capsys.readouterr().out
    for arguments, hint in (
        ([], "--dataset is missing"),
        (["--dataset=ufc101"], "did you mean ucf101"),
        (["--data_rot=x"], "--data_root"),
    ):
        with pytest.raises(SystemExit) as stopped:
            extract_features.main([command, *arguments])
        assert stopped.value.code == 2 and hint in capsys.readouterr().err
