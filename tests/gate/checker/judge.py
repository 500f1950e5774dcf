"""Whether what is there may be so. Simple on purpose, and nothing of the gate's own decision is used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from checker.measuring import is_signed, tag_of, to_text
from checker.rules import POLICIES, Rule, folded, guarding, is_tried
from checker.world import DIGEST, USERS, LoggedModel, Row, World, as_json

HISTORY = re.compile(r"mlflow_resnet[._]history[._](?P<alias>.+)[._](?P<sequence>\d{6,})")
ROUNDING = 1e-9


class HoleError(AssertionError):
    """Something is so that must not be."""


def check(world: World) -> None:
    """Raises with all that is wrong."""
    problems = [*wrong_answers(world)]
    for name, row in world.rows().items():
        problems += [f"{name}: {problem}" for problem in wrong_model(world, name, row)]
    if problems:
        raise HoleError("\n".join(problems))


def wrong_answers(world: World) -> list[str]:
    return [
        f"{answer.method} {answer.path} by {answer.who}: {answer.status} {str(answer.body)[:300]}"
        for answer in world.answers
        if answer.status >= 500 and answer.status != 501 and not is_mlflows_own(answer.path, answer.body)
    ]


def is_mlflows_own(path: str, body: object) -> bool:
    """Server errors that a server without the gate gives just so."""
    return any(re.search(known, path) and re.search(said, str(body)) for known, said in MLFLOWS_OWN)


MLFLOWS_OWN = [("^experiments/update$", "Cannot rename a non-active experiment")]  # a path, and what is said


def wrong_model(world: World, name: str, row: Row) -> list[str]:
    """What is wrong with one registered model."""
    rules = list(POLICIES.values())[0]
    aliases = {alias for alias in (*row.aliases, *histories(row)) if guarding(rules, name, alias)}
    problems = [problem for alias in sorted(aliases) for problem in wrong_alias(world, name, row, alias)]
    return problems + wrong_tags(world, name, row)


def histories(row: Row) -> dict[str, list[dict[str, Any]]]:
    """The entries of the history, by alias, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for key, value in row.tags.items():
        if match := HISTORY.fullmatch(key):
            entry = as_json(value) | {"tag_sequence": int(match["sequence"])}
            found.setdefault(match["alias"], []).append(entry)
    return {alias: sorted(entries, key=lambda entry: entry["tag_sequence"]) for alias, entries in found.items()}


def wrong_alias(world: World, name: str, row: Row, alias: str) -> list[str]:
    """What is wrong with a guarded alias: its history, each move in it, and who holds it."""
    entries = histories(row).get(alias, [])
    own = [entry for entry in entries if entry.get("policy")]  # a client may write others while a name is free
    holder = row.aliases.get(alias)
    was_tried = any(is_tried(rule) for rules in POLICIES.values() for rule in guarding(rules, name, alias))
    problems = wrong_order(own)
    for number, entry in enumerate(own):
        is_last = entry is own[-1] and holder is not None and entry["to"] == holder
        names = [name] if is_last else sorted({name, *world.names})  # it may have been renamed since
        cases = [Case(world, each, row, own[:number], entry, is_last) for each in names]
        problems += [f"{to_text(entry)}: {each}" for each in min(map(wrong_move, cases), key=len)]
    held = own[-1]["to"] if own else None
    if holder != held and not was_tried and not is_prompts(row, holder):
        problems.append(f"version {holder} holds @{alias}; the history says {held}")
    return problems


def is_prompts(row: Row, version: int | None) -> bool:
    """Whether it is a prompt's version: it has no files that anybody could load."""
    return version is not None and row.locations.get(version) == "prompt-template"


