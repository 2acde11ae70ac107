"""Compose the sample corpus: short encyclopaedic articles in WikiText-2's raw format.

The facts are in ``facts/*.csv`` (one table a category), the sentences in ``templates/*.txt``
(the notation is described in README.md). The output depends on these files and ``SEED`` alone,
so that a test can compose it again and compare.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import random
import re
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
SEED = 20
SPLITS = {"wiki.train.raw": 0.8, "wiki.valid.raw": 0.1, "wiki.test.raw": 0.1}
OPTIONAL = 0.8  # how often a slot or section marked "?" is used
ASIDE = 7  # how many sentences at most on a related subject
NAMED = ("country", "university")  # columns that name a row of another table
PEOPLE = ("composer", "painter", "scientist", "writer")


def _sibling(name: str) -> ModuleType:
    """The module beside this file, found by its path: this file is not in a package."""
    spec = importlib.util.spec_from_file_location(f"sample_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


english = _sibling("english")


class MissingError(LookupError):
    """A template asks for a value that this row does not have: another template is tried."""


# ---------------------------------------------------------------- the tables


class Row:
    """One subject: the values of its line in the table, and the numbers among them."""

    def __init__(self, category: str) -> None:
        self.category = category
        self.values: dict[str, str] = {}
        self.numbers: dict[str, float] = {}

    def number(self, column: str) -> float:
        if column not in self.values:
            raise KeyError(f"{self.category} has no column {column}")
        if column not in self.numbers:
            raise MissingError(f"{self.title}: {column}")
        return self.numbers[column]

    @property
    def title(self) -> str:
        return self.values["title"]

    def get(self, name: str) -> str:
        """A column's text as prose, or MissingError."""
        column, _, how = name.partition(".")
        if column == "name":
            return f"{self.values.get('the', '')} {self.title.partition(' (')[0]}".strip()
        if column == "short":
            return self.values.get("short") or self.get("name")
        if column in NAMED:
            column += "_name"
        value = self.values[column]  # a KeyError here is a slip in a template
        if not value:
            raise MissingError(f"{self.title}: {name}")
        items = value.split(";")
        if how == "w":
            return english.number_word(int(self.numbers[column]))
        if how == "n":
            return english.number_word(len(items))
        if how:
            if how not in ("0", "1", "2") or int(how) >= len(items):
                raise MissingError(f"{self.title}: {name}")
            return items[int(how)]
        return english.join(items)


def load_tables() -> dict[str, list[Row]]:
    """Every table; a column whose header ends in "#" holds numbers to be written with commas."""
    tables: dict[str, list[Row]] = {}
    for path in sorted((HERE / "facts").glob("*.csv"), key=lambda p: p.name):
        rows = tables.setdefault(path.stem, [])
        with path.open(encoding="utf-8", newline="") as handle:
            for record in csv.DictReader(handle, strict=True):
                if None in record or None in record.values():
                    raise ValueError(f"{path.name}: wrong number of cells: {record}")
                row = Row(path.stem)
                for key, cell in record.items():
                    name, value = key.removesuffix("#"), cell.strip()
                    if re.fullmatch(r"-?\d+(\.\d+)?", value):
                        row.numbers[name] = float(value)
                        if key.endswith("#"):
                            digits = len(value.partition(".")[2])
                            value = f"{float(value):,.{digits}f}".replace("-", "\u2212")
                    row.values[name] = value
                rows.append(row)
    for column in NAMED:  # as in running text, with "the" where it has one
        names = {row.title: row.get("name") for row in tables[column]}
        for row in (row for rows in tables.values() for row in rows):
            title = row.values.get(column, "")
            row.values[f"{column}_name"] = names.get(title, title)
    return tables


# ---------------------------------------------------------------- the templates


class Section:
    """A heading and its paragraphs; a paragraph is a list of slots, a slot a list of variants."""

    def __init__(self, titles: list[str], level: int = 0, marks: str = "") -> None:
        self.titles, self.level = titles, level
        self.optional, self.last = "?" in marks, "!" in marks
        self.paragraphs: list[tuple[str, list[list[str]]]] = []


