"""The commands: parse, call one function, print."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from triage_node import config as configuration
from triage_node import log
from triage_node.domain import DISCLAIMER, SUBTYPE_ABBREVIATIONS
from triage_node.errors import TriageNodeError, UsageError

if TYPE_CHECKING:
    from triage_node.store.receipts import Receipt

DEFAULT_CONFIG = Path("triage-node.toml")
DATA_LAYOUTS = ("rsna", "physionet", "kaggle", "cq500", "bhsd", "instance22", "pictures", "volumes", "folder")
"""Those of learn.data.LAYOUTS, which takes seconds to import, and any folder of images."""
DATASETS = ("images", "volumes", "simulated", "shards", *DATA_LAYOUTS[:-2])
"""learn.evaluation.run.KINDS."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A fault is one clear line, not a traceback."""
    parsed = parser().parse_args(arguments)
    log.quiet_libraries()
    try:
        status: int = parsed.run(parsed)
        return status
    except TriageNodeError as error:
        print(f"triage-node: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


# ---------------------------------------------------------------- commands


def _demo(parsed: argparse.Namespace) -> int:
    from triage_node.demo import run_demo

    return run_demo(folder=parsed.folder, once=parsed.once, as_json=parsed.json, subtype=parsed.subtype)


def _serve(parsed: argparse.Namespace) -> int:
    from triage_node import supervise

    config = configuration.load(parsed.config)
    _prepare(config)
    stop = threading.Event()
    supervise.stop_on_signals(stop)
    supervise.serve(parsed.config, config, stop)
    return 0


def _role(parsed: argparse.Namespace) -> int:
    from triage_node import service, supervise

    stop = threading.Event()
    supervise.stop_on_signals(stop)
    if parsed.supervised:
        supervise.stop_with_parent(stop)
    service.run_role(parsed.command, configuration.load(parsed.config), stop)
    return 0


def _check(parsed: argparse.Namespace) -> int:
    from triage_node.preflight import check

    config = configuration.load(parsed.config)
    faults = 0
    for finding in check(config, load_model=_model_loader(config), now=datetime.now(UTC)):
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what:<24}{finding.detail}", flush=True)
        faults += not finding.ok
    print(f"{faults} fault(s)" if faults else "ready")
    return 1 if faults else 0


def _status(parsed: argparse.Namespace) -> int:
    from triage_node.store import board

    with closing(_open(parsed.config)) as database:
        status = board.status(database, now=datetime.now(UTC))
    print(json.dumps(status, indent=None if parsed.json else 2))
    return 0


def _link(parsed: argparse.Namespace) -> int:
    from triage_node.service.web import entry_url
    from triage_node.store import access, board

    config, now = configuration.load(parsed.config), datetime.now(UTC)
    if config.users:
        raise UsageError(f"{parsed.config} has users: they log in with their passwords")
    with closing(_open(parsed.config)) as database:
        ports = [info.port for info in board.roles(database, now=now) if info.kind == "web" and info.port]
        if not ports:
            raise UsageError("the pages are not running; start them with `triage-node serve` or `triage-node web`")
        print(entry_url(config, ports[-1], access.make_link(database, now=now)))
    return 0


def _password(_parsed: argparse.Namespace) -> int:
    from getpass import getpass

    from triage_node.web.access import hash_password

    password = getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if len(password) < 10:
        raise UsageError("a password of fewer than 10 characters; take a longer one")
    print(f'password = "{hash_password(password)}"')
    return 0


def _retry(parsed: argparse.Namespace) -> int:
    from triage_node.store import outbox

    if parsed.give_up and not parsed.destination:
        raise UsageError("--give-up without --destination; say whose dead letters are given up")
    act, said = (outbox.give_up, "given up") if parsed.give_up else (outbox.retry_dead, "will be sent again")
    with closing(_open(parsed.config)) as database:
        count = act(database, destination=parsed.destination, now=datetime.now(UTC))
    print(f"{count} dead letter(s) {said}")
    return 0


