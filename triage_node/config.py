"""The settings: one table (the dataclasses below) gives defaults, help, validation and config/triage-node.toml.

A configuration file is TOML. An unknown key is an error that suggests the key that was meant; every error names file
and line. Relative paths are relative to the file.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from triage_node.domain import PROCEDURE_STEP_LABEL, SUBTYPES, WORKLIST_LABEL, Priority, Proof, Rule
from triage_node.errors import ConfigError

Check = Callable[[Any], str | None]
"""Returns what is wrong with a value, or None."""


# ---------------------------------------------------------------- checks


def _port(value: int) -> str | None:
    return None if 0 <= value <= 65535 else "must be a TCP port, 0 to 65535 (0 takes a free one)"


def _ae_title(value: str) -> str | None:
    # PS3.5 6.2, VR AE: 16 characters, no backslash, no control characters, not only spaces
    if value.strip() and len(value) <= 16 and value.isascii() and value.isprintable() and "\\" not in value:
        return None
    return "must be an AE title: 1 to 16 printable ASCII characters, no backslash"


def _ae_title_or_none(value: str) -> str | None:
    return _ae_title(value) if value else None


def _hosts(value: list[str]) -> str | None:
    for host in value:
        try:
            ipaddress.ip_network(host, strict=False)
        except ValueError:
            return f'"{host}" is no IP address or network; write "10.1.2.3" or "10.1.2.0/24"'
    return None if value else 'must name at least one address, such as "10.1.2.3" or "10.1.2.0/24"'


def _addresses(value: list[str]) -> str | None:
    return _hosts(value) if value else None


def _uids(value: list[str]) -> str | None:
    # PS3.5 9.1
    wrong = [uid for uid in value if len(uid) > 64 or not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", uid)]
    return f'"{wrong[0]}" is no UID; write for example "1.3.12.2.1107.5.9.1"' if wrong else None


_FIND: Final = re.compile(r"(?:(?P<ae_title>[^@]+)@)?(?P<host>[^@\s]+):(?P<port>\d{1,5})")


def _find(value: str) -> str | None:
    found = _FIND.fullmatch(value)
    good = not value or (found and int(found["port"]) <= 65535 and not _ae_title(found["ae_title"] or "ANY"))
    return None if good else 'must be "host:port" or "AE_TITLE@host:port", such as "QR_SCP@10.1.2.3:104"'


def _find_peer(find: str, ae_title: str) -> tuple[str, str, int] | None:
    found = _FIND.fullmatch(find)
    return (found["ae_title"] or ae_title, found["host"].strip("[]"), int(found["port"])) if found else None


def _at_least(low: float) -> Check:
    return lambda value: None if value >= low else f"must be {low:g} or more"


def _between(low: float, high: float) -> Check:
    return lambda value: None if low <= value <= high else f"must be between {low:g} and {high:g}"


def _one_of(*allowed: str) -> Check:
    return lambda value: None if value in allowed else f"must be one of {', '.join(allowed)}"


def _each_of(*allowed: str) -> Check:
    def check(value: list[str]) -> str | None:
        wrong = [item for item in value if item not in allowed]
        return f"{wrong[0]} is not one of {', '.join(allowed)}" if wrong else None

    return check


def _url(value: str) -> str | None:
    advice = 'must be "https://host/path", or "http://" on this machine only, without user, password or fragment'
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return advice
    good = parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host or ""))
    plain = value.isascii() and value.isprintable() and " " not in value
    return None if good and plain and host and not (parts.username or parts.password or parts.fragment) else advice


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(value: str) -> str | None:
    good = re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+", value)
    return None if good else 'must say where the secret is, "env:NAME" or "file:PATH"; it never stands here itself'


def _no_or_secret(value: str) -> str | None:
    return _secret(value) if value else None


def _service(value: str) -> str | None:
    return _url(value) or ("must have no ? in it: paths are added to it" if "?" in value else None)


def _login(value: str) -> str | None:
    good = value.isascii() and (not value or value.isprintable()) and ":" not in value
    return None if good else "must be printable ASCII characters without :"


def _hd(value: str) -> str | None:
    # HL7 v2.5.1 2.A.33: the namespace of an HD has 20 characters
    good = len(value) <= 20 and value.isascii() and value.isprintable() and not set("|^~&\\") & set(value)
    return None if good else "must be at most 20 printable ASCII characters without | ^ ~ & \\"


def _label(value: str) -> str | None:
    # PS3.5 6.2, VR LO
    good = value.strip() and len(value) <= 64 and value.isprintable() and "\\" not in value
    return None if good else "must be 1 to 64 printable characters, no backslash"


def _name(value: str) -> str | None:
    good = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", value)
    return None if good else "must be 1 to 32 letters, digits, - or _"


def _argon2(value: str) -> str | None:
    return None if value.startswith("$argon2id$") else "must be an argon2id hash; make it with `triage-node password`"


# ---------------------------------------------------------------- the settings table


def setting(default: Any, help_text: str, *, check: Check | None = None) -> Any:
    """One setting: its default (MISSING makes it required), its help with the unit, its check."""
    metadata = {"help": help_text, "check": check}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Node:
    """[node]: who this node is and where it keeps things."""

    ae_title: str = setting("TRIAGE", "AE title of this node; callers must call it by this name", check=_ae_title)
    host: str = setting("0.0.0.0", "address the listener binds to")  # noqa: S104 - a PACS is on another machine
    port: int = setting(11112, "DICOM port; 0 takes a free one, shown by `triage-node status`", check=_port)
    data_dir: Path = setting(Path("data"), "folder of the spool and, unless `database` says otherwise, the database")
    database: str = setting("", "SQLAlchemy URL; empty: SQLite in data_dir")
    uid_scope: str = setting(
        "", "result UIDs are derived from this name; set once, keep when the AE title changes; empty: ae_title"
    )
    max_associations: int = setting(48, "associations at a time, all callers together", check=_at_least(1))
    max_associations_per_address: int = setting(16, "connections at a time from one address", check=_at_least(1))
    max_object_mb: int = setting(1024, "MB of one object; who sends more is cut off", check=_at_least(1))
    stall_timeout_s: float = setting(10.0, "s a peer may stall inside one PDU or TLS handshake", check=_at_least(0.1))
    idle_timeout_s: float = setting(300.0, "s an association may stay idle", check=_at_least(1))
    min_free_mb: int = setting(2048, "MB of free disk below which images are refused (A700)", check=_at_least(0))


@dataclass(frozen=True, kw_only=True)
class Source:
    """[[source]]: a caller that may send images. Who is not listed is refused."""

    ae_title: str = setting(MISSING, "calling AE title", check=_ae_title)
    hosts: list[str] = setting(MISSING, 'addresses it calls from, such as ["10.1.2.3", "10.1.2.0/24"]', check=_hosts)
    called_ae: str = setting("", "the AE title it calls us by; empty: node.ae_title")
    quiet_s: float = setting(10.0, "s without a new image after which a series counts as complete", check=_at_least(0))
    find: str = setting(
        "",
        'where it answers C-FIND, "host:port" or "AE_TITLE@host:port": asked how many images a series has; empty: not',
        check=_find,
    )
    commitment_to: str = setting(
        "",
        "where it takes our storage commitment reports, as in find: it may ask whether its images are kept, and "
        "retention must keep them (images_days = 0, free_mb = 0); empty: it may not",
        check=_find,
    )
    worklist: bool = setting(False, "whether it may query, claim and complete results as UPS workitems")
    accept_classes: list[str] = setting(
        [], "private SOP Class UIDs it may send besides: kept, never analysed", check=_uids
    )
    token: str = setting(
        "",
        'where the token is by which it sends by STOW-RS to the port of [web]: "env:NAME" or "file:PATH"; empty: not',
        check=_no_or_secret,
    )

    @property
    def find_peer(self) -> tuple[str, str, int] | None:
        """AE title, host and port of its C-FIND SCP; None where it is not asked."""
        return _find_peer(self.find, self.ae_title)

    @property
    def commitment_peer(self) -> tuple[str, str, int] | None:
        """AE title, host and port that are told what is kept; None where it may not ask."""
        return _find_peer(self.commitment_to, self.ae_title)


SENDABLE: Final = ("SEG", "SR", "KEY_IMAGE", "NOTICE")
ON_DEMAND: Final = ("GSPS", "KOS", "LABELMAP")
"""Result objects that are made where a destination asks for them."""
TOLD: Final = ("STAT", "HIGH", "ROUTINE", "NOT_ANALYZED", "FAILED")
"""How a series may end, for destinations that are told of it: the priority of an analysed one, else its outcome."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """[[destination]] of kind "dicom": where result objects go by C-STORE."""

    name: str = setting(MISSING, "short name for logs and pages", check=_name)
    kind: str = setting("dicom", "how it is reached: dicom (the default), dicomweb, hl7, webhook or ups, see below")
    ae_title: str = setting(MISSING, "its AE title", check=_ae_title)
    host: str = setting(MISSING, "its address or host name")
    port: int = setting(MISSING, "its DICOM port", check=_port)
    send: list[str] = setting(
        list(SENDABLE),
        f"what it gets: {', '.join(SENDABLE)}; on demand {', '.join(ON_DEMAND)}",
        check=_each_of(*SENDABLE, *ON_DEMAND),
    )
    commitment: bool = setting(False, "whether it must confirm by storage commitment that it keeps what it was sent")
    find: str = setting(
        "",
        "in place of commitment: where it answers C-FIND, as in [[source]]; asked whether it has what it was sent",
        check=_find,
    )
    hosts: list[str] = setting(
        [], "further addresses its commitment reports may come from, as in [[source]]", check=_addresses
    )

    @property
    def find_peer(self) -> tuple[str, str, int] | None:
        """AE title, host and port of its C-FIND SCP; None where it is not asked."""
        return _find_peer(self.find, self.ae_title)

    @property
    def proof(self) -> Proof | None:
        """What it must say of an object before that counts as delivered; None where the C-STORE status is enough."""
        if self.commitment:
            return Proof.COMMITTED
        return Proof.FOUND if self.find else None

    @property
    def address(self) -> str:
        """For people."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Hl7Destination:
    """[[destination]] of kind "hl7": told of results by HL7 v2.5.1 ORU^R01 messages over MLLP."""

    name: str = setting(MISSING, "short name for logs and pages", check=_name)
    kind: str = setting("hl7", "must be written")
    host: str = setting(MISSING, "its address or host name")
    port: int = setting(MISSING, "its MLLP port", check=_port)
    send: list[str] = setting(list(TOLD), "of which results it is told: " + ", ".join(TOLD), check=_each_of(*TOLD))
    tls: bool = setting(False, "whether MLLP goes through TLS")
    ca_file: str = setting("", "PEM file of the authorities that its certificate may be of; empty: those of the system")
    certificate: str = setting("", "PEM file of our certificate chain, where it asks for one")
    private_key: str = setting("", "PEM file of its key")
    sending_application: str = setting("", "MSH-3; empty: node.ae_title", check=_hd)
    sending_facility: str = setting("", "MSH-4", check=_hd)
    receiving_application: str = setting("", "MSH-5", check=_hd)
    receiving_facility: str = setting("", "MSH-6", check=_hd)
    processing_id: str = setting("P", "MSH-11: P (production), T (training) or D (debugging)", check=_one_of(*"PTD"))
    character_set: str = setting(
        "UNICODE UTF-8",
        "MSH-18: UNICODE UTF-8, or 8859/1, where what it lacks becomes ?",
        check=_one_of("UNICODE UTF-8", "8859/1"),
    )
    assigning_authority: str = setting("", "PID-3.4 where the images carry no IssuerOfPatientID", check=_hd)
    legacy_priority: bool = setting(False, "whether the priority stands in OBR-27.6, too, for readers older than v2.5")

    @property
    def address(self) -> str:
        """For people."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class WebhookDestination:
    """[[destination]] of kind "webhook": told of results by HTTP POST of JSON, signed with HMAC-SHA256."""

    name: str = setting(MISSING, "short name for logs and pages", check=_name)
    kind: str = setting("webhook", "must be written")
    url: str = setting(MISSING, "where it takes them: https, or http on this machine; it is never logged", check=_url)
    secret: str = setting(
        MISSING, 'where the secret of the signature is: "env:NAME" (a variable) or "file:PATH"', check=_secret
    )
    send: list[str] = setting(list(TOLD), "of which results it is told: " + ", ".join(TOLD), check=_each_of(*TOLD))
    escalations: bool = setting(True, "whether it is told, too, of a STAT result that nobody acknowledged in time")
    identity: bool = setting(False, "whether it is told who the patient is, and the UIDs of study and series")
    ca_file: str = setting("", "PEM file of the authorities that its certificate may be of; empty: those of the system")

    @property
    def address(self) -> str:
        """For people: without the path, which often holds a token."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True, kw_only=True)
