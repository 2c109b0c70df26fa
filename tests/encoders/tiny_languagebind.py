"""LanguageBind with its real architecture and tiny towers of random weights, in folders like those of the hub."""

import json
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from feature_cache.encoders.front_ends.clip_tokens import END, START, _letters
from feature_cache.encoders.languagebind import LanguageBind
from feature_cache.encoders.languagebind_snapshot import FOLDERS, SIZE, Snapshot
from feature_cache.manifest import ModalitySpec

if TYPE_CHECKING:
    import torch

DIM = 24
MERGES = ["t h", "th e</w>", "a n", "i n", "in g</w>", "c a", "ca t</w>", "d o", "do g</w>"]
_SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_PATCH = 56


class TinyLanguageBind(LanguageBind):
    """LanguageBind whose class knows the tiny towers' width; the snapshot is what makes them tiny."""

    modalities = MappingProxyType({m: ModalitySpec(DIM, spec.scale) for m, spec in LanguageBind.modalities.items()})


def write_tiny_languagebind(folder: Path, seed: int = 0) -> Path:
    """Writes five checkpoints below `folder`, which is what --weights takes, and returns it.

    As in the published ones, the thermal and the depth tower have low-rank adapters, the video tower sees time, and the
    audio tower has spectra that are not square. They are saved as PEFT and transformers did in 2023. The thermal one is
    a safetensors file.
    """
    import torch
    from safetensors.torch import save_file

    for number, name in enumerate(FOLDERS):
        snapshot = Snapshot(folder / name)
        snapshot.folder.mkdir(parents=True)
        _write_tokenizer(snapshot.folder)
        (snapshot.folder / "config.json").write_text(json.dumps(tiny_config(snapshot.kind), indent=2))
        state = old_names(random_state(snapshot, 100 * seed + number))
        if snapshot.kind == "thermal":
            save_file(state, snapshot.folder / "model.safetensors")
        else:
            torch.save(state, snapshot.folder / "pytorch_model.bin")
    return folder


def tiny_config(kind: str) -> dict:
    """A config.json with the published towers' keys."""
    text = {**_SIZES, "vocab_size": len(vocabulary()), "max_position_embeddings": 77, "hidden_act": "gelu"}
    vision = {**_SIZES, "image_size": SIZE, "patch_size": _PATCH, "hidden_act": "gelu", "lora_r": 0, "lora_alpha": 16}
    vision |= {
        "image": {},
        "audio": {
            "num_mel_bins": 112, "target_length": 224, "audio_mean": -4.2677393, "audio_std": 4.5689974,
            "audio_sample_rate": 16000,
        },
        "thermal": {"lora_r": 2},
        "depth": {"lora_r": 3, "max_depth": 10},
        "video": {"add_time_attn": True, "num_frames": 8},
    }[kind]  # fmt: skip
    name = f"LanguageBind{kind.capitalize()}"
    return {
        "architectures": [name], "model_type": name, "projection_dim": DIM, "logit_scale_init_value": 2.6592,
        "text_config": text, "vision_config": vision, "torch_dtype": "float32", "transformers_version": "4.30.0",
    }  # fmt: skip


def random_state(snapshot: Snapshot, seed: int) -> "dict[str, torch.Tensor]":
    """Every parameter of the snapshot's model at random, large enough that each matters, under today's names."""
    import torch

    from feature_cache.encoders.languagebind_towers import architecture

    model_class, config_class = architecture(snapshot.kind)
    config = config_class.from_dict(snapshot.config)
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "eager"
    generator = np.random.default_rng(seed)
    state = model_class(config).state_dict()
    for name, value in state.items():
        if name == "logit_scale":
            state[name] = torch.tensor(generator.uniform(2, 4)).float()
        elif value.is_floating_point():
            spread = 1 / np.sqrt(max(value[0].numel(), 8)) if value.ndim > 1 else 0.1
            spread *= 0.2 if ".lora_B." in name else 1  # what is trained in addition is less than what was there
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            state[name] = torch.from_numpy(generator.normal(centre, spread, value.shape)).float()
    return state


def old_names(state: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """As PEFT 0.3 and transformers 4.30 named the parameters, which saved the text's positions as well."""
    import torch

    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    return positions | {name.replace(".base_layer.", "."): value.contiguous() for name, value in state.items()}


def vocabulary() -> list[str]:
    """Tokens by id: bytes, bytes that end a word, what merges make, start and end."""
    merged = ["".join(merge.split()) for merge in MERGES]
    return [*_letters(), *(letter + "</w>" for letter in _letters()), *merged, START, END]


def _write_tokenizer(folder: Path) -> None:
    ids = {token: number for number, token in enumerate(vocabulary())}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n", encoding="utf-8")
