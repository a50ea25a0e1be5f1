"""Extracts the relations of one parsed caption by rules over its dependency tree."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from spacy.tokens import Doc, Token

from tagger.english.lemmas import noun_lemma, phrase_lemma, verb_lemma
from tagger.english.predicates import canonical
from tagger.english.words import BODY_PARTS, words
from tagger.parsing.implied import (
    IMPLIED,
    REWORDED,
    ImpliedRelation,
    Means,
    consequences,
    means_of_person,
    means_of_verb,
    reading,
)
from tagger.parsing.layer import Layer
from tagger.parsing.tree import NO_LINK, PART_NOUNS, Mention, Mentions, Phrase, Subjects, is_part_noun, phrases_behind
from tagger.triplet import Triplet

# Prepositions that still relate subject and object when the verb's own object or another phrase comes between.
_FAR_PREPOSITIONS = words(
    "on in at with near under behind beside by next inside above below beneath underneath between among against "
    "around over atop close across along down outside side"
)
_INNER = ("compound", "poss", "nmod", "npadvmod")
_OBJECTS = ("dobj", "dative")
_SUBJECTS = ("nsubj", "nsubjpass")
_ENDS = (*_SUBJECTS, *_OBJECTS, "pobj", "attr", "conj")
# "starts running" is one predicate, "smiling holding" is two.
_ASPECTS = words("start begin keep stop finish continue like love enjoy try go help")
# After these verbs, "in her hand" describes the object.
_HOLDING = words("hold have carry")
# In "hits a ball with a bat", the bat is what the verb is done with.
_WITH_TOOLS = words("hit cut slice chop eat")
# Parts that things are held or led by.
_HANDLES = words("rein reins leash collar strap handle")
_TRICKS = words("trick stunt jump flip maneuver")
_PHOTOS = words("picture photo photograph")
# "a bench with a cat on it" states where the cat is, and nothing else about the bench.
_SAID_BY_PRONOUN = ("with", "have")


class Extraction:
    """Finds the triplets of one parsed caption.

    `doc` is the tree of the sentence at the character range `place` of the caption. It may begin with words that the
    caption lacks; the rest matches the sentence character by character, and spans are cut from `caption`.
    """

    def __init__(self, doc: Doc, caption: str, place: tuple[int, int], layer: Layer | None = None) -> None:
        self.doc, self._caption, self._start, self._layer = doc, caption, place[0], layer
        self._added = len(doc.text) - (place[1] - place[0])
        self.mentions = Mentions(doc)
        if layer is not None:
            self.mentions.forms = layer.forms(doc, self.mentions)
        self._subjects = Subjects(self.mentions)
        self._mentioned: dict[int, Mention] = {}
        self.found: dict[tuple[int, int, str], Triplet] = {}
        self._linked: set[int] = set()
        self._said_by_pronoun: set[tuple[int, int]] = set()

    def triplets(self, implied: bool = False) -> list[Triplet]:
        """Returns all triplets by position of predicate, subject and object; `implied` adds what activities imply."""
        for token in self.doc:
            if token.pos_ in ("VERB", "AUX"):
                self._verb(token)
            elif self.mentions.is_noun(token) and not is_part_noun(token):
                self._noun(token)
        self._adjacent_mentions()
        if self._layer is not None:
            self._revise(self._layer)
        if implied:
            self._activities()
        triplets = [
            triplet
            for (subject, object_, lemma), triplet in self.found.items()
            if lemma not in _SAID_BY_PRONOUN or (subject, object_) not in self._said_by_pronoun
        ]
        triplets += consequences(triplets) if implied else []
        return sorted(
            triplets, key=lambda triplet: (triplet.predicate_start, triplet.subject_start, triplet.object_start)
        )

    def nouns(self) -> list[Token]:
        """Returns the nouns that may be subjects and objects, in order."""
        nouns = (t for t in self.doc if self.mentions.is_noun(t) and not is_part_noun(t))
        return [t for t in nouns if not self.mentions.is_transparent(t)]

    def is_open(self, pronoun: Token) -> bool:
        """Whether the pronoun stands for a noun that the tree does not give."""
        is_told = self.mentions.is_personal(pronoun) and self._subjects.antecedents(pronoun)
        return not is_told and (pronoun.dep_ in _ENDS or pronoun.tag_ == "PRP$")

    def apart_from(self, pronoun: Token) -> list[Token]:
        """Returns tokens that the pronoun can't refer to: what it is part of, and the subjects of its verb."""
        if pronoun.dep_ == "poss":
            return [pronoun.head]
        around = list(pronoun.ancestors)
        verb = next((token for token in around if token.pos_ in ("VERB", "AUX")), None)
        return around if verb is None or pronoun.dep_ in _SUBJECTS else around + self._subjects.of(verb)

    def _revise(self, layer: Layer) -> None:
        """Replaces the rules' triplets by the layer's, unless a pronoun relates the two nouns."""
        said = self._said_by_pronoun | {(object_, subject) for subject, object_ in self._said_by_pronoun}
        revised = {key: triplet for key, triplet in self.found.items() if key[:2] in said}
        for option in layer.relations(self.doc, self.mentions, self.nouns(), self.found):
            if (option.subject, option.object) in said:
                continue
            triplet = option.triplet
            if triplet is None:
                meant = ImpliedRelation(canonical(option.predicate), False, REWORDED if option.reworded else "learned")
                ends = self.doc[option.subject], self.doc[option.object]
                triplet = self._triplet(*ends, (option.start, option.end), meant)
            if triplet.predicate_lemma:
                revised[option.subject, option.object, triplet.predicate_lemma] = triplet
        self.found = revised

    def _activities(self) -> None:
        """Adds what activities imply ("a man skiing", "a skier": on skis) unless the caption itself relates the two."""
        for token in self.doc:
            if token.pos_ in ("VERB", "AUX"):
                self._tools(token)
                for means in means_of_verb(token):
                    for subject in self._subjects.of(token):
                        self._imply(subject, token, means)
            elif self.mentions.is_noun(token) and (named := means_of_person(token)) is not None:
                for subject in self.mentions.referents(token):
                    self._imply(subject, token, named)

    def _tools(self, verb: Token) -> None:
        """Adds "hit with" for "hits a ball with a bat", beside "with", which the caption states."""
        if verb_lemma(verb.lower_) not in _WITH_TOOLS or not self._direct_objects(verb):
            return
        for phrase in phrases_behind(verb):
            if phrase.object is None or self.doc[phrase.start].lower_ != "with" or phrase.end != phrase.start + 1:
                continue
            tools = [tool for tool in self._objects(phrase.object) if not self.mentions.is_animate(tool)]
            meant = ImpliedRelation(canonical(f"{verb.lower_} with"), False, IMPLIED)
            for subject in self._subjects.of(verb):
                for tool in tools:
                    stated = self._triplet(subject, tool, (phrase.start, phrase.end), meant)
                    self.found.setdefault((subject.i, tool.i, meant.predicate), stated)

    def _imply(self, subject: Token, word: Token, means: Means) -> None:
        predicate, noun = means[0], phrase_lemma(means[1])
        stated_of_subject = (t for (at, _, _), t in self.found.items() if at == subject.i and t.rule != IMPLIED)
        if any(triplet.object_lemma == noun for triplet in stated_of_subject):
            return
        stated = self._triplet(subject, word, (word.i, word.i + 1), ImpliedRelation(predicate, False, IMPLIED))
        count = stated.subject_count
        self.found.setdefault(
            (subject.i, word.i, predicate), replace(stated, object_lemma=noun, object_count=count, object_attributes=())
        )

    def _verb(self, verb: Token) -> None:
        if self.mentions.is_doubted(verb):
            return
        subjects = self._subjects.of(verb)
        if not subjects:
            return
        is_copula = verb.pos_ == "AUX" and canonical(verb.lower_) == "be"
        objects = [] if is_copula else self._direct_objects(verb)
        self._emit(subjects, self._verb_range(verb), objects, "verb-object")
        self._stranded(verb, subjects, is_copula)
        for phrase in phrases_behind(verb):
            if phrase.object is not None and self._is_means(phrase, phrase.object):
                self._linked.add(phrase.object.i)
                continue
            if self._is_agent(verb, phrase):
                agents = self._objects(phrase.object)
                self._emit(agents, (verb.i, phrase.start), subjects, "passive")
                # In "brought by a man on a scooter", he is on it.
                subjects = agents if all(map(self.mentions.is_animate, agents)) else subjects
                continue
            if objects and self._resumes(verb, phrase):
                self._emit_phrase(objects, phrase.start, phrase, "preposition")
                continue
            adjoins = self._adjoins(verb, phrase.start)
            if not is_copula and adjoins and not objects:
                self._emit_phrase(subjects, verb.i, phrase, "verb-preposition")
            elif is_copula or adjoins or self.doc[phrase.start].lower_ in _FAR_PREPOSITIONS:
                self._emit_phrase(subjects, phrase.start, phrase, "preposition")

    def _noun(self, noun: Token) -> None:
        transparent = self.mentions.is_transparent(noun)
        doers = self._doers(noun)
        for phrase in phrases_behind(noun):
            if transparent and self.doc[phrase.start].lower_ == "of":
                continue
            if phrase.object is not None and self._is_agent_behind(noun, phrase, phrase.object):
                verb = noun.head.head
                self._emit(self._objects(phrase.object), (verb.i, verb.i + 1), self._subjects.of(verb), "passive")
                self._linked.add(phrase.object.i)
                continue
            modified = self.mentions.modified(noun, self.doc[phrase.start])
            subjects = [referent for member in modified for referent in self.mentions.referents(member)]
            self._emit_phrase(doers or subjects, phrase.start, phrase, "noun-preposition")
        self._possessor(noun)

    def _doers(self, noun: Token) -> list[Token]:
        """Returns who does a trick on a ramp, and so is on it, or poses for a photo with a dog."""
        if noun.dep_ == "dobj" and noun_lemma(noun.lower_) in _TRICKS:
            return self._subjects.of(noun.head)
        is_photo = noun.dep_ == "pobj" and noun.head.lower_ == "for" and noun_lemma(noun.lower_) in _PHOTOS
        return self._subjects.of(noun.head.head) if is_photo and noun.head.head.pos_ == "VERB" else []

    def _possessor(self, noun: Token) -> None:
        for child in noun.lefts:
            mark = child.right_edge
            if child.dep_ == "poss" and (mark.dep_ == "case" or mark.tag_ == "PRP$") and self.mentions.is_noun(child):
                self._emit(self.mentions.referents(child), (mark.i, mark.i + 1), [noun], "possessive")

    def _direct_objects(self, verb: Token) -> list[Token]:
        for child in verb.children:
            if child.dep_ in _OBJECTS and child.i > verb.i:
                return self._objects(child)
            if child.dep_ == "dobj" and self.mentions.is_relative(child) and verb.dep_ == "relcl":
                return self.mentions.referents(verb.head)
        return []

    def _objects(self, noun: Token | None) -> list[Token]:
        if noun is None:
            return []
        if self.mentions.is_personal(noun):
            return self._subjects.antecedents(noun)
        if not self.mentions.is_noun(noun):
            return []
        members = [
            member
            for member in self.mentions.coordinated(noun)
            if member == noun or not self.mentions.starts_own_clause(member)
        ]
        return [referent for member in members for referent in self.mentions.referents(member)]

    def _stranded(self, verb: Token, subjects: list[Token], is_copula: bool) -> None:
        """Handles "the horse a man is riding", "the bench that a man sits on": the noun in front is the object."""
        front = self._fronted(verb)
        if front is None or any(child.dep_ in _OBJECTS for child in verb.children):
            return
        objects = self.mentions.referents(front)
        prepositions = [child for child in verb.rights if child.dep_ in ("prep", "prt", "advmod")]
        # The "on" of "the sand on which she walks"
        governing = (child for child in verb.lefts if any(map(self.mentions.is_relative, child.rights)))
        before = next((child for child in governing if child.dep_ == "prep"), None)
        if before is not None:
            self._emit(subjects, (verb.i, verb.i + 1), objects, "relative-object", f"{verb.text} {before.text}")
        elif not prepositions and not is_copula:
            self._emit(subjects, self._verb_range(verb), objects, "relative-object")
        elif len(prepositions) == 1 and prepositions[0].i == verb.i + 1 and not list(prepositions[0].rights):
            start = verb.i + is_copula
            self._emit(subjects, (start, verb.i + 2), objects, "relative-object")

    def _fronted(self, verb: Token) -> Token | None:
        own = [child for child in verb.lefts if child.dep_ in _SUBJECTS and not self.mentions.is_relative(child)]
        if verb.dep_ in ("relcl", "acl") and own and self.mentions.is_noun(verb.head):
            return verb.head
        # Without "that", the model reads both nouns as subjects.
        is_fronted = len(own) == 2 and verb.dep_ == "ROOT" and self.mentions.is_noun(own[0])
        return own[0] if is_fronted and not own[0].n_rights else None

    def _verb_range(self, verb: Token) -> tuple[int, int]:
        """Returns the token range of the verb with its particle and its governing verbs ("trying to catch")."""
        start, end = verb.i, verb.i + 1
        while end < len(self.doc) and self.doc[end].dep_ == "prt" and self.doc[end].head == verb:
            end += 1
        head = verb
        while head.dep_ == "xcomp" and head.head.i < start:
            head = head.head
            gap = range(head.i + 1, start)
            if not all(self.doc[position].tag_ == "TO" or self.doc[position].pos_ == "ADJ" for position in gap):
                break
            if not gap and verb_lemma(head.lower_) not in _ASPECTS:
                break
            if head.pos_ == "VERB" or (head.pos_ == "ADJ" and head.dep_ == "acomp"):
                start = head.i
        if self.doc[start].pos_ == "ADJ":
            start = verb.i
        return start, end

    def _is_agent(self, verb: Token, phrase: Phrase) -> bool:
        if self.doc[phrase.start].lower_ != "by" or phrase.end != phrase.start + 1:
            return False
        return verb.tag_ in ("VBN", "VBD") and canonical(f"{verb.lower_} by").endswith(" by")

    def _is_agent_behind(self, noun: Token, phrase: Phrase, agent: Token) -> bool:
        """Whether the phrase names the agent, as in "pushed on a swing by her father", and not a place near it."""
        verb = noun.head.head
        is_behind = noun.dep_ == "pobj" and verb.tag_ == "VBN" and self._is_agent(verb, phrase)
        return is_behind and self.mentions.is_animate(agent)

    def _is_means(self, phrase: Phrase, held: Token) -> bool:
        """Whether "by" names no place, as in "hangs by its tail" and "leads a horse by the reins"."""
        is_by = self.doc[phrase.start].lower_ == "by" and phrase.end == phrase.start + 1
        return is_by and noun_lemma(held.lower_) in BODY_PARTS | _HANDLES

    def _resumes(self, verb: Token, phrase: Phrase) -> bool:
        """Whether the phrase locates the verb's object: "a plate has food on it", "a man holds a cup in his hand"."""
        if phrase.object is None:
            return False
        if self.mentions.is_personal(phrase.object):
            return canonical(verb.lower_) == "have"
        is_in_hand = self.doc[phrase.start].lower_ == "in" and noun_lemma(phrase.object.lower_) in BODY_PARTS
        return is_in_hand and canonical(verb.lower_) in _HOLDING

    def _adjoins(self, verb: Token, start: int) -> bool:
        # "Standing side by side in a field" states two places, each by itself.
        if any(word.lower_ == "side" for word in self.doc[verb.i + 1 : start + 1]):
            return False
        return all(self.doc[position].pos_ in ("ADV", "ADP", "PART") for position in range(verb.i + 1, start))

    def _emit_phrase(self, subjects: list[Token], start: int, phrase: Phrase, rule: str) -> None:
        if phrase.object is None:
            self._emit(subjects, (start, phrase.end), subjects, "reciprocal")
            return
        objects = self._objects(phrase.object)
        if self.mentions.is_personal(phrase.object):
            self._said_by_pronoun |= {(object_.i, subject.i) for subject in subjects for object_ in objects}
        self._emit(subjects, (start, phrase.end), objects, rule)

    def _emit(
        self,
        subjects: Sequence[Token],
        predicate: tuple[int, int],
        objects: Sequence[Token],
        rule: str,
        words: str = "",
    ) -> None:
        """Adds a relation; `words` say what its predicate's token range can't."""
        words = words or self.doc[predicate[0] : predicate[1]].text
        # Of "a sink and a mirror above the sink", only the mirror is above it.
        before = {self.mentions.lemma(subject) for subject in subjects[:-1] if rule != "reciprocal"}
        for subject in subjects:
            for object_ in objects:
                if subject == object_ and (rule != "reciprocal" or len(subjects) > 1):
                    continue
                lemmas = self.mentions.lemma(subject), self.mentions.lemma(object_)
                is_known = lemmas[1] in before if subject != subjects[-1] else before and lemmas[0] == lemmas[1]
                if is_known and not any(child.lower_ in ("another", "other") for child in object_.lefts):
                    continue
                self._linked.add(object_.i)
                implied = reading(words, *lemmas)
                meant = implied or ImpliedRelation(canonical(words), False, rule)
                ends = (object_, subject) if meant.swapped else (subject, object_)
                key = (ends[0].i, ends[1].i, meant.predicate)
                if meant.predicate and key not in self.found:
                    self.found[key] = self._triplet(*ends, predicate, meant)

    def mention(self, noun: Token) -> Mention:
        """Returns a noun as the caption has it."""
        if noun.i not in self._mentioned:
            start, end = self._characters(*self.mentions.span(noun))
            lemma, count = self.mentions.lemma(noun), self.mentions.count(noun)
            attributes = self.mentions.attributes(noun)
            self._mentioned[noun.i] = Mention(self._caption[start:end], lemma, start, end, count, attributes)
        return self._mentioned[noun.i]

    def _triplet(self, subject: Token, object_: Token, predicate: tuple[int, int], meant: ImpliedRelation) -> Triplet:
        start, end = self._characters(*predicate)
        return Triplet(
            predicate=self._caption[start:end],
            predicate_lemma=meant.predicate,
            predicate_start=start,
            predicate_end=end,
            rule=meant.rule,
            **self.mention(subject).as_end("subject"),
            **self.mention(object_).as_end("object"),
        )

    def _characters(self, start: int, end: int) -> tuple[int, int]:
        """Converts a token range to a character range of the caption."""
        last = self.doc[end - 1]
        first = max(self.doc[start].idx - self._added, 0) + self._start
        while self._caption[first].isspace():
            first += 1
        return first, last.idx + len(last.text) - self._added + self._start

    def _adjacent_mentions(self) -> None:
        """Reads plain "noun verb/preposition noun" sequences where the tree links nothing to the second noun."""
        nouns = [
            token
            for token in self.doc
            if self.mentions.is_noun(token) and token.dep_ not in _INNER and not is_part_noun(token)
        ]
        for left, right in pairwise(nouns):
            if right.dep_ in ("conj", "nsubj", "nsubjpass"):
                continue
            if any(referent.i in self._linked for referent in (right, *self.mentions.referents(right))):
                continue
            predicate = self._plain_predicate(left.i + 1, self.mentions.span(right)[0])
            if predicate is not None and not any({*ends} == {left.i, right.i} for *ends, _ in self.found):
                subject = self._subjects.capable_subject(left, self.doc[predicate[0]])
                self._emit(self.mentions.referents(subject), predicate, self.mentions.referents(right), "adjacent")

    def _plain_predicate(self, start: int, end: int) -> tuple[int, int] | None:
        if any(map(self.mentions.is_doubted, self.doc[start:end])):
            return None
        while start < end and self.doc[start].pos_ in ("AUX", "ADV") and self.doc[start].lower_ != "next":
            start += 1
        tokens = [self.doc[position] for position in range(start, end)]
        if not tokens or tokens[0].lower_ in NO_LINK | {"of", "and", "or", "up"}:
            return None
        tail = tokens[1:] if tokens[0].pos_ == "VERB" else tokens
        if not all(word.pos_ in ("ADP", "PART", "SCONJ") or word.lower_ in PART_NOUNS | {"next"} for word in tail):
            return None
        return start, end
