"""Answers of VQA as its evaluation compares them (Antol et al. 2015; visualqa.org, "Evaluation").

Lower case, no full stops but decimal ones, numbers up to ten as digits, no articles, apostrophes put back, and
punctuation out: a mark goes without a trace where it stands beside a space, and leaves a space where it joins words.
People's answers are brought into this form too, also where all say the same, which the published script leaves alone.
"""

import re
from collections.abc import Sequence

ENOUGH = 3  # people who must have said it
ARTICLES = {"a", "an", "the"}
NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)} | {"zero": "0"}
MARKS = ';/[]"{}()=+\\_-><@`,?!'
# The published list: what gets its apostrophe back, where one is missing.
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
WITH_APOSTROPHE = {
    word[:at] + word[at + 1 :]: word for word in CONTRACTED.split() for at, mark in enumerate(word) if mark == "'"
}


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
