"""`extract_features.py download` against a server on this machine."""

import io
import shutil
import sys
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest

import extract_features
from feature_cache.datasets.clotho import Clotho
from feature_cache.datasets.nyudv2 import NyuDepthV2
from feature_cache.datasets.tvl import Tvl
from feature_cache.datasets.ucf101 import Ucf101
from feature_cache.datasets.vggsound_s import VggSoundS
from feature_cache.sources import vggsound
from feature_cache.sources.provenance import PROVENANCE, Url
from feature_cache.sources.ucf101 import SPLITS
from tests import raw_datasets
from tests.sources.archives import nyu_frame, seven_zip_of, split_zip_of, tar_of, zip_of
from tests.sources.downloads import REPO, Download, nyu_archives
from tests.sources.servers import Site


def files_below(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def serve_clotho(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_md5: str = "") -> None:
    """Clotho as Zenodo has it: tables, and archives of the sounds."""
    raw_datasets.write_clotho(tmp_path / "raw")
    urls = []
    for split in ("development", "evaluation"):
        sounds = {f"{split}/{name}": data for name, data in files_below(tmp_path / "raw/clotho" / split).items()}
        table = f"clotho_captions_{split}.csv"
        served = {
            table: (tmp_path / "raw/clotho" / table).read_bytes(),
            f"clotho_audio_{split}.7z": seven_zip_of(sounds),
        }
        for name, data in served.items():
            site.files[f"/records/{name}"] = data
            urls.append(Url(name, f"{site.url}/records/{name}?download=1", fake_md5 or md5(data).hexdigest()))
    monkeypatch.setitem(PROVENANCE, "clotho", replace(PROVENANCE["clotho"], origin=tuple(urls)))


def test_clotho_comes_from_addresses_and_its_reader_opens_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, download: Download
) -> None:
    serve_clotho(site, monkeypatch, tmp_path)
    code, said = download("clotho", "--yes")
    assert code == 0, said
    assert "non-commercial" in said and "is complete" in said
    mine, theirs = Clotho(tmp_path / "media"), Clotho(tmp_path / "raw")
    for split in ("train", "test"):
        assert [(item.id, item.caption) for item in mine.items(split)] == [
            (item.id, item.caption) for item in theirs.items(split)
        ]
        for one, other in zip(mine.items(split), theirs.items(split), strict=True):
            assert np.array_equal(one.open("audio").samples, other.open("audio").samples)
    assert not list(tmp_path.glob("media/**/*.7z"))
    assert len(site.fetched()) == 4
    assert download("clotho", "--yes")[0] == 0 and len(site.fetched()) == 4


def test_a_wrong_checksum_is_an_error_and_leaves_nothing_that_looks_whole(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, download: Download
) -> None:
    serve_clotho(site, monkeypatch, tmp_path, fake_md5="0" * 32)
    code, said = download("clotho", "--yes")
    assert code == 1
    assert "its md5 is" in said and f"expected {'0' * 32}" in said and "give the same command again" in said
    assert not [path for path in (tmp_path / "media/clotho").iterdir() if path.name != ".download"]


def test_a_wrong_checksum_of_the_hub_is_an_error(site: Site, small: None, tmp_path: Path, download: Download) -> None:
    archives = nyu_archives()
    site.add_repository(REPO["nyudv2"], archives)
    path = next(path for path in site.files if path.endswith("train-000000.tar"))
    site.files[path] = bytes(len(site.files[path]))
    code, said = download("nyudv2", "--yes")
    assert code == 1 and "SHA-256" in said
    assert not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("train-000000.tar"))


def test_nyu_comes_from_the_hub_and_its_reader_opens_it(
    site: Site, small: None, tmp_path: Path, download: Download
) -> None:
    site.add_repository(REPO["nyudv2"], {**nyu_archives(), "README.md": b"card", "nyu_depth_v2.py": b"script"})
    code, said = download("nyudv2", "--yes")
    assert code == 0, said
    assert sorted(site.fetched()) == ["train-000000.tar", "val-000000.tar"]
    items = [*NyuDepthV2(tmp_path / "media").items("train"), *NyuDepthV2(tmp_path / "media").items("test")]
    assert [item.id for item in items] == ["den_0001_00000", "den_0001_00001", "den_0001_00002", "official_1"]
    for seed, item in enumerate(items):
        _, rgb, depth = nyu_frame(seed)
        assert np.array_equal(np.asarray(item.open("vision")), rgb.transpose(1, 2, 0))
        assert np.abs(item.open("depth").depth - depth).max() <= 0.001


