"""ImageBind and UniBind: the real architecture, small, with checkpoints of random parameters on disk."""

import math
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import extract_features
from feature_cache.datasets.base import Clip, DepthMap, Raw, Waveform
from feature_cache.decoding.audio import open_waveform
from feature_cache.decoding.depth import open_depth
from feature_cache.decoding.pictures import open_picture
from feature_cache.decoding.video import open_video
from feature_cache.encoders import imagebind, imagebind_code
from feature_cache.encoders.imagebind import SCALES, ImageBind
from feature_cache.encoders.imagebind_code import HUGE, build
from feature_cache.encoders.inference import exact_inference, inference
from feature_cache.encoders.unibind import UniBind
from feature_cache.encoders.weights.packages import PackageFile
from feature_cache.errors import UnknownNameError, UserError, WeightsError
from feature_cache.manifest import MODALITY_ORDER
from tests.encoders.media import depth_of_a_ball, photo, picture, sound, walk_past
from tests.encoders.tiny_binders import DIM, TinyImageBind, TinyUniBind, tiny_state, unibind_state, write_checkpoint
from tests.raw_files import decode_all, moving_square, tone, write_audio, write_picture, write_video

PICTURES = ("cat", "coffee")
FURNITURE = ("stove", "emoji_cat", "desk")
MEDIA: dict[str, list[Raw]] = {
    "vision": [*map(photo, PICTURES), *map(picture, FURNITURE)],
    "text": ["a cat", "", "😀 שלום", "a dog in the street", "many words " * 60],
    "audio": [
        sound("flute"), Waveform(np.zeros(10, np.float32), 8_000), sound("marimba"), sound("guitar"),
        Waveform(np.random.default_rng(0).normal(size=90_000).astype(np.float32), 22_050),
    ],
    "thermal": [*map(photo, PICTURES), *map(picture, FURNITURE)],
    "depth": [
        *(depth_of_a_ball(size, 1.5 + size / 60) for size in (40, 70, 250, 300)),
        DepthMap(np.ones((9, 9), np.float32), 3.0),
    ],
    "video": [
        walk_past(photo("cat")), Clip([picture("stove")]), Clip([picture("desk"), picture("barrel")] * 9),
        walk_past(photo("coffee")), Clip([picture("barrel")] * 2, rate=25.0),
    ],
    "tactile": [*map(picture, FURNITURE), *map(photo, PICTURES)],
}  # fmt: skip
LARGEST = {modality: 1.0 for modality in SCALES} | {"audio": 20.0, "text": 1 / 0.07, "thermal": 10.0, "depth": 5.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def encoder(weights: Path) -> TinyImageBind:
    return TinyImageBind("cpu", weights=weights)


@pytest.fixture(scope="module")
def preprocessed(encoder: TinyImageBind) -> dict[str, list[np.ndarray]]:
    return {modality: [encoder.preprocess(modality, raw) for raw in media] for modality, media in MEDIA.items()}


Preprocessed = dict[str, list[np.ndarray]]


# --- what is embedded


def test_the_modalities_are_the_papers_seven_in_storage_order() -> None:
    for encoder in (ImageBind(), UniBind()):
        assert list(encoder.modalities) == [m for m in MODALITY_ORDER if m not in ("imu", "speech")]
        assert {spec.dim for spec in encoder.modalities.values()} == {1024}
        assert {m: spec.scale for m, spec in encoder.modalities.items()} == LARGEST
    assert set(MEDIA) == set(SCALES)


@pytest.mark.parametrize("modality", MEDIA)
def test_embeddings_have_the_width_and_the_scale_of_their_modality(
    encoder: TinyImageBind, preprocessed: Preprocessed, modality: str
) -> None:
    found = encoder.embed(modality, preprocessed[modality])
    assert (found.shape, found.dtype) == ((5, DIM), np.float32)
    norms = np.linalg.norm(found, axis=1)
    assert (norms <= LARGEST[modality] * (1 + 1e-5)).all()
    exact = {"rtol": 1e-5} if modality not in ("audio", "video") else {"rtol": 0.1}  # means over clips are shorter
    np.testing.assert_allclose(norms, LARGEST[modality], **exact)
    apart = np.linalg.norm(found[:, None] - found[None], axis=2) + 9 * np.eye(5)
    assert apart.min() > 2e-5 * LARGEST[modality]


@pytest.mark.parametrize("modality", MEDIA)
def test_an_embedding_does_not_depend_on_its_batch(
    encoder: TinyImageBind, preprocessed: Preprocessed, modality: str
) -> None:
    media = preprocessed[modality]
    together = encoder.embed(modality, media)
    apart = np.concatenate([encoder.embed(modality, [medium]) for medium in media])
    threes = np.concatenate([encoder.embed(modality, media[:3]), encoder.embed(modality, media[3:])])
    order = [3, 0, 4, 2, 1]
    shuffled = encoder.embed(modality, [media[index] for index in order])
    for other in (apart, threes, shuffled[np.argsort(order)]):
        np.testing.assert_allclose(other, together, atol=1e-5)
    np.testing.assert_array_equal(encoder.embed(modality, media), together)


def test_a_still_video_is_its_picture_and_a_sound_is_the_mean_of_its_clips(
    encoder: TinyImageBind, preprocessed: Preprocessed
) -> None:
    frame = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8))
    still = encoder.embed("video", [encoder.preprocess("video", Clip([frame] * 20))])
    np.testing.assert_allclose(still, encoder.embed("vision", [encoder.preprocess("vision", frame)]), atol=1e-5)
    clips = preprocessed["audio"][4]
    assert not np.allclose(clips[0], clips[1])
    apart = np.concatenate([encoder.embed("audio", [clip[None]]) for clip in clips]).astype(np.float64)
    np.testing.assert_allclose(encoder.embed("audio", [clips])[0], apart.mean(0), atol=1e-4)


