"""Sweet Home 3D's furniture catalogues: ZIP archives with a Java properties file, icons and OBJ models."""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from feature_cache.datasets.pocket.archives import damaged
from feature_cache.errors import MediaError

PROPERTIES = "PluginFurnitureCatalog.properties"


@dataclass(frozen=True)
class Catalogue:
    """A catalogue whose licence is known.

    Attributes:
        file: its name.
        declares: how the licence line inside it begins.
        license: SPDX identifier.
        attribution: whom to credit.
    """

    file: str
    declares: str
    license: str
    attribution: str


@dataclass(frozen=True, eq=False)
class Piece:
    """One piece of furniture.

    Attributes:
        id: unique over all catalogues.
        icon, model: members of the archive, a picture and an OBJ file.
        rotation: to be applied to the model's vertices.
        size: width, height, depth in metres, x, y, z after the rotation.
    """

    archive: Path
    id: str
    name: str
    category: str
    icon: str
    model: str
    rotation: Float64[np.ndarray, "3 3"]
    size: Float64[np.ndarray, "3"]


def read_catalogue(path: Path, catalogue: Catalogue) -> list[Piece]:
    """The pieces of a catalogue, in its order.

    Raises `MediaError` if the file is damaged, or declares another licence than the one under which it is listed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            properties = parse_properties(archive.read(PROPERTIES))
        declared = properties.get("license", "nothing")
        if not declared.startswith(catalogue.declares):
            raise MediaError(
                f"{path} declares the licence '{declared}', but is listed as {catalogue.license}, which it should "
                f"declare as '{catalogue.declares}…': read it, and correct the list in feature_cache before use."
            )
        numbers = sorted(int(key.removeprefix("id#")) for key in properties if key.startswith("id#"))
        return [_piece(path, properties, number) for number in numbers]
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise damaged(path, f"is not a catalogue of Sweet Home 3D ({error!r})") from error


def parse_properties(data: bytes) -> dict[str, str]:
    r"""Reads what these catalogues use of Java's format: Latin-1, one `key=value` a line, `\uXXXX`, comments.

    >>> parse_properties(b"# comment\nname#1 = Bill 10\\u20ac\n")
    {'name#1': 'Bill 10€'}
    """
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), data.decode("latin-1"))
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith(("#", "!"))]
    return {key.strip(): value.strip() for key, _, value in pairs}


def _piece(path: Path, properties: Mapping[str, str], number: int) -> Piece:
    def value(key: str) -> str:
        return properties[f"{key}#{number}"]

    rotation = properties.get(f"modelRotation#{number}", "1 0 0 0 1 0 0 0 1")
    return Piece(
        archive=path,
        id=value("id"),
        name=value("name"),
        category=value("category"),
        icon=value("icon").removeprefix("/"),
        model=value("model").removeprefix("/"),
        rotation=np.array(rotation.split(), dtype=np.float64).reshape(3, 3),
        size=np.array([float(value(key)) for key in ("width", "height", "depth")]) / 100,
    )