def wrong_order(entries: list[dict[str, Any]]) -> list[str]:
    """Whether the history is whole, in order, and says who."""
    problems = []
    for before, entry in zip((None, *entries), entries, strict=False):
        if entry["sequence"] != entry["tag_sequence"]:
            problems.append(f"entry {entry['sequence']} is in tag {entry['tag_sequence']}")
        if before and entry["sequence"] != before["sequence"] + 1:
            problems.append(f"entry {entry['sequence']} follows {before['sequence']}")
        if before and datetime.fromisoformat(entry["time"]) < datetime.fromisoformat(before["time"]):
            problems.append(f"entry {entry['sequence']} is older than the one before it")
        if before and entry["from"] != before["to"]:
            problems.append(
                f"entry {entry['sequence']} begins at {entry['from']}; the one before ends at {before['to']}"
            )
        if entry["who"] not in USERS:
            problems.append(f"entry {entry['sequence']} is by {entry['who']!r}, who is nobody")
    return problems


@dataclass(frozen=True)
class Case:
    """A move that is judged.

    Attributes:
        past: the entries of the alias's history before `entry`.
        is_last: whether the alias is where this move has put it, so that its evidence must still be there.
    """

    world: World
    name: str
    row: Row
    past: list[dict[str, Any]]
    entry: dict[str, Any]
    is_last: bool

    def model_of(self, version: int) -> LoggedModel | None:
        return self.world.model_at(self.row.locations.get(version, ""))


def wrong_move(case: Case) -> list[str]:
    """Why the rules of its time did not allow a move."""
    entry = case.entry
    if entry["policy"] not in POLICIES:
        return [f"policy {entry['policy']} was never the server's"]
    rules = guarding(POLICIES[entry["policy"]], case.name, entry["alias"])
    enforced = [rule for rule in rules if not is_tried(rule)]
    action, version = entry["action"], entry["to"]
    if action == "remove":
        return [] if all(rule.get("remove") for rule in enforced) else ["it may not be removed"]
    if not enforced:
        return []
    if action == "rollback":
        return wrong_rollback(enforced, case.past, version)
    if action != "promote":
        return [f"{action} is no way while rules are enforced"]
    return wrong_promotion(case, enforced)


def wrong_rollback(rules: list[Rule], past: list[dict[str, Any]], version: int) -> list[str]:
    """Only to the champion before, which met the rules when it became one."""
    if any(rule.get("rollback") == "forbidden" for rule in rules):
        return ["rollback is forbidden"]
    stack: list[int] = []
    for entry in past:
        if entry["action"] == "remove":
            stack = []
        elif entry["action"] == "rollback" and entry["to"] in stack:
            del stack[stack.index(entry["to"]) + 1 :]
        else:
            stack.append(entry["to"])
    proven = {entry["to"] for entry in past if entry["action"] == "promote" and entry["policy"] in POLICIES}
    if stack[-2:-1] != [version]:
        return [f"{version} was not the champion before: {stack}"]
    return [] if version in proven else [f"{version} never met the rules"]


def wrong_promotion(case: Case, rules: list[Rule]) -> list[str]:
    """Why no evidence that it may be speaks for a move."""
    entry, locations = case.entry, case.row.locations
    model = case.model_of(entry["to"])
    if model is None:
        was_deleted = "REDACTED" in str(locations.get(entry["to"]))
        return [] if was_deleted and not case.is_last else [f"version {entry['to']} is no logged model's"]
    if entry[DIGEST] != model.digest:
        return [f"it says {entry[DIGEST]}; the version's files are {model.digest}"]
    key = entry["evidence"] or ""
    now = case.row.version_tags[entry["to"]].get(key, "")
    texts = [now] if case.is_last else sorted(case.world.said[key])
    verdicts = [wrong_evidence(case, rules, model, key, text) for text in texts] or [["no evidence"]]
    return [*min(verdicts, key=len), *wrong_approval(case.world, rules, entry)]