def _ledger(parsed: argparse.Namespace) -> int:
    from triage_node.store.receipts import receipts

    if parsed.reconcile or parsed.day:
        return _reconcile(parsed)
    since = datetime.now(UTC) - timedelta(days=parsed.days) if parsed.days else None
    counts: Counter[str] = Counter()
    with closing(_open(parsed.config)) as database:
        for receipt in receipts(database, since=since, study_uid=parsed.study, sop_uid=parsed.sop):
            print(_receipt_line(receipt, as_json=parsed.json))
            counts[receipt.outcome] += 1
    told = ", ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items()))
    print(f"{counts.total()} object(s){': ' if told else ''}{told}", file=sys.stderr)
    return 0


def _reconcile(parsed: argparse.Namespace) -> int:
    from tqdm import tqdm

    from triage_node.pipeline.reconciling import reconcile, source_of

    if not parsed.reconcile or not parsed.day or parsed.days or parsed.study or parsed.sop:
        raise UsageError("--reconcile SOURCE and --day YYYYMMDD go together, without --days, --study and --sop")
    config = configuration.load(parsed.config)
    peer, totals = source_of(config, parsed.reconcile), Counter[str]()
    bar = tqdm(unit=" studies", file=sys.stderr, leave=False, disable=None)  # none where nobody looks

    def on_study(number: int, studies: int) -> None:
        bar.total = studies
        bar.update(number - bar.n)

    with closing(_open(parsed.config)) as database, bar:
        asked = {"calling_ae": config.node.ae_title, "day": parsed.day, "on_study": on_study}
        for series in reconcile(database, peer, **asked):
            for receipt in series.lost:
                tqdm.write(_receipt_line(receipt, as_json=parsed.json))
            if series.missing:
                refs = f"series {log.ref(series.series_uid)} of study {log.ref(series.study_uid)}"
                tqdm.write(f"{refs}: {_counts_line(series.counts)}", file=sys.stderr)
            totals.update(series.counts, series=1)
    print(f"{peer.ae_title}, {parsed.day}: {totals['series']} CT series, {_counts_line(totals)}", file=sys.stderr)
    return 1 if totals["missing"] else 0


def _rebuild(parsed: argparse.Namespace) -> int:
    from triage_node.admit import rebuild
    from triage_node.spool import Spool

    config = configuration.load(parsed.config)
    _prepare(config)
    with closing(_open(parsed.config)) as database:
        count = rebuild(Spool(config.node.data_dir), database, everything=True)
    print(f"{count} spooled object(s) had no row in the ledger and were entered")
    return 0


def _send(parsed: argparse.Namespace) -> int:
    from triage_node.peers import Peer
    from triage_node.send import faults, send_with_progress

    host, _, port = parsed.peer.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f'"{parsed.peer}" is no HOST:PORT; write for example 127.0.0.1:11112')
    report = send_with_progress(parsed.folder, Peer(ae_title=parsed.called, host=host, port=int(port)), parsed.calling)
    print(f"{report.sent} sent, {len(report.failed)} failed, {len(report.skipped)} skipped")
    for line in faults(report):
        print(f"  {line}", file=sys.stderr)
    return 1 if report.failed or not report.sent else 0


def _analyze(parsed: argparse.Namespace) -> int:
    from triage_node.infer.bundle import find_bundle
    from triage_node.infer.process import InferenceProcess
    from triage_node.pipeline.files import analyze_folder, result_folder

    config = configuration.load(parsed.config) if parsed.config else _config_for_files()
    model = config.model
    bundle = find_bundle(parsed.bundle or model.bundle)
    with closing(InferenceProcess(bundle, timeout_s=model.timeout_s, device=model.device)) as predictor:
        results = analyze_folder(parsed.folder, parsed.out, config=config, predictor=predictor, now=datetime.now(UTC))
    for result in results:
        told_in = result_folder(parsed.out, result["series_uid"])
        print(json.dumps(result) if parsed.json else f"{_line(result)}\n  in {told_in}")
    return 0


def _models(parsed: argparse.Namespace) -> int:
    from triage_node.infer.bundle import find_bundle, load_bundle
    from triage_node.infer.check import bundle_line, bundles, try_bundle

    if parsed.bundle is None:
        for bundle in bundles():
            print(bundle_line(bundle))
        return 0
    folder = find_bundle(parsed.bundle)
    print(bundle_line(load_bundle(folder)))
    trial = try_bundle(folder, parsed.device)
    print(f"a simulated head with an intraparenchymal bleed, {trial.slices} slices, in {trial.seconds:.2f} s:")
    for name, probability in trial.prediction.probabilities.items():
        print(f"  {name:<20}{_or_null(probability, 2):>6}{_or_null(trial.prediction.volumes_ml[name], 1):>8} mL")
    return 0