def test_what_is_felt_goes_through_the_tower_of_pictures(encoder: TinyImageBind, preprocessed: Preprocessed) -> None:
    media = preprocessed["tactile"]
    np.testing.assert_array_equal(encoder.embed("tactile", media), encoder.embed("vision", media))


def test_the_text_tower_sees_nothing_after_the_end(encoder: TinyImageBind, preprocessed: Preprocessed) -> None:
    tokens = preprocessed["text"][0].copy()
    assert tokens.argmax() == 3
    tokens[4:] = 77
    np.testing.assert_allclose(
        encoder.embed("text", [tokens]), encoder.embed("text", preprocessed["text"][:1]), atol=1e-5
    )


def test_an_empty_batch_has_no_rows() -> None:
    encoder = TinyImageBind("cpu", weights=Path("nowhere"))
    assert all(encoder.embed(modality, []).shape == (0, DIM) for modality in MEDIA)


def test_what_is_not_the_modalitys_medium_is_refused(encoder: TinyImageBind) -> None:
    for modality in MEDIA:
        with pytest.raises(TypeError, match="Expected a medium of type"):
            encoder.preprocess(modality, b"bytes")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="modality of imagebind 'visoin'; did you mean vision"):
        encoder.preprocess("visoin", "a cat")
    with pytest.raises(UnknownNameError, match="imu"):
        encoder.embed("imu", [])


