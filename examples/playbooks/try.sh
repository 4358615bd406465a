#!/bin/sh
# Try a playbook: its directory is copied and made a repository, and its task runs there.
#     examples/playbooks/try.sh support [OPTION of `agent-runtime run`]…
set -eu
here=$(cd "$(dirname "$0")" && pwd)
name=${1:-}
if [ ! -f "$here/$name/task.yaml" ]; then
    echo "no playbook is called '$name'; try.sh NAME [OPTION]…, with one of: $(cd "$here" && echo */)" >&2
    exit 2
fi
shift
repo=$(mktemp -d)/$name
cp -R "$here/$name" "$repo"
cd "$repo"
git init --quiet
git add --all
git -c user.name=example -c user.email=example@example.invalid commit --quiet -m "The start"
echo "the repository: $repo" >&2
exec agent-runtime run task.yaml "$@"
