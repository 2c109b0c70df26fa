"""LanguageBind's towers against upstream's own loading, and against transformers' CLIP with the same weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

from feature_cache.encoders import languagebind_towers
from feature_cache.encoders.languagebind_snapshot import FOLDERS, Snapshot
from feature_cache.encoders.languagebind_towers import MediaTower, TextTower, architecture, load
from feature_cache.errors import WeightsError
from tests.encoders.tiny_languagebind import random_state, vocabulary

END = len(vocabulary()) - 1


def state_of(snapshot: Snapshot) -> dict[str, torch.Tensor]:
    if snapshot.weights.suffix == ".safetensors":
        return load_file(snapshot.weights)
    return torch.load(snapshot.weights, weights_only=True)


def save(state: dict[str, torch.Tensor], snapshot: Snapshot) -> None:
    if snapshot.weights.suffix == ".safetensors":
        save_file(state, snapshot.weights)
    else:
        torch.save(state, snapshot.weights)


def media(kind: str, count: int = 2) -> torch.Tensor:
    shape = {"audio": (3, 112, 224), "video": (3, 8, 224, 224)}.get(kind, (3, 224, 224))
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(5))


def tokens(count: int = 3) -> torch.Tensor:
    """Texts of several lengths, with start and end."""
    ids = torch.randint(0, END - 1, (count, 77), generator=torch.Generator().manual_seed(6))
    ids[:, 0] = END - 1
    for row, length in enumerate((2, 77, 9)[:count]):
        ids[row, length - 1 :] = END
    return ids


@pytest.fixture
def copied(languagebind_weights: Path, tmp_path: Path) -> Path:
    return shutil.copytree(languagebind_weights, tmp_path / "copied")


@pytest.mark.parametrize("name", FOLDERS)
def test_towers_agree_with_upstreams_own_loading_of_renamed_weights(
    name: str, languagebind_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = Snapshot(languagebind_weights / name)
    model_class, config_class = architecture(snapshot.kind)
    config = config_class.from_pretrained(snapshot.folder)
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "eager"
    new_names = list(random_state(snapshot, 0))
    values = state_of(snapshot)
    renamed = {name: values[name.replace(".base_layer.", ".")].contiguous() for name in new_names}
    assert ("base_layer" in "".join(new_names)) == (snapshot.kind in ("thermal", "depth"))
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    upstream = model_class.from_pretrained(tmp_path, config=config).eval()
    if snapshot.kind == "audio":
        monkeypatch.setattr(CLIPVisionEmbeddings, "forward", embeddings_of_transformers_4_40)
    with torch.no_grad():
        # What upstream's `LanguageBind.forward` does with them; its package cannot be imported as a whole.
        pooled = upstream.vision_model(pixel_values=media(snapshot.kind))[1]
        projected = upstream.visual_projection(pooled)
        expected = projected / projected.norm(p=2, dim=-1, keepdim=True) * upstream.logit_scale.exp()
        monkeypatch.undo()
        actual = MediaTower(snapshot)(media(snapshot.kind))
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)
        mask = (tokens().argmax(1, keepdim=True) >= torch.arange(77)).long()
        words = upstream.text_projection(upstream.text_model(tokens(), mask)[1])
        torch.testing.assert_close(
            TextTower(snapshot)(tokens()), words / words.norm(p=2, dim=-1, keepdim=True), atol=1e-6, rtol=1e-6
        )
    assert actual.norm(dim=1).tolist() == pytest.approx([float(values["logit_scale"].exp())] * 2, rel=1e-5)
    assert (actual[0] - actual[1]).abs().max() > 0.1


def embeddings_of_transformers_4_40(self: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """What it was before pictures had to be squares."""
    patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
    first = self.class_embedding.expand(pixel_values.shape[0], 1, -1)
    return torch.cat([first, patches], dim=1) + self.position_embedding(self.position_ids)


@pytest.mark.parametrize("name", ["LanguageBind_Image", "LanguageBind_Thermal", "LanguageBind_Depth"])
def test_picture_towers_are_clip_with_the_adapters_added_to_the_weights(name: str, languagebind_weights: Path) -> None:
    snapshot = Snapshot(languagebind_weights / name)
    state, vision = state_of(snapshot), snapshot.config["vision_config"]
    merged = {key: value for key, value in state.items() if key.startswith(("vision_model", "visual_projection"))}
    rank = vision["lora_r"]
    adapters = sorted(key for key in merged if ".lora_A." in key)
    assert len(adapters) == (8 if rank else 0)
    for key in adapters:
        down, up = (merged.pop(key.replace("lora_A", side)).double().numpy() for side in ("lora_A", "lora_B"))
        weight = key.replace("lora_A.default.", "")
        change = vision["lora_alpha"] / rank * (up @ down)
        assert np.abs(change).max() > 0.1
        merged[weight] = torch.from_numpy(merged[weight].double().numpy() + change).float()
    merged = {key.replace("encoder.base_model.model.", "encoder."): value for key, value in merged.items()}
    merged.pop("vision_model.embeddings.position_ids", None)
    clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision, projection_dim=snapshot.dim)).eval()
    clip.load_state_dict(merged, strict=True)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(clip(media(snapshot.kind)).image_embeds)
        actual = MediaTower(snapshot)(media(snapshot.kind))
    torch.testing.assert_close(torch.nn.functional.normalize(actual), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FOLDERS)
def test_text_towers_are_clips(name: str, languagebind_weights: Path) -> None:
    snapshot = Snapshot(languagebind_weights / name)
    config = CLIPTextConfig(**snapshot.config["text_config"], projection_dim=snapshot.dim, eos_token_id=END)
    clip = CLIPTextModelWithProjection(config).eval()
    state = {key: value for key, value in state_of(snapshot).items() if key.startswith("text_")}
    state.pop("text_model.embeddings.position_ids")
    clip.load_state_dict(state, strict=True)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(clip(input_ids=tokens()).text_embeds)
        torch.testing.assert_close(TextTower(snapshot)(tokens()), expected, atol=1e-5, rtol=0)


def test_a_token_changes_its_own_and_later_positions_only(languagebind_weights: Path) -> None:
    tower = TextTower(Snapshot(languagebind_weights / "LanguageBind_Depth"))
    before = tokens(2)[1:]
    after = before.clone()
    after[0, 40] = (after[0, 40] + 1) % (END - 1)
    with torch.no_grad():
        hidden = [tower.transformer(input_ids=ids).last_hidden_state[0] for ids in (before, after)]
    changed = (hidden[0] - hidden[1]).abs().amax(1)
    assert (changed[:40] == 0).all()
    assert (changed[40:] > 1e-4).all()


def test_what_follows_the_end_of_a_text_does_not_matter(languagebind_weights: Path) -> None:
    tower = TextTower(Snapshot(languagebind_weights / "LanguageBind_Depth"))
    padded, other = tokens()[2:], tokens()[2:].clone()
    other[0, 9:] = 3
    with torch.no_grad():
        torch.testing.assert_close(tower(padded), tower(other), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_parameter_matters_and_none_is_left_at_random(name: str, copied: Path) -> None:
    snapshot = Snapshot(copied / name)
    with torch.no_grad():
        first, again = (MediaTower(snapshot)(media(snapshot.kind, 1)) for _ in range(2))
    assert torch.equal(first, again)
    state = state_of(snapshot)
    for key in sorted(state):
        if key.startswith("text_") or key.endswith(("position_ids", "k_proj.bias")) or "layers.1" in key:
            continue
        # (A key's bias adds the same to all scores of a query, which softmax does not see.)
        save({**state, key: state[key] * 1.5 + 0.01 * torch.randn_like(state[key])}, snapshot)
        with torch.no_grad():
            assert not torch.equal(MediaTower(snapshot)(media(snapshot.kind, 1)), first), key


def test_a_checkpoint_that_does_not_fit_says_which_keys(copied: Path) -> None:
    snapshot = Snapshot(copied / "LanguageBind_Thermal")
    state = state_of(snapshot)
    q = "vision_model.encoder.base_model.model.layers.0.self_attn.q_proj"
    save({key: value for key, value in state.items() if key != f"{q}.weight"}, snapshot)
    with pytest.raises(WeightsError, match=rf"1 missing \({q}\.base_layer\.weight\)"):
        load(snapshot)
    save({key: value for key, value in state.items() if "lora_B" not in key}, snapshot)
    with pytest.raises(WeightsError, match=r"8 missing .*lora_B\.default\.weight"):
        load(snapshot)
    save(state | {"head.weight": torch.zeros(2)}, snapshot)
    with pytest.raises(WeightsError, match=r"1 not expected \(head\.weight\).*weights --encoder=languagebind"):
        load(snapshot)
    save(state | {"visual_projection.weight": torch.zeros(24, 63)}, snapshot)
    with pytest.raises(
        WeightsError, match=r"1 of another shape \(visual_projection\.weight is \[24, 63\], not \[24, 64\]"
    ):
        load(snapshot)


def test_a_checkpoint_under_todays_names_is_the_same(copied: Path) -> None:
    snapshot = Snapshot(copied / "LanguageBind_Depth")
    with torch.no_grad():
        old = MediaTower(snapshot)(media("depth"))
        values = state_of(snapshot)
        save({name: values[name.replace(".base_layer.", ".")] for name in random_state(snapshot, 0)}, snapshot)
        assert any("base_layer" in name for name in state_of(snapshot))
        assert torch.equal(MediaTower(snapshot)(media("depth")), old)


@pytest.mark.parametrize("name", ["LanguageBind_Audio_FT", "LanguageBind_Image"])
def test_the_configuration_stays_as_it_is_and_a_changed_one_is_understood(name: str, copied: Path) -> None:
    snapshot = Snapshot(copied / name)
    path = snapshot.folder / "config.json"
    text, before = path.read_bytes(), json.loads(path.read_bytes())
    first = MediaTower(snapshot)(media(snapshot.kind))
    assert (path.read_bytes(), snapshot.config) == (text, before)
    assert snapshot.config["vision_config"]["image_size"] == 224
    saved_by_upstream = json.loads(text)
    saved_by_upstream["vision_config"]["image_size"] = [112, 224] if "Audio" in name else [224, 224]
    path.write_text(json.dumps(saved_by_upstream))
    assert torch.equal(MediaTower(Snapshot(snapshot.folder))(media(snapshot.kind)), first)


def test_newer_transformers_are_refused(languagebind_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languagebind_towers.importlib.metadata, "version", lambda name: "5.0.0rc1")
    with pytest.raises(WeightsError, match=r"transformers 5\.0\.0rc1 .*causal mask.*'transformers>=4\.57,<5'"):
        load(Snapshot(languagebind_weights / "LanguageBind_Image"))