def read_lines(name: str) -> list[str]:
    """A template file's lines with its includes put in."""
    lines: list[str] = []
    for line in (HERE / "templates" / name).read_text(encoding="utf-8").split("\n"):
        if line.startswith("%include "):
            lines += read_lines(line.split()[1])
        elif not line.startswith("#"):
            lines.append(line.strip())
    return lines


def load_templates(category: str) -> tuple[str, list[Section]]:
    """The category's word for its subjects, and its sections."""
    kind, sections = "", [Section([])]
    slot: list[str] | None = None
    for line in read_lines(f"{category}.txt"):
        heading = re.fullmatch(r"(==+)([?!]*) (.+)", line)
        if line.startswith("!kind "):
            kind = line[6:]
        elif heading:
            marks = heading.group(2)
            titles = heading.group(3).split(" / ")
            level = len(heading.group(1))
            sections.append(Section(titles, level, marks))
            slot = None
        elif line.startswith("--"):
            sections[-1].paragraphs.append((line[2:].strip(), []))
            slot = None
        elif not line:
            slot = None
        else:
            if not sections[-1].paragraphs:
                sections[-1].paragraphs.append(("", []))
            if slot is None or line == "?":
                slot = []
                sections[-1].paragraphs[-1][1].append(slot)
            slot.append(line)
    return kind, sections


# ---------------------------------------------------------------- one article