class UpsDestination:
    """[[destination]] of kind "ups": results become workitems of a worklist, by DICOM UPS (PS3.4 CC)."""

    name: str = setting(MISSING, "short name for logs and pages", check=_name)
    kind: str = setting("ups", "must be written")
    ae_title: str = setting(MISSING, "its AE title", check=_ae_title)
    host: str = setting(MISSING, "its address or host name")
    port: int = setting(MISSING, "its DICOM port", check=_port)
    send: list[str] = setting(list(TOLD), "which results become workitems: " + ", ".join(TOLD), check=_each_of(*TOLD))
    worklist_label: str = setting(WORKLIST_LABEL, "WorklistLabel (0074,1202): the list they belong to", check=_label)
    procedure_step_label: str = setting(
        PROCEDURE_STEP_LABEL, "ProcedureStepLabel (0074,1204): what is to be done", check=_label
    )
    retrieve_ae: str = setting(
        "", "AE title that has images and results; empty: that of the first destination of kind dicom"
    )

    @property
    def address(self) -> str:
        """For people."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class DicomwebDestination:
    """[[destination]] of kind "dicomweb": where result objects go by STOW-RS (PS3.18 10.5)."""

    name: str = setting(MISSING, "short name for logs and pages", check=_name)
    kind: str = setting("dicomweb", "must be written")
    url: str = setting(
        MISSING, "its DICOMweb root, to which /studies is added: https, or http on this machine", check=_service
    )
    send: list[str] = setting(
        list(SENDABLE),
        f"what it gets: {', '.join(SENDABLE)}; on demand {', '.join(ON_DEMAND)}",
        check=_each_of(*SENDABLE, *ON_DEMAND),
    )
    token: str = setting("", 'where a bearer token for it is: "env:NAME" or "file:PATH"', check=_no_or_secret)
    user: str = setting("", "name for basic authentication, instead of a token", check=_login)
    password: str = setting("", "where the password of `user` is, as `token`", check=_no_or_secret)
    ca_file: str = setting("", "PEM file of the authorities that its certificate may be of; empty: those of the system")

    @property
    def address(self) -> str:
        """For people: without the path, which may hold a tenant or a token."""
        return urlsplit(self.url).netloc


AnyDestination = Destination | Hl7Destination | WebhookDestination | UpsDestination | DicomwebDestination
ObjectDestination = Destination | DicomwebDestination
"""Those that DICOM objects are sent to."""
MessageDestination = Hl7Destination | WebhookDestination | UpsDestination
"""Those that are told how a series ended; to the others result objects are sent."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """[series]: when a series is complete and when its result is published."""

    cap_s: float = setting(120.0, "s after its first image at which a series is analysed as it is", check=_at_least(1))
    settle_s: float = setting(2.0, "s without a new image before a result is published", check=_at_least(0))
    primary_wait_s: float = setting(
        5.0,
        "s that a complete series waits for a better one of the same acquisition that still comes in",
        check=_at_least(0),
    )
    max_study_age_h: float = setting(24.0, "h; older studies are priors and not analysed; 0: off", check=_at_least(0))
    notice_after_s: float = setting(
        180.0,
        "s after which `not analysed` is sent, unless another series of the study was analysed",
        check=_at_least(0),
    )


@dataclass(frozen=True, kw_only=True)
class Model:
    """[model]: what analyses."""

    bundle: str = setting("default", "name of a shipped bundle, or the path of a bundle folder")
    device: str = setting("auto", "auto, cpu or cuda", check=_one_of("auto", "cpu", "cuda"))
    timeout_s: float = setting(120.0, "s one inference may take before it is killed", check=_at_least(1))


@dataclass(frozen=True, kw_only=True)
class Work:
    """[work]: the analysing processes."""

    workers: int = setting(1, "worker processes started by `serve`", check=_at_least(1))
    lease_s: float = setting(60.0, "s after which a silent worker's series goes to another", check=_at_least(1))
    attempts: int = setting(3, "tries before a series ends as FAILED", check=_at_least(1))


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """[delivery]: the outbox."""

    attempts: int = setting(
        1500, "tries before a result goes to the dead letters (1500 with the cap below: a day)", check=_at_least(1)
    )
    backoff_s: float = setting(2.0, "s before the second try; doubles with each", check=_at_least(0))
    backoff_cap_s: float = setting(
        60.0, "s between tries at most: so late a flag may be when its destination is back", check=_at_least(0)
    )
    timeout_s: float = setting(30.0, "s a destination may take to answer", check=_at_least(0.1))
    lease_s: float = setting(60.0, "s after which a silent sender's rows go to another", check=_at_least(1))
    commitment_timeout_s: float = setting(
        900.0, "s to wait for a storage commitment before it is asked for again", check=_at_least(1)
    )
    commitment_attempts: int = setting(
        1500, "storage commitment requests, or queries, before a result goes to the dead letters", check=_at_least(1)
    )

    def backoff_after_s(self, attempts: int) -> float:
        """How long to wait after so many failed attempts, s."""
        return min(self.backoff_s * 2.0 ** min(attempts - 1, 20), self.backoff_cap_s)


@dataclass(frozen=True, kw_only=True)
class ModalityWorklist:
    """[modality_worklist]: the RIS or broker that is asked by C-FIND for the order of each study. No result waits."""

    ae_title: str = setting("", "its AE title", check=_ae_title_or_none)
    host: str = setting("", "its address or host name; empty: nobody is asked")
    port: int = setting(104, "its DICOM port", check=_port)
    timeout_s: float = setting(5.0, "s it may take to answer", check=_between(0.1, 10))


@dataclass(frozen=True, kw_only=True)
class Retention:
    """[retention]: what is removed from the disk, and when. Never what is in flight; the ledger stays."""

    images_days: float = setting(
        30.0, "days after which the images of a delivered series are removed; 0: never", check=_at_least(0)
    )
    results_days: float = setting(
        365.0, "days after which result files and quarantined images are removed; 0: never", check=_at_least(0)
    )
    free_mb: int = setting(
        8192,
        "MB of free disk below which the oldest delivered series go earlier; 0: never; more than node.min_free_mb",
        check=_at_least(0),
    )


@dataclass(frozen=True, kw_only=True)
class Web:
    """[web]: the worklist and the other pages."""

    host: str = setting("127.0.0.1", "address the pages bind to; another than loopback needs [[user]] and HTTPS")
    port: int = setting(8080, "HTTP port; 0 takes a free one", check=_port)
    loopback_only: bool = setting(
        False, "whether only this machine reaches `host`, as in a container whose port is published on loopback"
    )
    certificate: str = setting("", "PEM file of the certificate chain for HTTPS; empty: HTTP")
    private_key: str = setting("", "PEM file of its key")
    https_proxy: bool = setting(False, "whether browsers come through a proxy that speaks HTTPS with them")
    read_within_min: float = setting(
        60.0, "min from the last image until a study should be read; its clock turns then", check=_at_least(1)
    )
    list_h: float = setting(
        48.0, "h that a study stays on the worklist; older ones are found by search", check=_at_least(1)
    )
    acknowledge_within_min: float = setting(
        10.0, "min after which a STAT result that nobody acknowledged is escalated; 0: never", check=_at_least(0)
    )
    session_idle_h: float = setting(12.0, "h without a request after which a user logs in again", check=_at_least(0.1))
    try_mb: int = setting(
        1024, "MB that may be given to the page for trying, and that a zip there may unpack to", check=_at_least(1)
    )
    try_files: int = setting(3000, "files that may be given to it, those in a zip counted", check=_at_least(1))
    keep_trials_h: float = setting(
        24.0, "h that what was tried is kept after its end, and that it may wait for a worker", check=_at_least(1)
    )

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the pages."""
        return self.loopback_only or _is_loopback(self.host)

    @property
    def is_https(self) -> bool:
        """Whether browsers speak HTTPS."""
        return bool(self.certificate) or self.https_proxy


