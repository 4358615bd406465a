"""Events reach whoever asked for them: signed, at least once, and nobody who may not be asked."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace
from standardwebhooks import Webhook as Oracle
from standardwebhooks import WebhookVerificationError

from agent_runtime.egress_rules import parse_rules
from agent_runtime.errors import UsageError
from agent_runtime.notices.posting import NotSent, Poster
from agent_runtime.notices.records import Delivery
from agent_runtime.notices.retries import DELAYS_SECONDS, DISABLE_SECONDS, delay_seconds
from agent_runtime.notices.sending import Outcome
from agent_runtime.notices.service import judged
from tests.notices.places import Place
from tests.notices.receiver import receiving
from tests.sandboxes.web import make_certificate

pytestmark = pytest.mark.anyio


async def test_an_event_is_told_signed_and_the_official_library_agrees(tmp_path: Path) -> None:
    async with receiving() as receiver:
        place = Place(tmp_path, ports=(receiver.port,))
        await place.happens("TaskSubmitted", {"spec": {"goal": "before"}})
        webhook = await place.webhook(receiver.url, "TaskEnded")
        async with place.telling():
            await place.happens("StepFailed", {"step_id": "a"})
            message_id = await place.happens(
                "TaskEnded", {"status": "failed", "reason": "no"}, status="failed", reason="no"
            )
            [heard] = await receiver.wait_for(1)
            delivery = await place.delivery(webhook.webhook_id, message_id, "delivered")
    told = Oracle(webhook.secret).verify(heard.body, heard.headers)
    assert heard.headers["webhook-id"] == message_id == delivery.message_id
    assert told == {
        "type": "TaskEnded", "occasion": "failed", "timestamp": "2027-01-15T08:00:00.000Z",
        "task_id": f"task_{1:0>32}", "seq": 3, "status": "failed", "reason": "no",
        "goal": "Fix it", "labels": {}, "data": {"status": "failed", "reason": "no"},
        "link": f"https://agents.example/v1/tasks/task_{1:0>32}",
    }  # fmt: skip
    with pytest.raises(WebhookVerificationError):
        Oracle(webhook.secret).verify(heard.body + b" ", heard.headers)
    assert place.counted == {("webhook", "delivered"): 1}


async def test_a_failed_try_is_repeated_on_the_schedule_with_the_same_id(tmp_path: Path) -> None:
    async with receiving(500, (302, {"location": "http://127.0.0.1:1/"}), 404) as receiver:
        place = Place(tmp_path, ports=(receiver.port,))
        webhook = await place.webhook(receiver.url)
        async with place.telling():
            message_id = await place.happens("StepSucceeded")
            for attempts, delay in enumerate(DELAYS_SECONDS[:3], 1):
                waits = await place.delivery(webhook.webhook_id, message_id, "pending", attempts)
                pause = (waits.next_at_us - place.now_us()) / 1e6
                assert delay * 0.9 < pause <= delay * 1.1
                assert len(receiver.heard) == attempts
                place.later(delay * 1.1)
            done = await place.delivery(webhook.webhook_id, message_id, "delivered")
    assert [each.status for each in done.tries] == [500, 302, 404, 204]
    assert {heard.headers["webhook-id"] for heard in receiver.heard} == {message_id}
    assert len({heard.body for heard in receiver.heard}) == 1
    times = [int(heard.headers["webhook-timestamp"]) for heard in receiver.heard]
    assert times == sorted(times) and times[-1] - times[0] > 2000
    assert "redirections are not followed" in done.tries[1].error


def test_the_schedule_is_ten_tries_in_three_days_and_retry_after_is_heard() -> None:
    """Standard Webhooks, "Deliverability and reliability"."""
    delays = [delay_seconds("msg_1", attempts) for attempts in range(1, 10)]
    assert all(
        given is not None and want <= given <= 1.1 * want
        for want, given in zip(DELAYS_SECONDS, delays, strict=True)
    )
    assert delay_seconds("msg_1", 10) is None
    assert delays != [delay_seconds("msg_2", attempts) for attempts in range(1, 10)]
    assert delay_seconds("msg_1", 1, retry_after_seconds=90) == 90
    assert delay_seconds("msg_1", 1, retry_after_seconds=1e9) == 86_400


async def test_a_restart_tells_what_happened_meanwhile_and_what_was_not_taken(
    tmp_path: Path,
) -> None:
    async with receiving(503) as receiver:
        place = Place(tmp_path, ports=(receiver.port,))
        webhook = await place.webhook(receiver.url)
        async with place.telling():
            first = await place.happens("StepSucceeded")
            await place.delivery(webhook.webhook_id, first, "pending", 1)
        second = await place.happens("StepFailed")
        place.later(10)
        place.make(ports=(receiver.port,))
        async with place.telling():
            for message_id in (first, second):
                await place.delivery(webhook.webhook_id, message_id, "delivered")
    told = [heard.headers["webhook-id"] for heard in receiver.heard]
    assert sorted(told) == sorted([first, first, second])


async def test_types_occasions_and_labels_decide_who_is_told_of_what(tmp_path: Path) -> None:
    async with receiving() as receiver:
        place = Place(tmp_path, ports=(receiver.port,))
        asks = await place.webhook(receiver.url, "waiting")
        team = await place.webhook(receiver.url, team="x")
        bad = await place.webhook(receiver.url, "failed", "publishing_failed")
        wanted: dict[str, list[str]] = {}
        async with place.telling():
            first = await place.happens("TaskSubmitted", labels={"team": "x"})
            wanted[team.webhook_id] = [first]
            await place.delivery(team.webhook_id, first, "delivered")
            idle = {"reason": "nothing_to_do"}
            asked = await place.happens("ApprovalRequested", {"question": "may I?"}, task="2")
            await place.happens("Interrupted", idle, task="2", status="waiting", reason="approval")
            lost = await place.happens("Interrupted", idle, status="waiting", reason="brain")
            await place.delivery(asks.webhook_id, lost, "delivered")
            rest = [await place.happens("Interrupted", idle, status="paused")]
            wanted[asks.webhook_id] = [asked, lost]
            good = {"status": "succeeded"}
            rest.append(await place.happens("TaskEnded", good, status="succeeded"))
            wanted[team.webhook_id] += [lost, *rest]
            ended = await place.happens("TaskEnded", {"status": "failed"}, task="2")
            unpublished = await place.happens("PublicationEnded", {"ok": False}, task="2")
            await place.happens("PublicationEnded", {"ok": True}, task="2")
            wanted[bad.webhook_id] = [ended, unpublished]
            await receiver.wait_for(8)
            for webhook_id, messages in wanted.items():
                for message_id in messages:
                    await place.delivery(webhook_id, message_id, "delivered")
                found = await place.store.deliveries(webhook_id)
                assert [each.message_id for _, each in found] == messages[::-1]


async def test_a_message_is_small_and_holds_no_credentials(tmp_path: Path) -> None:
    async with receiving() as receiver:
        place = Place(tmp_path, ports=(receiver.port,))
        await place.webhook(receiver.url)
        leaks = (
            "ark_abc_0123456789abcdef Bearer abcdefghijkl https://me:hunter2@x.example "
            "whsec_QUJDREVGR0g="
        )
        data = {
            "output": "x" * 100_000, "many": list(range(10_000)), "deep": [[[[[[1]]]]]],
            "spec": {"environment": {"env": {"TOKEN": "canary"}}}, "leaks": leaks,
        }  # fmt: skip
        async with place.telling():
            await place.happens("CallReturned", data, goal=leaks)
            [heard] = await receiver.wait_for(1)
    assert len(heard.body) < 16 << 10
    told = json.loads(heard.body)
    assert told["data"]["output"].endswith("x…") and len(told["data"]["many"]) == 20
    for secret in (b"canary", b"hunter2", b"0123456789abcdef", b"abcdefghijkl", b"QUJDREVGR0g"):
        assert secret not in heard.body


async def test_a_webhook_gets_so_many_at_once_and_a_slow_one_holds_up_no_other(
    tmp_path: Path,
) -> None:
    async with receiving() as slow, receiving() as quick:
        slow.hold = anyio.Event()
        place = Place(tmp_path, ports=(slow.port, quick.port))
        await place.webhook(slow.url)
        await place.webhook(quick.url)
        async with place.telling():
            for _ in range(12):
                await place.happens("StepSucceeded")
            await quick.wait_for(12)
            assert len(slow.heard) == 4
            slow.hold.set()
            await slow.wait_for(12)
    assert slow.at_once_max == 4


async def test_who_is_gone_or_fails_for_days_is_told_nothing_more(tmp_path: Path) -> None:
    async with receiving(410) as receiver:
        place = Place(tmp_path, ports=(receiver.port,))
        webhook = await place.webhook(receiver.url)
        async with place.telling() as notices:
            message_id = await place.happens("StepSucceeded")
            await place.delivery(webhook.webhook_id, message_id, "failed")
            with anyio.fail_after(5):
                while (now := await place.store.webhook(webhook.webhook_id)).enabled:
                    await anyio.sleep(0.005)
            assert now.disabled_why == "it answered 410 (gone)"
            # It is not told, and nothing is kept for it; enabled again, it hears of what comes.
            await place.happens("StepSucceeded")
            await notices.desk.enable(webhook.webhook_id)
            await notices.desk.redeliver(webhook.webhook_id, message_id)
            await place.delivery(webhook.webhook_id, message_id, "delivered")
    failing = judged(webhook, Outcome("no"), 5)
    assert failing.failing_since_us == 5 and judged(failing, Outcome(), 6).failing_since_us == 0
    days_us = DISABLE_SECONDS * 1_000_000
    assert judged(failing, Outcome("no"), days_us).enabled
    assert not judged(failing, Outcome("no"), days_us + 6).enabled


async def test_a_new_secret_signs_beside_the_old_one_for_a_day(tmp_path: Path) -> None:
    async with receiving() as receiver:
        place = Place(tmp_path, ports=(receiver.port,))
        old = await place.webhook(receiver.url)
        async with place.telling() as notices:
            new = await notices.desk.rotate(old.webhook_id)
            assert new.secret != old.secret
            ping = await notices.desk.ping(old.webhook_id)
            await place.delivery(old.webhook_id, ping.message_id, "delivered")
            for secret in (old.secret, new.secret):
                Oracle(secret).verify(receiver.heard[0].body, receiver.heard[0].headers)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://10.1.2.3/",
        "https://169.254.169.254/latest", "https://[fe80::1]/", "https://[64:ff9b::7f00:1]/",
        "https://0.0.0.0/", "https://2130706433/", "http://example.org/", "ftp://example.org/",
        "https://user:pw@example.org/", "https://100.64.0.1/", "//example.org", "https://",
        "https://example.org/#x", "https://example.org/ x",
    ],
)  # fmt: skip
async def test_addresses_that_nobody_may_name_are_refused_when_they_are_named(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(UsageError):
        await Place(tmp_path).webhook(url)


async def test_what_a_name_means_is_looked_at_for_each_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: a name that was public when it was named leads inside now."""
    addresses = [["127.0.0.1"], ["::ffff:127.0.0.1"], ["93.184.215.14", "10.0.0.1"], ["fd00::1"]]
    asked = []

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        asked.append(host)
        return [(0, 0, 0, "", (each, port)) for each in addresses[len(asked) - 1]]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    poster = Poster(parse_rules("full", []), {})
    for _ in addresses:
        with pytest.raises(NotSent, match="leads where none may"):
            await poster.post("https://rebound.example/", {}, b"{}")
    assert asked == ["rebound.example"] * 4


