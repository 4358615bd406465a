#!/bin/sh
# The sandbox by itself, with no task: one directory is its state, and nothing else of the machine.
#     examples/playbooks/session/sandbox.sh DIR
set -eu
state=${1:?usage: sandbox.sh DIR, an existing directory}
inside() { agent-runtime sandbox exec --workspace "$state" -- "$@"; }

inside python3 -c 'open("counter", "a").write("one call\n")'      # files stay …
inside sh -c 'echo "another call" >> counter; sleep 600 &'         # … and processes do not
inside sh -c '
cat counter
grep -s sleep /proc/[0-9]*/comm || echo "no process of the call before"
cat ~/.ssh/id_* 2>/dev/null || echo "no keys of yours"'
inside python3 -c '
import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    print("no network:", error)'
