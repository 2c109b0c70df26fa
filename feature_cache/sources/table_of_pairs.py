"""What `describe` says of the dataset "folder", which is anyone's own data, listed in a table."""

FOLDER = "folder"


def describe_folder() -> str:
    """How the table has to look."""
    return (
        "folder: your own data, without any code\n"
        "  A table, .csv or .parquet, with a row per item. A column named after a modality (vision, audio, video, "
        "depth, thermal, tactile …) has the path of a file, the column text the text itself. Besides, there may be id, "
        "label, class_text and split (train, validation or test).\n"
        "  python extract_features.py --encoder=ENCODER --dataset=folder --pairs=pairs.csv"
    )
