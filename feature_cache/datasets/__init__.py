"""The datasets by name. A new one is one new file and one line here."""

REGISTRY: dict[str, str] = {
    "emoji": "feature_cache.datasets.emoji:EmojiPictures",
    "emoji_styles": "feature_cache.datasets.emoji_styles:EmojiStyles",
    "emoji_clips": "feature_cache.datasets.emoji_clips:EmojiClips",
    "instruments": "feature_cache.datasets.instruments:Instruments",
    "sounds": "feature_cache.datasets.sounds:Sounds",
    "furniture": "feature_cache.datasets.furniture:Furniture",
    "exercises": "feature_cache.datasets.exercises:Exercises",
    "spoken": "feature_cache.datasets.spoken:Spoken",
    "folder": "feature_cache.datasets.folder:Folder",
}
POCKET = ("emoji", "emoji_styles", "emoji_clips", "instruments", "sounds", "furniture", "exercises", "spoken")
GROUPS = {"pocket": POCKET}
"""Names that stand for several datasets on the command line."""
