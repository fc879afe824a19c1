"""The hosts that people know: hosts.toml, names in settings, tokens, certificates; `modiff hosts`."""

from __future__ import annotations

import json
import ssl
import subprocess
from pathlib import Path

import pytest

from engine.components.known_names import known_names
from engine.errors import ComponentError
from engine.remote.client import Host, Refused, Unanswered
from engine.remote.hosts import (
    add,
    address_of,
    checked_url,
    host_at,
    hosts_file,
    known_hosts,
    remove,
    token_of,
)
from engine.serve.app import Server
from engine.serve.connection import Connection
from tests.servers.toy_server import FACTS, Toys, answering, served_toys
from tui.cli.completion import complete_host
from tui.cli.main import main

TOKEN = "0123456789abcdef"
URL = "http://127.0.0.1:8765"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f" {TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=box", "-addext",
         "subjectAltName=IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.remote.asking.ASK_SECONDS", 60.0)


def toys() -> Server:
    return Server(served_toys(Toys()), max_body_bytes=1 << 20)


def modiff(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["hosts", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("http://box", "http://box"), ("HTTP://Box:80/", "http://box:80"), ("https://[::1]:8/a/", "https://[::1]:8/a"),
        ("http://192.168.1.7:8765", "http://192.168.1.7:8765"),
    ],
)  # fmt: skip
def test_addresses(url, checked):
    assert checked_url(url, "") == checked
    assert address_of(url, "") == checked


@pytest.mark.parametrize(
    "url",
    ["", "box:8765", "ftp://box", "http://", "http:///x", "http://box:99999", "http://box:0", "http://u:secret@box",
     "http://box?x", "http://box#x", "http://a b", "http://box/%0d", "http://b\u00f6x", "file:///etc/passwd",
     "http://box\n.evil", "http://[::1", "x" * 5000, "http://256.1.1.1",
     "http://[a:b]", "http://1.2", "http://" + "a" * 300],
)  # fmt: skip
def test_what_is_no_address(url):
    with pytest.raises(ComponentError) as caught:
        checked_url(url, "components.vae.url")
    assert str(caught.value).isprintable()
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_host_is_known_until_it_is_forgotten(capsys, token):
    code, out, err = modiff(
        capsys, "add", "box", "HTTP://127.0.0.1:8765/", "--token-file", str(token)
    )
    assert (code, out, err) == (0, f"box is {URL}\n", "")
    assert TOKEN not in hosts_file().read_text()
    host = host_at(URL)
    assert token_of(host) == TOKEN
    assert address_of("box", "") == URL
    assert known_names()["host"] == ("box",)
    assert [(item.value, item.help) for item in complete_host(None, None, "b")] == [("box", URL)]
    assert modiff(capsys, "rm", "box") == (0, f"forgot box ({URL})\n", "")
    assert known_hosts() == []
    assert token.exists()
    code, _, err = modiff(capsys, "rm", "box")
    assert (code, err) == (
        2, "modiff: no host is called box (known are: none); `modiff hosts add box URL` makes one known, or give an "
        "address like http://192.168.1.7:8765\n",
    )  # fmt: skip


