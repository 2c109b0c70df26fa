import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from feature_cache.encoders.weights.state_dicts import load_strictly, read_state_dict
from feature_cache.errors import WeightsError

REMEDY = "Fetch it again."


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def write(path: Path, state: dict) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.suffix != ".legacy")
    return path


NAMES = ["weights.pth", "weights.legacy", "weights.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_tensors_that_were_saved(tmp_path: Path, name: str) -> None:
    saved = network().state_dict()
    found = read_state_dict(write(tmp_path / name, saved), REMEDY)
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[key], saved[key]) for key in saved)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_file_that_was_cut_off_is_named_with_the_remedy(tmp_path: Path, name: str, share: float) -> None:
    path = write(tmp_path / name, {"a": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(WeightsError, match=rf"{path.name} is damaged.*Fetch it again\.$") as caught:
        read_state_dict(path, REMEDY)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"<!DOCTYPE html>404" * 50, b"PK\x03\x04" + bytes(500), b"\x89PNG" * 40])
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name} is damaged.*Fetch it again"):
        read_state_dict(tmp_path / name, REMEDY)


def test_an_absent_an_empty_file_and_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").write_bytes(b"")
    for name, what in (("absent.pth", "not a file"), ("", "not a file"), ("empty.pth", "is empty")):
        with pytest.raises(WeightsError, match=f"{what}. Fetch it again"):
            read_state_dict(tmp_path / name, REMEDY)


class Code:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, new: bool) -> None:
    path, marker = tmp_path / "weights.pth", tmp_path / "it_ran"
    torch.save({"a": torch.zeros(3), "b": Code(marker)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match=r"asks to run code, which is not done\. Fetch it again\.$"):
        read_state_dict(path, REMEDY)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_bare_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "weights.pth", tmp_path / "it_ran"
    path.write_bytes(pickle.dumps(Code(marker)))
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        read_state_dict(path, REMEDY)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([torch.zeros(2)], "it is a list"),
        ({"model": {"a": torch.zeros(2)}}, "its entry 'model' is a dict"),
        ({"a": torch.zeros(2), "epoch": 3}, "its entry 'epoch' is a int"),
    ],
)
def test_what_is_not_tensors_by_name_is_described(tmp_path: Path, content: object, what: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=f"{what}. Fetch it again"):
        read_state_dict(tmp_path / "weights.pth", REMEDY)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_network_gets_the_parameters_and_buffers(device: str) -> None:
    source = network().eval()
    source[1].running_mean += 3
    with torch.device(device):
        target = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    load_strictly(target, source.state_dict(), Path("weights.pth"), REMEDY)
    inputs = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(target(inputs), source(inputs))


def test_half_precision_checkpoints_become_float32_and_counters_stay_integers() -> None:
    state = network().half().state_dict()
    target = network()
    load_strictly(target, state, Path("weights.pth"), REMEDY)
    dtypes = {name: value.dtype for name, value in target.state_dict().items()}
    assert dtypes.pop("1.num_batches_tracked") == torch.int64
    assert set(dtypes.values()) == {torch.float32}


def test_a_checkpoint_that_does_not_fit_names_keys_and_counts_them() -> None:
    state = network().state_dict()
    state["0.weight"] = torch.zeros(5, 3)
    for name in ("0.bias", "2.bias", "1.weight", "1.bias"):
        del state[name]
    state["more"] = torch.zeros(1)
    before = network()
    with pytest.raises(WeightsError) as caught:
        load_strictly(before, state, Path("some/weights.pth"), REMEDY)
    said = str(caught.value)
    assert said.startswith("some/weights.pth does not fit Sequential, which has 9 parameters and buffers: ")
    assert "4 missing (0.bias, 1.weight, 1.bias, …)" in said
    assert "1 not expected (more)" in said
    assert "1 of another shape (0.weight is [5, 3], not [4, 3])" in said
    assert said.endswith(REMEDY)
    assert torch.equal(before[0].weight, network()[0].weight)
