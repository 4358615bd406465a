"""What stands before every request. Demanded by the HTTP contract (docs/access.md)."""

import random

import pytest

from agent_runtime.access.callers import NOBODY, ROLES
from agent_runtime.access.gate import LOOK_SECONDS
from agent_runtime.api.answers import Message, Receive, Scope, Send
from agent_runtime.api.guard import Guard
from agent_runtime.errors import StoreUnavailable
from agent_runtime.stores.memory_access import MemoryAccess
from tests.api.asking import HOST, TOKEN, Place

pytestmark = pytest.mark.anyio


async def test_only_probes_and_the_description_are_open() -> None:
    place = Place()
    for path in ("/livez", "/readyz", "/openapi.json"):
        assert (await place.ask("GET", path)).status == 200
    assert [caller.how for caller in place.callers] == ["none"] * 3
    for path in ("/", "/metrics", "/v1/tasks", "/livez/", "//livez", "/v1/../livez", "/LIVEZ"):
        answer = await place.ask("GET", path)
        assert answer.status == 401 and answer.problem["detail"]
        assert answer.headers["www-authenticate"] == 'Bearer realm="agent-runtime"'
    assert len(place.callers) == 3


async def test_the_token_and_keys_become_callers() -> None:
    place = Place()
    key_id, text = await place.make_key("ci", scopes=("approvals:decide",))
    assert (await place.ask(key=TOKEN)).status == 200
    for _ in range(2):  # found out, and remembered
        assert (await place.ask(key=text)).status == 200
    local, ci, again = place.callers
    assert (local.by, local.scopes) == ("token:local", ROLES["admin"])
    assert ci == again and ci.by == "key:ci" and ci.key_id == key_id
    assert ci.scopes == ROLES["operator"] | {"approvals:decide"}


async def test_forged_cut_and_foreign_credentials_are_refused() -> None:
    """The words are the same whether an id exists or not."""
    place = Place()
    key_id, text = await place.make_key()
    forged = f"ark_{key_id}_" + "x" * 43
    absent = "ark_aaaaaaaaaa_" + "x" * 43
    said = set()
    for wrong in (forged, absent):
        answer = await place.ask(key=wrong)
        assert (
            answer.status == 401 and 'error="invalid_token"' in answer.headers["www-authenticate"]
        )
        said.add(answer.body)
    assert len(said) == 1
    for wrong in (
        text[:-1],
        text + "x",
        "ark_",
        f"ark_{key_id}",
        "",
        "null",
        "eyJ.e30.",
        "ark_local_" + "x" * 43,
    ):
        assert (await place.ask(key=wrong)).status == 401, wrong
    for header in (
        b"Basic YTpi",
        text.encode(),
        b"Bearer  ",
        f"Bearer {text} {text}".encode(),
        b"Bearer \xff\xfe",
    ):
        assert (await place.ask("GET", "/v1/tasks", (b"authorization", header))).status == 401
    assert not place.callers


async def test_a_key_ends_when_it_is_revoked_or_expires() -> None:
    place = Place()
    _, text = await place.make_key("short", expires_seconds=60)
    other_id, other = await place.make_key("other")
    assert (await place.ask(key=text)).status == (await place.ask(key=other)).status == 200
    entry = place.auditor.entry(place.callers[0], "key.revoke", other_id)
    await place.store.revoke_key(other_id, at_us=1, by="", entry=entry)
    place.now += 2 * LOOK_SECONDS
    assert "revoked" in (await place.ask(key=other)).problem["detail"]
    assert (await place.ask(key=text)).status == 200
    place.now += 60
    assert "expired" in (await place.ask(key=text)).problem["detail"]


async def test_a_server_that_cannot_look_lets_nobody_in() -> None:
    """A revoked key must not live on because the disk is away."""

    class Away(MemoryAccess):
        is_away = False

        def revision(self) -> int:
            if self.is_away:
                raise StoreUnavailable("away")
            return super().revision()

    store = Away()
    place = Place(store=store)
    _, text = await place.make_key()
    assert (await place.ask(key=text)).status == 200
    store.is_away = True
    place.now += 1
    answer = await place.ask(key=text)
    assert answer.status == 503 and answer.headers["retry-after"] == "1"
    store.is_away = False
    place.now += 1
    assert (await place.ask(key=text)).status == 200


async def test_a_host_that_is_not_ours_is_misdirected() -> None:
    """DNS rebinding: the page of a stranger whose name leads to this machine."""
    place = Place(hosts=("agents.example.org", "only.example.org:8443"))
    for host in (
        b"localhost",
        b"LOCALHOST:8700",
        b"[::1]:8700",
        b"agents.example.org:1",
        b"only.example.org:8443",
    ):
        assert (await place.ask(key=TOKEN, host=(b"host", host))).status == 200, host
    for host in (
        b"evil.example",
        b"127.0.0.1.evil.example",
        b"localhost@evil.example",
        b"localhost:8700:1",
        b"",
        b"localhost, evil.example",
        b"only.example.org",
        b"only.example.org:80",
        b"localhost\x00",
    ):
        answer = await place.ask(key=TOKEN, host=(b"host", host))
        assert answer.status == 421 and answer.problem, host
    assert (await place.ask(key=TOKEN, host=None)).status == 421
    # A prober of Kubernetes knows an address only.
    assert (await place.ask("GET", "/readyz", host=(b"host", b"10.1.2.3:8700"))).status == 200


