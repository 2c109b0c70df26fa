"""The made-up caches that speed is measured on: the paper's datasets, with fewer training rows."""

from pathlib import Path

from feature_cache.synthetic.caches import ENCODER, Options, why_outdated, write_cache
from feature_cache.synthetic.shapes import SHAPES
from feature_cache.synthetic.world import make_world

FACTOR = 0.4131
"""Share of the paper's training rows at scale 1: 7,610 updates of batch 64 in 5 epochs of the 11 steps."""


def caches_of(folder: Path, width: int, scale: float = 1.0, test_scale: float = 1.0) -> Path:
    """A `cache_dir` below `folder` with all datasets; made unless it is there.

    Args:
        folder: of the caches of all sizes.
        width: of all features.
        scale: of the training rows; 1 stands for 7,610 updates.
        test_scale: of the test rows; 1 stands for the paper's.
    """
    options = Options(factor=FACTOR * scale, test_factor=test_scale, width=width)
    cache_dir = folder / f"width_{width}_scale_{scale:g}_test_{test_scale:g}"
    paths = {name: cache_dir / ENCODER / name for name in SHAPES}
    missing = [name for name, path in paths.items() if why_outdated(path, SHAPES[name], options) is not None]
    if missing:
        world = make_world(width, options.seed)
        for name in missing:
            write_cache(paths[name], SHAPES[name], world, options)
    return cache_dir
