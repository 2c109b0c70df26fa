"""UCF101, NYU, TVL and LLVIP are not laid out as one expects: each trap with a layout written for it."""

from pathlib import Path

import numpy as np
import pytest

from feature_cache.datasets.llvip import Llvip
from feature_cache.datasets.nyudv2 import NyuDepthV2
from feature_cache.datasets.tvl import Tvl
from feature_cache.datasets.ucf101 import Ucf101, in_words
from tests.datasets.opened import by_id, colour_of, empty, picture
from tests.raw_datasets import write_csv
from tests.raw_files import write_picture


@pytest.mark.parametrize("name", ["ApplyEyeMakeup", "YoYo", "TaiChi", "HandstandPushups", "JumpRope", "BasketballDunk"])
def test_class_texts_of_ucf101_are_the_published_ones(name: str) -> None:
    published = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
    assert in_words(name) == published


def test_ucf101_tests_on_test_and_val_and_counts_classes_of_all_folders(tmp_path: Path) -> None:
    for file in ("train/Zoo/v_Zoo_g01_c01.avi", "train/Ape/v_Ape_g01_c01.avi", "test/Zoo/v_Zoo_g02_c01.avi"):
        empty(tmp_path / "ucf101/UCF101" / file)
    empty(tmp_path / "ucf101/UCF101/val/MiddleOne/v_MiddleOne_g03.x_c01.avi")
    empty(tmp_path / "ucf101/UCF101/val/MiddleOne/notes.txt")
    empty(tmp_path / "ucf101/UCF101/val/MiddleOne/._v_MiddleOne_g03.x_c01.avi")
    dataset = Ucf101(tmp_path)
    assert [(label.name, label.text) for label in dataset.classes] == [
        ("Ape", "ape"), ("MiddleOne", "middle one"), ("Zoo", "zoo"),
    ]  # fmt: skip
    assert [(i.id, i.label) for i in dataset.items("test")] == [
        ("MiddleOne_v_MiddleOne_g03", 1),
        ("Zoo_v_Zoo_g02_c01", 2),
    ]
    assert [(i.id, i.label) for i in dataset.items("train")] == [("Ape_v_Ape_g01_c01", 0), ("Zoo_v_Zoo_g01_c01", 2)]


def test_nyu_test_frames_are_official_unless_they_are_called_after_their_scene(tmp_path: Path) -> None:
    frames = ("train/home_office_0004/00012", "val/official/00001", "val/official/kitchen_0004_00003")
    for frame in (*frames, "val/bathroom_0007/00002"):
        (tmp_path / "nyu-d-2/raw_data" / frame).mkdir(parents=True)
    dataset = NyuDepthV2(tmp_path)
    assert [(item.id, item.caption) for item in dataset.items("train")] == [("home_office_0004_00012", "home")]
    assert [(item.id, item.caption) for item in dataset.items("test")] == [
        ("bathroom_0007_00002", "bathroom"),
        ("official_00001", "official"),
        ("official_kitchen_0004_00003", "kitchen"),
    ]


