"""The driver of `python`: runs inside the task's own interpreter, and keeps its variables.

Its source is handed over by `-c`, so it stands alone and runs on Python 3.8 or newer. Requests come
as lines of JSON on one descriptor and answers leave on another; what the code prints, and what its
children print, goes to the ordinary output.
"""

import ast
import importlib
import json
import linecache
import os
import sys
import traceback
import types

VALUE_CHARS_MAX = 100_000


def serve(requests_descriptor: int, answers_descriptor: int, workspace: str) -> None:
    """Run every request in one module, in the workspace, until the requests end."""
    # Programs that the code starts must not hold the channel.
    for descriptor in (requests_descriptor, answers_descriptor):
        os.set_inheritable(descriptor, False)
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    sys.argv = [""]
    # Only now: a file of the workspace must not stand in for a module of this driver.
    os.chdir(workspace)
    sys.path.insert(0, "")
    owner = os.getpid()
    number = 0
    with os.fdopen(requests_descriptor, encoding="utf-8") as requests:
        for line in requests:
            number += 1
            request = json.loads(line)
            add_packages(request["packages"])
            answer = run(request["code"], module.__dict__, f"<call {number}>")
            if os.getpid() != owner:
                # A fork of the code fell out of it: only the interpreter itself answers.
                os._exit(0)
            data = (json.dumps(answer) + "\n").encode("ascii")
            while data:
                data = data[os.write(answers_descriptor, data) :]


def add_packages(directory: str) -> None:
    """Let the code import what is there, before what the environment has."""
    if directory and directory not in sys.path:
        # Behind the workspace, as everything that is installed is.
        sys.path.insert(1, directory)
        importlib.invalidate_caches()


def run(code: str, namespace: "dict[str, object]", name: str) -> "dict[str, object]":
    """Execute code; the value of a last expression is kept as its repr."""
    linecache.cache[name] = (len(code), None, code.splitlines(True), name)
    answer: dict[str, object] = {"ok": True, "value": None}
    try:
        tree = ast.parse(code, name)
        last = None
        if tree.body and isinstance(end := tree.body[-1], ast.Expr):
            last = ast.Expression(end.value)
            del tree.body[-1]
        exec(compile(tree, name, "exec"), namespace)
        if last is not None:
            value = eval(compile(last, name, "eval"), namespace)
            if value is not None:
                namespace["_"] = value
                answer["value"] = repr(value)[:VALUE_CHARS_MAX]
    except BaseException as error:  # noqa: BLE001 - also SystemExit: the interpreter outlives its code
        answer["ok"] = False
        answer["error"] = type(error).__name__
        show(error)
    flush()
    return answer


def show(error: BaseException) -> None:
    """The traceback, without this file's own frames."""
    trace = error.__traceback__
    own = ("<string>", ast.__file__)
    while trace is not None and trace.tb_frame.f_code.co_filename in own:
        trace = trace.tb_next
    try:
        flush()
        traceback.print_exception(type(error), error, trace)
    except BaseException:  # noqa: BLE001 - the code may have replaced sys.stderr or __str__
        os.write(2, f"{type(error).__name__} (its text cannot be shown)\n".encode())


def flush() -> None:
    """Everything that was printed is in the pipe before the answer is."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001 - closed or replaced by the code
            pass


if __name__ == "__main__" and len(sys.argv) == 4:
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
