"""The whole way from media to a cache with a binding encoder, small."""

from pathlib import Path

import numpy as np
import pytest

import extract_features
from feature_cache import encoders, open_cache
from tests.encoders.tiny_binders import DIM, write_checkpoint
from tests.feature_cache.conftest import Tiny


def test_the_command_line_extracts_with_it(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(encoders.REGISTRY, "imagebind", "tests.encoders.tiny_binders:TinyImageBind")
    weights = write_checkpoint(tmp_path / "weights")
    flags = [*tiny.flags()[1:], "--encoder=imagebind", "--device=cpu", "--dtype=float32"]
    assert extract_features.main([*flags, f"--weights={tmp_path / 'none.pth'}"]) == 1
    assert "weights --encoder=imagebind" in capsys.readouterr().err
    assert extract_features.main([*flags, f"--weights={weights}", "--precision=bfloat16"]) == 0
    cache = open_cache(tiny.cache_dir / "imagebind" / "tones")
    assert (cache.manifest.precision, cache.manifest.encoder) == ("bfloat16", "imagebind")
    assert cache.manifest.modalities["audio"].scale == 20
    assert cache.features("train", "audio").shape == (10, DIM)
    np.testing.assert_allclose(np.linalg.norm(cache.features("train", "text"), axis=1), 1 / 0.07, rtol=1e-3)