class Article:
    """Composes one row's article; what it picks (a subject to compare with) it keeps to."""

    def __init__(self, row: Row, tables: dict[str, list[Row]], kind: str) -> None:
        self.row, self.tables, self.kind = row, tables, kind
        self.rng = random.Random(f"{SEED}:{row.category}:{row.title}")
        self.picked: dict[str, Row] = {}
        self.fresh = True  # nothing said yet in this paragraph: use the name, not a pronoun
        self.last = ""

    def expand(self, text: str) -> str:
        """Choose among "[a|b]" alternatives, innermost first, then fill in the "{values}"."""
        while match := re.search(r"\[([^\[\]]*)\]", text):
            choice = self.rng.choice(match.group(1).split("|"))
            text = text[: match.start()] + choice + text[match.end() :]
        return re.sub(r"\{([^}]+)\}", lambda m: self.value(m.group(1)), text)

    def subject(self) -> str:
        """The name first, then pronoun, name or kind, never the same twice in a row."""
        options = ["it", "it", "name", "kind"] if self.kind else ["it", "name"]
        how = "name" if self.fresh else self.rng.choice([o for o in options if o != self.last])
        self.fresh, self.last = False, how
        if how == "it":
            return self.pronoun("he")
        return self.expand(self.kind) if how == "kind" else self.row.get("short")

    def pronoun(self, which: str) -> str:
        forms = {"m": ("he", "his", "him", "himself"), "f": ("she", "her", "her", "herself")}
        own = forms.get(self.row.values.get("gender", ""), ("it", "its", "it", "itself"))
        return own[("he", "his", "him", "himself").index(which)]

    def pick(self, key: str, candidates: list[Row]) -> Row:
        if key not in self.picked:
            used = [id(row) for row in self.picked.values()]
            fresh = [row for row in candidates if id(row) not in used and row is not self.row]
            if not fresh:
                raise MissingError(f"{self.row.title}: {key}")
            self.picked[key] = self.rng.choice(fresh)
        return self.picked[key]

    def other(self, how: str, column: str) -> Row:
        """Another row of the table: less (lo), more (hi), the same value (same), or any."""
        rows = self.tables[self.row.category]
        if how.startswith("same"):
            mine = set(self.row.values[column].split(";")) - {""}
            found = [r for r in rows if mine & set(r.values[column].split(";"))]
        else:
            mine = self.row.number(column)
            sign = -1 if how.startswith("lo") else 1
            found = [r for r in rows if sign * (r.numbers.get(column, mine) - mine) > 0]
        return self.pick(f"{how}.{column}", found)

    def value(self, path: str) -> str:
        """What a "{path}" stands for."""
        row, parts = self.row, path.split(".")
        if path in ("s", "s's"):
            word = self.subject()
            if path == "s":
                return word
            own = {"it": "its", "he": "his", "she": "her"}
            return own.get(word, f"{word}'s")
        if path in ("he", "his", "him", "himself"):
            return self.pronoun(path)
        if "-" in path:
            after, before = path.split("-")
            return english.number_word(round(row.number(after) - row.number(before)))
        head = parts[0].rstrip("2")
        if head in ("lo", "hi", "same"):
            return self.other(parts[0], parts[1]).get(".".join(parts[2:]))
        if head == "gap":
            other = self.other(parts[1], parts[2])
            whole = round(abs(other.number(parts[2]) - row.number(parts[2])), 2)
            return english.number_word(int(whole)) if whole == int(whole) else f"{whole:,g}"
        if head == "times":
            mine, its = row.number(parts[2]), self.other(parts[1], parts[2]).number(parts[2])
            ratio = round(max(mine, its) / max(min(mine, its), 1e-9))
            if not 2 <= ratio <= 19 or min(mine, its) <= 0:
                raise MissingError(path)
            return "twice" if ratio == 2 else f"{english.number_word(ratio)} times"
        if head == "rank":
            column, word = parts[1], parts[2]
            sign = -1 if word in ("smallest", "lightest", "shortest", "lowest", "oldest") else 1
            mine = sign * row.number(column)
            rows = self.tables[row.category]
            place = 1 + sum(sign * r.numbers[column] > mine for r in rows if column in r.numbers)
            return word if place == 1 else f"{english.ordinal(place)}-{word}"
        if head in ("count", "list"):
            mine, rows = row.values[parts[1]], self.tables[row.category]
            found = [r for r in rows if mine and r.values[parts[1]] == mine and r is not row]
            if len(found) < 2:
                raise MissingError(path)
            if head == "count":
                return english.number_word(len(found))
            sample = self.rng.sample(found, min(len(found), self.rng.randint(2, 4)))
            return english.join([r.get("name") for r in sample])
        if head == "peer":
            born = row.numbers["born"]
            people = [r for name in PEOPLE for r in self.tables[name]]
            near = [r for r in people if 0 < abs(r.numbers["born"] - born) <= 15]
            peer = self.pick(parts[0], near)
            if parts[1] == "kind":
                return peer.category
            if parts[1] == "gap":
                return english.number_word(int(abs(peer.numbers["born"] - born)))
            if parts[1] == "older":
                return "older" if peer.numbers["born"] < born else "younger"
            return peer.get(".".join(parts[1:]))
        if head == "in":  # a row of another table that names this one in a column
            rows = [r for r in self.tables[parts[1]] if row.title in r.values[parts[2]].split(";")]
            return self.pick(".".join([parts[0], *parts[1:3]]), rows).get(".".join(parts[3:]))
        if head == "to":  # the row of another table that this one names in a column
            rows = [r for r in self.tables[parts[1]] if r.title == row.values[parts[2]]]
            if not rows:
                raise MissingError(path)
            return rows[0].get(".".join(parts[3:]))
        if path.startswith("!"):  # a sentence for rows that lack this value
            if row.values[path[1:]]:
                raise MissingError(path)
            return ""
        if path == "role":
            return row.category
        return row.get(path)

    def sentence(self, slot: list[str]) -> str:
        """One variant of the slot for which the row has every value, or nothing."""
        for line in self.rng.sample(slot, len(slot)):
            for _ in range(4):
                fresh, last = self.fresh, self.last
                try:
                    text = english.tidy(self.expand(line))
                except MissingError:
                    self.fresh, self.last = fresh, last
                    continue
                self.fresh = False
                return text
        return ""

    def aside(self, reference: str, sections: list[Section]) -> str:
        """A paragraph about a related subject, in the words of that subject's own article."""
        try:
            other = Article(self.other(*reference.split(".")), self.tables, self.kind)
        except MissingError:
            return ""
        other.rng = self.rng
        slots = [slot for section in sections for _, found in section.paragraphs for slot in found]
        chosen = sorted(self.rng.sample(range(1, len(slots)), min(ASIDE, len(slots) - 1)))
        return other.paragraph("", [slots[i] for i in [0, *chosen]])

    def paragraph(self, mark: str, slots: list[list[str]]) -> str:
        self.fresh, said = True, []
        for slot in self.rng.sample(slots, len(slots)) if mark == "*" else slots:
            optional = slot[0] == "?"
            if optional and self.rng.random() > OPTIONAL:
                continue
            said.append(self.sentence(slot[1:] if optional else slot))
        return " ".join(filter(None, said))

    def text(self, sections: list[Section]) -> str:
        """The whole article."""
        lines = ["", f"= {english.tokenise(english.tidy(self.row.title))} =", ""]
        groups: list[list[Section]] = []
        for section in sections[1:]:
            if section.level == 3 and groups:
                groups[-1].append(section)
            else:
                groups.append([section])
        middle = [g for g in groups if not g[0].last]
        self.rng.shuffle(middle)
        last = [g for g in groups if g[0].last]
        self.rng.shuffle(last)
        for group in [[sections[0]], *middle, *last]:
            for section in group:
                if section.optional and self.rng.random() > OPTIONAL:
                    continue
                found = [
                    self.aside(mark[1:].strip(), sections)
                    if mark.startswith("@")
                    else self.paragraph(mark, slots)
                    for mark, slots in section.paragraphs
                ]
                body = [english.tokenise(text) for text in found if text]
                if not body:
                    continue
                if section.titles:
                    title = english.tokenise(
                        english.tidy(self.expand(self.rng.choice(section.titles)))
                    )
                    marks = " ".join("=" * section.level)
                    lines += ["", f"{marks} {title} {marks}", ""]
                lines += body
        return "".join(f" {line} \n" if line else " \n" for line in lines) + " \n"


