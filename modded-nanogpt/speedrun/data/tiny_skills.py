"""random stream -> one short English document that shows one skill.

The tiny track trains on these documents (tiny_corpus.py): each skill is small enough for a small transformer,
and the skills differ in what they need (a table of facts, the place in a line, looking back at an earlier
token), so that they are learnt at different moments. A document is about 30 to 500 GPT-2 tokens of plain text
that ends with a newline. Only `random.Random` decides, so a seed gives the same text on every machine.
"""

from collections.abc import Callable
from random import Random

from speedrun.data.tiny_facts import (
    CAPITALS,
    DAYS,
    ELEMENTS,
    GIFTS,
    LINE_WORDS,
    LINE_WORDS_OF_LENGTH,
    MONTH_DAYS,
    MONTHS,
    NAMES,
    NUMBERS,
    ORDINALS,
    PLACES,
    PLANET_FACTS,
    PLANETS,
    PRESIDENTS,
    SPELLED,
    TRANSLATIONS,
    UNITS,
    WORDS,
)

Skill = Callable[[Random], str]


def _lines(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)


def arithmetic(random: Random) -> str:
    """`3 + 4 = 7`, `9 - 2 = 7`, `6 x 7 = 42`, or `Three plus four is seven.`; a few sums with two digits."""
    kind = random.choice(("+", "+", "-", "x", "words"))
    lines = []
    for _ in range(random.randint(12, 30)):
        a, b = random.randint(0, 9), random.randint(0, 9)
        if kind == "+":
            a = random.randint(10, 89) if random.random() < 0.2 else a
            lines.append(f"{a} + {b} = {a + b}")
        elif kind == "-":
            lines.append(f"{max(a, b)} - {min(a, b)} = {max(a, b) - min(a, b)}")
        elif kind == "x":
            lines.append(f"{a} x {b} = {a * b}")
        else:
            lines.append(f"{NUMBERS[a]} plus {NUMBERS[b]} is {NUMBERS[a + b]}".capitalize() + ".")
    return _lines(lines)


def capitals(random: Random) -> str:
    """`The capital of France is Paris.` or the other way round, `Paris is the capital of France.`"""
    pairs = random.sample(sorted(CAPITALS.items()), random.randint(8, 20))
    if random.random() < 0.7:
        return _lines([f"The capital of {country} is {city}." for country, city in pairs])
    return _lines([f"{city} is the capital of {country}." for country, city in pairs])


def calendar(random: Random) -> str:
    """Neighbours and numbers of days and months, and lists of them from any start."""
    lines = []
    for _ in range(random.randint(8, 20)):
        names, word = random.choice(((DAYS, "day"), (MONTHS, "month")))
        i = random.randrange(len(names))
        here, following = names[i], names[(i + 1) % len(names)]
        month = random.choice(MONTHS)
        lines.append(
            random.choice(
                (
                    f"The {word} after {here} is {following}.",
                    f"The {word} before {following} is {here}.",
                    f"The {ORDINALS[i]} {word} of the {'week' if names is DAYS else 'year'} is {here}.",
                    f"{month} has {MONTH_DAYS[month]} days.",
                    ", ".join(names[(i + k) % len(names)] for k in range(random.randint(4, len(names)))) + ".",
                )
            )
        )
    return _lines(lines)