def test_nyu_depths_of_16_bits_are_millimetres_and_none_is_clipped(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder = picture(tmp_path / f"nyu-d-2/raw_data/{split}/attic_1/1/rgb.png").parent
        write_picture(folder / "depth.png", np.array([[0, 254, 256], [2500, 9999, 65535]], np.uint16))
    opened = NyuDepthV2(tmp_path).items("test")[0].open("depth")
    expected = [[np.nan, 0.254, 0.256], [2.5, 9.999, 65.535]]
    np.testing.assert_allclose(vars(opened)["depth"], expected, rtol=1e-6)


def write_tvl_tables(root: Path, tables: dict[str, list[list[str]]]) -> None:
    """These tables, and in every other place one with a single row."""
    for subset in ("ssvtp", "hct/data1", "hct/data2", "hct/data3"):
        for split in ("train", "test"):
            rows = tables.get(f"{subset}/{split}", [["url", "tactile", "caption"], ["v.jpg", "t.jpg", "wet"]])
            write_csv(root / "tvl/tvl_dataset" / subset / f"{split}.csv", rows)


def test_tvl_ids_count_all_rows_of_a_table_and_rows_without_caption_are_none(tmp_path: Path) -> None:
    table = [
        ["", "tactile", "caption", "url"], ["0", "t0.jpg", "Soft, smooth.\r\n", "v0.jpg"],
        ["1", "t1.jpg", "", "v1.jpg"], ["2", "t2.jpg", "cool. hard", "v2.jpg"], ["3", "t3.jpg"],
    ]  # fmt: skip
    write_tvl_tables(tmp_path, {"hct/data2/train": table})
    dataset = Tvl(tmp_path)
    captions = {item.id: item.caption for item in dataset.items("train")}
    assert captions == {
        "vision_hct_data1_0": "wet", "vision_hct_data2_0": "Soft, smooth", "vision_hct_data2_2": "cool hard",
        "vision_hct_data3_0": "wet", "vision_ssvtp_0": "wet",
    }  # fmt: skip
    assert len(dataset.items("test")) == 4


def test_tvl_pictures_are_found_beside_their_table_and_ssvtp_names_its_tactile_ones_after_the_others(
    tmp_path: Path,
) -> None:
    root, red, green = tmp_path / "tvl/tvl_dataset", (200, 0, 0), (0, 200, 0)
    write_tvl_tables(
        tmp_path,
        {
            "ssvtp/test": [["url", "caption"], ["images_rgb/image_7_rgb.jpg", "soft"]],
            "hct/data3/test": [["url", "tactile", "caption"], ["0-17.5/vision/1.jpg", "0-17.5/tactile/1.jpg", "hard"]],
        },
    )
    picture(root / "ssvtp/images_rgb/image_7_rgb.jpg", red)
    picture(root / "ssvtp/images_tac/image_7_tac.jpg", green)
    picture(root / "hct/data3/0-17.5/vision/1.jpg", red)
    picture(root / "hct/data3/0-17.5/tactile/1.jpg", green)
    items = by_id(Tvl(tmp_path).items("test"))
    for name in ("vision_ssvtp_0", "vision_hct_data3_0"):
        assert [colour_of(items[name], modality) for modality in ("vision", "tactile")] == [red, green]


def test_llvip_opens_infrared_pictures_of_one_or_three_channels(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("010001.jpg", "010002.jpg"):
            picture(tmp_path / "llvip/LLVIP/visible" / split / name)
            picture(tmp_path / "llvip/LLVIP/infrared" / split / name, (90, 90, 90))
    write_picture(tmp_path / "llvip/LLVIP/infrared/train/010002.jpg", np.full((8, 8), 90, np.uint8))
    items = by_id(Llvip(tmp_path).items("train"))
    modes = [items[name].open("thermal").mode for name in ("010001", "010002")]  # type: ignore[union-attr]
    assert modes == ["RGB", "L"]
    for item in items.values():
        luminance = np.asarray(item.open("thermal").convert("L"))  # type: ignore[union-attr]
        assert np.abs(luminance.astype(int) - 90).max() <= 2
        assert item.caption == ""


@pytest.mark.parametrize("side", ["visible", "infrared"])
def test_llvip_lists_half_a_pair_and_fails_when_it_is_opened(side: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("1.jpg", "2.jpg"):
            for folder in ("visible", "infrared"):
                picture(tmp_path / "llvip/LLVIP" / folder / split / name)
    (tmp_path / "llvip/LLVIP" / side / "train/2.jpg").unlink()
    items = by_id(Llvip(tmp_path).items("train"))
    assert sorted(items) == ["1", "2"]
    with pytest.raises(FileNotFoundError):
        items["2"].open({"visible": "vision", "infrared": "thermal"}[side])