def test_files_of_every_kind_are_embedded_as_what_they_hold(encoder: TinyImageBind, tmp_path: Path) -> None:
    frames = moving_square(60, 240, 320)
    video = write_video(tmp_path / "a.mp4", frames, rate=20, audio=(tone(440, 44_100, 3), 44_100))
    stereo = write_audio(tmp_path / "b.wav", tone(440, 48_000, 3, channels=2), 48_000, "FLOAT")
    depth = write_picture(tmp_path / "c.png", np.full((240, 320), 2500, np.uint16))
    jpeg = write_picture(tmp_path / "d.jpg", frames[0])
    raws: dict[str, Raw] = {
        "vision": open_picture(jpeg), "tactile": open_picture(jpeg), "thermal": open_picture(jpeg), "text": "a square",
        "audio": open_waveform(stereo), "depth": open_depth(depth), "video": open_video(video),
    }  # fmt: skip
    arrays = {modality: encoder.preprocess(modality, raw) for modality, raw in raws.items()}
    assert all(np.isfinite(encoder.embed(modality, [array])).all() for modality, array in arrays.items())
    np.testing.assert_array_equal(arrays["depth"], np.float32(0.25))
    mono = encoder.preprocess("audio", Waveform(tone(440, 48_000, 3), 48_000))
    np.testing.assert_array_equal(arrays["audio"], mono)  # the first channel, which is the lower tone
    assert encoder.preprocess("audio", open_waveform(video)).shape == mono.shape
    decoded = [Image.fromarray(frame) for frame in decode_all(video)]
    # 3 s at 20 frames a second: clips begin at 0, 0.25, 0.5, 0.75 and 1 s, and each has 40 frames.
    for number, start in enumerate((0, 5, 10, 15, 20)):
        clip = encoder.preprocess("video", Clip([decoded[start], decoded[start + 39]]))
        np.testing.assert_allclose(arrays["video"][3 * number : 3 * number + 3], clip[:3], atol=1e-5)


# --- precision


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("modality", MEDIA)
def test_lower_precision_stays_within_a_hundredth(
    encoder: TinyImageBind, weights: Path, preprocessed: Preprocessed, precision: str, modality: str
) -> None:
    exact = encoder.embed(modality, preprocessed[modality]).astype(np.float64)
    lower = TinyImageBind("cpu", precision, weights).embed(modality, preprocessed[modality])
    assert lower.dtype == np.float32
    error = np.linalg.norm(lower - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert 1e-6 < error.max() < 1e-2


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match=r"imagebind cannot compute with --precision=float8, only with float32 or"):
        ImageBind(precision="float8")


def test_a_device_without_memory_is_a_memory_error_and_other_errors_stay() -> None:
    for running in (exact_inference, lambda: inference("cpu", "bfloat16")):
        with pytest.raises(MemoryError, match="CUDA out of memory"), running():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        with pytest.raises(MemoryError), running():
            torch.empty(1 << 56, dtype=torch.uint8)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), running():
            torch.zeros(2, 3) @ torch.zeros(2, 3)


# --- weights


def test_unibind_with_the_same_parameters_is_imagebind(
    encoder: TinyImageBind, preprocessed: Preprocessed, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, TinyUniBind)
    other = TinyUniBind("cpu", weights=tmp_path)
    for modality, media in preprocessed.items():
        np.testing.assert_array_equal(other.embed(modality, media[:2]), encoder.embed(modality, media[:2]))
    assert sum("point" in name for name in unibind_state()) == 3
    assert other.weights_sha256() != encoder.weights_sha256()


def test_other_parameters_give_other_embeddings(
    encoder: TinyImageBind, preprocessed: Preprocessed, tmp_path: Path
) -> None:
    other = TinyImageBind("cpu", weights=write_checkpoint(tmp_path, seed=1))
    for modality, media in preprocessed.items():
        assert np.abs(other.embed(modality, media[:1]) - encoder.embed(modality, media[:1])).max() > 0.1
    assert other.weights_sha256() != encoder.weights_sha256()


def test_the_text_scale_is_the_checkpoints_and_at_most_100(preprocessed: Preprocessed, tmp_path: Path) -> None:
    for logit, norm in ((math.log(30), 30.0), (9.0, 100.0)):
        state = tiny_state()
        state["modality_postprocessors.text.1.log_logit_scale"] = torch.tensor(logit)
        torch.save(state, tmp_path / "scaled.pth")
        found = TinyImageBind("cpu", weights=tmp_path / "scaled.pth").embed("text", preprocessed["text"])
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), norm, rtol=1e-5)