# ---------------------------------------------------------------- the corpus


def compose() -> dict[str, str]:
    """File name to text, with the checksums; each category is divided on its own, so that every
    split has some of it."""
    tables = load_tables()
    rng = random.Random(SEED)
    parts: dict[str, list[str]] = {name: [] for name in SPLITS}
    for category in sorted(tables):
        kind, sections = load_templates(category)
        articles = [Article(row, tables, kind).text(sections) for row in tables[category]]
        rng.shuffle(articles)
        tenth = max(1, round(len(articles) * SPLITS["wiki.valid.raw"]))
        parts["wiki.valid.raw"] += articles[:tenth]
        parts["wiki.test.raw"] += articles[tenth : 2 * tenth]
        parts["wiki.train.raw"] += articles[2 * tenth :]
    for articles in parts.values():
        rng.shuffle(articles)
    texts = {name: "".join(articles) for name, articles in parts.items()}
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    return texts | {"SHA256SUMS": "".join(f"{sums[name]}  {name}\n" for name in texts)}


def main(argv: list[str] | None = None) -> int:
    """Write the files, or compare them with those on disk."""
    parser = argparse.ArgumentParser(description="Compose the sample corpus.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (or compare)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    args = parser.parse_args(argv)
    texts = compose()
    if args.check:
        for name, text in texts.items():
            path = args.out / name
            if not path.is_file() or path.read_bytes() != text.encode("utf-8"):
                print(f"{name} is not what make_sample.py composes: run it again.")
                return 1
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with (args.out / name).open("w", encoding="utf-8", newline="\n") as handle:
            handle.write(text)
        print(f"{name}: {len(text.encode())} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
