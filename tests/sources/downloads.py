"""What the tests of `extract_features.py download` share."""

from collections.abc import Callable

from feature_cache.sources.provenance import PROVENANCE, Hub
from tests.sources.archives import nyu_frame, tar_of

Download = Callable[..., tuple[int, str]]
REPO = {name: source.origin.repo for name, source in PROVENANCE.items() if isinstance(source.origin, Hub)}


def nyu_archives() -> dict[str, bytes]:
    frames = [nyu_frame(seed)[0] for seed in range(4)]
    train = {f"train/den_0001/{n:05d}.h5": frame for n, frame in enumerate(frames[:3])}
    return {"data/train-000000.tar": tar_of(train), "data/val-000000.tar": tar_of({"val/official/1.h5": frames[3]})}
