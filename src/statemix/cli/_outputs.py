"""Where a command writes its file, looked at before what takes time."""

from __future__ import annotations

from pathlib import Path


def check_output(flag: str, path: Path | None) -> None:
    """Raise OSError unless a file can be written at ``path``; what stands there stays until then."""
    if path is None:
        return
    new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a"):
            pass
    except OSError as error:
        raise OSError(
            f"{flag} {path}: it cannot be written ({error.strerror}); choose another file"
        ) from None
    if new:
        path.unlink()
