"""Groups of words that mean the same, as Visual Genome lists them."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.datasets.annotations import AnnotationError


class Aliases:
    """Maps a word to the first of its group. A word in several groups belongs to the first that lists it."""

    def __init__(self, groups: dict[str, str]) -> None:
        self._canonical = groups

    @classmethod
    def read(cls, path: Path | None) -> Aliases:
        """Read lines of comma-separated equivalents; no file, no aliases. Raises `AnnotationError`."""
        canonical: dict[str, str] = {}
        if path is None:
            return cls(canonical)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise AnnotationError(f"{path}: can't be read as text ({error}); expected comma-separated lines") from error
        for line in lines:
            words = [" ".join(word.lower().split()) for word in line.split(",")]
            for word in words:
                canonical.setdefault(word, words[0])
        return cls(canonical)

    def canonical(self, word: str) -> str:
        """The word that stands for `word`'s group, or `word` itself."""
        return self._canonical.get(word, word)
