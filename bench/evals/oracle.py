"""A model's server whose answers are known: OpenAI's chat completions and Anthropic's messages.

It listens on a real socket, streams when it is asked to, and keeps nothing of a conversation: the
task is named by a marker in its goal, the answer that is wanted is the model's name (`gold`, …),
and the turn is the number of the assistant's messages. Tokens are counted as a quarter of the
bytes, and what stands before the assistant's last message as read from the cache.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from bench.evals.cases import Move, Script
from bench.evals.trouble import RETRY_AFTER_SECONDS, Fault, Trouble

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
NOTHING_TO_ADD: Final = Move("I have nothing to add: this is how I understand the task.")
PLAN: Final = Move(
    json.dumps(
        {
            "requirements": ["The failing tests pass."],
            "steps": [{"id": "mend", "goal": "Make the tests pass.", "needs": []}],
            "objectives": [],
        }
    )
)
BYTES_A_TOKEN: Final = 4
_PIECE_CHARS: Final = 200
_MARKER = re.compile(r"\[eval [^\]]+\]")

Json = dict[str, Any]


class Oracle:
    """What is answered; `serving` puts it on a socket."""

    def __init__(self, trouble: Trouble | None = None) -> None:
        self.url = ""
        """Without a path; known when it serves."""
        self.faults: Counter[Fault] = Counter()
        self._trouble = trouble
        self._scripts: dict[tuple[str, str], Script] = {}
        self._attempts: Counter[tuple[str, str, int]] = Counter()
        self._lock = threading.Lock()

    def learn(self, marker: str, answer: str, script: Script) -> None:
        """Know the task of this marker."""
        if self._trouble is not None:
            script = self._trouble.script(f"{marker} {answer}", script)
        self._scripts[marker, answer] = script

    def models(self) -> dict[str, str]:
        """The setting `model_endpoints` under which it is found by Anthropic's wire."""
        return {"oracle": f"anthropic+{self.url}"}

    def name(self, answer: str, *, wire: str) -> str:
        """Of the model that gives this answer, for a task file."""
        return f"oracle/{answer}" if wire == "anthropic" else f"{self.url}/v1#{answer}"

    def answer(self, asked: Json) -> tuple[Move, Fault | None]:
        """The next move, and what goes wrong on its way.

        Raises:
            KeyError: the task or the answer is not known.
        """
        if "response_format" in asked or "output_config" in asked:
            return PLAN, None
        answer = str(asked["model"])
        found = _MARKER.search(json.dumps(asked["messages"][:2], ensure_ascii=False))
        marker = found[0] if found else "a goal without a marker"
        script = self._scripts[marker, answer]
        turn = sum(message["role"] == "assistant" for message in asked["messages"])
        move = script[turn] if turn < len(script) else NOTHING_TO_ADD
        return move, self._fault(marker, answer, turn)

    def _fault(self, marker: str, answer: str, turn: int) -> Fault | None:
        if self._trouble is None:
            return None
        key = (marker, answer, turn)
        with self._lock:
            attempt = self._attempts[key]
            self._attempts[key] += 1
            fault = self._trouble.fault(f"{marker} {answer}", turn, attempt)
            if fault is not None:
                self.faults[fault] += 1
        return fault


@contextmanager
def serving(oracle: Oracle) -> Iterator[Oracle]:
    """The oracle on a port of this machine, in threads of its own."""

    class Handler(_Handler):
        answering = oracle

    with _Server(("127.0.0.1", 0), Handler) as server:
        oracle.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="oracle")
        thread.start()
        try:
            yield oracle
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asks may leave in the middle: cancelled tasks do."""


class _Handler(BaseHTTPRequestHandler):
    answering: Oracle
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120

    def do_POST(self) -> None:
        """Both wires."""
        body = self.rfile.read(int(self.headers["content-length"]))
        asked = json.loads(body)
        if self.path not in (CHAT, MESSAGES):
            return self._refuse(404, f"there is no {self.path}")
        try:
            move, fault = self.answering.answer(asked)
        except KeyError as error:
            return self._refuse(404, f"the oracle does not know {error}")
        match fault:
            case "rate":
                return self._refuse(429, "too many requests", RETRY_AFTER_SECONDS)
            case "overload":
                return self._refuse(529, "overloaded")
            case "hang up":
                self.close_connection = True
                return None
        wire = _chat if self.path == CHAT else _messages
        whole, pieces = wire(asked, move, _usage(asked, move))
        if asked.get("stream"):
            self._stream(pieces, cut=fault == "cut")
        else:
            self._send(whole, cut=fault == "cut")

    def _refuse(self, status: int, message: str, retry_after: int | None = None) -> None:
        said = json.dumps({"type": "error", "error": {"type": "oracle", "message": message}})
        self.send_response(status)
        if retry_after is not None:
            self.send_header("retry-after", str(retry_after))
        self._headers("application/json", len(said))
        self.wfile.write(said.encode())

    def _send(self, whole: Json, *, cut: bool) -> None:
        data = json.dumps(whole).encode()
        self.send_response(200)
        self._headers("application/json", len(data))
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut

    def _stream(self, pieces: list[tuple[str, Json | str]], *, cut: bool) -> None:
        """Cut, it ends as HTTP wants it, and without its finish marker."""
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self._headers("text/event-stream", None)
        for event, piece in pieces[: len(pieces) // 2] if cut else pieces:
            data = piece if isinstance(piece, str) else json.dumps(piece)
            sent = (f"event: {event}\n" if event else "") + f"data: {data}\n\n"
            self._chunk(sent.encode())
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _headers(self, kind: str, length: int | None) -> None:
        self.send_header("content-type", kind)
        if length is not None:
            self.send_header("content-length", str(length))
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Not on the terminal."""


