"""Programs that found a hole once. They are kept as they were shrunk: a seed would mean another program soon."""

from __future__ import annotations

from checker.program import Program, Step
from checker.rules import DATA, OTHER_DATA


def evidence(kind: str, version: int, who: str = "ann", data: str = DATA, lie: str = "") -> Step:
    given = {"name": kind, "version": version, "alias": "champion", "data": data, "lie": lie}
    return Step(who, "write_evidence", given)


def move(kind: str, version: int, who: str = "ann", after: int = 0, wait: str = "") -> Step:
    return Step(who, "set_alias", {"name": kind, "version": version, "alias": "champion"}, after, wait)


def rename(kind: str, other: str, who: str = "ben", after: int = 0, wait: str = "") -> Step:
    return Step(who, "rename_model", {"name": kind, "other": other}, after, wait)


def born(kind: str, birth: str, who: str = "ann") -> Step:
    return Step(who, "register", {"name": kind, "quality": 0, "birth": birth})


FOUND: dict[str, Program] = {
    "own approval carried in by a rename": Program(
        {"free": "empty"},
        [
            [born("free", "approved by ben")],
            [rename("free", "approved", who="ann")],
            [evidence("approved", 1)],
            [move("approved", 1)],
        ],
    ),
    "own approval of a prompt": Program(
        {"approved": "prompt"},
        [[born("approved", "approved by ben")], [evidence("approved", 1)], [move("approved", 1)]],
    ),
    "a signature for one rule, a lie for the other": Program(
        {"both": "registered"},
        [
            [Step("ann", "register", {"name": "both", "quality": 2, "birth": "none"})],
            [evidence("both", 3), evidence("both", 3, data=OTHER_DATA, lie="better")],
            [move("both", 3)],
        ],
    ),
    "the champion is said to be bad": Program(
        {"logged": "promoted"},
        [
            [Step("ann", "register", {"name": "logged", "quality": 2, "birth": "none"})],
            [Step("ann", "log_number", {"quality": 2, "number": 0.6})],
            [evidence("logged", 3, lie="champion was bad")],
            [move("logged", 3)],
        ],
    ),
    "back to what was only tried": Program(
        {"tried": "registered"},
        [[move("tried", 1)], [move("tried", 2)], [move("tried", 1)]],
        strict=2,
    ),
    "a name that says it is guarded": Program(
        {"free": "registered"}, [[Step("ann", "tag_model", {"name": "free", "model_tag": 3})]]
    ),
    # On PostgreSQL: the lock of the model's row did not keep a new alias away.
    "renamed while an alias is set": Program(
        {"free": "registered"},
        [[rename("free", "plain", wait="1:UPDATE registered_models SET name:1600"), move("free", 1, after=800)]],
    ),
    # It was a prompt before the lock, and had a version with files under it.
    "a prompt that becomes a model": Program(
        {"free": "prompt"},
        [
            [
                rename("free", "plain", wait="1:UPDATE registered_models SET name:1600"),
                Step("ann", "register", {"name": "free", "quality": 0, "birth": "none"}, after=300),
                move("free", 1, after=1000),
            ]
        ],
    ),
    # The version was proven before the lock, and was another one under it.
    "exchanged while it is judged": Program(
        {"signed": "registered", "free": "empty"},
        [
            [evidence("signed", 1)],
            [born("free", "none")],
            [Step("ben", "copy_tags", {"name": "free", "version": 1, "other": "signed", "other_version": 1})],
            [
                move("signed", 1, wait="1:UPDATE registered_models SET last:1600"),
                rename("signed", "plain", after=400),
                rename("free", "signed", after=900),
            ],
        ],
    ),
}
