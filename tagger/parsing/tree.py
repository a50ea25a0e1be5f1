"""Reads a caption's dependency tree: its nouns, its prepositional phrases, and who performs a verb."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tagger.categories.names import ANIMATE, LEXICAL_PHRASES
from tagger.english.lemmas import noun_lemma, phrase_lemma, verb_lemma
from tagger.english.predicates import canonical
from tagger.english.words import GARMENTS, MATERIALS, NUMBERS, SEVERAL, names_more, words

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

# "a group of people" is people, and "a herd of sheep" several sheep.
_GATHERINGS = words(
    "group bunch herd flock pack crowd lot variety assortment collection row line pile stack team dozen hundred "
    "cluster clump bouquet bundle string series array mass heap mound"
)
# "a pile of snow" is one thing, and "a pile of luggage" several.
_SUBSTANCES = MATERIALS | words("snow sand grass hay mud soil water ice smoke hair rice cheese")
# "a close up of a dog" is a dog.
_TRANSPARENT = _GATHERINGS | words(
    "pair couple number set piece slice type kind close closeup picture photo photograph image view shot portrait "
    "painting part patch bit chunk roll range layer droplet drop pane hint pad sheet strip half body game match ball "
    "bag pitcher trio duo stalk bed"
)
# How many people a singular means.
_PEOPLE_TOGETHER = {"couple": 2, **dict.fromkeys(words("family crowd audience choir crew squad mob gang orchestra"), 0)}
# "a statue of a dog" is no dog.
_DEPICTIONS = words("statue sculpture figurine painting drawing sketch portrait poster mural carving sticker logo")
_PERSONAL = words("it him her them itself himself herself themselves")
# In "three men each holding a bat", "each" stands for the men as "who" would.
_RELATIVE = words("who that which whom each both all")
_NO = words("no neither")
_NONE = words("none neither nobody nothing nowhere")
# Before anybody is named, a pronoun stands for a person.
_UNNAMED = {"he": "man", "she": "woman", "they": "person"}
_INDEFINITE = words("someone somebody person one")
_GUESSES = words(
    "might may could would possibly perhaps probably likely maybe presumably seemingly apparently if whether"
)
_SEEMING = words("appear appears appeared seem seems seemed")
_DESCRIBING = ("amod", "compound", "nmod")
# Labels of words that open a phrase before its preposition: "next" in "next to".
_OPENING = ("advmod", "acomp", "amod", "prt", "oprd", "acl")
_BESIDE = words("to near beside by behind")
_PREMODIFIERS = words("det amod compound nummod poss nmod predet quantmod case")


@dataclass(frozen=True, slots=True)
class Mention:
    """A noun with its premodifiers, as `Triplet` describes them."""

    text: str
    lemma: str
    start: int
    end: int
    count: int
    attributes: tuple[str, ...]

    def as_end(self, role: Literal["subject", "object"]) -> dict[str, Any]:
        """Returns the fields of `Triplet` for the noun as its subject or object."""
        return {
            role: self.text,
            f"{role}_lemma": self.lemma,
            f"{role}_start": self.start,
            f"{role}_end": self.end,
            f"{role}_count": self.count,
            f"{role}_attributes": self.attributes,
        }


class Mentions:
    """The nouns of one parsed caption."""

    def __init__(self, doc: Doc) -> None:
        self._doc = doc
        self.forms: dict[int, str] = {}
        """The lemmas of nouns that are known beforehand, by position."""
        self._named: dict[int, Mention] = {}
        self._doubts = {token.i for token in doc if _is_doubt(token)}
        self._left_conjunct = dict(self._coordinations())

    def is_noun(self, token: Token) -> bool:
        """Whether the token can be subject or object: a noun, if not negated, or a pronoun for an unnamed person."""
        if token.pos_ in ("NOUN", "PROPN") and self._doc[token.i : token.i + 2].text not in RECIPROCALS:
            return any(letter.isalpha() for letter in token.text) and not self._is_negated(token)
        return token.pos_ == "PRON" and (token.lower_ in _INDEFINITE or (token.i == 0 and token.lower_ in _UNNAMED))

    def name(self, pronoun: Token, mention: Mention) -> None:
        """Replaces a pronoun by the noun that it stands for."""
        pronoun.pos_ = "NOUN"
        self.forms[pronoun.i], self._named[pronoun.i] = mention.lemma, mention

    def _is_negated(self, noun: Token) -> bool:
        """Whether the noun is negated: "no chairs", "none of the cars", "neither of the boys"."""
        if noun.lower_ in _NONE or any(child.lower_ in _NO for child in noun.lefts):
            return True
        return noun.dep_ == "pobj" and noun.head.lower_ == "of" and noun.head.head.lower_ in _NONE

    def is_doubted(self, word: Token) -> bool:
        """Whether the caption denies or guesses what the word says: "is not holding", "might hold", "seems to hold"."""
        if not self._doubts:
            return False
        is_complement = word.dep_ in ("xcomp", "ccomp") and word.head.i in self._doubts
        return is_complement or word.i in self._doubts or any(child.i in self._doubts for child in word.children)

    def is_animate(self, token: Token) -> bool:
        """Whether the noun is a person or an animal."""
        return token.pos_ == "PRON" or noun_lemma(token.lower_) in ANIMATE

    def span(self, token: Token) -> tuple[int, int]:
        """Returns the token range of the noun with its premodifiers (determiner, adjectives, compounds)."""
        start = token.i
        for child in reversed(list(token.lefts)):
            if child.dep_ not in _PREMODIFIERS or child.right_edge.i != start - 1:
                break
            # In "child holding spoon", read as one noun phrase, only the spoon is named.
            if child.right_edge.tag_ == "VBG" and child.right_edge.i > 0 and child.right_edge.nbor(-1).pos_ == "NOUN":
                break
            start = child.left_edge.i
        return start, token.i + 1

    def lemma(self, token: Token) -> str:
        """Returns the singular head noun with compound words and lexical adjectives ("hot dog", "tennis racket")."""
        if token.i in self.forms:
            return self.forms[token.i]
        if token.lower_ in ("one", "ones") and (named := self._antecedent_of_one(token)) is not None:
            return self.lemma(named)
        if token.pos_ == "PRON":
            return _UNNAMED.get(token.lower_, "person")
        is_before_of = self._doc[token.i + 1 : token.i + 2].text == "of"
        counted = is_before_of or any(child.dep_ == "nummod" for child in token.lefts)
        phrase = "glass" if token.lower_ == "glasses" and counted else token.lower_
        position = token.i - 1
        while position >= 0:
            before = self._doc[position]
            longer = phrase_lemma(f"{before.lower_} {phrase}")
            is_compound = before.dep_ == "compound" and self._heads(before, token) and names_more(longer)
            if not is_compound and longer not in LEXICAL_PHRASES:
                break
            phrase = f"{before.lower_} {phrase}"
            position -= 1
        return phrase_lemma(phrase) or token.lower_

    def _antecedent_of_one(self, one: Token) -> Token | None:
        """Returns the car in "a red car next to a blue one"; people and animals are meant only beside others."""
        is_beside = one.dep_ == "pobj" and one.head.lower_ in _BESIDE
        nouns = (word for word in reversed(self._doc[: one.i]) if word.dep_ not in _DESCRIBING and self.is_noun(word))
        named = next((noun for noun in nouns if is_beside or not self.is_animate(noun)), None)
        return named if one.pos_ == "NOUN" else None

    def count(self, token: Token) -> int:
        """Returns how many the noun means: its number word, 1 for a singular, 0 for several without a number."""
        if token.i in self._named:
            return self._named[token.i].count
        if token.lower_ in _PEOPLE_TOGETHER:
            return _PEOPLE_TOGETHER[token.lower_]
        for child in token.lefts:
            if child.lower_ in NUMBERS:
                return NUMBERS[child.lower_]
            if child.dep_ == "nummod" and child.text.isdecimal() and len(child.text) < 4:
                return int(child.text)
        is_part = token.dep_ == "pobj" and token.head.lower_ == "of"
        holder = noun_lemma(token.head.head.lower_) if is_part else ""
        if holder == "couple" or (holder == "pair" and self.is_animate(token)):
            return 2
        if holder in NUMBERS:
            return NUMBERS[holder]
        is_gathered = holder in _GATHERINGS and token.lower_ not in _SUBSTANCES
        # A plural in "s" without a singular, such as "scissors", is one thing, and "two pairs" of them are two.
        is_single = token.lower_.endswith("s") and noun_lemma(token.lower_) == token.lower_
        if is_single and holder == "pair":
            return self.count(token.head.head)
        is_several = is_gathered or (token.tag_ in ("NNS", "NNPS") and not is_single)
        return 0 if is_several or any(child.lower_ in SEVERAL for child in token.lefts) else 1

    def attributes(self, token: Token) -> tuple[str, ...]:
        """Returns the adjectives and nouns that describe the noun but are not part of its lemma, in order."""
        named = self.lemma(token).split()
        describing = []
        for child in token.lefts:
            if child.dep_ in _DESCRIBING and child.lower_ not in named and child.lower_ not in NUMBERS:
                describing += [
                    child,
                    *(joined for joined in child.rights if joined.dep_ == "conj" and joined.i < token.i),
                ]
        if token.dep_ == "nsubj" and token.head.pos_ == "AUX":
            describing += [child for child in token.head.rights if child.dep_ == "acomp" and child.pos_ == "ADJ"]
        return tuple(word.lower_ for word in describing if word.is_alpha)

    def referents(self, token: Token) -> list[Token]:
        """Returns the nouns that a noun stands for: itself, what a quantity is "of", or the statue "of" it."""
        return self._referents(token, depth=0)

    def _referents(self, token: Token, depth: int) -> list[Token]:
        if token.dep_ == "pobj" and noun_lemma(token.head.head.lower_) in _DEPICTIONS and token.head.lower_ == "of":
            # What it does, as in "a painting of a man riding a horse", is seen all the same.
            return [token] if any(child.dep_ == "acl" for child in token.rights) else [token.head.head]
        if noun_lemma(token.lower_) in _TRANSPARENT and depth < 4:
            for child in token.rights:
                if child.lower_ in ("of", "up") and child.dep_ in ("prep", "advmod", "prt"):
                    nouns = [noun for noun in self._of_objects(child) if self.is_noun(noun)]
                    if nouns:
                        return [
                            referent
                            for noun in nouns
                            for member in self.coordinated(noun)
                            for referent in self._referents(member, depth + 1)
                        ]
        return [token]

    def is_transparent(self, token: Token) -> bool:
        """Whether the noun only counts or depicts what it is "of"."""
        return self.referents(token) != [token]

    def coordinated(self, token: Token) -> list[Token]:
        """Returns the noun and the nouns coordinated with it to its right, in order."""
        members = [token]
        for conjunct, left in sorted(self._left_conjunct.items()):
            if any(left == member.i for member in members):
                members.append(self._doc[conjunct])
        return members

    def modified(self, noun: Token, modifier: Token) -> list[Token]:
        """Returns the nouns that a modifier after `noun` describes: both in "a man and a woman on a bench".

        Coordinated nouns before the modifier count as long as only conjunctions and punctuation separate them.
        """
        root = noun
        while root.i in self._left_conjunct:
            root = self._doc[self._left_conjunct[root.i]]
        members = [member for member in self.coordinated(root) if member.i < modifier.i]
        if noun not in members:
            return [noun]
        run = members[-1:]
        for member in reversed(members[:-1]):
            gap = range(member.i + 1, self.span(run[0])[0])
            if not all(self._doc[position].dep_ in ("cc", "punct", "preconj") for position in gap):
                break
            run.insert(0, member)
        return run if noun in run else [noun]

    def is_relative(self, token: Token) -> bool:
        """Whether the token is a relative pronoun."""
        return token.lower_ in _RELATIVE and token.pos_ in ("PRON", "DET", "SCONJ")

    def is_personal(self, token: Token) -> bool:
        """Whether the token is a pronoun that refers to something mentioned before."""
        return token.lower_ in _PERSONAL and token.i not in self._named

    def starts_own_clause(self, conjunct: Token) -> bool:
        """Whether a coordinated noun has its own clause, as the woman does in "a car and a woman holding a cup"."""
        return self.is_animate(conjunct) and any(
            child.dep_ in ("acl", "relcl") and child.tag_ != "VBN" for child in conjunct.rights
        )

    def of_part(self, part: Token) -> list[Token]:
        """Returns the boys in "one of the boys"."""
        objects = (noun for child in part.rights if child.lower_ == "of" for noun in self._of_objects(child))
        return [noun for noun in objects if self.is_noun(noun)]

    def _of_objects(self, preposition: Token) -> Iterator[Token]:
        for child in preposition.rights:
            if child.dep_ == "pobj":
                yield child
            elif child.dep_ == "prep" and child.lower_ == "of":
                yield from self._of_objects(child)

    def _holder(self, left: Token, conjunct: Token) -> Token:
        """Returns what a new thing is coordinated with: in "a glass of water and a carrot" the glass, not the water."""
        if left.dep_ != "pobj" or left.head.lower_ != "of" or self._is_new(left) or not self._is_new(conjunct):
            return left
        holder = left.head.head
        return holder if self.is_noun(holder) else left

    def _is_new(self, noun: Token) -> bool:
        """Whether an article introduces another thing."""
        return any(child.lower_ in ("a", "an") for child in noun.lefts)

    def _heads(self, token: Token, ancestor: Token) -> bool:
        while token.dep_ == "compound" and token.head != token:
            token = token.head
            if token == ancestor:
                return True
        return False

    def _coordinations(self) -> Iterator[tuple[int, int]]:
        for token in self._doc:
            if token.dep_ == "conj" and self.is_noun(token) and token.head.i < token.i:
                left = self._true_left(token, token.head)
                left = left and self._holder(left, token)
                if left is not None and not (self.starts_own_clause(token) and not self.is_animate(left)):
                    yield token.i, left.i

    def _true_left(self, conjunct: Token, head: Token) -> Token | None:
        """Returns the noun that a noun is coordinated with.

        In "a man holding an umbrella and a book", "a room with a bed and a desk", the small model attaches the last
        noun to the first or to the verb.
        """
        between = [self._doc[position] for position in range(head.i + 1, conjunct.i)]
        conjunctions = [token for token in between if token.dep_ == "cc"]
        if conjunctions:
            anchor = conjunctions[-1].head
            if anchor.i > head.i and self.is_noun(anchor):
                return anchor
        if not self.is_noun(head):
            return None
        is_of_others = self.is_animate(head) and not self.is_animate(conjunct)
        if is_of_others or (_is_location(head) and not _is_location(conjunct)):
            objects = [token for token in between if token.dep_ in ("dobj", "pobj") and self.is_noun(token)]
            if objects and not self.is_animate(objects[-1]):
                return objects[-1]
        return head


def _is_location(noun: Token) -> bool:
    return noun_lemma(noun.lower_) in LOCATIONS


def _is_doubt(word: Token) -> bool:
    if word.dep_ == "neg" or word.lower_ in _GUESSES:
        return True
    return word.lower_ in _SEEMING and any(child.dep_ in ("xcomp", "ccomp") for child in word.rights)


PART_NOUNS = words(
    "front top back side middle center centre edge end bottom left right corner rear inside outside base foot backs"
)
"""Nouns that are part of a preposition: "in front of", "on the back of"."""

NO_LINK = words("as during than like about until since per via while whereas although though because if when")
"""Prepositions that state no visible relation."""

RECIPROCALS = ("each other", "one another")


@dataclass(frozen=True)
class Phrase:
    """Token range of a preposition (end exclusive) and the token it governs; None for "next to each other"."""

    start: int
    end: int
    object: Token | None


def phrases_behind(head: Token) -> Iterator[Phrase]:
    """Yields the prepositional phrases attached to a noun or verb, to its right."""
    for child in head.rights:
        if child.dep_ in ("prep", "agent"):
            yield from _followed(child, child.i)
        elif child.doc[child.i : child.i + 3].text.lower() == "side by side":
            yield Phrase(child.i, child.i + 3, None)
        elif child.dep_ in _OPENING and child.pos_ in ("ADV", "ADJ", "ADP", "SCONJ"):
            for preposition in child.rights:
                if preposition.dep_ == "prep" and preposition.i == child.i + 1:
                    yield from _followed(preposition, child.i)


def is_part_noun(token: Token) -> bool:
    """Whether the noun belongs to a preposition, like "front" in "in front of"."""
    return token.dep_ == "pobj" and token.lower_ in PART_NOUNS and _of_after(token) is not None


def _followed(preposition: Token, start: int) -> Iterator[Phrase]:
    if preposition.lower_ in NO_LINK:
        return
    for child in preposition.rights:
        if child.dep_ == "prep" and child.i == preposition.i + 1:
            yield from _followed(child, start)
        elif child.doc[preposition.i + 1 : preposition.i + 3].text in RECIPROCALS:
            yield Phrase(start, preposition.i + 1, None)
        elif child.dep_ == "pobj":
            part = _of_after(child) if child.lower_ in PART_NOUNS else None
            if part is not None:
                yield from _followed(part, start)
            else:
                yield Phrase(start, preposition.i + 1, child)


def _of_after(part: Token) -> Token | None:
    for child in part.rights:
        if child.dep_ == "prep" and child.lower_ == "of" and child.i == part.i + 1:
            return child
    return None


# Performed by people and animals only: in "a boy in a shirt carrying a bag", the shirt does not carry.
_AGENTIVE = words(
    "hold wear carry ride look eat read use watch drink talk feed play throw catch hit swing pet brush cut walk "
    "type text push pull kick lead hug kiss smile point reach lick chew bite chase sniff fly touch grab cook "
    "prepare take pose work write speak smoke sell shop dance"
)

_OF_THINGS = words("carry fly hit hold play point pull push read touch show")
"""Of these, things that people have or watch are subjects, too: "a kite flying", "a cart carrying bags"."""

LOCATIONS = words(
    "kitchen bedroom bathroom room office hallway hall lobby restaurant cafe bar store shop market classroom field "
    "park street road sidewalk beach court yard garden forest city zoo pool ocean water snow sand grass air lot meadow"
)
"""Where things are, which do nothing: in "people in a park sitting on benches", the park does not sit."""
_DONE_IN_PLACES = words("stand sit lie kneel crouch lean sleep wait work gather")


def is_done_by_things(verb: Token) -> bool:
    """Whether not only people and animals perform the verb."""
    return canonical(verb.lower_) not in _AGENTIVE or canonical(verb.lower_) in _OF_THINGS


def is_incapable(noun: Token, verb: Token) -> bool:
    """Whether the noun can't perform the verb: garments perform none, other things none of people and animals."""
    lemma, deed = noun_lemma(noun.lower_), verb_lemma(verb.lower_)
    if lemma in GARMENTS or (lemma in LOCATIONS and deed in _DONE_IN_PLACES):
        return True
    return lemma not in ANIMATE and canonical(verb.lower_) in _AGENTIVE