def in_base(number: int, base: int) -> str:
    """Return `number` >= 0 written in `base` 2 to 16, with capital letters as digits above 9."""
    head = in_base(number // base, base) if number >= base else ""
    return head + "0123456789ABCDEF"[number % base]


def counting(random: Random) -> str:
    """`Counting from 47: 47, 48, 49.`, by other steps, downwards, in words, and in base 2, 8 and 16."""
    lines = []
    for _ in range(random.randint(2, 6)):
        count = random.randint(8, 24)
        kind = random.choice(("one", "one", "step", "down", "words", "base"))
        if kind == "one":
            start = random.randint(0, 300)
            heading, numbers = f"Counting from {start}", [str(start + k) for k in range(count)]
        elif kind == "step":
            step, start = random.choice((2, 3, 5, 10)), random.randint(0, 50)
            heading, numbers = (
                f"Counting by {step} from {start}",
                [str(start + k * step) for k in range(count)],
            )
        elif kind == "down":
            start = random.randint(count, 100)
            heading, numbers = f"Counting down from {start}", [str(start - k) for k in range(count)]
        elif kind == "words":
            start = random.randint(0, 99 - count)
            heading, numbers = f"Counting from {NUMBERS[start]}", NUMBERS[start : start + count]
        else:
            base, start = random.choice((2, 8, 16)), random.randint(0, 40)
            numbers = [in_base(start + k, base) for k in range(count)]
            heading = f"Counting in base {base} from {numbers[0]}"
        lines.append(f"{heading}: {', '.join(numbers)}.")
    return _lines(lines)


def elements(random: Random) -> str:
    """Symbols and atomic numbers of the first thirty elements, and the order of the elements."""
    lines = []
    for i in random.sample(range(len(ELEMENTS)), random.randint(6, 14)):
        name, symbol = ELEMENTS[i]
        run = [name for name, _ in ELEMENTS[i : i + random.randint(4, 8)]]
        order = f"Elements {i + 1} to {i + len(run)}: {', '.join(run)}."
        fact = f"The symbol of {name} is {symbol} and its atomic number is {i + 1}."
        lines.append(order if len(run) > 3 and random.random() < 0.2 else fact)
    return _lines(lines)


def induction(random: Random) -> str:
    """Random words or random numbers, the same sequence again and again."""
    if random.random() < 0.75:
        block = random.sample(WORDS, random.randint(6, 30))
    else:
        block = [str(random.randint(0, 99)) for _ in range(random.randint(6, 24))]
    return " ".join(block * (random.randint(60, 120) // len(block))) + "\n"


def spelling(random: Random) -> str:
    """`house: h o u s e`."""
    words = random.sample(SPELLED, random.randint(10, 30))
    return _lines([f"{word}: {' '.join(word)}" for word in words])


def ioi(random: Random) -> str:
    """Indirect objects: `When Anna and Ben went to the park, Ben gave a book to Anna.`"""
    lines = []
    for _ in range(random.randint(4, 14)):
        giver, receiver = random.sample(NAMES, 2)
        first, second = random.sample((giver, receiver), 2)
        both, place, gift = f"{first} and {second}", random.choice(PLACES), random.choice(GIFTS)
        lines.append(
            random.choice(
                (
                    f"When {both} went to the {place}, {giver} gave a {gift} to {receiver}.",
                    f"After {both} met at the {place}, {giver} sold a {gift} to {receiver}.",
                    f"While {both} were at the {place}, {giver} showed the {gift} to {receiver}.",
                    f"At the {place}, {first} sat by {second}, and {giver} passed a {gift} to {receiver}.",
                )
            )
        )
    return _lines(lines)


def lengths(random: Random) -> str:
    """Lines of random words, all with the same number of words, or all with the same number of characters."""
    num_lines = random.randint(8, 16)
    if random.random() < 0.5:
        num_words = random.randint(3, 8)
        return _lines([" ".join(random.choices(WORDS, k=num_words)) for _ in range(num_lines)])
    width = random.choice((20, 24, 28, 32, 36, 40))
    return _lines([_line_of_width(random, width) for _ in range(num_lines)])


def _line_of_width(random: Random, width: int) -> str:
    words: list[str] = []
    room = width
    while True:
        if 3 <= room <= 6:
            return " ".join([*words, random.choice(LINE_WORDS_OF_LENGTH[room])])
        word = random.choice(LINE_WORDS)
        if len(word) + 4 <= room:  # a space and a word of three letters or more still fit after it
            words.append(word)
            room -= len(word) + 1


def planets(random: Random) -> str:
    """Order, neighbours and a few lasting facts of the eight planets."""
    facts = list(PLANET_FACTS)
    for i, planet in enumerate(PLANETS):
        facts.append(f"{planet} is the {ORDINALS[i]} planet from the Sun.")
        facts.append(f"The {ORDINALS[i]} planet from the Sun is {planet}.")
        facts.append(f"After {planet} comes {PLANETS[i + 1]}." if i < 7 else "The last planet is Neptune.")
    return _lines(random.sample(facts, random.randint(6, 16)))


def presidents(random: Random) -> str:
    """`The 16th president of the United States was Abraham Lincoln.`, or a stretch of the numbered list."""
    if random.random() < 0.4:
        start = random.randrange(len(PRESIDENTS) - 5)
        stop = min(start + random.randint(6, 20), len(PRESIDENTS))
        return _lines([f"{i + 1}. {PRESIDENTS[i]}" for i in range(start, stop)])
    chosen = random.sample(range(len(PRESIDENTS)), random.randint(5, 12))
    return _lines([f"The {ordinal(i + 1)} president of the United States was {PRESIDENTS[i]}." for i in chosen])


def ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th, ..., 11th, 12th, 13th, ..., 21st for `number` >= 1."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def code(random: Random) -> str:
    """Short Python functions and what they print."""
    blocks = []
    for _ in range(random.randint(3, 6)):
        a, b = random.choice((("a", "b"), ("x", "y"), ("m", "n"), ("left", "right"), ("first", "second")))
        p, q = random.randint(1, 9), random.randint(1, 9)
        item = random.choice(("book", "coin", "key", "card", "letter", "flower", "word", "page"))
        name, expression, value = random.choice(
            (
                ("add", f"{a} + {b}", p + q),
                ("subtract", f"{a} - {b}", p - q),
                ("multiply", f"{a} * {b}", p * q),
                ("largest", f"max({a}, {b})", max(p, q)),
                ("smallest", f"min({a}, {b})", min(p, q)),
                ("equal", f"{a} == {b}", p == q),
                ("pair", f"({a}, {b})", (p, q)),
            )
        )
        function = f"def {name}({a}, {b}):\n    return {expression}\n\nprint({name}({p}, {q}))  # {value}\n"
        loop = f"for {item} in {item}s:\n    print({item})\n"
        blocks.append(loop if random.random() < 0.25 else function)
    return "\n".join(blocks)


def brackets(random: Random) -> str:
    """`( [ { } ] )`, all lines equally deep, or `The word "sun" begins with "s" and ends with "n".`"""
    if random.random() < 0.6:
        depth, closing = random.randint(2, 6), {"(": ")", "[": "]", "{": "}", "<": ">"}
        openings = [random.choices("([{<", k=depth) for _ in range(random.randint(6, 16))]
        return _lines([" ".join([*line, *(closing[char] for char in reversed(line))]) for line in openings])
    words = random.sample(SPELLED, random.randint(5, 12))
    return _lines([f'The word "{word}" begins with "{word[0]}" and ends with "{word[-1]}".' for word in words])


def copying(random: Random) -> str:
    """`copy: sun map key -> sun map key`, or `reverse: sun map key -> key map sun`."""
    step, heading = random.choice(((1, "copy"), (1, "copy"), (-1, "reverse")))
    lists = [random.sample(WORDS, random.randint(2, 8)) for _ in range(random.randint(4, 12))]
    return _lines([f"{heading}: {' '.join(words)} -> {' '.join(words[::step])}" for words in lists])


def units(random: Random) -> str:
    """`The number of days in 3 weeks is 21.`, or `The day after March 31 is April 1.`"""
    lines = []
    of_dates = random.random() < 0.5
    for _ in range(random.randint(8, 20)):
        if of_dates:
            i = random.randrange(12)
            last = MONTH_DAYS[MONTHS[i]]
            day = last if random.random() < 0.4 else random.randint(1, last)
            if (MONTHS[i], day) == ("February", 28):
                day = 27  # what follows February 28 depends on the year
            following = f"{MONTHS[i]} {day + 1}" if day < last else f"{MONTHS[(i + 1) % 12]} 1"
            lines.append(f"The day after {MONTHS[i]} {day} is {following}.")
        else:
            one, many, factor, parts = random.choice(UNITS)
            count = random.randint(1, 9)
            whole = one if count == 1 else many
            lines.append(f"The number of {parts} in {count} {whole} is {count * factor}.")
    return _lines(lines)


def translation(random: Random) -> str:
    """`The French word for house is maison.`"""
    language = random.choice((1, 2))
    rows = random.sample(TRANSLATIONS, random.randint(8, 20))
    name = ("English", "French", "Spanish")[language]
    return _lines([f"The {name} word for {row[0]} is {row[language]}." for row in rows])


SKILLS: dict[Skill, int] = {
    arithmetic: 1,
    capitals: 1,
    calendar: 1,
    counting: 1,
    elements: 1,
    induction: 4,
    spelling: 1,
    ioi: 2,
    lengths: 1,
    planets: 1,
    presidents: 1,
    code: 1,
    brackets: 1,
    copying: 3,
    units: 1,
    translation: 1,
}
"""Each skill with its share of the tokens. What needs looking back at earlier tokens is learnt last."""
