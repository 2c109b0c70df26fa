"""The paper's seven datasets as data: terms, sizes, layout, origin, and what tells whether one is complete."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feature_cache.sources.inventory import Check, count, first_listed, listed, rows_of_parquet
from feature_cache.sources.tables import clotho_files, tvl_files

GB = 10**9


@dataclass(frozen=True)
class Hub:
    """A dataset repository on the Hugging Face hub.

    Attributes:
        repo: "owner/name".
        patterns: shell patterns of the paths to fetch.
    """

    repo: str
    patterns: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class Url:
    """One file behind an address.

    Attributes:
        path: where it goes, below the dataset's folder.
        url: https.
        md5: hexadecimal, as its publisher states it; None = not stated.
    """

    path: str
    url: str
    md5: str | None = None


@dataclass(frozen=True)
class Manual:
    """What stands behind a form or a link that only a browser opens.

    Attributes:
        steps: what a person has to do, in order; "{folder}" stands for the dataset's folder.
        archive: the file that has to end up in that folder; the rest is done from there.
    """

    steps: tuple[str, ...]
    archive: str


@dataclass(frozen=True)
class Provenance:
    """One dataset.

    Attributes:
        name: the key in `feature_cache.datasets.REGISTRY`.
        title: what it is, in a line.
        license: its name, or what is known of the terms.
        terms: what that allows and asks for.
        homepage: of its authors.
        folder: below the data root.
        layout: paths below `folder`, with a word on each.
        items: per split of the paper, how many there are.
        origin: where it can be fetched.
        checks: what has to be there.
        download_size: bytes to fetch, about; None = nobody says.
        disk_size: bytes in the end, about; None = nobody says.
        sizes_from: who says so.
        prepare: "module:function" that turns an archive into files of the layout; plain files are only moved.
        notes: traps.
    """

    name: str
    title: str
    license: str
    terms: str
    homepage: str
    folder: str
    layout: tuple[tuple[str, str], ...]
    items: dict[str, str]
    origin: "Hub | Sequence[Url] | Manual"
    checks: tuple[Check, ...]
    download_size: int | None
    disk_size: int | None
    sizes_from: str
    prepare: str = "feature_cache.sources.unpack:unpack"
    notes: tuple[str, ...] = field(default=())

    def path(self, data_root: Path) -> Path:
        return data_root / self.folder


_UCF101 = Provenance(
    name="ucf101",
    title="UCF101: 13,320 clips of 101 human actions",
    license="none published",
    terms="The authors offer the clips, which come from YouTube, for research.",
    homepage="https://www.crcv.ucf.edu/data/UCF101.php",
    folder="ucf101",
    layout=(
        ("UCF101/train/<Class>/*.avi", "training clips, 101 folders such as ApplyEyeMakeup"),
        ("UCF101/test/<Class>/*.avi", "test clips"),
        ("UCF101/val/<Class>/*.avi", "test clips too: the paper tests on both folders"),
    ),
    items={"train": "about 10,055", "test": "about 3,265"},
    origin=Hub("NoahMartinezXiang/UCF101"),
    checks=(
        count("clips of all splits", "UCF101", "*/*/*.avi", 13_320),
        count("classes to train", "UCF101/train", "*/", 101),
        count("classes to test", "UCF101/test", "*/", 101),
    ),
    download_size=7 * GB,
    disk_size=7 * GB,
    sizes_from="an archive of the same clips that tensorflow-datasets fetches has 6,960,400,115 bytes",
    prepare="feature_cache.sources.ucf101:unpack_clips",
    notes=(
        "The authors' own archive is a .rar, which needs unrar; the repository on the hub has the paper's split. "
        "The official splits come with --source=tfds at extraction.",
    ),
)

_ESC50 = Provenance(
    name="esc50",
    title="ESC-50: 2,000 environmental sounds of 5 s in 50 classes",
    license="CC-BY-NC-3.0",
    terms="Name the author; no commercial use. Single clips have licences of their own.",
    homepage="https://github.com/karolpiczak/ESC-50",
    folder="esc50",
    layout=(("data/*.parquet", "2 files of 1,000 rows: filename, category, audio"),),
    items={"train": "1,600", "test": "400: the last rows of the second file"},
    origin=Hub("ashraq/esc50", ("data/*.parquet",)),
    checks=(
        count("files", "data", "*.parquet", 2),
        rows_of_parquet("rows", "data", 2_000),
    ),
    download_size=int(0.9 * GB),
    disk_size=int(0.9 * GB),
    sizes_from="at most 2,000 × 5 s × 44.1 kHz × 16 bit = 0.88 GB",
)

_NYUDV2 = Provenance(
    name="nyudv2",
    title="NYU Depth V2: indoor pictures with depth, as prepared for fast-depth",
    license="Apache-2.0 in the data of the hub's card, MIT in its text",
    terms="The authors offer the recordings for research; cite Silberman et al., ECCV 2012.",
    homepage="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
    folder="nyu-d-2",
    layout=(
        ("raw_data/train/<scene>/<frame>/rgb.png", "640 × 480 pictures to train"),
        ("raw_data/train/<scene>/<frame>/depth.png", "their depth: 16 bit, millimetres, 0 = unknown"),
        ("raw_data/val/official/<frame>/{rgb,depth}.png", "the same to test; every scene is called official"),
    ),
    items={"train": "47,584", "test": "654"},
    origin=Hub("sayakpaul/nyu_depth_v2", ("data/*.tar",)),
    checks=(
        count("pictures to train", "raw_data/train", "*/*/rgb.png", 47_584),
        count("depth maps to train", "raw_data/train", "*/*/depth.png", 47_584),
        count("pictures to test", "raw_data/val", "*/*/rgb.png", 654),
        count("depth maps to test", "raw_data/val", "*/*/depth.png", 654),
    ),
    download_size=int(35.2 * GB),
    disk_size=30 * GB,
    sizes_from="the hub's card (download: 35,151,124,480 bytes); the disk: estimated at 0.6 MB a frame",
    prepare="feature_cache.sources.nyu_depth:convert",
    notes=(
        "The hub has HDF5 files in tar archives; they become the PNG files above, depth rounded to millimetres and at "
        "most 65.535 m.",
    ),
)

_VGGSOUND_S = Provenance(
    name="vggsound_s",
    title="VGGSound, the paper's part: the first clips of its list, 10 s each, 309 classes",
    license="CC-BY-4.0",
    terms="Name the authors. The clips themselves are YouTube's users'.",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/vggsound/",
    folder="vggsound",
    layout=(
        ("vggsound.csv", "without a header: YouTube id, second, label, split"),
        ("scratch/shared/beegfs/hchen/train_data/VGGSound_final/video/*.mp4", "<id>_<second>.mp4"),
    ),
    items={"train": "10,001: the first in the list that are there", "test": "2,001 likewise"},
    origin=Hub("Loie/VGGSound", ("vggsound.csv", "vggsound_*.tar.gz")),
    checks=(
        count("the list", ".", "vggsound.csv", 1),
        first_listed("clips to train", "train", 10_001),
        first_listed("clips to test", "test", 2_001),
    ),
    download_size=300 * GB,
    disk_size=40 * GB,
    sizes_from="people who unpacked it: 20 archives, 300 GB, become 199,176 clips, 318 GB; kept are the first 24,004",
    prepare="feature_cache.sources.vggsound:unpack_wanted",
    notes=(
        "All 20 archives have to be fetched, because the clips are in no order, but one after the other, and only "
        "twice the clips that the paper uses are unpacked, so that missing ones have a next.",
        "Sound is read from the .mp4; nothing needs ffmpeg.",
    ),
)

_ZENODO = "https://zenodo.org/records/4783391/files/{}?download=1"
_CLOTHO_MD5 = {
    "clotho_captions_development.csv": "d4090b39ce9f2491908eebf4d5b09bae",
    "clotho_captions_evaluation.csv": "1b16b9e57cf7bdb7f13a13802aeb57e2",
    "clotho_metadata_development.csv": "170d20935ecfdf161ce1bb154118cda5",
    "clotho_metadata_evaluation.csv": "13946f054d4e1bf48079813aac61bf77",
    "clotho_audio_evaluation.7z": "4569624ccadf96223f19cb59fe4f849f",
    "clotho_audio_development.7z": "c8b05bc7acdb13895bb3c6a29608667e",
}

_CLOTHO = Provenance(
    name="clotho",
    title="Clotho v2.1: sounds of 15 to 30 s with five captions each",
    license="Tampere University's, non-commercial (captions); per clip, from Freesound (sounds)",
    terms="Research only, naming the authors; clotho_metadata_*.csv has the licence of every clip.",
    homepage="https://zenodo.org/records/4783391",
    folder="clotho",
    layout=(
        ("clotho_captions_{development,evaluation}.csv", "file_name, caption_1 … caption_5"),
        ("development/*.wav", "sounds to train, 44.1 kHz"),
        ("evaluation/*.wav", "sounds to test"),
    ),
    items={"train": "3,839 (2,893 in version 1)", "test": "1,045"},
    origin=tuple(Url(name, _ZENODO.format(name), md5) for name, md5 in _CLOTHO_MD5.items()),
    checks=(
        count("tables of captions", ".", "clotho_captions_*.csv", 2),
        listed("sounds to train", ("clotho_captions_development.csv",), clotho_files),
        listed("sounds to test", ("clotho_captions_evaluation.csv",), clotho_files),
    ),
    download_size=int(6.5 * GB),
    disk_size=int(9.1 * GB),
    sizes_from="at most; dcase-repo's list, with its validation split, and the documentation of aac-datasets",
    prepare="feature_cache.sources.clotho:unpack_sounds",
    notes=(
        "Version 1 (https://zenodo.org/records/3490684) has 2,893 sounds to train; about 150 were damaged in version 2 "
        "and are mended in 2.1. The layout is the same.",
        "The validation split, which the paper does not use, is not fetched.",
    ),
)

_TVL_TABLES = tuple(f"tvl_dataset/{part}" for part in ("ssvtp", "hct/data1", "hct/data2", "hct/data3"))

_TVL = Provenance(
    name="tvl",
    title="Touch-Vision-Language: what a fingertip touches, as seen and as felt, with words for the feeling",
    license="Apache-2.0, says the project's repository",
    terms="The card on the hub has the last word on the pictures.",
    homepage="https://tactile-vlm.github.io",
    folder="tvl",
    layout=(
        ("tvl_dataset/ssvtp/{train,test}.csv", "url, tactile, caption; the test table has no column tactile"),
        ("tvl_dataset/ssvtp/images_{rgb,tac}/*.jpg", "pictures, and what the sensor saw"),
        ("tvl_dataset/hct/data{1,2,3}/{train,test}.csv", "url, tactile, caption"),
        ("tvl_dataset/hct/data{1,2,3}/<recording>/{vision,tactile}/*.jpg", "the files that the tables name"),
    ),
    items={"train and test": "43,741 pairs"},
    origin=Hub("mlfu7/Touch-Vision-Language-Dataset", ("tvl_dataset_sharded.*",)),
    checks=(
        count("tables", "tvl_dataset", "**/t*.csv", 8),
        listed("files to train", tuple(f"{table}/train.csv" for table in _TVL_TABLES), tvl_files),
        listed("files to test", tuple(f"{table}/test.csv" for table in _TVL_TABLES), tvl_files),
    ),
    download_size=199 * GB,
    disk_size=199 * GB,
    sizes_from="the size of the repository; pictures hardly shrink in a zip archive",
    notes=(
        "The archive is split over many files, all of which have to be there before it opens: 400 GB of disk while "
        "it is unpacked, 199 GB afterwards.",
        "In some recordings of hct the pictures of touch and vision are swapped; the hub's yoorhim/TVL-revise has the "
        "same layout with these put right.",
    ),
)

_LLVIP = Provenance(
    name="llvip",
    title="LLVIP: pairs of visible and infrared pictures of streets at night",
    license="LLVIP's own: no commercial use",
    terms="Cite Jia et al., ICCV workshops 2021; do not try to identify anybody.",
    homepage="https://bupt-ai-cz.github.io/LLVIP/",
    folder="llvip",
    layout=(
        ("LLVIP/visible/{train,test}/*.jpg", "pictures in colour"),
        ("LLVIP/infrared/{train,test}/*.jpg", "the same views in infrared, under the same names"),
    ),
    items={"train": "12,025", "test": "3,463"},
    origin=Manual(
        steps=(
            "Open https://bupt-ai-cz.github.io/LLVIP/, accept the terms, and fill in the form if it asks you to.",
            "Download LLVIP.zip, the registered pairs, from the link that it gives: Google Drive "
            "(https://drive.google.com/file/d/1VTlT3Y7e1h-Zsne4zahjx5q0TK2ClMVv) or Baidu "
            "(https://pan.baidu.com/s/1eQO1Is2NPyd-mgmv1Csbfg, password 14lc). Not the raw data.",
            "Put it, with this name, into {folder}: {folder}/LLVIP.zip",
            "Give the same command again: it unpacks the archive and checks that everything is there.",
        ),
        archive="LLVIP.zip",
    ),
    checks=tuple(
        count(f"{word} pictures to {split}", f"LLVIP/{kind}/{split}", "*.jpg", expected)
        for split, expected in (("train", 12_025), ("test", 3_463))
        for kind, word in (("visible", "visible"), ("infrared", "infrared"))
    ),
    download_size=None,
    disk_size=None,
    sizes_from="",
)

PROVENANCE: dict[str, Provenance] = {
    source.name: source for source in (_UCF101, _ESC50, _NYUDV2, _CLOTHO, _VGGSOUND_S, _TVL, _LLVIP)
}
"""The seven, by name, in the order of the paper's stream."""
