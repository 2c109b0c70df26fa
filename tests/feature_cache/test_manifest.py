import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_cache import CacheError, ClassLabel, Manifest, MediaSource, ModalitySpec
from feature_cache.manifest import FILE_NAME, LATER_FIELDS, FileRecord, Shard, Split, record_of, shard_stem
from feature_cache.schema import SchemaError, decode

RECORD = record_of(b"features")
MANIFEST = Manifest(
    encoder="tinybind",
    weights_sha256="ab" * 32,
    preprocessing_version="3",
    dataset="tones",
    dataset_version="2",
    dtype="float16",
    synthetic=False,
    sources=(MediaSource("tones", "1.0", "MIT", "https://example.org/tones"),),
    modalities={"vision": ModalitySpec(8, 4.5), "text": ModalitySpec(4)},
    classes=(ClassLabel("café", "a café"), ClassLabel("bar", "a bar")),
    splits={"train": Split(5, (Shard("train-00000", 3, RECORD, RECORD), Shard("train-00001", 2, RECORD, RECORD)))},
    class_file=RECORD,
    failures_file=None,
)

texts = st.text(st.characters(codec="utf-8"))
counts = st.integers(0, 10**12)
records = st.builds(FileRecord, counts, texts)
specs = st.builds(ModalitySpec, st.integers(1, 4096), st.floats(1e-30, 1e30))


@st.composite
def splits(draw: st.DrawFn, name: str) -> Split:
    rows = draw(st.lists(counts, max_size=3))
    shards = tuple(Shard(shard_stem(name, i), n, draw(records), draw(records)) for i, n in enumerate(rows))
    return Split(sum(rows), shards)


manifests = st.builds(
    Manifest,
    encoder=texts,
    weights_sha256=texts,
    preprocessing_version=texts,
    dataset=texts,
    dataset_version=texts,
    dtype=st.sampled_from(["float16", "float32"]),
    synthetic=st.booleans(),
    sources=st.lists(st.builds(MediaSource, texts, texts, texts, texts), max_size=2).map(tuple),
    modalities=st.tuples(specs, specs).map(lambda pair: dict(zip(("vision", "text"), pair, strict=True))),
    classes=st.lists(st.builds(ClassLabel, texts, texts), max_size=3).map(tuple),
    splits=st.fixed_dictionaries({"train": splits("train"), "test": splits("test")}),
    class_file=st.none() | records,
    failures_file=st.none() | records,
    precision=st.sampled_from(["float32", "bfloat16"]),
    normalized=st.booleans(),
)


def fields_without(name: str) -> dict[str, Any]:
    fields = json.loads(MANIFEST.to_json())
    del fields[name]
    return fields


@given(manifests)
def test_json_and_back_gives_the_same_manifest(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_manifest_from_before_precision_and_normalized_reads_as_float32_and_raw_with_its_old_checksum() -> None:
    fields = json.loads(MANIFEST.to_json())
    assert not {"precision", "normalized"} & fields.keys()
    assert Manifest.from_json(json.dumps(fields)).checksum == fields["checksum"]
    assert dataclasses.replace(MANIFEST, precision="float16").checksum != fields["checksum"]


def test_json_has_the_documented_layout() -> None:
    fields = json.loads(MANIFEST.to_json())
    assert fields["format_version"] == 2
    assert fields["modalities"] == {"vision": {"dim": 8, "scale": 4.5}, "text": {"dim": 4, "scale": 1.0}}
    assert fields["classes"][0] == {"name": "café", "text": "a café"}
    assert fields["splits"]["train"]["count"] == 5
    assert fields["splits"]["train"]["shards"][1] == {
        "stem": "train-00001",
        "rows": 2,
        "features": {"bytes": 8, "sha256": "5b8a8b56dada6ce7567442b4935298df7de2badd7becdcf4915a59487338ca4b"},
        "table": dataclasses.asdict(RECORD),
    }


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Manifest) if f.name not in LATER_FIELDS])
def test_missing_field_is_named(name: str) -> None:
    with pytest.raises(SchemaError, match=f"field '{name}' is missing"):
        Manifest.from_json(json.dumps(fields_without(name)))


@pytest.mark.parametrize("version", [None, 0, 1, "2"])
def test_other_format_version_is_refused_with_both_versions(version: Any) -> None:
    text = json.dumps({**json.loads(MANIFEST.to_json()), "format_version": version})
    with pytest.raises(SchemaError, match=f"format_version should be 2, but is {version!r}"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": 3}, "field 'encoder' should be a str, but is the int 3"),
        ({"synthetic": 1}, "field 'synthetic' should be a bool"),
        ({"dtype": "float64"}, "dtype should be one of float16, float32, but is 'float64'"),
        ({"modalities": {"vision": {"dim": 0, "scale": 1.0}}}, "modalities.vision: dim should be at least 1"),
        ({"modalities": {"vision": {"dim": True, "scale": 1.0}}}, "'modalities.vision.dim' should be a int"),
        ({"modalities": {"vision": {"dim": 3}}}, "field 'modalities.vision.scale' is missing"),
        ({"modalities": {"smell": {"dim": 3, "scale": 1.0}}}, "modality 'smell' is none of vision, text"),
        ({"modalities": {n: {"dim": 3, "scale": 1.0} for n in ("text", "vision")}}, "storage order: vision, text"),
        ({"splits": {"dev": {"count": 0, "shards": []}}}, "split 'dev' is none of train, validation, test"),
        ({"splits": {"test": {"count": 1, "shards": []}}}, "count is 1, but the shards have 0 rows"),
        ({"sources": [{"name": "x", "version": "1", "license": "MIT"}]}, r"field 'sources\[0\].url' is missing"),
        ({"colour": "red"}, "field 'colour' is unknown"),
    ],
)
def test_field_that_makes_no_sense_is_named_with_its_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Manifest.from_json(json.dumps({**json.loads(MANIFEST.to_json()), **change}))


def test_shard_that_would_lie_outside_of_the_cache_is_refused() -> None:
    text = MANIFEST.to_json().replace("train-00001", "../../../train")
    with pytest.raises(SchemaError, match="should be called 'train-00001'"):
        Manifest.from_json(text)


def test_change_by_hand_is_noticed() -> None:
    with pytest.raises(SchemaError, match="checksum"):
        Manifest.from_json(MANIFEST.to_json().replace('"MIT"', '"GPL"'))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "[" * 100_000, "\x00", "9" * 5000])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(SchemaError):
        Manifest.from_json(text)


def test_every_shorter_text_is_refused() -> None:
    text = MANIFEST.to_json()
    for length in range(len(text)):
        with pytest.raises(SchemaError):
            Manifest.from_json(text[:length])


def test_load_names_the_file_and_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "tinybind" / "tones"
    folder.mkdir(parents=True)
    (folder / FILE_NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(CacheError, match=r"manifest\.json: .*--encoder=tinybind --dataset=tones") as error:
        Manifest.load(folder)
    assert "\n" not in str(error.value)


def test_optional_and_nested_types_are_decoded() -> None:
    assert decode(int | None, None) is None
    assert decode(dict[str, tuple[int, ...]], {"a": [1], "b": []}) == {"a": (1,), "b": ()}
    with pytest.raises(SchemaError, match=r"field 'a\[1\]' should be a int"):
        decode(dict[str, tuple[int, ...]], {"a": [1, "2"]})
