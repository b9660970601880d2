"""Lines in files of bounded size and number: the newest are kept, the oldest are dropped."""

from pathlib import Path
from typing import IO, Self


class FileRing:
    """Appends lines to `<folder>/<number>.jsonl`; use as a context manager."""

    def __init__(self, folder: Path, *, file_bytes: int = 16 << 20, files: int = 8) -> None:
        self._folder = folder
        self._file_bytes = file_bytes
        self._files = files
        self._file: IO[bytes] | None = None

    def __repr__(self) -> str:
        return f"<FileRing {self._folder}, {len(list_files(self._folder))} of {self._files} files>"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        existing = list_files(self._folder)
        self._open(_number(existing[-1]) if existing else 1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, line: str) -> None:
        """Writes the line through to the file, so that readers see it at once."""
        if self._file is None:
            raise ValueError("the ring is not open")
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        if self._file.tell() >= self._file_bytes:
            self._file.close()
            self._open(_number(Path(self._file.name)) + 1)

    def _open(self, number: int) -> None:
        self._file = (self._folder / f"{number:06d}.jsonl").open("ab")
        for old in list_files(self._folder)[: -self._files]:
            old.unlink()


def list_files(folder: Path) -> list[Path]:
    """The ring's files, the oldest first."""
    return sorted(folder.glob("*.jsonl"), key=_number)


def _number(path: Path) -> int:
    return int(path.stem) if path.stem.isdigit() else 0
