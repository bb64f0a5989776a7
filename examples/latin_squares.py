"""A puzzle that the package does not know: write `train.csv` and `test.csv` of 5x5 Latin squares, one answer each.

python examples/latin_squares.py
hrm data build text --source train.csv --test-source test.csv --val 100 --out data/text
hrm train text-1k
hrm eval runs/text/text-1k
hrm solve text ....3...1...2..12..5..531 --weights runs/text/text-1k
"""

import csv
import random

SIDE = 5
DIGITS = "12345"


def fits(cells: list[str], k: int) -> list[str]:
    """Digits that neither the row nor the column of cell k holds."""
    row, column = divmod(k, SIDE)
    seen = {*cells[row * SIDE : (row + 1) * SIDE], *cells[column::SIDE]}
    return [digit for digit in DIGITS if digit not in seen]


def answers(cells: list[str], rng: random.Random, most: int) -> list[str]:
    """Up to `most` ways to fill the open cells, in random order."""
    open_cells = [k for k, cell in enumerate(cells) if cell == "."]
    if not open_cells:
        return ["".join(cells)]
    k = min(open_cells, key=lambda k: len(fits(cells, k)))
    found = []
    for digit in rng.sample(fits(cells, k), len(fits(cells, k))):
        found += answers([*cells[:k], digit, *cells[k + 1 :]], rng, most - len(found))
        if len(found) == most:
            break
    return found


def puzzle(rng: random.Random) -> tuple[str, str]:
    """A question from which no given can be taken, and its answer."""
    (answer,) = answers(["."] * SIDE * SIDE, rng, 1)
    cells = list(answer)
    for k in rng.sample(range(SIDE * SIDE), SIDE * SIDE):
        without = [*cells[:k], ".", *cells[k + 1 :]]
        if len(answers(without, rng, 2)) == 1:
            cells = without
    return "".join(cells), answer


def main() -> None:
    rng, rows = random.Random(0), {}
    while len(rows) < 2100:
        question, answer = puzzle(rng)
        rows[question] = answer
    for name, part in (("train.csv", list(rows.items())[:1100]), ("test.csv", list(rows.items())[1100:])):
        with open(name, "w", newline="") as file:
            csv.writer(file).writerows([("question", "answer"), *part])


if __name__ == "__main__":
    main()