def wrong_evidence(case: Case, rules: list[Rule], model: LoggedModel, key: str, text: str) -> list[str]:
    """What one text lacks, for all rules."""
    facts, problems, entry = case.world.facts.get(text), [], case.entry
    if not facts:
        return [f"{key} is not evidence"]
    said = {field: facts[field] for field in ("name", "version", "model_id", DIGEST)}
    wanted = {"name": case.name, "version": entry["to"], "model_id": model.model_id, DIGEST: model.digest}
    if said != wanted:
        problems.append(f"evidence is of {said}; expected {wanted}")
    if folded(facts["alias"]) != folded(entry["alias"]):
        problems.append(f"evidence is for @{facts['alias']}")
    if key != tag_of(facts):
        problems.append(f"{key} holds what belongs elsewhere")
    lost = [each["time"] for each in case.past if each["from"] == entry["to"]]
    if lost and datetime.fromisoformat(facts["measured_at"]) < datetime.fromisoformat(lost[-1]):
        problems.append(f"it lost the alias at {lost[-1]}, and was measured before")
    problems += wrong_champion(case, facts)
    return problems + [each for rule in rules for each in wrong_numbers(case.world, rule, facts, text, entry)]


def wrong_champion(case: Case, facts: dict[str, Any]) -> list[str]:
    """Whether it was compared with who was champion."""
    compared, champion = facts["champion"], case.entry["from"]
    if (compared and compared["version"]) != champion:
        return [f"it was compared with {compared and compared['version']}, champion was {champion}"]
    known = case.model_of(champion) if compared else None
    if known and (compared["model_id"], compared[DIGEST]) != (known.model_id, known.digest):
        return [f"champion is said to be {compared['model_id']}; it was {known.model_id}"]
    return []


def wrong_numbers(world: World, rule: Rule, facts: dict[str, Any], text: str, entry: dict[str, Any]) -> list[str]:
    """Whether one rule is met by one piece of evidence."""
    problems, require = [], rule.get("require", {})
    accuracy = facts["metrics"]["top1_accuracy"]
    least = require.get("metrics", {}).get("top1_accuracy", {}).get("min", 0)
    if accuracy < least:
        problems.append(f"accuracy is {accuracy}; expected {least}")
    if facts["dataset_digest"] != require.get("dataset_digest", facts["dataset_digest"]):
        problems.append("it was measured on other data")
    age = datetime.fromisoformat(entry["time"]) - datetime.fromisoformat(facts["measured_at"])
    if age > timedelta(days=require.get("max_age_days", 36500)):
        problems.append(f"it was measured {age} before")
    if rule.get("signed") and not (is_signed(facts) and text in world.genuine):
        problems.append("nobody with the key measured this")
    if rule.get("logged") and accuracy not in world.logged[facts["model_id"], facts["dataset_digest"]]:
        problems.append(f"nobody logged {accuracy}")
    if "not_worse" in rule and facts["champion"]:
        compared = facts["champion"]
        other = compared["metrics"]["top1_accuracy"]
        if accuracy < other - rule["not_worse"]["by"] - ROUNDING:
            problems.append(f"accuracy is {accuracy}, the champion's {other}")
        if rule.get("logged") and other not in world.logged[compared["model_id"], facts["dataset_digest"]]:
            problems.append(f"nobody logged the champion's {other}")
    return problems


def wrong_approval(world: World, rules: list[Rule], entry: dict[str, Any]) -> list[str]:
    """Whether somebody else than who moved it truly said yes."""
    if any(rule.get("approval") for rule in rules) and not world.approvers[entry["to"]] - {entry["who"]}:
        return [f"nobody but {entry['who']} approved it"]
    return []


def wrong_tags(world: World, name: str, row: Row) -> list[str]:
    """Tags that only the gate writes, of a model with rules, as a client wrote them."""
    rules = guarding(list(POLICIES.values())[1], name, "champion")
    own = ("mlflow_resnet.gate", "mlflow_resnet_history_champion_older")
    problems = [f"tag {key} is forged" for key, value in row.tags.items() if value == "forged" and folded(key) in own]
    imitated = [key for key in row.tags if HISTORY.fullmatch(folded(key)) and not HISTORY.fullmatch(key)]
    problems += [f"tag {key} looks like one of the history" for key in imitated]
    for version, tags in row.version_tags.items() if rules else ():
        for key, value in tags.items():
            if folded(key).startswith("mlflow_resnet.gate.") and value == "forged":
                problems.append(f"version {version}: tag {key} is forged")
            if key == "approved.by" and name.startswith("approved") and value not in world.spoke:
                problems.append(f"version {version}: {value} never said anything about it")
    return problems
