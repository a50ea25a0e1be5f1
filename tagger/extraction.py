"""Relations of one parsed caption, by rules over its dependency tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from spacy.tokens import Doc, Token

from tagger.mentions import Mentions
from tagger.predicates import canonical
from tagger.triplet import Triplet
from tagger.words import words

# "in front of", "on the back of": a noun that is part of the preposition.
_PART_NOUNS = words(
    "front top back side middle center centre edge end bottom left right corner rear inside outside base foot"
)
# Prepositions that still relate subject and object when the verb's own object or another phrase stands between.
_FAR_PREPOSITIONS = words(
    "on in at with near under behind beside by next inside above below beneath underneath between among against "
    "around over atop close across along down outside"
)
_NO_LINK = words("as during than like about until since per via while whereas although though because if when")
# Done by people and animals: "a boy in a shirt carrying a bag" is not about a shirt that carries.
_AGENTIVE = words(
    "hold wear carry ride look eat read use watch drink talk feed play throw catch hit swing pet brush cut walk "
    "type text push pull kick lead hug kiss smile point reach lick chew bite chase sniff fly touch grab cook "
    "prepare take pose"
)
_RECIPROCALS = (("each", "other"), ("one", "another"))
_INNER = ("compound", "poss", "nmod", "npadvmod")
_CLAUSES = ("acl", "relcl")
_CHAINED = ("advcl", "xcomp", "ccomp", "conj", "pcomp", "dep")


@dataclass(frozen=True)
class _Phrase:
    """A prepositional phrase: token range of the preposition (end exclusive) and the nouns it governs."""

    start: int
    end: int
    objects: tuple[Token, ...]
    reciprocal: bool = False


class Extraction:
    """Finds the triplets of one parsed caption; spans are cut from `caption`, which has the characters that `doc` has."""

    def __init__(self, doc: Doc, caption: str) -> None:
        self._doc, self._caption = doc, caption
        self._mentions = Mentions(doc)
        self._found: dict[tuple[int, int, str], Triplet] = {}
        self._linked: set[int] = set()
        self._subjects_by_verb: dict[int, list[Token]] = {}

    def triplets(self) -> list[Triplet]:
        """All triplets, ordered by where predicate, subject and object stand."""
        for token in self._doc:
            if token.pos_ in ("VERB", "AUX"):
                self._verb(token)
            elif self._mentions.is_noun(token) and not self._is_part_noun(token):
                self._noun(token)
        self._adjacent_mentions()
        ordered = sorted(
            self._found.values(),
            key=lambda found: (found.predicate_start, found.subject_start, found.object_start),
        )
        return ordered

    def _verb(self, verb: Token) -> None:
        if any(child.dep_ == "neg" for child in verb.children):
            return
        subjects = self._subjects(verb)
        if not subjects:
            return
        is_copula = verb.pos_ == "AUX" and canonical(verb.lower_) == "be"
        objects = [] if is_copula else self._direct_objects(verb)
        start, end = self._verb_range(verb)
        self._emit(subjects, (start, end), objects, "verb-object")
        self._stranded(verb, subjects)
        for phrase in self._phrases(verb):
            if self._is_agent(verb, phrase):
                self._emit(phrase.objects, (verb.i, phrase.start), subjects, "passive")
                continue
            adjoins = self._adjoins(verb, phrase.start)
            if not is_copula and adjoins and not objects:
                self._emit_phrase(subjects, verb.i, phrase, "verb-preposition")
            elif is_copula or adjoins or self._doc[phrase.start].lower_ in _FAR_PREPOSITIONS:
                self._emit_phrase(subjects, phrase.start, phrase, "preposition")

    def _noun(self, noun: Token) -> None:
        transparent = self._mentions.is_transparent(noun)
        for phrase in self._phrases(noun):
            if transparent and self._doc[phrase.start].lower_ == "of":
                continue
            modified = self._mentions.modified(noun, self._doc[phrase.start])
            subjects = [referent for member in modified for referent in self._mentions.referents(member)]
            self._emit_phrase(subjects, phrase.start, phrase, "noun-preposition")

    def _subjects(self, verb: Token) -> list[Token]:
        """Nouns that do what the verb says (for a passive: that undergo it)."""
        if verb.i not in self._subjects_by_verb:
            # Broken sentences have verbs that wait for each other's subjects: they have none.
            self._subjects_by_verb[verb.i] = []
            self._subjects_by_verb[verb.i] = self._find_subjects(verb)
        return self._subjects_by_verb[verb.i]

    def _find_subjects(self, verb: Token) -> list[Token]:
        # Two subjects are one too many: the nearer one is the verb's own ("... while a cat looks at a cow").
        for child in [*reversed(list(verb.lefts)), *verb.rights]:
            if child.dep_ in ("nsubj", "nsubjpass"):
                if self._mentions.is_relative(child):
                    return self._clause_head(verb)
                return self._all_referents(child, verb)
            if child.dep_ == "expl":
                return [
                    noun for attr in verb.children if attr.dep_ == "attr" for noun in self._all_referents(attr, verb)
                ]
        if verb.dep_ in _CLAUSES:
            return self._clause_head(verb)
        if verb.dep_ in _CHAINED:
            return self._governing_subjects(verb.head, verb)
        return []

    def _governing_subjects(self, head: Token, verb: Token) -> list[Token]:
        if head.pos_ in ("VERB", "AUX"):
            return self._subjects(head)
        if self._mentions.is_noun(head) and head.i < verb.i:
            return self._nouns_modified(head, verb)
        if head.dep_ in ("acomp", "advmod", "prep", "prt"):
            return self._governing_subjects(head.head, verb)
        return []

    def _clause_head(self, verb: Token) -> list[Token]:
        head = verb.head
        if head.pos_ in ("VERB", "AUX"):
            return self._subjects(head)
        if not self._mentions.is_noun(head):
            return []
        return self._nouns_modified(self._able_head(head, verb), verb)

    def _able_head(self, head: Token, verb: Token) -> Token:
        """The clause's head, or whom it is a place or garment of when it can't do what the verb says."""
        if canonical(verb.lower_) not in _AGENTIVE or verb.tag_ == "VBN":
            return head
        passed: set[int] = set()
        able = head
        while able.i not in passed and not self._mentions.is_animate(able):
            passed.add(able.i)
            if able.dep_ not in ("pobj", "conj") or able.head.lower_ == "with":
                return head
            able = able.head if able.dep_ == "conj" else able.head.head
            if able.pos_ in ("VERB", "AUX"):
                able = next(iter(self._subjects(able)[-1:]), able)
        return able if self._mentions.is_animate(able) else head

    def _nouns_modified(self, noun: Token, modifier: Token) -> list[Token]:
        members = self._mentions.modified(noun, modifier)
        return [referent for member in members for referent in self._mentions.referents(member)]

    def _all_referents(self, noun: Token, verb: Token) -> list[Token]:
        if not self._mentions.is_noun(noun):
            return self._antecedents(noun) if self._mentions.is_personal(noun) else []
        members = self._mentions.coordinated(noun)
        if noun.i < verb.i:
            members = [member for member in members if member.i < verb.i]
        return [referent for member in members for referent in self._mentions.referents(member)]

    def _direct_objects(self, verb: Token) -> list[Token]:
        for child in verb.children:
            if child.dep_ in ("dobj", "dative") and child.i > verb.i:
                return self._objects(child)
            if child.dep_ == "dobj" and self._mentions.is_relative(child) and verb.dep_ == "relcl":
                return self._mentions.referents(verb.head)
        return []

    def _objects(self, noun: Token) -> list[Token]:
        if self._mentions.is_personal(noun):
            return self._antecedents(noun)
        if not self._mentions.is_noun(noun):
            return []
        members = [
            member
            for member in self._mentions.coordinated(noun)
            if member == noun or not self._mentions.starts_own_clause(member)
        ]
        return [referent for member in members for referent in self._mentions.referents(member)]

    def _antecedents(self, pronoun: Token) -> list[Token]:
        """In "a bench with a cat sitting on it" the pronoun is what the "with" belongs to."""
        for ancestor in pronoun.ancestors:
            if ancestor.dep_ == "prep" and ancestor.lower_ == "with":
                head = ancestor.head
                if self._mentions.is_noun(head):
                    return self._mentions.referents(head)
                if head.pos_ in ("VERB", "AUX"):
                    return self._subjects(head)
        return []

    def _stranded(self, verb: Token, subjects: list[Token]) -> None:
        """ "The horse a man is riding", "the bench that a man sits on": the clause's head is the object."""
        has_subject = any(child.dep_ == "nsubj" and not self._mentions.is_relative(child) for child in verb.children)
        if verb.dep_ != "relcl" or not has_subject or any(child.dep_ == "dobj" for child in verb.children):
            return
        objects = self._mentions.referents(verb.head) if self._mentions.is_noun(verb.head) else []
        prepositions = [child for child in verb.rights if child.dep_ in ("prep", "prt", "advmod")]
        if not prepositions:
            self._emit(subjects, self._verb_range(verb), objects, "relative-object")
        elif len(prepositions) == 1 and prepositions[0].i == verb.i + 1 and not list(prepositions[0].children):
            self._emit(subjects, (verb.i, verb.i + 2), objects, "relative-object")

    def _verb_range(self, verb: Token) -> tuple[int, int]:
        """Token range of the verb with its particle and the verbs it hangs on ("trying to catch")."""
        start, end = verb.i, verb.i + 1
        while end < len(self._doc) and self._doc[end].dep_ == "prt" and self._doc[end].head == verb:
            end += 1
        head = verb
        while head.dep_ == "xcomp" and head.head.i < start:
            head = head.head
            gap = range(head.i + 1, start)
            if not all(self._doc[position].tag_ == "TO" or self._doc[position].pos_ == "ADJ" for position in gap):
                break
            if head.pos_ == "VERB" or (head.pos_ == "ADJ" and head.dep_ == "acomp"):
                start = head.i
        if self._doc[start].pos_ == "ADJ":
            start = verb.i
        return start, end

    def _phrases(self, head: Token) -> Iterator[_Phrase]:
        for child in head.children:
            if child.i < head.i:
                continue
            if child.dep_ in ("prep", "agent"):
                yield from self._followed(child, child.i)
            elif child.dep_ in ("advmod", "acomp", "amod", "prt", "oprd", "acl") and child.pos_ in (
                "ADV",
                "ADJ",
                "ADP",
                "SCONJ",
            ):
                for preposition in child.rights:
                    if preposition.dep_ == "prep" and preposition.i == child.i + 1:
                        yield from self._followed(preposition, child.i)

    def _followed(self, preposition: Token, start: int) -> Iterator[_Phrase]:
        if preposition.lower_ in _NO_LINK:
            return
        for child in preposition.rights:
            if child.dep_ == "prep" and child.i == preposition.i + 1:
                yield from self._followed(child, start)
            elif child.i > 0 and (self._doc[child.i - 1].lower_, child.lower_) in _RECIPROCALS:
                yield _Phrase(start, preposition.i + 1, (), reciprocal=True)
            elif child.dep_ == "pobj":
                part = self._of_after(child) if child.lower_ in _PART_NOUNS else None
                if part is not None:
                    yield from self._followed(part, start)
                else:
                    yield _Phrase(start, preposition.i + 1, tuple(self._objects(child)))

    def _of_after(self, part: Token) -> Token | None:
        for child in part.rights:
            if child.dep_ == "prep" and child.lower_ == "of" and child.i == part.i + 1:
                return child
        return None

    def _is_part_noun(self, token: Token) -> bool:
        return token.dep_ == "pobj" and token.lower_ in _PART_NOUNS and self._of_after(token) is not None

    def _is_agent(self, verb: Token, phrase: _Phrase) -> bool:
        if self._doc[phrase.start].lower_ != "by" or phrase.end != phrase.start + 1:
            return False
        return verb.tag_ in ("VBN", "VBD") and canonical(f"{verb.lower_} by").endswith(" by")

    def _adjoins(self, verb: Token, start: int) -> bool:
        return all(self._doc[position].pos_ in ("ADV", "ADP", "PART") for position in range(verb.i + 1, start))

    def _emit_phrase(self, subjects: list[Token], start: int, phrase: _Phrase, rule: str) -> None:
        if not phrase.reciprocal:
            self._emit(subjects, (start, phrase.end), list(phrase.objects), rule)
            return
        for subject in subjects:
            self._emit([subject], (start, phrase.end), [subject], "reciprocal")

    def _emit(
        self,
        subjects: list[Token] | tuple[Token, ...],
        predicate: tuple[int, int],
        objects: list[Token] | tuple[Token, ...],
        rule: str,
    ) -> None:
        surface = self._doc[predicate[0] : predicate[1]]
        lemma = canonical(surface.text)
        if not lemma:
            return
        for subject in subjects:
            for object_ in objects:
                if subject == object_ and rule != "reciprocal":
                    continue
                self._linked.add(object_.i)
                key = (subject.i, object_.i, lemma)
                if key not in self._found:
                    self._found[key] = self._triplet(
                        subject, surface.start_char, surface.end_char, lemma, object_, rule
                    )

    def _triplet(self, subject: Token, start: int, end: int, lemma: str, object_: Token, rule: str) -> Triplet:
        subject_start, subject_end = self._characters(subject)
        object_start, object_end = self._characters(object_)
        text = self._caption
        return Triplet(
            subject=text[subject_start:subject_end],
            subject_lemma=self._mentions.lemma(subject),
            predicate=text[start:end],
            predicate_lemma=lemma,
            object=text[object_start:object_end],
            object_lemma=self._mentions.lemma(object_),
            subject_start=subject_start,
            subject_end=subject_end,
            predicate_start=start,
            predicate_end=end,
            object_start=object_start,
            object_end=object_end,
            rule=rule,
        )

    def _characters(self, noun: Token) -> tuple[int, int]:
        start, end = self._mentions.span(noun)
        last = self._doc[end - 1]
        return self._doc[start].idx, last.idx + len(last.text)

    def _adjacent_mentions(self) -> None:
        """Where the tree links nothing to a noun, read plain "noun verb/preposition noun" off the words."""
        nouns = [
            token
            for token in self._doc
            if self._mentions.is_noun(token) and token.dep_ not in _INNER and not self._is_part_noun(token)
        ]
        for left, right in pairwise(nouns):
            if right.i in self._linked or right.dep_ in ("conj", "nsubj", "nsubjpass"):
                continue
            predicate = self._plain_predicate(left.i + 1, self._mentions.span(right)[0])
            if predicate is not None and not self._are_linked(left, right):
                subject = self._able_head(left, self._doc[predicate[0]])
                self._emit(self._mentions.referents(subject), predicate, self._mentions.referents(right), "adjacent")

    def _are_linked(self, left: Token, right: Token) -> bool:
        ends = {(found.subject_end, found.object_end) for found in self._found.values()}
        left_end, right_end = (token.idx + len(token.text) for token in (left, right))
        return (left_end, right_end) in ends or (right_end, left_end) in ends

    def _plain_predicate(self, start: int, end: int) -> tuple[int, int] | None:
        while start < end and self._doc[start].pos_ in ("AUX", "ADV") and self._doc[start].lower_ != "next":
            start += 1
        tokens = [self._doc[position] for position in range(start, end)]
        if not tokens or tokens[0].lower_ in _NO_LINK | {"of", "and", "or", "up"}:
            return None
        tail = tokens[1:] if tokens[0].pos_ == "VERB" else tokens
        if not all(word.pos_ in ("ADP", "PART", "SCONJ") or word.lower_ in _PART_NOUNS | {"next"} for word in tail):
            return None
        return start, end
