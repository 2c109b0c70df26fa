"""Writes HDF5 files as the public reference's extraction does: a dataset per item, in one flat file per split."""

from pathlib import Path

import h5py
import numpy as np

ROWS = {
    "ucf101": ("text", "video"),
    "esc50": ("text", "audio"),
    "nyudv2": ("vision", "text", "depth"),
    "vggsound_s": ("text", "audio", "video"),
    "clotho": ("text", "audio"),
    "tvl": ("vision", "text", "tactile"),
    "llvip": ("vision", "thermal"),
}
DIM = 8
NAMES = {
    "ucf101": ("YoYo", "ApplyEyeMakeup", "Punch"),
    "esc50": ("dog", "chirping_birds", "crackling_fire"),
    "nyudv2": ("kitchen", "bathroom", "living"),
    "vggsound_s": ("people cheering, laughing", "air horn", "ocean/surf"),
    "clotho": ("no label",),
    "tvl": ("soft, smooth", "rough__edge, hard", "wet/cold"),
    "llvip": ("no label",),
}
IDS = {
    "ucf101": "{name}_v_{number:02d}",
    "esc50": "1-10{number:02d}-A-0.wav",
    "nyudv2": "{name}_0001_{number}",
    "vggsound_s": "a__b{number:02d}___000030",
    "clotho": "Rain, wind {number}",
    "tvl": "vision_hct_data1_{number}",
    "llvip": "0100{number:02d}",
}
COUNTS = {"train": 7, "test": 5}


class Files:
    """The files of one dataset and encoder below `folder`, and what is in them.

    Attributes:
        items: per split {key: (id, name, [n_modalities, dim])}.
        classes: {name: [dim]}.
    """

    def __init__(self, folder: Path, dataset: str, encoder: str, seed: int = 0, numbers: bool = True) -> None:
        """`numbers`: count the sorted names in the keys; else in the order in which they were met."""
        rng = np.random.default_rng(seed)
        self.folder, self.dataset, self.encoder = folder, dataset, encoder
        rows, names = ROWS[dataset], NAMES[dataset]
        order = sorted(names) if numbers else list(names)
        texts = {name: rng.normal(size=DIM).astype(np.float32) for name in names}
        self.classes = texts if dataset in ("ucf101", "esc50", "nyudv2", "vggsound_s") else {}
        self.items: dict[str, dict[str, tuple[str, str, np.ndarray]]] = {}
        for split, count in COUNTS.items():
            self.items[split] = {}
            for i in range(count):
                name = names[i % len(names)]
                item = IDS[dataset].format(name=name, number=i + 20 * (split == "test"))
                features = rng.normal(size=(len(rows), DIM)).astype(np.float32)
                if "text" in rows and self.classes:
                    features[rows.index("text")] = texts[name]
                number = "0" if dataset in ("clotho", "llvip", "tvl") else str(order.index(name))
                key = f"{item}__{name}__{number}" if encoder == "imagebind" else item
                self.items[split][key] = (item, name, features)

    def path(self, part: str) -> Path:
        return self.folder / f"{self.dataset}_{part}_{self.encoder}.h5"

    def write(self) -> "Files":
        self.folder.mkdir(parents=True, exist_ok=True)
        for split, items in self.items.items():
            with h5py.File(self.path(split), "a") as file:
                for key, (_, _, features) in items.items():
                    file.create_dataset(key, data=features)
        if self.classes:
            with h5py.File(self.path("class"), "a") as file:
                for name, features in self.classes.items():
                    file.create_dataset(name, data=features)
        return self


def content(path: Path) -> dict[str, bytes]:
    """Every dataset of a file by its full name, with its dtype and shape."""
    found: dict[str, bytes] = {}

    def collect(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = f"{item.dtype} {item.shape}".encode() + np.asarray(item[()]).tobytes()

    with h5py.File(path, "r") as file:
        file.visititems(collect)
    return found