def _evaluate(parsed: argparse.Namespace) -> int:
    from triage_node.learn.evaluation.figures import write_figures
    from triage_node.learn.evaluation.report import table
    from triage_node.learn.evaluation.run import Question, evaluate, require_writable

    file = Path(parsed.json) if parsed.json and parsed.json != "-" else None
    require_writable(folder=parsed.out, file=file)
    names = ("root", "labels", "bundle", "device", "prevalence", "mask_labels", "heads")
    given = {name: value for name in names if (value := getattr(parsed, name)) is not None}
    evaluation = evaluate(Question(kind=parsed.dataset, **given))
    text = json.dumps(evaluation.report, indent=1, allow_nan=False)
    if parsed.json == "-":
        print(text)
    else:
        print(table(evaluation.report))
    if file:
        file.write_text(text + "\n", encoding="utf-8")
    if parsed.out:
        for told in write_figures(parsed.out, evaluation.report, evaluation.judgements):
            print(told, file=sys.stderr)
    return 0


def _simulate(parsed: argparse.Namespace) -> int:
    from triage_node.simulate import write_case

    template = None
    if parsed.folds == "mni152":
        from triage_node.simulate.template import load_template

        template = load_template()
    out = write_case(
        parsed.out,
        subtype=parsed.subtype,
        seed=parsed.seed,
        created_at=datetime.now(UTC),
        vendor=parsed.vendor,
        template=template,
    )
    print(f"simulated head CT with {parsed.subtype} in {out}")
    return 0


def _train(parsed: argparse.Namespace) -> int:
    from triage_node.learn.experiment import read_config
    from triage_node.learn.train import train

    config = read_config(parsed.experiment)
    ended = train(config)
    print(f"{ended.reason}; checkpoint, record and curves are in {config.run}")
    return 130 if ended.interrupted else 0


def _bundle(parsed: argparse.Namespace) -> int:
    from triage_node.infer.bundle import load_bundle
    from triage_node.infer.check import bundle_line
    from triage_node.learn.bundling import make_bundle
    from triage_node.learn.evaluation.shards import iterate_shards
    from triage_node.learn.experiment import read_config

    config = read_config(parsed.experiment)
    tuning = parsed.tuning or config.validation
    if tuning is None:
        raise UsageError("the experiment has no validation shards; name shards to calibrate on with --tuning DIR")
    make_bundle(
        config,
        parsed.out,
        version=parsed.bundle_version,
        tuning=iterate_shards(tuning),
        told_of=parsed.tuning_origin,
        trained_on=parsed.trained_on,
    )
    print(bundle_line(load_bundle(parsed.out)))
    print(f"bundle in {parsed.out}; try it with: triage-node models {parsed.out}")
    return 0


def _ensemble(parsed: argparse.Namespace) -> int:
    from triage_node.infer.bundle import find_bundle, load_bundle
    from triage_node.infer.check import bundle_line
    from triage_node.learn.bundling import make_ensemble
    from triage_node.learn.evaluation.shards import iterate_shards

    members, tuning = [find_bundle(member) for member in parsed.members], iterate_shards(parsed.tuning)
    make_ensemble(members, parsed.out, version=parsed.bundle_version, tuning=tuning, told_of=parsed.tuning_origin)
    print(bundle_line(load_bundle(parsed.out)))
    print(f"ensemble of {len(members)} in {parsed.out}; try it with: triage-node models {parsed.out}")
    return 0


def _vary(parsed: argparse.Namespace) -> int:
    from triage_node.learn.augment import AugmentConfig
    from triage_node.learn.experiment import read_config
    from triage_node.learn.offline import vary_shards

    config = read_config(parsed.experiment).augment if parsed.experiment else AugmentConfig()
    shards = vary_shards(parsed.shards, parsed.into, config, copies=parsed.copies, seed=parsed.seed)
    print(f"{shards} shard(s) in {parsed.into}")
    return 0