@pytest.mark.parametrize("packed", ["", "UCF101.zip", "without a folder", "by split"])
def test_ucf101_comes_as_clips_or_in_archives(
    site: Site, small: None, tmp_path: Path, download: Download, packed: str
) -> None:
    raw_datasets.write_ucf101(tmp_path / "raw")
    clips = files_below(tmp_path / "raw/ucf101")
    inner = {name.removeprefix("UCF101/"): data for name, data in clips.items()}
    parts = {split: {n[len(split) + 1 :]: d for n, d in inner.items() if n.startswith(split)} for split in SPLITS}
    served = {
        "": {name: data for name, data in clips.items() if "/._" not in name},
        "UCF101.zip": {"UCF101.zip": zip_of(clips)},
        "without a folder": {"data/ucf.tar.gz": tar_of(inner, "w:gz")},
        "by split": {f"UCF101/{split}.zip": zip_of(files) for split, files in parts.items()},
    }[packed]
    site.add_repository(REPO["ucf101"], served)
    code, said = download("ucf101", "--yes")
    assert code == 0, said
    ids = [[item.id for item in Ucf101(tmp_path / root).items("test")] for root in ("media", "raw")]
    assert ids[0] == ids[1] and len(ids[0]) == 3
    Ucf101(tmp_path / "media").items("train")[0].open("video")


def test_clips_of_an_unknown_split_are_for_the_hand(site: Site, small: None, download: Download) -> None:
    site.add_repository(REPO["ucf101"], {"UCF101.zip": zip_of({"UCF-101/YoYo/v_YoYo_g01_c01.avi": b"1"})})
    code, said = download("ucf101", "--yes")
    assert code == 1 and "Unpack it by hand" in said


def test_esc50_is_moved_into_place(site: Site, small: None, tmp_path: Path, download: Download) -> None:
    raw_datasets.write_esc50(tmp_path / "raw")
    site.add_repository(REPO["esc50"], files_below(tmp_path / "raw/esc50"))
    assert download("esc50", "--yes")[0] == 0
    found = files_below(tmp_path / "media/esc50")
    assert {name: data for name, data in found.items() if not name.startswith(".")} == files_below(
        tmp_path / "raw/esc50"
    )


def test_vggsound_unpacks_only_clips_that_the_paper_may_use(
    site: Site, small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, download: Download
) -> None:
    raw_datasets.write_vggsound_s(tmp_path / "raw")
    root = tmp_path / "raw/vggsound"
    clips = sorted((tmp_path / "raw" / raw_datasets.VGG_ROOT / "video").glob("*.mp4"))
    assert len(clips) == 6
    members = {str(path.relative_to(root)): path.read_bytes() for path in clips}
    names = list(members)
    table = (root / "vggsound.csv").read_bytes()
    parts = {f"vggsound_0{n}.tar.gz": tar_of({name: members[name] for name in names[n::2]}, "w:gz") for n in range(2)}
    site.add_repository(REPO["vggsound_s"], {"vggsound.csv": table, **parts})
    monkeypatch.setattr(vggsound, "CANDIDATES", {"train": 3, "test": 3})  # the first of each has no clip
    code, said = download("vggsound_s", "--yes")
    assert code == 0, said
    found = sorted(path.name for path in tmp_path.glob("media/**/*.mp4"))
    assert found == sorted(path.name for path in clips if "0002_" not in path.name)
    assert len(VggSoundS(tmp_path / "media").items("train")) == 2
    assert site.fetched()[0] == "vggsound.csv"


def test_tvl_waits_for_all_volumes(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, download: Download
) -> None:
    if not shutil.which("zip"):
        pytest.skip("zip is not installed")
    monkeypatch.setitem(PROVENANCE, "tvl", replace(PROVENANCE["tvl"], disk_size=None))
    raw_datasets.write_tvl(tmp_path / "raw")
    noise = {"tvl_dataset/ssvtp/more.bin": np.random.default_rng(0).bytes(150_000)}
    volumes = split_zip_of({**files_below(tmp_path / "raw/tvl"), **noise}, "tvl_dataset_sharded")
    assert len(volumes) >= 3
    site.add_repository(REPO["tvl"], {**volumes, "README.md": b"card"})
    code, said = download("tvl", "--yes")
    assert code == 0, said
    assert [i.id for i in Tvl(tmp_path / "media").items("test")] == [i.id for i in Tvl(tmp_path / "raw").items("test")]
    assert [path.name for path in tmp_path.glob("media/**/*.z*")] == ["tvl_dataset_sharded.zip.done"]


def test_llvip_prints_what_a_person_has_to_do_and_then_unpacks_what_they_brought(
    small: None, tmp_path: Path, download: Download
) -> None:
    code, said = download("llvip", "--yes")
    assert code == 1
    archive = tmp_path / "media/llvip/LLVIP.zip"
    for piece in ("https://bupt-ai-cz.github.io/LLVIP/", "drive.google.com", str(archive), "1.", "4.", "same command"):
        assert piece in said
    raw_datasets.write_llvip(tmp_path / "raw")
    archive.parent.mkdir(parents=True)
    archive.write_bytes(zip_of(files_below(tmp_path / "raw/llvip")))
    code, said = download("llvip", "--yes")
    assert code == 0, said
    assert archive.exists(), "what a person brought is theirs"
    archive.unlink()
    assert files_below(tmp_path / "media/llvip/LLVIP") == files_below(tmp_path / "raw/llvip/LLVIP")


