"""Which reader a file goes to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from normprobe.errors import DataError
from normprobe.loading.inputs.sources import Images, Source
from normprobe.loading.inputs.tensor_files import read_npy, read_npz, read_safetensors
from normprobe.loading.inputs.text_files import read_csv, read_jsonl, read_parquet, read_txt

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_TABLES: dict[str, Callable[[Path, str | None, int | None], Source]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}
_PLAIN: dict[str, Callable[[Path, int | None], Source]] = {
    ".txt": read_txt,
    ".npy": read_npy,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
}
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"}
_FORMS = (
    ".txt, .jsonl, .csv, .parquet, a folder of images, .npy, .npz, .safetensors "
    "or module.py:callable that yields batches"
)


def read_source(path: Path, column: str | None, limit: int | None) -> Source:
    """Read a file or a folder of images, in its own order.

    Args:
        path: The file or folder.
        column: Which column of a table holds the text.
        limit: Stop after so many texts, images or rows; None reads all.

    Raises:
        DataError: It is missing, empty, damaged, or of a form that is not read.
    """
    if path.is_dir():
        return _folder(path, column, limit)
    require(path)
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise DataError(
            f"{path} is a pickle file, and loading one runs whatever code it holds; save the tensors as "
            ".safetensors, .npy or .npz, or give module.py:callable that yields batches"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    try:
        return _file(path, suffix, column, limit)
    except OSError as cause:
        raise DataError(f"{path} cannot be read: {cause.strerror or cause}") from cause


def require(path: Path) -> None:
    """Refuse a path where there is nothing.

    Raises:
        DataError: There is no such file or folder.
    """
    if not path.exists():
        raise DataError(f"--data {path} does not exist; give {_FORMS}")


def _file(path: Path, suffix: str, column: str | None, limit: int | None) -> Source:
    if suffix in _TABLES:
        return _TABLES[suffix](path, column, limit)
    if column is not None:
        raise DataError(f"--column {column} goes with .csv, .jsonl or .parquet; {path.name} has no columns")
    if suffix in _PLAIN:
        return _PLAIN[suffix](path, limit)
    if suffix in IMAGE_SUFFIXES:
        return Images(path.name, (path,))
    raise DataError(f"{path} has the ending {suffix!r}, which is not read; give {_FORMS}")


def _folder(path: Path, column: str | None, limit: int | None) -> Images:
    if column is not None:
        raise DataError(f"--column {column} goes with .csv, .jsonl or .parquet; {path} is a folder")
    found = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    )
    if not found:
        raise DataError(
            f"{path} is a folder without images ({', '.join(sorted(IMAGE_SUFFIXES))}); give {_FORMS}"
        )
    return Images(f"{path.resolve().name}/", tuple(found[:limit]))
