"""The configuration: one table, errors that name file, line and fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from triage_node import config
from triage_node.domain import Priority
from triage_node.errors import ConfigError

ROOT = Path(__file__).parents[2]


def load(tmp_path: Path, text: str) -> config.Config:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return config.load(path)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path, "")
    assert loaded.node.ae_title == "TRIAGE"
    assert loaded.rules == config.DEFAULT_RULES
    assert loaded.sources == ()


def test_the_committed_reference_file_is_the_table(tmp_path: Path) -> None:
    assert (ROOT / "config" / "triage-node.toml").read_text() == config.reference()


def test_the_reference_file_loads_as_the_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path, config.reference())
    assert loaded.series == config.Series()
    assert loaded.delivery == config.Delivery()


@pytest.mark.parametrize("name", ["example-hospital.toml", "compose-node.toml"])
def test_every_shipped_example_loads(name: str) -> None:
    loaded = config.load(ROOT / "config" / name)
    assert loaded.sources
    assert loaded.destinations


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[node]\nae_titel = "X"\n', 2, 'did you mean "ae_title"?'),
        ("[nodes]\n", 1, 'did you mean "node"?'),
        ('[node]\nport = "104"\n', 2, "node.port must be a whole number"),
        ("[node]\n\nport = 70000\n", 3, "must be a TCP port"),
        ("[node]\nport = true\n", 2, "node.port must be a whole number"),
        ('[node]\nae_title = "SEVENTEEN_LETTERS"\n', 2, "must be an AE title"),
        ('[[source]]\nhosts = ["10.0.0.1"]\n', 1, '[[source]] needs "ae_title"'),
        ('[[source]]\nae_title = "A"\nhosts = ["ct.local"]\n', 3, '"ct.local" is no IP address'),
        (
            '[[source]]\nae_title = "A"\nhosts = ["10.0.0.1"]\n[[source]]\nae_title = "B"\nhost = "10.0.0.2"\n',
            6,
            "hosts",
        ),
        ('[source]\nae_title = "A"\n', 1, "double brackets"),
        ('[[node]]\nae_title = "A"\n', 1, "single brackets"),
        ('[[source]]\nae_title = "A"\nhosts = ["10.0.0.1"]\nfind = "10.0.0.1"\n', 4, 'must be "host:port"'),
        ('[[source]]\nae_title = "A"\nhosts = ["10.0.0.1"]\naccept_classes = ["1.02"]\n', 4, '"1.02" is no UID'),
        (
            '[[destination]]\nname = "p"\nae_title = "P"\nhost = "h"\nport = 1\ncommitment = "yes"\n',
            6,
            "must be true or false",
        ),
        ('[modality_worklist]\nhost = "10.0.0.1"\n', 1, "host and ae_title go together"),
        ("[series]\nquiet = 3\n", 2, '[series] knows no "quiet"'),
        ('[[rule]]\npriority = "URGENT"\n', 2, "must be one of STAT, HIGH, ROUTINE"),
        ('[node\nae_title = "A"\n', None, "line 1"),
    ],
)
def test_an_error_names_file_line_and_fix(tmp_path: Path, text: str, line: int | None, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert str(tmp_path / "node.toml") + (f":{line}:" if line else "") in str(caught.value)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"example-hospital\.toml"):
        config.load(tmp_path / "none.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, '[node]\ndata_dir = "spool"\n').node.data_dir == tmp_path / "spool"
    source = '[[source]]\nae_title = "A"\nhosts = ["10.0.0.1"]\ntoken = "file:a.token"\n'
    assert load(tmp_path, source).sources[0].token == f"file:{tmp_path / 'a.token'}"


HL7 = '[[destination]]\nname = "ris"\nkind = "hl7"\nhost = "h"\nport = 2575\n'
HOOK = '[[destination]]\nname = "pager"\nkind = "webhook"\nurl = "https://pager/x"\nsecret = "env:PAGER"\n'
WEB = '[[destination]]\nname = "web"\nkind = "dicomweb"\nurl = "https://pacs/dicom-web"\n'
UPS = '[[destination]]\nname = "list"\nkind = "ups"\nae_title = "U"\nhost = "h"\nport = 105\n'


def test_each_kind_of_destination_has_a_table_of_its_own(tmp_path: Path) -> None:
    pacs = '[[destination]]\nname = "pacs"\nae_title = "P"\nhost = "h"\nport = 104\n'
    text = pacs + HL7 + 'tls = true\nca_file = "ca.pem"\n' + HOOK.replace("env:PAGER", "file:secret.txt") + UPS
    text += WEB + 'token = "file:token.txt"\n'
    kinds = load(tmp_path, text).destinations
    assert [type(each) for each in kinds] == list(config.DESTINATIONS.values())
    assert kinds[1].ca_file == str(tmp_path / "ca.pem")  # type: ignore[union-attr]
    assert kinds[2].secret == f"file:{tmp_path / 'secret.txt'}"  # type: ignore[union-attr]
    assert kinds[4].token == f"file:{tmp_path / 'token.txt'}"  # type: ignore[union-attr]
    assert [each.address for each in kinds] == ["h:104", "h:2575", "pager", "h:105", "pacs"]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (HL7.replace("hl7", "fhir"), 3, "destination.kind must be one of dicom, hl7, webhook, ups"),
        (HL7.replace('"hl7"', "7"), 3, "destination.kind must be one of dicom, hl7, webhook, ups"),
        (UPS + 'worklist_label = "a\\\\b"\n', 7, "must be 1 to 64 printable characters, no backslash"),
        (HL7 + 'ae_title = "RIS"\n', 6, 'knows no "ae_title"'),
        (HL7.replace('kind = "hl7"\n', ""), 1, 'needs "ae_title"'),
        (HL7 + 'send = ["SEG"]\n', 6, "SEG is not one of STAT"),
        (HL7 + 'character_set = "ASCII"\n', 6, "must be one of UNICODE UTF-8, 8859/1"),
        (HL7 + 'sending_facility = "A^B"\n', 6, "at most 20 printable ASCII characters"),
        (HL7 + 'certificate = "a.pem"\n', 1, "certificate and private_key go together"),
        (HL7 + 'ca_file = "a.pem"\n', 1, "need tls = true"),
        (HL7 + 'certificate = "a.pem"\nprivate_key = "b.pem"\n', 1, "need tls = true"),
        ("[delivery]\nlease_s = 30\n" + HL7, 2, "lease_s (30) must be more than delivery.timeout_s (30)"),
        (HL7 + HOOK.replace("https", "http"), 9, 'must be "https://host/path"'),
        (HOOK.replace("pager/x", "me:word@pager/x"), 4, "without user, password or fragment"),
        (HOOK.replace("pager/x", "pager:port/x"), 4, 'must be "https://host/path"'),
        (HOOK.replace("pager/x", "pager/x y"), 4, 'must be "https://host/path"'),
        (HOOK.replace("env:PAGER", "a secret"), 5, "it never stands here itself"),
        (HOOK.replace('secret = "env:PAGER"\n', ""), 1, 'needs "secret"'),
        (WEB.replace("https", "http"), 4, 'must be "https://host/path"'),
        (WEB.replace("dicom-web", "dicom-web?x=1"), 4, "must have no ? in it"),
        (WEB + 'token = "a secret"\n', 5, "it never stands here itself"),
        (WEB + 'user = "me"\n', 1, "write token, or user and password together"),
        (WEB + 'user = "me"\npassword = "env:P"\ntoken = "env:T"\n', 1, "write token, or user and password together"),
        (WEB + 'send = ["STAT"]\n', 5, "STAT is not one of SEG"),
    ],
)
def test_an_error_of_a_destination_names_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"node\.toml:{line}: .*{re.escape(said)}") as caught:
        load(tmp_path, text)
    assert "a secret" not in str(caught.value)
    assert "word" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/x", "http://[::1]/x", "http://localhost/x", "https://a.b:1/x?y=z"]
)
def test_a_webhook_leaves_this_machine_only_encrypted(tmp_path: Path, url: str) -> None:
    (hook,) = load(tmp_path, HOOK.replace("https://pager/x", url)).destinations
    assert hook.url == url  # type: ignore[union-attr]


def test_two_destinations_of_one_name_are_refused(tmp_path: Path) -> None:
    one = '[[destination]]\nname = "pacs"\nae_title = "P"\nhost = "h"\nport = 104\n'
    with pytest.raises(ConfigError, match="two \\[\\[destination"):
        load(tmp_path, one + one)


@pytest.mark.parametrize(
    ("find", "peer"),
    [
        ("", None),
        ("pacs.local:104", ("CT1", "pacs.local", 104)),
        ("QR SCP@10.0.0.1:11112", ("QR SCP", "10.0.0.1", 11112)),
        ("QR@[fd00::1]:104", ("QR", "fd00::1", 104)),
    ],
)
def test_a_source_says_where_it_answers_c_find(find: str, peer: tuple[str, str, int] | None) -> None:
    assert config.Source(ae_title="CT1", hosts=["10.0.0.1"], find=find).find_peer == peer


def test_rules_keep_their_order(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[[rule]]\npriority = "HIGH"\n[[rule]]\npriority = "STAT"\nsubtype = "epidural"\n')
    assert [rule.priority for rule in loaded.rules] == [Priority.HIGH, Priority.STAT]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[web]\nhost = "0.0.0.0"\n', 2, "need users who log in; add [[user]]"),
        ('[web]\nhost = "0.0.0.0"\n[[user]]\nname = "ann"\npassword = "$argon2id$x"\n', 2, "need HTTPS"),
        ('[web]\ncertificate = "a.pem"\n', 1, "certificate and private_key go together"),
        ('[[user]]\nname = "ann"\npassword = "secret"\n', 3, "must be an argon2id hash"),
        ('[[user]]\nname = "a"\npassword = "$argon2id$x"\n' * 2, 5, "two [[user]] are named"),
    ],
)
def test_pages_leave_this_machine_only_to_users_and_encrypted(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"node\.toml:{line}: .*{re.escape(said)}"):
        load(tmp_path, text)


@pytest.mark.parametrize("web", ["", 'host = "::1"', 'host = "localhost"', 'host = "0.0.0.0"\nloopback_only = true'])
def test_pages_of_this_machine_need_neither(tmp_path: Path, web: str) -> None:
    assert load(tmp_path, f"[web]\n{web}\n").web.is_local


def test_pem_files_are_beside_the_configuration(tmp_path: Path) -> None:
    text = '[web]\nhost = "10.0.0.1"\ncertificate = "a.pem"\nprivate_key = "sub/b.pem"\n'
    web = load(tmp_path, text + '[[user]]\nname = "ann"\npassword = "$argon2id$x"\n').web
    assert (web.certificate, web.private_key, web.is_https) == (str(tmp_path / "a.pem"), f"{tmp_path}/sub/b.pem", True)