_CLAUSES = ("acl", "relcl")
_CHAINED = ("advcl", "xcomp", "ccomp", "conj", "pcomp", "dep")


class Subjects:
    """Finds the subjects of the verbs of one parsed caption."""

    def __init__(self, mentions: Mentions) -> None:
        self._mentions = mentions
        self._by_verb: dict[int, list[Token]] = {}

    def of(self, verb: Token) -> list[Token]:
        """Returns the nouns that perform the verb (for a passive: that undergo it)."""
        if verb.i not in self._by_verb:
            # In broken sentences, verbs may wait for each other's subjects: they have none.
            self._by_verb[verb.i] = []
            self._by_verb[verb.i] = self._found(verb)
        return self._by_verb[verb.i]

    def capable_subject(self, noun: Token, verb: Token) -> Token:
        """Returns the noun or, if it can't perform the verb, the person or animal who is in it or has it.

        In "a bench in a park standing near a tree", a thing can.
        """
        if verb.tag_ == "VBN" or not is_incapable(noun, verb):
            return noun
        passed: set[int] = set()
        able = noun
        while able.i not in passed and not self._is_able(able, verb):
            passed.add(able.i)
            if able.dep_ not in ("pobj", "conj", "dobj"):
                return noun
            is_thing = noun_lemma(noun.lower_) not in GARMENTS and is_done_by_things(verb)
            if is_thing and (able.dep_ == "dobj" or able.head.lower_ == "with"):
                return noun
            able = able.head.head if able.dep_ == "pobj" else able.head
            if able.pos_ in ("VERB", "AUX"):
                able = next(iter(self.of(able)[-1:]), able)
        return able if self._is_able(able, verb) else noun

    def _is_able(self, noun: Token, verb: Token) -> bool:
        return any(
            self._mentions.is_animate(each) or (self._mentions.is_noun(each) and not is_incapable(each, verb))
            for each in self._mentions.referents(noun)
        )

    def antecedents(self, pronoun: Token) -> list[Token]:
        """Resolves a pronoun: it is the bench in "a bench with a cat sitting on it" and "a bench has a cat on it"."""
        for ancestor in pronoun.ancestors:
            if ancestor.dep_ == "prep" and ancestor.lower_ == "with":
                head = ancestor.head
                if self._mentions.is_noun(head):
                    return self._mentions.referents(head)
                if head.pos_ in ("VERB", "AUX"):
                    return self.of(head)
            elif canonical(ancestor.lower_) == "have" and ancestor.pos_ in ("VERB", "AUX"):
                return self.of(ancestor)
        return []

    def _found(self, verb: Token) -> list[Token]:
        # Of two subjects, the nearer one is the verb's own ("... while a cat looks at a cow").
        for child in [*reversed(list(verb.lefts)), *verb.rights]:
            if child.dep_ in ("nsubj", "nsubjpass"):
                if self._mentions.is_relative(child):
                    return self._clause_head(verb)
                return self._referents(child, verb)
            if child.dep_ == "expl":
                return [noun for attr in verb.children if attr.dep_ == "attr" for noun in self._referents(attr, verb)]
        if verb.dep_ in _CLAUSES:
            return self._clause_head(verb)
        if verb.dep_ in _CHAINED:
            return self._governing(verb.head, verb)
        return []

    def _governing(self, head: Token, verb: Token) -> list[Token]:
        if head.pos_ in ("VERB", "AUX"):
            return self.of(head)
        if self._mentions.is_noun(head) and head.i < verb.i:
            return self._modified(head, verb)
        if head.dep_ in ("acomp", "advmod", "prep", "prt"):
            return self._governing(head.head, verb)
        return []

    def _clause_head(self, verb: Token) -> list[Token]:
        head = verb.head
        if head.pos_ in ("VERB", "AUX"):
            return self.of(head)
        if not self._mentions.is_noun(head):
            return []
        return self._modified(self.capable_subject(head, verb), verb)

    def _modified(self, noun: Token, modifier: Token) -> list[Token]:
        members = self._mentions.modified(noun, modifier)
        return [referent for member in members for referent in self._mentions.referents(member)]

    def _referents(self, noun: Token, verb: Token) -> list[Token]:
        if not self._mentions.is_noun(noun):
            return self.antecedents(noun) if self._mentions.is_personal(noun) else self._mentions.of_part(noun)
        members = self._mentions.coordinated(noun)
        if noun.i < verb.i:
            members = [member for member in members if member.i < verb.i]
        return [referent for member in members for referent in self._mentions.referents(member)]