def _import(parsed: argparse.Namespace) -> int:
    from triage_node.learn.data.shards import import_layout

    done = import_layout(
        parsed.layout, parsed.root, parsed.into, shares=parsed.split, fold=parsed.fold, seed=parsed.seed
    )
    for failure in done.failures:
        print(f"not read: {failure.name}: {failure.reason}", file=sys.stderr)
    for part, entries in done.entries.items():
        told = ", ".join(f"{done.slices[part][kind]} {kind}" for kind in ("blood", "none", "unknown"))
        print(f"{parsed.into / part}: {entries} series of {done.patients[part]} patient(s); slices: {told}")
    return 0 if all(done.slices.values()) else 1


def _labels(parsed: argparse.Namespace) -> int:
    from triage_node.learn.data.rsna import convert_labels

    count = convert_labels(parsed.table, parsed.out, ending=parsed.ending)
    print(f"{count} image(s) in {parsed.out}")
    return 0


def _clean(parsed: argparse.Namespace) -> int:
    from triage_node.learn.data.clean import find_faults

    count = 0
    for fault in find_faults(parsed.layout, parsed.root):
        print(json.dumps(vars(fault)) if parsed.json else fault, flush=True)
        count += 1
    print(f"{count} image(s) to look at; nothing was deleted", file=sys.stderr)
    return 1 if count else 0


def _config(_parsed: argparse.Namespace) -> int:
    print(configuration.reference(), end="")
    return 0


# ---------------------------------------------------------------- steps


def _prepare(config: configuration.Config) -> None:
    """Fail here, with one line, rather than in four processes."""
    from triage_node.spool import Spool
    from triage_node.store.database import open_database

    try:
        Spool(config.node.data_dir)
        open_database(config.database_url).close()
    except OSError as error:
        raise UsageError(f"{config.node.data_dir}: {error.strerror}; set node.data_dir to a folder of ours") from error


def _open(path: Path):  # type: ignore[no-untyped-def]
    from triage_node.store.database import open_database

    return open_database(configuration.load(path).database_url)


def _model_loader(config: configuration.Config) -> Callable[[], str]:
    from triage_node.infer.bundle import find_bundle, load_bundle
    from triage_node.infer.process import InferenceProcess

    def load() -> str:
        folder = find_bundle(config.model.bundle)
        bundle = load_bundle(folder).ref
        with closing(InferenceProcess(folder, timeout_s=config.model.timeout_s, device=config.model.device)) as process:
            process.start()
        return f"{bundle.name} {bundle.version}, sha256 {bundle.sha256[:12]}"

    return load


def _or_null(value: float | None, digits: int) -> str:
    return "null" if value is None else f"{value:.{digits}f}"


def _counts_line(counts: Mapping[str, int]) -> str:
    names = ("at the source", "received", "missing", "of these refused")
    return ", ".join(f"{counts[name]} {name}" for name in names)


def _day(text: str) -> str:
    """A day as DICOM writes it (PS3.5 6.2, VR DA)."""
    try:
        return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).strftime("%Y%m%d")
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is no day; write for example 20261121') from None


def _receipt_line(receipt: Receipt, *, as_json: bool) -> str:
    values = {name: str(value) if isinstance(value, datetime) else value for name, value in vars(receipt).items()}
    return json.dumps(values) if as_json else "\t".join(value or "-" for value in values.values())


def _config_for_files() -> configuration.Config:
    """For files there is no study age to check: they are as old as they are."""
    return configuration.Config(series=configuration.Series(max_study_age_h=0.0))


def _line(result: dict[str, object]) -> str:
    return f"{result['outcome']:<13}{result['priority']:<9}{result['detail']}"


# ---------------------------------------------------------------- the parser


