"""What the environment may say, and what each mistake is answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiokafka.producer.sender
import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from sluicegate.schemas.errors import Terminal
from sluicegate.streams import kafka
from sluicegate.streams.app import make_app
from sluicegate.streams.kafka import client_kwargs
from sluicegate.streams.settings import KafkaSecurity, Settings

LOGIN = {
    "SLUICEGATE_KAFKA": "kafka-1:9092",
    "SLUICEGATE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "SLUICEGATE_KAFKA_USERNAME": "gate",
    "SLUICEGATE_KAFKA_PASSWORD": "s3cret",
}


def test_nothing_set_means_everything_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({})
    assert settings == Settings("dev", tmp_path / ".sluicegate", None, None, 4, KafkaSecurity())


def test_an_empty_variable_counts_as_not_set() -> None:
    names = ("ENV", "HOME", "KAFKA", "CLICKHOUSE", "PARTITIONS", "KAFKA_SECURITY_PROTOCOL", "KAFKA_PASSWORD")
    assert Settings.from_env({f"SLUICEGATE_{name}": "" for name in names}) == Settings.from_env({})


def test_your_own_cluster(tmp_path: Path) -> None:
    settings = Settings.from_env(
        LOGIN
        | {
            "SLUICEGATE_ENV": "eu-prod",
            "SLUICEGATE_HOME": str(tmp_path),
            "SLUICEGATE_KAFKA": "kafka-1:9092, [::1]:9093",
            "SLUICEGATE_KAFKA_SASL_MECHANISM": "scram-sha-512",
            "SLUICEGATE_CLICKHOUSE": "https://reader@ch:8443/audit",
        }
    )
    assert settings.kafka == "kafka-1:9092,[::1]:9093"
    assert settings.partitions == 12  # the default of a cluster
    assert (settings.space, settings.home) == ("eu-prod", tmp_path)
    assert settings.clickhouse == "https://reader@ch:8443/audit"
    assert settings.security == KafkaSecurity("SASL_SSL", "SCRAM-SHA-512", "gate", "s3cret")


def test_partitions_of_your_choice() -> None:
    assert Settings.from_env({"SLUICEGATE_PARTITIONS": "7"}).partitions == 7
    assert Settings.from_env(LOGIN | {"SLUICEGATE_PARTITIONS": "30"}).partitions == 30


def test_a_password_file_gives_everything_but_its_last_newline(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" two words \n")
    environ = {name: value for name, value in LOGIN.items() if name != "SLUICEGATE_KAFKA_PASSWORD"}
    settings = Settings.from_env(environ | {"SLUICEGATE_KAFKA_PASSWORD_FILE": str(file)})
    assert settings.security.password == " two words "


def test_no_repr_shows_a_password() -> None:
    for url in ("http://user:hunter2@ch:8123", "http://user:hun@ter2:x@ch:8123/db"):
        settings = Settings.from_env(LOGIN | {"SLUICEGATE_CLICKHOUSE": url})
        assert settings.clickhouse == url
        for text in (repr(settings), str(settings), f"{settings}", repr(settings.security)):
            assert "s3cret" not in text
            assert "hunter2" not in text
            assert "ter2" not in text
            assert "gate" in text  # the user stays: it is what an operator needs to see


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"SLUICEGATE_ENV": "Prod"}, "`Prod`"),
        ({"SLUICEGATE_ENV": "a.b"}, "SLUICEGATE_ENV"),
        ({"SLUICEGATE_ENV": "x" * 33}, "at most 32"),
        ({"SLUICEGATE_HOME": __file__}, "SLUICEGATE_HOME"),
        ({"SLUICEGATE_KAFKA": "kafka"}, "`kafka`"),
        ({"SLUICEGATE_KAFKA": "a:1,b:99999"}, "`b:99999`"),
        ({"SLUICEGATE_KAFKA": "kafka://a:9092"}, "host:port"),
        ({"SLUICEGATE_KAFKA": "a:9092,"}, "``"),
        ({"SLUICEGATE_CLICKHOUSE": "ch:8123"}, "SLUICEGATE_CLICKHOUSE"),
        ({"SLUICEGATE_CLICKHOUSE": "http://ch:port"}, "SLUICEGATE_CLICKHOUSE"),
        ({"SLUICEGATE_PARTITIONS": "0"}, "1 to 1000"),
        ({"SLUICEGATE_PARTITIONS": "many"}, "`many`"),
        ({"SLUICEGATE_PARTITIONS": "-4"}, "`-4`"),
        ({"SLUICEGATE_KAFKA_SECURITY_PROTOCOL": "TLS"}, "PLAINTEXT or SSL"),
        ({"SLUICEGATE_KAFKA_SASL_MECHANISM": "GSSAPI"}, "SCRAM-SHA-256"),
        ({"SLUICEGATE_KAFKA_SECURITY_PROTOCOL": "SSL"}, "SLUICEGATE_KAFKA to"),  # no cluster to secure
        (LOGIN | {"SLUICEGATE_KAFKA_PASSWORD": ""}, "SLUICEGATE_KAFKA_PASSWORD_FILE"),
        (LOGIN | {"SLUICEGATE_KAFKA_USERNAME": ""}, "SLUICEGATE_KAFKA_USERNAME"),
        (LOGIN | {"SLUICEGATE_KAFKA_PASSWORD_FILE": __file__}, "two kafka passwords"),
        ({"SLUICEGATE_KAFKA_PASSWORD_FILE": "/nowhere/at/all"}, "`/nowhere/at/all`"),
        ({"SLUICEGATE_KAFKA_PASSWORD_FILE": __file__}, "4096"),  # too large to be a password
        (LOGIN | {"SLUICEGATE_KAFKA_SECURITY_PROTOCOL": "SSL"}, "does not log in"),
        (LOGIN | {"SLUICEGATE_KAFKA_CAFILE": "/nowhere.pem"}, "`/nowhere.pem`"),
        (LOGIN | {"SLUICEGATE_KAFKA_KEYFILE": __file__}, "SLUICEGATE_KAFKA_CERTFILE"),
        (
            LOGIN
            | {"SLUICEGATE_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "SLUICEGATE_KAFKA_CAFILE": __file__},
            "does not encrypt",
        ),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_to_do(environ: dict[str, str], says: str) -> None:
    with pytest.raises(Terminal) as caught:
        Settings.from_env(environ)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert message[0].islower()
    assert "s3cret" not in message


def test_a_bad_url_is_shown_without_its_password() -> None:
    with pytest.raises(Terminal) as caught:
        Settings.from_env({"SLUICEGATE_CLICKHOUSE": "tcp://user:hunter2@ch:9000"})
    assert "`tcp://user:***@ch:9000`" in str(caught.value)


def test_clients_are_told_how_to_log_in() -> None:
    settings = Settings.from_env(LOGIN)
    kwargs = kafka.client_kwargs(settings)
    assert kwargs.pop("ssl_context") is not None
    assert kwargs == {
        "bootstrap_servers": "kafka-1:9092",
        "security_protocol": "SASL_SSL",
        "client_id": "sluicegate",
        "request_timeout_ms": kafka.REQUEST_TIMEOUT_MS,
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "gate",
        "sasl_plain_password": "s3cret",
    }
    # An explicit address, and an explicit security, win over the settings' own.
    assert "ssl_context" not in kafka.client_kwargs("kafka-1:9092")
    assert "sasl_mechanism" not in kafka.client_kwargs(settings, KafkaSecurity())


def test_clients_need_an_address_and_readable_certificates() -> None:
    with pytest.raises(Terminal, match="SLUICEGATE_KAFKA"):
        kafka.client_kwargs(Settings())
    with pytest.raises(Terminal, match="SLUICEGATE_KAFKA_CAFILE"):  # this file is no certificate
        kafka.client_kwargs("kafka-1:9092", KafkaSecurity("SSL", cafile=Path(__file__)))


def test_consumers_see_committed_records_only_and_never_commit_by_themselves() -> None:
    async def made() -> tuple[object, object]:
        consumer = kafka.consumer("localhost:1", group="g")
        found = (consumer._isolation_level, consumer._enable_auto_commit)
        await consumer.stop()
        return found

    assert asyncio.run(made()) == ("read_committed", False)


def test_aiokafka_still_has_the_private_pause_that_we_shorten() -> None:
    """Without it a busy partition waits 20 ms between transactions: see `streams/kafka.py`."""
    source = Path(aiokafka.producer.sender.__file__).read_text()
    assert "return BACKOFF_OVERRIDE" in source
    assert aiokafka.producer.sender.BACKOFF_OVERRIDE == 0.002


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
def test_faust_logs_in_as_every_other_client(protocol: str, tmp_path: Path) -> None:
    """What Faust makes of it are the very arguments of our own clients, each of several servers among them."""
    environ = {
        "SLUICEGATE_HOME": str(tmp_path),
        "SLUICEGATE_KAFKA": "kafka-1:9092,kafka-2:9092",
        "SLUICEGATE_KAFKA_SECURITY_PROTOCOL": protocol,
    }
    if protocol.startswith("SASL"):
        environ |= {"SLUICEGATE_KAFKA_USERNAME": "prod-monitor", "SLUICEGATE_KAFKA_PASSWORD": "secret"}
    settings = Settings.from_env(environ)
    app = make_app("monitor", settings)
    ours = client_kwargs(settings)
    theirs = dict(credentials_to_aiokafka_auth(app.conf.broker_credentials))
    assert bool(theirs.pop("ssl_context", None)) == protocol.endswith("SSL")
    assert theirs == {name: ours[name] for name in theirs} and theirs["security_protocol"] == protocol  # type: ignore[literal-required]
    assert [str(url.authority) for url in app.conf.broker] == ["kafka-1:9092", "kafka-2:9092"]


def test_aiokafka_still_has_the_private_client_that_we_send_fetches_on() -> None:
    """Without it nobody reads the ledger fast: see `streams/lanes/batches.py`."""
    source = Path(aiokafka.consumer.consumer.__file__).read_text()
    assert "self._client = AIOKafkaClient(" in source
