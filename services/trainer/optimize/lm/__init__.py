"""Language models made smaller, one file a technique, and the verdict on what came of it."""

from pathlib import Path


def is_one(folder: Path) -> bool:
    """Whether a model version is a language model in Hugging Face's layout."""
    return (folder / "config.json").is_file() and not any(folder.rglob("*.onnx"))