def test_an_ordered_dict_and_half_precision_are_checkpoints_too(
    encoder: TinyImageBind, preprocessed: Preprocessed, tmp_path: Path
) -> None:
    halves = OrderedDict((name, value.half()) for name, value in tiny_state().items())
    torch.save(halves, tmp_path / "half.pth", _use_new_zipfile_serialization=False)
    found = TinyImageBind("cpu", weights=tmp_path / "half.pth").embed("vision", preprocessed["vision"])
    np.testing.assert_allclose(found, encoder.embed("vision", preprocessed["vision"]), atol=5e-3)


def test_a_checkpoint_of_another_network_names_keys(preprocessed: Preprocessed, tmp_path: Path) -> None:
    def embed(encoder: type[ImageBind], state: dict[str, torch.Tensor]) -> str:
        torch.save(state, tmp_path / "other.pth")
        with pytest.raises(WeightsError) as caught:
            encoder("cpu", weights=tmp_path / "other.pth").embed("text", preprocessed["text"])
        return str(caught.value)

    state = tiny_state()
    del state["modality_heads.text.proj.1.weight"]
    state["modality_heads.audio.2.weight"] = torch.zeros(3, 3)
    said = embed(TinyImageBind, state)
    assert "1 missing (modality_heads.text.proj.1.weight)" in said
    assert f"1 of another shape (modality_heads.audio.2.weight is [3, 3], not [{DIM}, 32])" in said
    assert "python extract_features.py weights --encoder=imagebind" in said
    assert f"{len(tiny_state())} missing" in embed(TinyUniBind, tiny_state())
    assert f"{len(unibind_state())} not expected" in embed(TinyImageBind, unibind_state())