ROLES: Final = ("reader", "lead", "admin")
"""Each may do what those before it may."""


@dataclass(frozen=True, kw_only=True)
class User:
    """[[user]]: who may open the pages; without any, `serve` prints a one-time link for this machine."""

    name: str = setting(MISSING, "login name", check=_name)
    role: str = setting("reader", "reader, lead or admin; each may do what those before it may", check=_one_of(*ROLES))
    password: str = setting(MISSING, "argon2 hash, from `triage-node password`", check=_argon2)


@dataclass(frozen=True, kw_only=True)
class PriorityRule:
    """[[rule]]: the first rule that matches gives the priority; none: ROUTINE."""

    priority: str = setting(MISSING, "STAT, HIGH or ROUTINE", check=_one_of("STAT", "HIGH", "ROUTINE"))
    subtype: str = setting("any", "any, or one of " + ", ".join(SUBTYPES), check=_one_of("any", *SUBTYPES))
    min_probability: float = setting(
        0.5, "series probability, 0 to 1; 0.5 is the operating point", check=_between(0, 1)
    )
    min_volume_ml: float = setting(0.0, "segmented volume, mL", check=_at_least(0))


DEFAULT_RULES: Final = (
    Rule(priority=Priority.STAT, min_volume_ml=1.0),
    Rule(priority=Priority.HIGH),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a role needs to know, checked."""

    node: Node = field(default_factory=Node)
    series: Series = field(default_factory=Series)
    model: Model = field(default_factory=Model)
    work: Work = field(default_factory=Work)
    delivery: Delivery = field(default_factory=Delivery)
    modality_worklist: ModalityWorklist = field(default_factory=ModalityWorklist)
    retention: Retention = field(default_factory=Retention)
    web: Web = field(default_factory=Web)
    sources: tuple[Source, ...] = ()
    destinations: tuple[AnyDestination, ...] = ()
    rules: tuple[Rule, ...] = DEFAULT_RULES
    users: tuple[User, ...] = ()
    path: Path | None = None
    """The file it came from; errors and the log line of a refusal name it."""

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the database."""
        return self.node.database or f"sqlite:///{self.node.data_dir / 'triage-node.sqlite3'}"

    @property
    def uid_scope(self) -> str:
        """The name that result UIDs are derived from."""
        return self.node.uid_scope or self.node.ae_title

    def quiet_s(self, calling_ae: str) -> float:
        """Quiet period of a source, by its calling AE title."""
        return next((s.quiet_s for s in self.sources if s.ae_title == calling_ae), 10.0)


TABLES: Final[Mapping[str, type]] = {
    "node": Node,
    "series": Series,
    "model": Model,
    "work": Work,
    "delivery": Delivery,
    "modality_worklist": ModalityWorklist,
    "retention": Retention,
    "web": Web,
}
DESTINATIONS: Final[Mapping[str, type]] = {
    "dicom": Destination,
    "hl7": Hl7Destination,
    "webhook": WebhookDestination,
    "ups": UpsDestination,
    "dicomweb": DicomwebDestination,
}
"""The table of a [[destination]] by its kind; the first is meant where none is written."""
LISTS: Final[Mapping[str, Sequence[type]]] = {
    "source": [Source],
    "destination": [*DESTINATIONS.values()],
    "rule": [PriorityRule],
    "user": [User],
}


# ---------------------------------------------------------------- reading a file


def load(path: Path) -> Config:
    """Read and check a configuration file.

    Raises ConfigError naming the file, the line, what is wrong and what to write instead.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); copy config/example-hospital.toml there"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    where = _Where(path, text)
    _refuse_unknown(tree, {*TABLES, *LISTS}, where, section=None, index=0)
    tables = {name: _table(cls, tree.get(name, {}), where, name) for name, cls in TABLES.items()}
    lists = {name: _tables(tree.get(name, []), where, name) for name in LISTS}
    for kind in ("destination", "user"):
        _refuse_doubles(kind, [each.name for each in lists[kind]], where)
    _refuse_open_pages(tables["web"], lists["user"], where)
    _refuse_half_tls(lists["destination"], where)
    _refuse_two_logins(lists["destination"], where)
    _refuse_two_proofs(lists["destination"], where)
    _refuse_false_promises(tables["retention"], lists["source"], where)
    _refuse_short_leases(tables["delivery"], lists["destination"], where)
    _refuse_half_peer(tables["modality_worklist"], where)
    tables["node"] = _resolve_paths(tables["node"], path.resolve().parent)
    tables["web"] = _resolve_pem(tables["web"], path.resolve().parent)
    return Config(
        **tables,
        sources=tuple(_resolve_files(each, path.resolve().parent) for each in lists["source"]),
        destinations=tuple(_resolve_files(each, path.resolve().parent) for each in lists["destination"]),
        rules=tuple(_rule(r) for r in lists["rule"]) or DEFAULT_RULES,
        users=tuple(lists["user"]),
        path=path,
    )


@dataclass(frozen=True)
class _Where:
    """Finds the line of a key, for error messages (tomllib keeps no positions)."""

    path: Path
    text: str

    def line(self, section: str | None, key: str, index: int = 0) -> str:
        current, seen = None, -1
        for number, line in enumerate(self.text.splitlines(), start=1):
            header = re.match(r"\s*\[\[?\s*([A-Za-z0-9_.-]+)\s*\]\]?", line)
            if header:
                current = header[1]
                seen += current == section
                if section is None and current == key:
                    return f"{self.path}:{number}"
            found = current == section and (section is None or seen == index)
            if found and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return f"{self.path}:{number}"
        return self.header(section, index)

    def header(self, section: str | None, index: int) -> str:
        numbers = [
            number
            for number, line in enumerate(self.text.splitlines(), start=1)
            if section and re.match(rf"\s*\[\[?\s*{re.escape(section)}\s*\]", line)
        ]
        return f"{self.path}:{numbers[index]}" if len(numbers) > index else str(self.path)


def _refuse_unknown(
    tree: Mapping[str, Any], known: set[str], where: _Where, *, section: str | None, index: int
) -> None:
    for key in tree:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            advice = f'did you mean "{close[0]}"?' if close else f"known are: {', '.join(sorted(known))}"
            place = f'[{section}] knows no "{key}"' if section else f'there is no section or key "{key}"'
            raise ConfigError(f"{where.line(section, key, index)}: {place}; {advice}")


def _tables(trees: Any, where: _Where, section: str) -> list[Any]:
    if not isinstance(trees, list):
        raise ConfigError(
            f"{where.header(section, 0)}: write [[{section}]] with double brackets, one for each {section}"
        )
    return [
        _table(_class_of(section, tree, where, index), tree, where, section, index) for index, tree in enumerate(trees)
    ]


def _class_of(section: str, tree: Any, where: _Where, index: int) -> type:
    """The table that an entry of a list is read by: a destination's by its kind."""
    kind = tree.get("kind", "dicom") if section == "destination" and isinstance(tree, dict) else None
    if kind is None:
        return LISTS[section][0]
    if not isinstance(kind, str) or kind not in DESTINATIONS:
        raise ConfigError(
            f"{where.line(section, 'kind', index)}: {section}.kind must be one of {', '.join(DESTINATIONS)}"
        )
    return DESTINATIONS[kind]


def _table(cls: type, tree: Any, where: _Where, section: str, index: int = 0) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(f"{where.line(None, section)}: write [{section}] with single brackets, once")
    known = {f.name: f for f in fields(cls)}
    _refuse_unknown(tree, set(known), where, section=section, index=index)
    values = {}
    for name, spec in known.items():
        if name in tree:
            values[name] = _checked(spec, tree[name], where, section, index)
        elif _required(spec):
            raise ConfigError(f'{where.header(section, index)}: [[{section}]] needs "{name}" ({spec.metadata["help"]})')
    return cls(**values)


def _required(spec: Field[Any]) -> bool:
    return spec.default is MISSING and spec.default_factory is MISSING


_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "str": ((str,), "a text in quotes"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "Path": ((str,), "a path in quotes"),
    "list[str]": ((list,), 'a list of texts, such as ["a", "b"]'),
    "bool": ((bool,), "true or false"),
}


def _checked(spec: Field[Any], value: Any, where: _Where, section: str, index: int) -> Any:
    types, expected = _TYPES[str(spec.type)]
    good = isinstance(value, types) and isinstance(value, bool) == (types == (bool,))
    if isinstance(value, float):
        good = good and math.isfinite(value)
    if good and isinstance(value, list):
        good = all(isinstance(item, str) for item in value)
    wrong = f"must be {expected}" if not good else (spec.metadata["check"] or (lambda _: None))(value)
    if wrong:
        raise ConfigError(f"{where.line(section, spec.name, index)}: {section}.{spec.name} {wrong}")
    return Path(value) if str(spec.type) == "Path" else value


def _refuse_doubles(section: str, names: list[str], where: _Where) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(f'{where.line(section, "name", index)}: two [[{section}]] are named "{name}"')


def _refuse_open_pages(web: Web, users: list[User], where: _Where) -> None:
    """Patients' studies leave the machine only to people who log in, and only encrypted."""
    if bool(web.certificate) != bool(web.private_key):
        raise ConfigError(f"{where.header('web', 0)}: certificate and private_key go together; write both or neither")
    if web.is_local:
        return
    if not users:
        raise ConfigError(
            f"{where.line('web', 'host')}: pages on {web.host} need users who log in; add [[user]] "
            "(`triage-node password` makes one)"
        )
    if not web.certificate and not web.https_proxy:
        raise ConfigError(
            f"{where.line('web', 'host')}: pages on {web.host} need HTTPS; set certificate and private_key, or "
            "https_proxy = true where a proxy in front speaks HTTPS"
        )


def _refuse_half_tls(destinations: Sequence[AnyDestination], where: _Where) -> None:
    """Who names certificates means TLS: without it all would go in the clear."""
    for index, each in enumerate(destinations):
        if not isinstance(each, Hl7Destination):
            continue
        place = where.header("destination", index)
        if bool(each.certificate) != bool(each.private_key):
            raise ConfigError(f"{place}: certificate and private_key go together; write both or neither")
        if not each.tls and (each.ca_file or each.certificate):
            raise ConfigError(f"{place}: ca_file, certificate and private_key need tls = true; add it or remove them")


def _refuse_two_logins(destinations: Sequence[AnyDestination], where: _Where) -> None:
    for index, each in enumerate(destinations):
        if not isinstance(each, DicomwebDestination):
            continue
        if bool(each.user) != bool(each.password) or (each.token and each.user):
            raise ConfigError(
                f"{where.header('destination', index)}: write token, or user and password together, or none of them"
            )


def _refuse_two_proofs(destinations: Sequence[AnyDestination], where: _Where) -> None:
    for index, each in enumerate(destinations):
        if isinstance(each, Destination) and each.commitment and each.find:
            raise ConfigError(
                f"{where.line('destination', 'find', index)}: a destination confirms in one way; remove find, or say "
                "commitment = false"
            )


def _refuse_false_promises(retention: Retention, sources: Sequence[Source], where: _Where) -> None:
    """Whoever is told that an image is kept may delete it."""
    for index, each in enumerate(sources):
        if each.commitment_to and (retention.images_days or retention.free_mb):
            raise ConfigError(
                f"{where.line('source', 'commitment_to', index)}: a commitment is to keep images for good; say "
                "retention.images_days = 0 and retention.free_mb = 0, or remove commitment_to"
            )
        same = [other for other in sources[:index] if other.ae_title.strip() == each.ae_title.strip()]
        if each.commitment_to and any(other.commitment_peer not in (None, each.commitment_peer) for other in same):
            raise ConfigError(
                f"{where.line('source', 'commitment_to', index)}: a request is known by the AE title that asked, "
                f'"{each.ae_title}"; write the same commitment_to in each [[source]] of this name'
            )


def _refuse_short_leases(delivery: Delivery, destinations: Sequence[AnyDestination], where: _Where) -> None:
    """A message that still waits for its answer must not go again behind a newer one; an object may arrive twice."""
    told = any(isinstance(each, MessageDestination) for each in destinations)
    if told and delivery.lease_s <= delivery.timeout_s:
        raise ConfigError(
            f"{where.line('delivery', 'lease_s')}: delivery.lease_s ({delivery.lease_s:g}) must be more than "
            f"delivery.timeout_s ({delivery.timeout_s:g}); twice as much is good"
        )


def _refuse_half_peer(worklist: ModalityWorklist, where: _Where) -> None:
    if bool(worklist.host) != bool(worklist.ae_title):
        raise ConfigError(
            f"{where.header('modality_worklist', 0)}: host and ae_title go together; write both or neither"
        )


def _resolve_paths(node: Node, base: Path) -> Node:
    values = {f.name: getattr(node, f.name) for f in fields(node)}
    return Node(**{**values, "data_dir": (base / node.data_dir).resolve()})


def _resolve_pem(web: Web, base: Path) -> Web:
    certificate, private_key = (str(base / name) if name else "" for name in (web.certificate, web.private_key))
    return replace(web, certificate=certificate, private_key=private_key)


def _resolve_files(destination: Any, base: Path) -> Any:
    """Files that a destination or a source names are beside the configuration."""
    named = [f.name for f in fields(destination) if f.name in ("ca_file", "certificate", "private_key")]
    values = {name: str(base / getattr(destination, name)) for name in named if getattr(destination, name)}
    secrets = {name: getattr(destination, name, "") for name in ("secret", "token", "password")}
    values |= {name: f"file:{base / at[5:]}" for name, at in secrets.items() if at.startswith("file:")}
    return replace(destination, **values)


def _rule(rule: PriorityRule) -> Rule:
    return Rule(
        priority=Priority(rule.priority),
        subtype=rule.subtype,
        min_probability=rule.min_probability,
        min_volume_ml=rule.min_volume_ml,
    )


# ---------------------------------------------------------------- writing the reference file


def reference() -> str:
    """The text of config/triage-node.toml: every setting, its default, its unit."""
    lines = ["# Every setting of triage-node with its default. Only what differs needs to be in a site's file.", ""]
    for name, cls in TABLES.items():
        lines += [f"# {_first_line(cls)}", f"[{name}]", *_reference_keys(cls), ""]
    for name, classes in LISTS.items():
        for cls in classes:
            lines += [f"# {_first_line(cls)}", f"# [[{name}]]", *(f"# {line}" for line in _reference_keys(cls)), ""]
    return "\n".join(lines)


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").splitlines()[0]


def _reference_keys(cls: type) -> list[str]:
    return [f"{f.name} = {_toml(_default(f))}".ljust(40) + f" # {f.metadata['help']}" for f in fields(cls)]


def _default(spec: Field[Any]) -> Any:
    if spec.default_factory is not MISSING:
        return spec.default_factory()
    return "..." if spec.default is MISSING else spec.default


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str | Path):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)