async def test_what_is_told_to_a_name_goes_to_the_address_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also through TLS: the certificate is the name's, from the company's own authority."""
    file = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(file, file.with_suffix(".key"))

    async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
        assert host == "mirror.test"
        return [(0, 0, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    async with receiving(tls=tls) as receiver:
        url = f"https://mirror.test:{receiver.port}/in"
        rules = parse_rules("full", [f"127.0.0.1:{receiver.port}"])
        distrustful = Poster(rules, {})
        with pytest.raises(NotSent, match="SSL_CERT_FILE"):
            await distrustful.post(url, {}, b"{}")
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        poster = Poster(rules, {})
        assert (await poster.post(url, {}, b"{}")).status == 204
        await distrustful.close()
        await poster.close()
    assert receiver.heard[0].headers["host"] == f"mirror.test:{receiver.port}"


async def test_a_proxy_of_the_environment_is_used(tmp_path: Path) -> None:
    async with receiving(200) as proxy:
        environ = {"HTTP_PROXY": f"http://u:p@127.0.0.1:{proxy.port}"}
        poster = Poster(parse_rules("full", ["nowhere.invalid:80"]), environ)
        assert (await poster.post("http://nowhere.invalid/in", {}, b"{}")).status == 200
        assert proxy.heard[0].path == "http://nowhere.invalid/in"
        assert proxy.heard[0].headers["proxy-authorization"].startswith("Basic ")
        with pytest.raises(NotSent, match="leads where none may"):
            await Poster(parse_rules("full", ["localhost:80"]), environ).post(
                "http://localhost/in", {}, b"{}"
            )
        await poster.close()


async def test_messages_of_one_commit_are_deliveries_of_one_write(tmp_path: Path) -> None:
    place = Place(tmp_path)
    fed = []
    feed = place.store.feed

    async def counting(**more: object) -> None:
        fed.append(more)
        await feed(**more)  # type: ignore[arg-type]

    place.store.feed = counting  # type: ignore[method-assign]
    webhook = await place.webhook("https://nowhere.invalid/")
    await place.notices.desk.disable(webhook.webhook_id, "")
    async with place.telling():
        for _ in range(20):
            await place.happens("StepSucceeded")
    assert fed == [], "nobody is told, so nothing is written"


def test_a_delivery_keeps_the_newest_tries() -> None:
    from agent_runtime.notices.couriers import after

    delivery = Delivery(
        target="wh_1", message_id="m", type="ping", body=b"{}", made_at_us=0, next_at_us=0
    )
    for at in range(12):
        delivery = after(replace(delivery, state="pending"), Outcome(f"no {at}"), at, 0.1, at)
    assert delivery.state == "failed" and delivery.attempts == 12
    assert [each.error for each in delivery.tries] == [f"no {at}" for at in range(2, 12)]


def test_an_unencrypted_address_is_refused_with_the_rule_that_would_allow_it() -> None:
    """Found as a user: `webhook_allow: 127.0.0.1`, as the refusal said, names another port."""
    url = "http://127.0.0.1:8124/x"
    assert "add '127.0.0.1:8124' to" in Poster(parse_rules("full", ["127.0.0.1"]), {}).fault_of(url)
    assert Poster(parse_rules("full", ["127.0.0.1:8124"]), {}).fault_of(url) == ""