async def test_a_page_of_another_site_cannot_change_anything() -> None:
    place = Place()
    site, origin = b"sec-fetch-site", b"origin"
    for headers in (
        ((site, b"cross-site"),),
        ((site, b"same-site"),),
        ((site, b""),),
        ((origin, b"https://evil.example"),),
        ((origin, b"null"),),
        ((origin, b"http://127.0.0.1:9999"), (site, b"same-origin")),
    ):
        for method in ("POST", "DELETE", "PATCH", "PUT", "BREW"):
            assert (await place.ask(method, "/v1/tasks", *headers, key=TOKEN)).status == 403
        answer = await place.ask("", "/v1/x", *headers, key=TOKEN, kind="websocket")
        assert answer.status == 1008
    assert not place.callers
    own = ((origin, b"http://127.0.0.1:8700"), (site, b"same-origin"))
    assert (await place.ask("POST", "/v1/tasks", *own, key=TOKEN)).status == 200
    assert (await place.ask("POST", "/v1/tasks", key=TOKEN)).status == 200
    assert (await place.ask("", "/v1/x", *own, key=TOKEN, kind="websocket")).status == 101


async def test_nothing_allows_other_origins() -> None:
    place = Place()
    asks = ((b"origin", b"https://evil.example"), (b"access-control-request-method", b"POST"))
    answer = await place.ask("OPTIONS", "/v1/tasks", *asks)
    assert answer.status == 401
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_websocket_is_refused_with_a_status_where_the_server_can() -> None:
    place = Place()
    answer = await place.ask("", "/v1/x", kind="websocket", extensions=("websocket.http.response",))
    assert answer.status == 401 and answer.problem
    assert (await place.ask("", "/v1/x", kind="websocket")).status == 1008


async def test_an_open_websocket_ends_with_its_key() -> None:
    """Nobody steers with a key that was taken back, however long ago they connected."""
    place = Place()
    key_id, text = await place.make_key()
    heard: list[Message] = []
    told: list[Message] = []

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            heard.append(message)
            await send({"type": "websocket.send", "text": "done"})

    async def receive() -> Message:
        if len(heard) == 2:
            await place.store.revoke_key(
                key_id, at_us=1, by="", entry=place.auditor.entry(NOBODY, "key.revoke", key_id)
            )
            place.now += 0.06  # another process took it back
        return {"type": "websocket.receive", "text": "steer"}

    async def send(message: Message) -> None:
        told.append(message)

    headers = [HOST, (b"authorization", f"Bearer {text}".encode())]
    scope = {"type": "websocket", "path": "/x", "query_string": b"", "headers": headers}
    guarded = Guard(echo, place.gate, monotonic=lambda: place.now)
    await guarded({**scope, "client": None, "scheme": "ws"}, receive, send)
    assert len(heard) == 2
    assert [message["type"].rpartition(".")[2] for message in told] == [
        "accept",
        "send",
        "send",
        "close",
    ]
    assert told[-1]["code"] == 1008