# ---- the wires ---------------------------------------------------------------------------


def _usage(asked: Json, move: Move) -> tuple[int, int, int]:
    """Tokens of the prompt, those of them that were cached, and those of the answer."""
    sizes = [len(json.dumps(message)) for message in asked["messages"]]
    rest = len(json.dumps(asked)) - sum(sizes)
    roles = [message["role"] for message in asked["messages"]]
    last = max((n for n, role in enumerate(roles) if role == "assistant"), default=None)
    cached = 0 if last is None else rest + sum(sizes[:last])
    said = len(move.text) + sum(len(name) + len(_raw(given)) for name, given in move.calls)
    return (
        (rest + sum(sizes)) // BYTES_A_TOKEN,
        cached // BYTES_A_TOKEN,
        said // BYTES_A_TOKEN + 1,
    )


def _raw(arguments: Json | str) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _id(asked: Json, number: int) -> str:
    return f"call_{len(asked['messages'])}_{number}"


def _cut_up(text: str) -> list[str]:
    return [text[at : at + _PIECE_CHARS] for at in range(0, len(text), _PIECE_CHARS)]


def _chat(
    asked: Json, move: Move, tokens: tuple[int, int, int]
) -> tuple[Json, list[tuple[str, Json | str]]]:
    """OpenAI's form: the whole answer, and the events of a stream."""
    calls = [
        {
            "id": _id(asked, number),
            "type": "function",
            "function": {"name": name, "arguments": _raw(arguments)},
        }
        for number, (name, arguments) in enumerate(move.calls)
    ]
    finish = "tool_calls" if calls else "stop"
    usage = {
        "prompt_tokens": tokens[0],
        "completion_tokens": tokens[2],
        "total_tokens": tokens[0] + tokens[2],
        "prompt_tokens_details": {"cached_tokens": tokens[1]},
    }
    message: Json = {"role": "assistant", "content": move.text or None}
    if calls:
        message["tool_calls"] = calls
    base = {"id": "oracle", "created": 0, "model": asked["model"]}
    whole = base | {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
    }

    def chunk(delta: Json, end: str | None = None) -> tuple[str, Json]:
        choice = {"index": 0, "delta": delta, "finish_reason": end}
        return "", base | {"object": "chat.completion.chunk", "choices": [choice]}

    pieces: list[tuple[str, Json | str]] = [chunk({"role": "assistant", "content": ""})]
    pieces += [chunk({"content": part}) for part in _cut_up(move.text)]
    for number, call in enumerate(calls):
        name, raw = move.calls[number][0], _raw(move.calls[number][1])
        begun = {**call, "index": number, "function": {"name": name, "arguments": ""}}
        pieces.append(chunk({"tool_calls": [begun]}))
        pieces += [
            chunk({"tool_calls": [{"index": number, "function": {"arguments": part}}]})
            for part in _cut_up(raw)
        ]
    pieces.append(chunk({}, finish))
    end = base | {"object": "chat.completion.chunk", "choices": [], "usage": usage}
    return whole, [*pieces, ("", end), ("", "[DONE]")]


def _messages(
    asked: Json, move: Move, tokens: tuple[int, int, int]
) -> tuple[Json, list[tuple[str, Json | str]]]:
    """Anthropic's form: the whole answer, and the events of a stream."""
    usage = {
        "input_tokens": tokens[0] - tokens[1],
        "cache_read_input_tokens": tokens[1],
        "cache_creation_input_tokens": 0,
        "output_tokens": tokens[2],
    }
    blocks: list[Json] = [{"type": "text", "text": move.text}] if move.text else []
    # An object is all that a whole answer can carry; junk comes in the pieces of a stream.
    blocks += [
        {
            "type": "tool_use",
            "id": _id(asked, number),
            "name": name,
            "input": arguments if isinstance(arguments, dict) else {"junk": arguments},
        }
        for number, (name, arguments) in enumerate(move.calls)
    ]
    stop = "tool_use" if move.calls else "end_turn"
    base = {"id": "oracle", "type": "message", "role": "assistant", "model": asked["model"]}
    whole = base | {"content": blocks, "stop_reason": stop, "usage": usage}
    started = base | {"content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    pieces: list[tuple[str, Json | str]] = []

    def add(kind: str, **more: Any) -> None:
        pieces.append((kind, {"type": kind, **more}))

    add("message_start", message=started)
    raws = [_raw(arguments) for _, arguments in move.calls]
    for index, block in enumerate(blocks):
        if block["type"] == "text":
            add("content_block_start", index=index, content_block={"type": "text", "text": ""})
            deltas = [{"type": "text_delta", "text": part} for part in _cut_up(move.text)]
        else:
            add("content_block_start", index=index, content_block={**block, "input": {}})
            raw = raws[index - (len(blocks) - len(raws))]
            deltas = [{"type": "input_json_delta", "partial_json": p} for p in _cut_up(raw)]
        for delta in deltas:
            add("content_block_delta", index=index, delta=delta)
        add("content_block_stop", index=index)
    add("message_delta", delta={"stop_reason": stop}, usage=usage)
    add("message_stop")
    return whole, pieces
