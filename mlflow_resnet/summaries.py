"""What a command prints when it is done: the result and the exact next commands. Text only; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from mlflow_resnet.errors import LISTED, presentable
from mlflow_resnet.options import DemoOptions, PromoteOptions, SweepOptions, TrainOptions
from mlflow_resnet.registry.history import Entry, shown
from mlflow_resnet.io.text.characters import in_lines, rows_of

if TYPE_CHECKING:
    from mlflow_resnet.champions import Champion
    from mlflow_resnet.curation import Audit
    from mlflow_resnet.verbs.demo import DemoResult
    from mlflow_resnet.evaluation.evaluate import Evaluation
    from mlflow_resnet.evaluation.pairing import Pairing
    from mlflow_resnet.verbs.explain import Explained
    from mlflow_resnet.verbs.export import Exported
    from mlflow_resnet.images.conversion.convert import Converted
    from mlflow_resnet.images.directories import LabeledDirectory
    from mlflow_resnet.registry.aliases import Move
    from mlflow_resnet.registry.promotion import Comparison
    from mlflow_resnet.scoring.to_file.batch import ScoredFile
    from mlflow_resnet.verbs.shadow import Shadowed
    from mlflow_resnet.verbs.compare import RunComparison
    from mlflow_resnet.runs.training import TrainResult
    from mlflow_resnet.verbs.transform import Transformed
    from mlflow_resnet.verbs.find_lr import LearningRateTest
    from mlflow_resnet.verbs.sweep import SweepResult

PORT = 5001
SHOWN_REASONS = 5
SHOWN_DETAILS = ("ranking/auc_ovr", "calibration/ece", "calibration/brier", "abstention/aurc")


def trained(result: TrainResult, options: TrainOptions | DemoOptions) -> str:
    top1, best = result.metrics["val_top1_accuracy"], result.best_epoch
    interval = bounds(result.metrics.get(f"interval/val_top1_accuracy_{end}") for end in ("low", "high"))
    lines = [f"validation top-1 accuracy {top1:.4f}{interval} (epoch {best}, which the validation images chose)"]
    if (test := result.metrics.get("test_top1_accuracy")) is not None:
        interval = bounds(result.metrics[f"interval/test_top1_accuracy_{end}"] for end in ("low", "high"))
        lines.append(f"test top-1 accuracy {test:.4f}{interval}")
    lines.append(f"model     {result.model_uri}")
    if result.run_id:
        lines.append(f"run       {result.run_id}")
    if result.version:
        alias = f", alias {result.alias}" if result.alias else ""
        lines.append(f"registry  models:/{options.registered_model_name}/{result.version}{alias}")
    return in_lines(lines)


def synchronized(result: dict[str, Any]) -> str:
    """Args: result: what a `TrainResult` has besides the classifier, of a training that may be unfinished."""
    lines = [f"run       {result['run_id']}"]
    lines += [f"model     {result['model_uri']}"] if result["model_uri"] else []
    lines += [f"version   {result['version']}"] if result["version"] else []
    return in_lines(["delivered", *lines])


def found_lr(result: LearningRateTest) -> str:
    suggestion, last = result.suggestion, result.points[-1]
    lines = [f"suggested learning rate {suggestion.tenth_of_minimum:.2g}, a tenth of that with the lowest loss"]
    lines.append(f"the loss falls fastest at {suggestion.steepest:.2g}")
    lines.append(f"tested    {result.strategy}, {last.step} steps up to {last.learning_rate:.2g}")
    lines.append(f"run       {result.run_id}, learning_rate_test.png")
    if suggestion.note:
        lines.append(f"note      {suggestion.note}")
    return in_lines(lines)


def swept(result: SweepResult, options: SweepOptions) -> str:
    lines = [f"best {options.best_metric} {result.best_value:.4f} in trial {result.best_trial} of {result.trials}"]
    lines += [f"  --{name.replace('_', '-')} {value}" for name, value in result.best_values.items()]
    lines.append(f"sweep     {result.run_id}, study {result.study_name}")
    return "\n".join([in_lines(lines)] + ([trained(result.trained, options)] if result.trained else []))


def scored(result: ScoredFile) -> str:
    lines = [f"{result.rows} images scored to {result.path}"]
    if result.unreadable:
        lines.append(f"{result.unreadable} of them could not be read; the column `error` says why")
        lines += [f"  {each.count}  {each.text}, such as {each.example}" for each in result.reasons[:SHOWN_REASONS]]
        lines += ["  …"] if len(result.reasons) > SHOWN_REASONS else []
    if result.unsure:
        lines.append(f"{result.unsure} of them have no label, because no class has the --min-confidence")
    return in_lines(lines)


def evaluated(result: Evaluation) -> str:
    names = {"top1_accuracy": "overall accuracy (top1_accuracy)"}
    numbers = [
        f"{names.get(name, name):34}{value:.4f}{bounds(result.intervals.get(name, ()))}"
        for name, value in result.metrics.items()
    ]
    numbers += [f"{name:34}{value:.4f}" for name, value in result.details.items() if name in SHOWN_DETAILS]
    return in_lines([f"{len(result.targets)} images", *numbers, "", *rows_of(result.per_class)])


def compared(result: RunComparison) -> str:
    columns = result.table.drop(columns="run")
    lines = [
        f"{result.images} {result.context} images",
        "",
        *rows_of(columns),
    ]
    first, *others = zip(result.table["run"], result.table["name"], strict=True)
    for (run, name), pairing in zip(others, result.pairings, strict=True):
        lines += [
            "",
            f"{name} ({run}) and {first[1]} ({first[0]})",
            f"  right: both {pairing.both}, only the former {pairing.only_second}, "
            f"only the latter {pairing.only_first}, neither {pairing.neither}",
            f"  accuracy {pairing.difference:+.4f}, McNemar's exact test p = {pairing.p_value:.4g}: {verdict(pairing)}",
        ]
    return in_lines(lines)


def verdict(pairing: Pairing) -> str:
    if pairing.p_value < 0.05:
        return "hardly luck" if pairing.difference > 0 else "hardly luck, and worse"
    return "may well be luck"


def bounds(interval: Iterable[float | None]) -> str:
    """A 95 % interval in brackets; empty if there is none."""
    known = [f"{bound:.4f}" for bound in interval if bound is not None]
    return f" [{', '.join(known)}]" if known else ""


def promoted(result: Comparison, options: PromoteOptions) -> str:
    version = f"models:/{result.candidate.name}/{result.candidate.version}"
    if options.measure_only:
        signed = "signed" if result.evidence.signature else "not signed"
        return in_lines([str(result), f"{version} has the evidence ({signed}); @{options.alias} stays where it is"])
    return in_lines([str(result), f"@{options.alias} now points to {version}", guarded(result.is_guarded)])


def rolled_back(result: Move) -> str:
    now = f"models:/{result.name}/{result.after}"
    return presentable(f"@{result.alias} now points to {now} again, no more to version {result.before}")


def told(entries: Sequence[Entry], name: str) -> str:
    """A line for each entry of the history, and one where the alias was moved by other means in between."""
    lines, last = [], dict[str, int | None]()
    for entry in entries:
        if entry.alias in last and entry.before != last[entry.alias]:
            lines.append(f"{'':24}  (by other means it came to {shown(entry.before)})")
        last[entry.alias] = entry.after
        lines.append(str(entry))
    return in_lines(lines) or presentable(f"no move of an alias of {name} was written down")


def crowned(result: Champion) -> str:
    version, since, proof = result.version, result.since, result.evidence
    lines = [f"@{result.alias} of {version.name} is version {version.version}"]
    lines.append(f"since     {since.time}, {since.action} by {since.who}" if since else "since     not known")
    if proof:
        signed = "signed" if proof.signature else "not signed"
        data = f"{proof.images} images of {proof.dataset_name} (digest {proof.dataset_digest})"
        lines.append(f"measured  on {data} at {proof.measured_at} by {proof.measured_by}, {signed}")
        lines += [f"          {metric:20}{value:.4f}" for metric, value in proof.metrics.items()]
    return in_lines([*lines, guarded(result.is_guarded)])


def guarded(by_gate: bool) -> str:
    if by_gate:
        return "guarded   by the gate of the server"
    return "guarded   by nobody: this server has no gate, so anybody may move the alias; see docs/gate.md"


def shadowed(result: Shadowed) -> str:
    """How far the two agree, and the answers that both were surest of."""
    lines = [
        f"agreement {result.agreement:.4f} on {result.images} images, {len(result.table)} get another label",
        f"confidence of the champion {result.confidences[0]:.4f}, of the challenger {result.confidences[1]:.4f}",
    ]
    if result.unreadable:
        lines.append(f"{result.unreadable} images could not be read")
    if len(result.table):
        lines += ["", *rows_of(result.table.head(LISTED)), ""]
    return in_lines([*lines, f"table and pictures are in shadow/ of run {result.run_id}"])


def converted(result: Converted, output_dir: str) -> str:
    from mlflow_resnet.images.rules import LEFT_OUT_NAME  # with Pillow, for which --help need not wait

    classes = f" of {len(result.classes)} classes" if result.classes else ", without class folders"
    earlier = result.images - result.added
    by_whom = f", {earlier} by an earlier call" if earlier else ""
    parts = f"{len(result.parts)} parts in " if result.parts else ""
    lines = [f"{result.images} images{classes} in {parts}{output_dir}{by_whom}"]
    lines += filter(None, (str(result.ignored), *result.notes, result.advice))
    return in_lines([*lines, *left_out(result.unreadable, f"; {LEFT_OUT_NAME} in that folder has them all")])


def left_out(unreadable: dict[str, str], where: str = "") -> Iterator[str]:
    """A line for each of the first few images that were left out, and one for the rest, which are `where`."""
    yield from (f"left out {name}: {reason}" for name, reason in islice(unreadable.items(), LISTED))
    if (more := len(unreadable) - LISTED) > 0:
        yield f"left out {more} more{where}"


def transformed(result: Transformed, output_dir: str) -> str:
    first = f"{result.images} images in {output_dir}: {', '.join(result.steps) or 'as they were'}"
    return in_lines([first, *left_out(result.unreadable)])


def explained(result: Explained) -> str:
    lines = [f"{result.images} images in {result.index}, each that could be read with a heat map beside it"]
    if result.unreadable:
        lines.append(f"{result.unreadable} of them could not be read; the column `error` says why")
    return in_lines(lines)


def audited(result: Audit) -> str:
    lines = [str(finding) for finding in result.findings] or ["nothing found"]
    return in_lines([f"{result.images} images", *lines, f"report    audit/report.html in run {result.run_id}"])


def divided(parts: Sequence[LabeledDirectory]) -> str:
    lines = [f"{len(part)} images of {len(part.classes)} classes in {part.source}" for part in parts]
    return in_lines([*lines, *filter(None, [parts[0].advice])])


def exported(result: Exported) -> str:
    parity = result.parity
    lines = [f"{parity.images} images compared with torch in fp32"]
    lines.append(f"same label for {parity.label_agreement:.4f}")
    lines.append(f"log probabilities differ by {parity.log_probability_difference:.2g} at most")
    lines.append(f"accuracy {parity.accuracy:.4f} ({parity.accuracy - parity.accuracy_of_fp32:+.4f})")
    lines.append(f"model     {result.path}")
    return in_lines(lines + ([f"registry  {result.model_uri}"] if result.model_uri else []))


def demonstrated(result: DemoResult, options: DemoOptions) -> str:
    folder, model = result.folder, f"models:/{options.registered_model_name}@{options.alias}"
    picture = sorted((folder / "val").rglob("*.png"))[0]
    rows = in_lines(rows_of(result.scored.head.iloc[:, :4]))
    return f"""
{trained(result.trained, options)}
scored    {result.scored.rows} held-out images in {presentable(result.scored.path)}, which begins (first columns)

{rows}

Next:
  # look at the run
  mlflow ui --port 5000
  # serve the champion
  mlflow models serve --model-uri {model} --port {PORT} --env-manager local
  # send it a picture
  base64 < "{presentable(picture)}" | tr -d '\\n' | sed 's/.*/{{"inputs": ["&"]}}/' | \\
    curl http://127.0.0.1:{PORT}/invocations --header 'Content-Type: application/json' --data-binary @-
  # train on your own folder of class folders
  mlflow-resnet train --train-dir YOUR_FOLDER --registered-model-name mine --alias champion"""