def command_names() -> list[str]:
    """Every command, in the order of the help."""
    actions = parser()._subparsers
    assert actions is not None
    (commands,) = actions._group_actions
    return list(commands.choices or ())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="triage-node", description=f"A DICOM-native auto-triage node for hemorrhage on head CT. {DISCLAIMER}"
    )
    root.add_argument("--version", action="version", version=f"triage-node {version('triage-node')}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    def with_config(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}")
        return added

    demo = command("demo", _demo, "start a node and a demo PACS on loopback, send a head CT, show what comes back")
    demo.add_argument(
        "folder", nargs="?", type=Path, metavar="DICOM_DIR", help="your own series; default: a simulated one"
    )
    demo.add_argument(
        "--subtype", choices=[*SUBTYPE_ABBREVIATIONS.values(), "NONE"], default="SDH", help="what to simulate"
    )
    demo.add_argument("--once", action="store_true", help="end after the result instead of staying up")
    demo.add_argument("--json", action="store_true", help="end with one JSON line on standard output")

    with_config(command("serve", _serve, "run the node: listen, work, deliver and web"))
    for role in ("listen", "work", "deliver", "web"):
        with_config(command(role, _role, f"run only the {role} role")).add_argument(
            "--supervised", action="store_true", help=argparse.SUPPRESS
        )
    with_config(command("check", _check, "preflight: configuration, disk, database, model, destinations"))
    status = with_config(command("status", _status, "roles, counts, newest series, dead letters"))
    status.add_argument("--json", action="store_true", help="on one line")
    retry = with_config(command("retry", _retry, "send dead letters again"))
    retry.add_argument("--destination", help="only those of this destination")
    retry.add_argument("--give-up", action="store_true", help="never send them; for what nobody can mend")

    with_config(command("link", _link, "print a link that opens the pages once, on this machine"))
    command("password", _password, "the argon2 hash of a password, for a [[user]]")

    ledger = with_config(command("ledger", _ledger, "every object received, and what became of it"))
    ledger.add_argument("--days", type=float, help="only those of the last days")
    ledger.add_argument("--study", metavar="UID", help="only those of this Study Instance UID")
    ledger.add_argument("--sop", metavar="UID", help="only the object with this SOP Instance UID")
    ledger.add_argument("--json", action="store_true", help="one JSON line an object; default: tabs between the fields")
    ledger.add_argument("--reconcile", metavar="SOURCE", help="instead: CT images that this source has and we do not")
    ledger.add_argument("--day", type=_day, metavar="YYYYMMDD", help="--reconcile: of the studies of this day")
    with_config(command("rebuild", _rebuild, "enter spooled objects that the database does not know, all of them"))

    send = command("send", _send, "a storage SCU with progress, for trying things")
    send.add_argument("folder", type=Path, metavar="DIR")
    send.add_argument("peer", metavar="HOST:PORT")
    send.add_argument("--calling", default="TRIAGE_SEND", metavar="AE", help="our AE title")
    send.add_argument("--called", default="TRIAGE", metavar="AE", help="the peer's AE title")

    analyze = command("analyze", _analyze, "the same stages on files: writes SEG, SR, key images and result.json")
    analyze.add_argument("folder", type=Path, metavar="DIR")
    analyze.add_argument("--out", type=Path, required=True, metavar="DIR")
    analyze.add_argument("--config", type=Path, help="a configuration file; default: the defaults, study age check off")
    analyze.add_argument("--bundle", help="name or folder of a model bundle")
    analyze.add_argument("--json", action="store_true", help="one JSON line a series")

    models = command("models", _models, "the shipped model bundles; with BUNDLE, whether it loads and what it says")
    models.add_argument("bundle", nargs="?", metavar="BUNDLE", help="name or folder of a model bundle")
    models.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")

    evaluate = command(
        "evaluate", _evaluate, "what a bundle is worth on labelled pictures or series (docs/evaluation.md)"
    )
    evaluate.add_argument("--dataset", choices=DATASETS, required=True, metavar="KIND", help=", ".join(DATASETS))
    evaluate.add_argument("--root", type=Path, required=True, metavar="DIR", help="simulated: kept heads, made once")
    evaluate.add_argument("--labels", type=Path, metavar="CSV", help="columns file, any and, where known, subtypes")
    evaluate.add_argument("--mask-labels", metavar="1=NAME,...", help="what the labels of masks mean; default: our own")
    evaluate.add_argument("--bundle", help="name or folder of a model bundle")
    evaluate.add_argument("--device", choices=["auto", "cpu", "cuda"])
    evaluate.add_argument("--prevalence", type=float, help="of hemorrhage where the PPV is told; default: 0.1")
    evaluate.add_argument("--heads", type=int, help="simulated: how many; default: 40")
    evaluate.add_argument("--json", nargs="?", const="-", metavar="FILE", help="the figures as JSON, alone on stdout")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="figures as PNG (extra: train)")

    simulate = command("simulate", _simulate, "write a simulated head CT series as DICOM, with its truth mask")
    simulate.add_argument("--out", type=Path, required=True, metavar="DIR")
    simulate.add_argument(
        "--subtype", default="SDH", help=f"{', '.join(SUBTYPE_ABBREVIATIONS.values())}, several as IPH+IVH, or NONE"
    )
    simulate.add_argument("--seed", type=int, default=1)
    simulate.add_argument("--vendor", help="whose headers to imitate: GE, SIEMENS, PHILIPS, CANON; default: plain ones")
    simulate.add_argument(
        "--folds", choices=["procedural", "mni152"], default="procedural", help="mni152 needs the train extra"
    )

    _learning_commands(command)
    command("config", _config, "print every setting with its default, as TOML")
    return root