def test_json(capsys, token):
    plain = {"name": "box", "url": URL, "token_file": str(token), "token_env": "", "ca_file": ""}
    code, out, _ = modiff(capsys, "add", "box", URL, "--token-file", str(token), "--json")
    assert (code, json.loads(out)) == (0, {**plain, "warnings": []})
    assert json.loads(modiff(capsys, "rm", "box", "--json")[1]) == plain
    code, out, _ = modiff(capsys, "rm", "box", "--json")
    assert (code, json.loads(out)["status"]) == (2, "failed")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("a b", "http://box"), "got the name 'a b'"),
        (("x" * 65, "http://box"), "expected up to 64 letters"),
        (("two", URL), "is known already, as one"),
        (("one", "http://other"), "one is known already"),
        (("two", "box"), "expected an address like"),
        (("two", "http://box", "--token-file", "/nowhere"), "/nowhere: the token cannot be read"),
        (("two", "http://box", "--token-env", "A B"), "expected the name of a variable"),
        (("two", "http://box", "--token-env", "A", "--token-file", "/x"), "not in both"),
        (("two", "http://box", "--ca-file", "/x"), "--ca-file is for https://"),
        (("two", "https://box", "--ca-file", "/nowhere"), "no certificates as PEM"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(capsys, arguments, told):
    add("one", URL)
    before = hosts_file().read_bytes()
    code, out, err = modiff(capsys, "add", *arguments)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert hosts_file().read_bytes() == before


def test_tokens_that_are_none(tmp_path):
    for name, content in {
        "empty": b"\n",
        "two": b"a b",
        "lines": b"a\nb",
        "bytes": b"\xff",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ComponentError, match="token"):
            add("box", URL, token_file=str(path))


def test_warnings(capsys, token, monkeypatch):
    token.chmod(0o644)
    monkeypatch.delenv("NO_SUCH", raising=False)
    _, _, err = modiff(capsys, "add", "box", "http://box:1", "--token-file", str(token))
    assert [line.partition("; ")[0] for line in err.splitlines()] == [
        f"warning: others on this machine can read {token}",
        "warning: what goes to http://box:1 can be read on the way, its token too",
    ]
    _, _, err = modiff(capsys, "add", "other", "https://box", "--token-env", "NO_SUCH")
    assert err.startswith("warning: $NO_SUCH is not set here")
    with pytest.raises(ComponentError, match=r"\$NO_SUCH, which is not set"):
        token_of(host_at("https://box"))
    monkeypatch.setenv("NO_SUCH", TOKEN)
    assert token_of(host_at("https://box")) == TOKEN


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hosts = 1", "array"), ("[[hosts]]\nname='a'", "url"), ("[[hosts]]\nname='a'\nurl='x'", "expected an address"),
        ("[[hosts]]\nname='a'\nurl='http://a'\ntoken='t'", "token"), ("x", "not valid TOML"),
        ("[[hosts]]\nname='a'\nurl='http://a'\n[[hosts]]\nname='a'\nurl='http://b'", "two hosts of the name a"),
        ("[[hosts]]\nname='a'\nurl='http://a'\n[[hosts]]\nname='b'\nurl='http://A/'", "two hosts of the url http://a"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_told_and_left_as_it_is(capsys, text, told):
    hosts_file().parent.mkdir(parents=True)
    hosts_file().write_text(text)
    for arguments in (("list",), ("add", "box", URL), ("rm", "a")):
        code, _, err = modiff(capsys, *arguments)
        assert code == 2
        assert str(hosts_file()) in err
        assert told in err
    assert hosts_file().read_text() == text
    assert known_names()["host"] == ()
    assert complete_host(None, None, "") == []


def test_the_list_tells_who_answers(capsys, token):
    assert modiff(capsys, "list")[2].startswith("no host is known")
    with answering(toys()) as open_, answering(toys(), token=TOKEN) as closed:
        add("open", open_)
        add("closed", closed)
        add("away", "http://127.0.0.1:9")
        code, out, err = modiff(capsys, "list")
        assert (code, err) == (0, "")
        lines = {line.split()[0]: line for line in out.splitlines()}
        assert lines["open"].endswith(" ms  idle  denoiser, image-encoder, text-encoder, vae")
        assert "this server needs its token" in lines["closed"]
        assert "does not answer" in lines["away"]
        told = {
            each["name"]: each for each in json.loads(modiff(capsys, "list", "--json")[1])["hosts"]
        }
        assert told["open"]["kinds"] == ["denoiser", "image_encoder", "text_encoder", "vae"]
        assert told["open"]["seconds"] > 0
        assert [told[name]["answers"] for name in ("open", "closed", "away")] == [
            True,
            False,
            False,
        ]
        remove("closed")
        add("closed", closed, token_file=str(token))
        assert Host(closed).fingerprint(60).components.keys() == {*FACTS}


def test_a_host_by_its_name_in_a_setting(capsys):
    settings = ("components.vae.name=remote", "components.vae.url=box")
    assert main(["plan", "micro", *[word for each in settings for word in ("--set", each)]]) == 2
    assert "components.vae.url: no host is called box (known are: none)" in capsys.readouterr().err


# TLS


def test_a_certificate_that_was_signed_by_nobody(certificate, token):
    cert, _ = certificate
    with answering(toys(), token=TOKEN, tls=certificate) as url:
        assert url.startswith("https://127.0.0.1:")
        with pytest.raises(Unanswered, match="certificate"):
            Host(url, retries=0).health(60)
        add("box", url, token_file=str(token), ca_file=str(cert))
        assert Host(url).health(60).contract == 1
        # what is sent in the clear is no request to it
        with pytest.raises((Unanswered, Refused)):
            Host(url.replace("https", "http"), retries=0).health(60)
        cert_now = ssl.get_server_certificate(("127.0.0.1", int(url.rpartition(":")[2])))
        assert cert_now.strip() == cert.read_text().strip()


@pytest.mark.parametrize("broken", ["cert", "key", "other", "encrypted"])
def test_a_certificate_that_cannot_be_used_is_told_before_anything_is_loaded(
    capsys, certificate, tmp_path, broken
):
    cert, key = certificate
    files = {"cert": cert, "key": key}
    if broken == "encrypted":
        files["key"] = tmp_path / "encrypted.pem"
        subprocess.run(
            ["openssl", "pkey", "-in", key, "-aes128", "-passout", "pass:x", "-out", files["key"]],
            check=True, capture_output=True,
        )  # fmt: skip
    elif broken == "other":
        files["key"] = cert
    else:
        files[broken] = tmp_path / "nowhere.pem"
    arguments = ["--tls-cert", str(files["cert"]), "--tls-key", str(files["key"])]
    assert main(["serve", "vae", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert ("the key is encrypted" if broken == "encrypted" else "as PEM") in err


# What a server is not started as


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "box.example"])
def test_nobody_elsewhere_is_served_without_a_token(capsys, monkeypatch, host):
    monkeypatch.delenv("MODIFF_SERVE_TOKEN", raising=False)
    assert main(["serve", "vae", "--host", host]) == 2
    assert "needs a token: --token-file FILE" in capsys.readouterr().err


def test_a_token_of_the_environment_is_looked_at_as_that_of_a_file(capsys, monkeypatch):
    monkeypatch.setenv("MODIFF_SERVE_TOKEN", "two words")
    assert main(["serve", "vae", "--host", "0.0.0.0"]) == 2
    assert capsys.readouterr().err.startswith("modiff: MODIFF_SERVE_TOKEN: no token")


def test_small_answers_are_sent_at_once(monkeypatch):
    import socket

    seen = []
    made = Connection.connection_made

    def noted(self, transport):
        made(self, transport)
        known = transport.get_extra_info("socket")
        seen.append(known.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(Connection, "connection_made", noted)
    with answering(toys()) as url:
        Host(url).health(60)
    assert all(seen)
