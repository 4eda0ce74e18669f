"""Answers of VQA as its evaluation compares them (Antol et al. 2015; visualqa.org, "Evaluation").

Lower case, no full stops but decimal ones, numbers up to ten as digits, no articles, apostrophes put back, and
punctuation out: a mark goes without a trace where it stands beside a space, and leaves a space where it joins words.
"""

import re
from collections.abc import Sequence

ENOUGH = 3  # people who must have said it
ARTICLES = {"a", "an", "the"}
NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"zero": "0"}
MARKS = ';/[]"{}()=+\\_-><@`,?!'
# Words that lose their apostrophe in writing; those that would then be other words ("its", "were") are left alone.
CONTRACTED = """
ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't shan't shouldn't
wasn't weren't won't wouldn't could've should've would've might've he's she's how's that's there's what's where's who's
when's why's here's somebody's someone's something's let's i'm i've you're you've you'd you'll they're they've they'd
they'll we've who've who'd who'll what've what'll what're how'd how'll that'd there'd there're it'd it'll ma'am o'clock
y'all 'twas 'tis
"""
WITH_APOSTROPHE = {word.replace("'", ""): word for word in CONTRACTED.split()}


def normalise(answer: str) -> str:
    """The form in which two answers are compared."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    joins_digits = re.search(r"\d,\d", text) is not None
    stripped = text
    for mark in MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if beside_space or joins_digits else " ")
    stripped = re.sub(r"\.(?!\d)", "", stripped)
    words = [DIGITS.get(word, word) for word in stripped.lower().split()]
    return " ".join(WITH_APOSTROPHE.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, wanted: Sequence[str]) -> float:
    """min(people who said it / 3, 1), the mean over all ways to leave one of the people out."""
    said, people = normalise(answer), [normalise(one) for one in wanted]
    agree = sum(said == one for one in people)
    # Leaving out one who agrees leaves one fewer; there are `agree` ways to do that.
    without, with_all = min(max(agree - 1, 0) / ENOUGH, 1.0), min(agree / ENOUGH, 1.0)
    return (agree * without + (len(people) - agree) * with_all) / len(people)