def test_missing_weights_name_the_place_and_the_command(
    preprocessed: Preprocessed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = TinyImageBind("cpu")
    said = (
        r"weights/imagebind/imagebind_huge\.pth does not exist\. To get them, run `python extract_features\.py weights"
    )
    for ask in (encoder.weights_sha256, lambda: encoder.embed("text", preprocessed["text"])):
        with pytest.raises(WeightsError, match=said):
            ask()
    with pytest.raises(WeightsError, match=r"weights/unibind/unibind\.pt does not exist"):
        UniBind().weights_sha256()


def test_unibinds_weights_are_explained_step_by_step(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert extract_features.main(["weights", "--encoder=unibind", "--yes"]) == 1
    said = capsys.readouterr().err
    assert "drive.google.com/file/d/1Dgmj7ajdoT8hYHobJQfgIuB4CbVRoKUn" in said
    assert "Save it as weights/unibind/unibind.pt" in said


# --- processes


def test_a_copy_in_another_process_preprocesses_without_torch(encoder: TinyImageBind, tmp_path: Path) -> None:
    encoder.embed("text", [encoder.preprocess("text", "a cat")])
    (tmp_path / "encoder.pickle").write_bytes(pickle.dumps(encoder))
    lines = [
        "import pickle, sys",
        "import numpy as np",
        "from PIL import Image",
        "from feature_cache.datasets.base import Clip, DepthMap, Waveform",
        "encoder = pickle.load(open(sys.argv[1], 'rb'))",
        "image = Image.new('RGB', (300, 250), (9, 99, 199))",
        "sound = Waveform(np.ones(9000, np.float32), 8000)",
        "raws = dict(vision=image, tactile=image, thermal=image, video=Clip([image] * 3), audio=sound, text='a cat',",
        "            depth=DepthMap(np.ones((50, 60), np.float32)))",
        "arrays = {name: encoder.preprocess(name, raw) for name, raw in raws.items()}",
        "np.savez(sys.argv[2], **arrays)",
        "print(sorted(arrays) == sorted(encoder.modalities), sys.modules.keys() & {'torch', 'jax', 'imagebind'})",
    ]
    command = [sys.executable, "-c", "\n".join(lines), str(tmp_path / "encoder.pickle"), str(tmp_path / "arrays.npz")]
    root = Path(extract_features.__file__).parent
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, timeout=120)
    assert done.stdout == "True set()\n"
    with np.load(tmp_path / "arrays.npz") as arrays:
        here = encoder.preprocess("vision", Image.new("RGB", (300, 250), (9, 99, 199)))
        np.testing.assert_array_equal(arrays["vision"], here)
    assert pickle.loads(pickle.dumps(encoder)).embed("text", [arrays_text()]).shape == (1, DIM)


def arrays_text() -> np.ndarray:
    return TinyImageBind("cpu").preprocess("text", "a cat")


def test_construction_imports_neither_torch_nor_scipy() -> None:
    lines = [
        "import sys",
        "from feature_cache.encoders.imagebind import ImageBind",
        "from feature_cache.encoders.unibind import UniBind",
        "for kind in (ImageBind, UniBind): kind(), kind.name, kind.preprocessing_version, kind.checkpoint",
        "print(sys.modules.keys() & {'torch', 'scipy', 'PIL', 'av', 'tokenizers', 'soundfile', 'imagebind'})",
    ]
    root = Path(extract_features.__file__).parent
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout == "set()\n"


# --- upstream's code


def test_upstreams_code_is_imported_without_a_warning_and_leaves_no_stand_in(tmp_path: Path) -> None:
    lines = [
        "import sys",
        "from tests.encoders.tiny_binders import ARCHITECTURE",
        "from feature_cache.encoders.imagebind_code import build",
        "import torch, iopath",
        "sys.pycache_prefix = sys.argv[1]  # the code is compiled, and what the compiler thinks of it is heard",
        "network, again = (build(ARCHITECTURE, 'cpu') for _ in range(2))",
        "print(sys.modules.keys() & {'imagebind', 'timm', 'timm.layers', 'torchvision', 'torchaudio'})",
        "print({parameter.device.type for parameter in network.parameters()}, network.training)",
        "print(sys.modules['imagebind.models.imagebind_model'].__cached__.startswith(sys.argv[1]))",
    ]
    root = Path(extract_features.__file__).parent
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, timeout=120)
    assert done.stdout == "set()\n{'cpu'} False\nTrue\n"
    assert done.stderr == ""


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagebind_code, "_MODEL", PackageFile("imagebind-unofficial", "imagebind/models/no.py"))
    with pytest.raises(WeightsError, match=r"has no file imagebind/models/no\.py.*imagebind-unofficial==0\.1\.1"):
        build(HUGE)


def test_the_published_network_has_the_published_size() -> None:
    network = build(HUGE)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_200_781_057
    state = network.state_dict()
    # What a float32 checkpoint of exactly these tensors weighs, and the published file's names and headers beside it.
    tensors = sum(value.numel() * value.element_size() for value in state.values())
    assert 0 < ImageBind.checkpoint.size - tensors < 1_000_000
    assert list(state["modality_preprocessors.vision.pos_embedding_helper.pos_embed"].shape) == [1, 257, 1280]
    assert list(state["modality_heads.vision.2.weight"].shape) == [1024, 1280]


@pytest.mark.slow
def test_imagebind_huge_embeds_every_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random parameters: 1.2 billion, 5.6 GB of memory, one to two minutes on one core, most of it the video."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build(HUGE, "cpu").state_dict()
    (tmp_path / "imagebind_huge.pth").write_bytes(b"its content is given below")
    monkeypatch.setattr(imagebind, "read_state_dict", lambda path, remedy: state)
    encoder = ImageBind("cpu", weights=tmp_path)
    for modality, media in MEDIA.items():
        found = encoder.embed(modality, [encoder.preprocess(modality, media[0])])
        assert found.shape == (1, 1024)
        assert 0.9 * LARGEST[modality] < np.linalg.norm(found) < 1.0001 * LARGEST[modality]
