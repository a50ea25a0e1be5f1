"""The small closed word classes of English, as they occur in predicates."""

import re

from tagger.english.words import words

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")

DETERMINERS = words("a an the his her its their my your our some this that these those")
AUXILIARIES = words("am is are was were be been being")
PERFECT = words("has have had having")
ADVERBS = words(
    "directly immediately just partially partly slightly very really currently happily quietly also both "
    "carefully closely together still already almost nearly high"
)

# Words that open a predicate without being its verb. lemminflect would read some of them as verbs ("left", "near").
FUNCTION_WORDS = words(
    "about above across adjacent after against ahead along alongside among amongst and apart around as astride at "
    "atop away back before behind below beneath beside besides between beyond by close down during far for from "
    "full in inside into left like near nearby next no not of off on onto opposite or out outside over past right "
    "round side similar than through throughout to toward towards under underneath until up upon via with within "
    "without"
)


def tokens_of(text: str) -> list[str]:
    """Returns the words of `text` in lower case, without punctuation."""
    return _WORD.findall(text.lower())
