"""Letters: hedged, quoted, rejected, several together, behind a list, in other scripts."""

from __future__ import annotations

import pytest

from blendin.evaluation.tasks.truthfulqa import chosen_letter

LIST = "A) One\nB) Two\nC) Three\nD) Four"


@pytest.mark.parametrize(
    "form",
    [
        # said to be the answer, with doubt or without
        "The answer is probably {}.",
        "The answer is most likely {}",
        "The answer is definitely {}.",
        "The answer is, therefore, {}.",
        "The answer is clearly option {}.",
        "The correct answer must be {}.",
        "The right answer might be {}.",
        "The best answer is ({}).",
        "The answer to this question is {}.",
        "It's {}.",
        "It’s {}.",  # noqa: RUF001
        "It is {}.",
        "It's probably {}.",
        "It must be {}.",
        "That would be {}.",
        "I'd go with {}.",
        "I would go with {}.",
        "I’d say {}.",  # noqa: RUF001
        "I choose {}.",
        "I would choose option {}.",
        "I'll pick {}.",
        "I think it's {}.",
        "I think it is {}.",
        "I believe the answer is {}.",
        "My guess is {}.",
        "My choice: {}",
        "So, {}.",
        "Therefore, {}.",
        "Nothing happens. So {}.",
        "Nothing happens => {}",
        "I am sure that {} is the correct answer.",
        "Statement {} is true.",
        "Option {} seems correct.",
        "{} is the most accurate answer.",
        "{} is the best choice.",
        "{} is the one that is true",
        "{} it is.",
        "Correct answer: {}",
        "<answer>{}</answer>",
        "<think>A? Or D?</think>{}",
        # quoted, bracketed, in other widths
        "The answer is '{}'.",
        "The answer is ‘{}’.",  # noqa: RUF001
        'The answer is "{}"',
        "The answer is “{}”.",
        "The answer is «{}».",
        "'{}'",
        "（{}）",  # noqa: RUF001
        "【{}】",
        "({})",
        "[{}]",
        "{}）",  # noqa: RUF001
        "**({})**",
        "{}!",
        # behind a list, alone on the last line
        LIST + "\n{}",
        LIST + "\n\n{}",
        LIST + "\n\n**{}**",
        LIST + "\n\nAnswer: {}",
        LIST + "\n\nI'd go with {}.",
        LIST + "\n\n({})",
        "What happens?\n" + LIST + "\n{}.",
        "Nothing happens to you at all.\n\n{}",
        "A) One B) Two C) Three\n{}",
        # beside letters that are rejected
        "{}, not D.",
        "Not D but {}.",
        "D is wrong. The answer is {}.",
        "D is incorrect, so {}.",
        "{}, because D is false.",
        "The answer is {} rather than D.",
        "D can be ruled out. It's {}.",
        # further questions
        "{}\n\nQuestion: Why?\nAnswer: D",
        "{}\n\nQ: Why?\nA: D",
    ],
)
@pytest.mark.parametrize("letter", "ABC")
def test_a_letter_that_is_chosen_is_read(form: str, letter: str) -> None:
    if form.startswith("{} it is") and letter == "A":
        return
    assert chosen_letter(form.format(letter), "ABCD") == letter


@pytest.mark.parametrize(
    "text",
    [
        # rejected
        "B is wrong.",
        "B is incorrect.",
        "B is false.",
        "B is not correct.",
        "B is not the answer.",
        "B isn't right.",
        "B is clearly wrong.",
        "B seems wrong.",
        "B can't be right.",
        "B cannot be true.",
        "B) is wrong",
        "(B) is a myth.",
        "B: wrong",
        "Option B is a misconception.",
        "A is wrong.",
        "Not B.",
        "The answer is not B.",
        "The answer isn't B.",
        "It's not B.",
        "It can't be B.",
        "I wouldn't choose B.",
        "I would not say B.",
        "Anything rather than B.",
        "Neither B nor C.",
        "We can rule out B",
        "B can be ruled out.",
        "The answer is B. No, B is wrong.",
        # several
        "A, C",
        "A, B",
        "B, C",
        "A and C",
        "B and C",
        "B or C",
        "B/C",
        "B & C",
        "A, B and D",
        "(A) and (C)",
        "(A), (C)",
        "Both A and B",
        "The answer is A or B.",
        "The answer is B or C.",
        "The answer is A, C.",
        "The answers are B and C.",
        "Answer: B, C",
        "It's either B or C.",
        "I'd go with A or B.",
        "Options B and C are correct.",
        "B and C are both correct.",
        # lists and what is no choice
        LIST,
        LIST + "\n",
        "A) One B) Two C) Three",
        "<think>The answer is B.",
        "<think>The answer is B.</think>",
        "Vitamin C is good for you",
        "It is a myth.",
        "I think a man would",
    ],
)
def test_what_is_rejected_or_several_is_no_choice(text: str) -> None:
    assert chosen_letter(text, "ABCD") is None