def test_archives_are_kept_if_asked_for(site: Site, small: None, tmp_path: Path, download: Download) -> None:
    site.add_repository(REPO["nyudv2"], nyu_archives())
    assert download("nyudv2", "--yes", "--keep_archives")[0] == 0
    assert len(list(tmp_path.rglob("*.tar"))) == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "expected"), [("y\n", 0), ("Yes\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_nothing_is_fetched_without_consent(
    site: Site, small: None, monkeypatch: pytest.MonkeyPatch, download: Download, answer: str, expected: int
) -> None:
    site.add_repository(REPO["nyudv2"], nyu_archives())
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    code, said = download("nyudv2")
    assert code == expected
    assert ("nothing was fetched" in said) == bool(expected)
    assert len(site.fetched()) == (0 if expected else 2)


def test_an_input_without_a_person_is_an_error_that_names_the_flag(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(SystemExit) as stopped:
        extract_features.main(["download", "--dataset=esc50", f"--data_root={tmp_path}"])
    assert stopped.value.code == 2 and "--yes" in capsys.readouterr().err
    assert not site.requests


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(
    site: Site, small: None, monkeypatch: pytest.MonkeyPatch, download: Download
) -> None:
    site.add_repository(REPO["nyudv2"], nyu_archives())
    monkeypatch.setitem(PROVENANCE, "nyudv2", replace(PROVENANCE["nyudv2"], disk_size=30 * 10**9))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    code, said = download("nyudv2", "--yes")
    assert code == 1 and "nyudv2 needs about 30.0 GB more" in said and "1.0 GB are free" in said
    assert not site.fetched()


def test_archives_of_unknown_size_count_beside_what_comes_out_of_them(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, download: Download
) -> None:
    """Also when the tables, which are most of the steps and hardly any of the bytes, are there."""
    serve_clotho(site, monkeypatch, tmp_path)
    clotho = tmp_path / "media/clotho"
    clotho.mkdir(parents=True)
    for split in ("development", "evaluation"):
        shutil.copy(tmp_path / f"raw/clotho/clotho_captions_{split}.csv", clotho)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * 10**9))
    code, said = download("clotho", "--yes")
    assert code == 1 and "clotho needs about 15.6 GB more" in said and not site.fetched()


def test_a_hub_that_is_not_there_is_one_paragraph(monkeypatch: pytest.MonkeyPatch, download: Download) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, said = download("esc50", "--yes")
    assert code == 1 and "HF_ENDPOINT" in said and len(said) < 500
    assert "cannot be listed: [Errno 111] Connection refused. Check the network" in " ".join(said.split())


def test_a_repository_that_is_gone_or_has_changed_is_said(site: Site, download: Download) -> None:
    assert "cannot be listed" in download("esc50", "--yes")[1]
    site.add_repository(REPO["esc50"], {"other.bin": b"1"})
    code, said = download("esc50", "--yes")
    assert code == 1 and "has no files like data/*.parquet" in said


def test_the_pocket_suite_has_a_command_of_its_own(download: Download) -> None:
    code, said = download("emoji")
    assert code == 1 and "make pocket-media" in said


def test_files_deleted_after_a_finished_run_are_explained(
    site: Site, small: None, tmp_path: Path, download: Download
) -> None:
    site.add_repository(REPO["nyudv2"], nyu_archives())
    assert download("nyudv2", "--yes")[0] == 0
    next(tmp_path.rglob("depth.png")).unlink()
    code, said = download("nyudv2", "--yes")
    assert code == 1 and "depth in" in said and "3 instead of 4" in said
    folder = tmp_path / "media/nyu-d-2/.download"
    assert f"rm -r {folder}" in said
    shutil.rmtree(folder)
    assert download("nyudv2", "--yes")[0] == 0


def test_a_new_version_on_the_hub_is_fetched_when_something_is_missing(
    site: Site, small: None, tmp_path: Path, download: Download
) -> None:
    archives = nyu_archives()
    site.add_repository(REPO["nyudv2"], {**archives, "data/val-000000.tar": tar_of({})})
    assert download("nyudv2", "--yes")[0] == 1  # complete it is not
    before = len(site.fetched())
    site.add_repository(REPO["nyudv2"], archives)
    assert download("nyudv2", "--yes")[0] == 0
    assert site.fetched()[before:] == ["val-000000.tar"]
