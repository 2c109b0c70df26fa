import zipfile
from pathlib import Path

import numpy as np
import pytest

from feature_cache.datasets.base import Item
from feature_cache.datasets.pocket.catalogues import parse_properties
from feature_cache.datasets.pocket.furniture import CATALOGUES, Furniture
from feature_cache.datasets.pocket.rendering import DISTANCE
from feature_cache.errors import MediaError
from feature_cache.manifest import SPLITS
from tests.datasets.tiny_media import furniture_folder, write_catalogue, write_furniture


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    write_furniture(tmp_path)
    return tmp_path


def items_of(data_root: Path) -> dict[str, Item]:
    dataset = Furniture(data_root)
    return {item.id: item for split in SPLITS for item in dataset.items(split)}


def rewrite(data_root: Path, model: bytes | None = None, extra: str = "") -> Item:
    """Changes the first piece of the catalogue Scopia and returns it."""
    path, pieces = furniture_folder(data_root) / "Scopia.sh3f", [("Chair 1", "Office")]
    keywords = {} if model is None else {"model": model}
    write_catalogue(path, "Creative Commons Attribution 3.0 Unported", pieces, extra=extra, **keywords)
    return items_of(data_root)["Scopia#1"]


def test_every_piece_of_every_catalogue_is_an_item(data_root: Path) -> None:
    assert set(items_of(data_root)) == {f"{Path(c.file).stem}#{n}" for c in CATALOGUES for n in (1, 2, 3)}


def test_chairs_of_all_catalogues_share_a_split(data_root: Path) -> None:
    dataset = Furniture(data_root)
    assert len({split for split in SPLITS for item in dataset.items(split) if "Chair" in item.caption}) == 1


def test_depth_is_metric_and_seen_from_four_radii(data_root: Path) -> None:
    depth = items_of(data_root)["Scopia#1"].open("depth").depth
    radius = np.linalg.norm([1.0, 2.0, 0.5]) / 2  # of the sphere around 100 × 200 × 50 cm
    seen = depth[np.isfinite(depth)]
    assert depth.shape == (224, 224) and depth.dtype == np.float32
    assert (DISTANCE - 1) * radius < seen.min() < DISTANCE * radius < seen.max() < (DISTANCE + 1) * radius


def test_a_box_of_two_to_one_looks_taller_than_wide(data_root: Path) -> None:
    rows, columns = np.nonzero(np.isfinite(items_of(data_root)["Scopia#1"].open("depth").depth))
    assert np.ptp(rows) > 1.5 * np.ptp(columns)


def test_a_model_is_rotated_before_it_is_stretched(data_root: Path) -> None:
    wedge = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"
    turned = b"v 0 0 0\nv 0 1 0\nv -1 0 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"  # x -> y, y -> -x
    expected = rewrite(data_root, turned).open("depth").depth
    rotated = rewrite(data_root, wedge, "modelRotation#1=0 -1 0 1 0 0 0 0 1").open("depth").depth
    np.testing.assert_allclose(rotated, expected, rtol=1e-6)
    assert not np.array_equal(rewrite(data_root, wedge).open("depth").depth, expected)


def test_a_flat_model_stays_flat(data_root: Path) -> None:
    sheet = b"v 0 0 0\nv 1 0 0\nv 1 0 1\nv 0 0 1\nf 1 2 3 4\n"
    depth = rewrite(data_root, sheet).open("depth").depth
    assert np.isfinite(depth).any()


def test_a_damaged_model_is_an_error_when_it_is_opened_and_not_before(data_root: Path) -> None:
    item = rewrite(data_root, b"v 0 0 0\n")
    with pytest.raises(ValueError, match="no faces"):
        item.open("depth")
    assert item.open("vision").size == (6, 6)


def test_a_catalogue_under_another_licence_is_refused(data_root: Path) -> None:
    path = furniture_folder(data_root) / "Scopia.sh3f"
    write_catalogue(path, "Free Art License 1.3", [("Chair 1", "Office")])
    with pytest.raises(MediaError, match=r"Scopia.sh3f declares the licence 'Free Art License 1.3'.* CC-BY-3.0"):
        Furniture(data_root)


def test_a_catalogue_that_is_not_listed_is_not_read(data_root: Path) -> None:
    before = set(items_of(data_root))
    write_catalogue(furniture_folder(data_root) / "Unknown.sh3f", "GPL-2", [("Chair 1", "Office")])
    assert set(items_of(data_root)) == before


def test_an_unknown_category_is_named_with_the_valid_ones(data_root: Path) -> None:
    path = furniture_folder(data_root) / "Scopia.sh3f"
    write_catalogue(path, "Creative Commons Attribution 3.0", [("Chair 1", "Offices")])
    with pytest.raises(MediaError, match=r"files 'Chair 1' under 'Offices', which is none of Bathroom, .*Vehicles"):
        Furniture(data_root)


@pytest.mark.parametrize("damage", ["truncated", "missing", "without properties"])
def test_a_damaged_catalogue_is_an_error_that_names_it(data_root: Path, damage: str) -> None:
    path = furniture_folder(data_root) / "KatorLegaz.sh3f"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.unlink()
    if damage == "without properties":
        zipfile.ZipFile(path, "w").close()
    with pytest.raises(
        MediaError, match=r"KatorLegaz.sh3f is not a catalogue of .*delete .*sweethome3d-furniture and run"
    ):
        Furniture(data_root)


def test_properties_are_latin_1_with_escapes_comments_and_equals_signs_in_values() -> None:
    data = b"# a=b\n! c=d\n\n  name#1 = H\xf4i An\r\nlink=x=y\nprice=10\\u20AC\n"
    assert parse_properties(data) == {"name#1": "Hôi An", "link": "x=y", "price": "10€"}