async def test_an_open_websocket_asks_no_more_often_than_its_key_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is said on an open line is a request as any other."""
    place, heard, waited = Place(), list[Message](), list[float]()
    _, text = await place.make_key(rate=1.0, burst=2)

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(3):
            heard.append(await receive())

    async def receive() -> Message:
        return {"type": "websocket.receive", "text": "steer"}

    async def send(message: Message) -> None: ...

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        place.now += seconds

    monkeypatch.setattr("agent_runtime.api.guard.anyio.sleep", sleep)
    headers = [HOST, (b"authorization", f"Bearer {text}".encode())]
    scope = {"type": "websocket", "path": "/x", "query_string": b"", "headers": headers}
    guarded = Guard(listen, place.gate, monotonic=lambda: place.now)
    await guarded({**scope, "client": None, "scheme": "ws"}, receive, send)
    assert len(heard) == 3
    assert waited == pytest.approx([1.0, 1.0], abs=1e-3)


async def test_a_key_in_an_address_is_refused_even_beside_a_good_one() -> None:
    """Addresses end up in logs of proxies and in histories."""
    place = Place()
    _, text = await place.make_key()
    for query in (f"key={text}", f"a=1&x={text}", "access_token=1", "api_key=1", "Token=1"):
        answer = await place.ask(key=TOKEN, query=query.encode())
        assert answer.status == 400 and text.encode() not in answer.body
    assert (await place.ask(key=TOKEN, query=b"cursor=abc&label=key:spark_jobs_2")).status == 200


async def test_a_key_asks_no_more_often_than_it_may() -> None:
    place = Place(rate=100)
    _, slow = await place.make_key("slow", rate=2, burst=3)
    _, other = await place.make_key("other")
    statuses = [(await place.ask(key=slow)).status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    answer = await place.ask(key=slow)
    assert answer.problem["status"] == 429
    assert (answer.headers["retry-after"], answer.headers["ratelimit"]) == ("1", '"key";r=0;t=1')
    assert answer.headers["ratelimit-policy"] == '"key";q=3;w=2'
    assert (await place.ask(key=other)).status == 200
    place.gate.forget()  # a key that is found out again gets no new bucket
    assert (await place.ask(key=slow)).status == 429
    place.now += 0.5
    assert [(await place.ask(key=slow)).status for _ in range(2)] == [200, 429]


async def test_a_body_is_bounded_however_its_length_is_told() -> None:
    place = Place(body_bytes_max=10, large_bodies={"/v1/workspaces": 20})
    length, chunked = b"content-length", (b"transfer-encoding", b"chunked")
    assert (await place.ask("POST", "/v1/tasks", (length, b"11"), key=TOKEN)).status == 413
    answer = await place.ask("POST", "/v1/tasks", chunked, key=TOKEN, chunks=(b"x" * 6, b"x" * 6))
    assert answer.status == 413 and answer.problem
    assert answer.headers["connection"] == "close"
    for path, total in (("/v1/tasks", 10), ("/v1/workspaces", 20)):
        for headers in ((chunked,), ((length, str(total).encode()),)):
            chunks = (b"x" * (total - 5), b"x" * 5)
            answer = await place.ask("POST", path, *headers, key=TOKEN, chunks=chunks)
            assert answer.status == 200 and len(place.body) == total


async def test_shapes_that_two_servers_would_read_differently_are_refused() -> None:
    place = Place()
    length, chunked = (b"content-length", b"5"), (b"transfer-encoding", b"chunked")
    host, auth = (b"host", b"evil.example"), (b"authorization", b"Bearer " + TOKEN.encode())
    for headers in (
        (length, chunked),
        (length, (b"content-length", b"6")),
        ((b"content-length", b"+5"),),
        ((b"content-length", b"5, 5"),),
        ((b"content-length", b"9" * 30),),
        (host,),
        (auth, auth),
    ):
        answer = await place.ask("POST", "/v1/tasks", *headers, key=TOKEN)
        assert answer.status == 400 and answer.problem, headers
    assert not place.callers
    repeated = ((b"accept", b"a/b"), (b"accept", b"c/d"))
    assert (await place.ask("GET", "/v1/tasks", *repeated, key=TOKEN)).status == 200


async def test_only_a_known_proxy_is_believed_about_who_asks() -> None:
    place = Place(proxies=("10.0.0.0/8",), hosts=("agents.example.org",))
    https = (b"x-forwarded-proto", b"https")
    for client, said in (
        ("10.0.0.2", b"1.1.1.1, 203.0.113.9, 10.0.0.7"),
        ("192.0.2.1", b"1.1.1.1, 203.0.113.9, 10.0.0.7"),
        ("10.0.0.2", b"junk"),
    ):
        headers = ((b"x-forwarded-for", said), https)
        await place.ask("GET", "/v1/tasks", *headers, key=TOKEN, client=(client, 1))
    assert place.clients == [
        (("203.0.113.9", 0), "https"),
        (("192.0.2.1", 1), "http"),
        (("10.0.0.2", 1), "https"),
    ]


async def test_no_secret_reaches_the_record_or_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """Planted canaries, in every place that a careless client would put one."""
    place = Place()
    _, text = await place.make_key()
    canaries = [text, "ark_local_" + "c" * 43, "eyJhbGciOiJub25lIn0.e30.canary", "pw-canary"]
    answers = []
    for canary in canaries:
        raw = canary.encode()
        answers += [
            await place.ask(key=canary + "x"),
            await place.ask(query=b"access_token=" + raw),
            await place.ask("GET", "/v1/tasks", (b"authorization", b"Basic " + raw)),
            await place.ask("POST", "/v1/tasks", (b"origin", b"https://" + raw), key=canary),
            await place.ask(host=(b"host", raw)),
            await place.ask("GET", "/v1/tasks", (b"content-length", raw), key=TOKEN),
        ]
    place.auditor.close_window()
    await place.auditor.flush()
    kept = repr(await place.store.audit()) + repr(await place.store.keys()) + caplog.text
    kept += "".join(answer.body.decode() + repr(answer.headers) for answer in answers)
    assert len(answers) == 24 and all(answer.status >= 400 for answer in answers)
    for canary in canaries:
        assert canary not in kept


async def test_a_flood_of_refusals_is_counted_and_not_listed() -> None:
    """Whoever refuses to stop may not fill the disk."""
    place = Place()
    choose = random.Random(1)
    for number in range(5_000):
        await place.ask(key="junk", client=(f"192.0.2.{number % 250}", choose.randrange(9_999)))
    place.auditor.close_window()
    await place.auditor.flush()
    records = await place.store.audit(limit=10_000)
    assert len(records) < 100
    assert sum(record.entry.count for record in records) == 5_000
    assert {record.entry.detail for record in records} == {"unknown"}