def _learning_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Those of the laboratory (docs/laboratory.md)."""
    train = command("train", _train, "train a network as a TOML file says, or go on training; needs the train extra")
    train.add_argument("experiment", type=Path, metavar="CONFIG", help="for example models/default.train.toml")
    bundle = command("bundle", _bundle, "make a bundle of a trained network, calibrated on heads that it never saw")
    bundle.add_argument("experiment", type=Path, metavar="CONFIG", help="the file that it was trained by")
    bundle.add_argument("out", type=Path, metavar="DIR", help="its name becomes the name of the bundle")
    bundle.add_argument("--tuning", type=Path, metavar="DIR", help="shards; default: the validation of the experiment")
    bundle.add_argument("--tuning-origin", default="the validation heads", metavar="TEXT", help="what these heads are")
    bundle.add_argument("--trained-on", default="", metavar="SENTENCE", help="for the intended use in bundle.toml")
    bundle.add_argument("--bundle-version", default="1", metavar="V")

    ensemble = command("ensemble", _ensemble, "make one bundle of several, which are asked together")
    ensemble.add_argument("out", type=Path, metavar="DIR")
    ensemble.add_argument("members", nargs="+", metavar="BUNDLE", help="names or folders of bundles")
    ensemble.add_argument("--tuning", type=Path, required=True, metavar="DIR", help="shards that no member saw")
    ensemble.add_argument("--tuning-origin", default="the tuning heads", metavar="TEXT", help="what these heads are")
    ensemble.add_argument("--bundle-version", default="1", metavar="V")

    vary = command("vary", _vary, "write varied copies of shards; training varies at every pass as well")
    vary.add_argument("shards", type=Path, metavar="DIR")
    vary.add_argument("--into", type=Path, required=True, metavar="DIR")
    vary.add_argument("--copies", type=int, default=1)
    vary.add_argument("--experiment", type=Path, metavar="CONFIG", help="how: its [augment]; default: the defaults")
    vary.add_argument("--seed", type=int, default=1)

    imported = command("import", _import, "a data set as shards for training, split by patient (docs/data-sets.md)")
    imported.add_argument("layout", choices=DATA_LAYOUTS[:-1], metavar="LAYOUT", help=", ".join(DATA_LAYOUTS[:-1]))
    imported.add_argument("root", type=Path, metavar="DIR")
    imported.add_argument("--into", type=Path, required=True, metavar="DIR", help="gets train, validation and test")
    imported.add_argument("--split", default="70/20/10", help="shares of the patients; 80/20 makes no test part")
    imported.add_argument("--fold", metavar="N/K", help="in place of --split: the Nth of K folds is the validation")
    imported.add_argument("--seed", type=int, default=1)

    labels = command("labels", _labels, "the labels of RSNA 2019 as one line an image (docs/data-sets.md)")
    labels.add_argument("table", type=Path, metavar="CSV", help="stage_2_train.csv")
    labels.add_argument("--out", type=Path, required=True, metavar="CSV", help="columns file, any and the subtypes")
    labels.add_argument("--ending", default=".dcm", help="of the files; default: .dcm")

    clean = command("clean", _clean, "find corrupt and repeated images of a data set; deletes nothing")
    clean.add_argument("layout", choices=DATA_LAYOUTS, metavar="LAYOUT", help=f"one of {', '.join(DATA_LAYOUTS)}")
    clean.add_argument("root", type=Path, metavar="DIR")
    clean.add_argument("--json", action="store_true", help="one JSON line an image")
