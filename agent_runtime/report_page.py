"""A report as Markdown and as HTML. What it tells is decided in `report`.

A quote must stay one in every reader. In Markdown it is a code span whose fence is longer than any
run of backticks in it: no markup, link, mention or HTML works there. Lists, no tables, because a
table's bars would need another escape on top. In HTML everything is escaped, and the page forbids
itself scripts and the network.
"""

from __future__ import annotations

import re
from typing import Final

import jinja2

from agent_runtime.report import Item, Quote, Report

_RUNS = re.compile("`+")

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{{ report.title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
       color: #1d1f21; background: #fff; }
h1 { font-size: 1.4em; overflow-wrap: anywhere; }
h2 { font-size: 1.05em; margin: 1.5em 0 .3em; }
ul { margin: 0; padding-left: 1.3em; }
code, pre { font: 13px/1.5 ui-monospace, monospace; background: #f1f2f3; border-radius: 3px; }
code { padding: .1em .3em; overflow-wrap: anywhere; white-space: pre-wrap; unicode-bidi: isolate; }
pre { padding: .7em 1em; white-space: pre-wrap; overflow-wrap: anywhere; }
.status { color: #fff; background: #a33; border-radius: 3px; padding: .1em .5em; }
.status.good { background: #286f3b; }
.warns { border-left: 3px solid #c80; padding-left: 1em; }
</style>
</head>
<body>
<h1>{{ report.title }}
<span class="status{{ ' good' if report.good }}">{{ report.status }}</span></h1>
<pre>{{ report.goal.text }}</pre>
{% for section in report.sections -%}
<section{{ ' class="warns"'|safe if section.warns }}>
<h2>{{ section.title }}</h2>
<ul>
{% for item in section.items -%}
<li>{% for part in item %}{% if part is string %}{{ part }}{% else %}<code>{{ part.text }}</code>
{%- endif %}{% endfor %}</li>
{% endfor -%}
</ul>
</section>
{% endfor -%}
</body>
</html>
"""


def markdown_of(report: Report) -> str:
    """The page as CommonMark, for people, terminals and the body of a pull request."""
    lines = [f"# {_span(report.title)}: {report.status}", "", *_fenced(report.goal.text)]
    for section in report.sections:
        mark = " (!)" if section.warns else ""
        lines += ["", f"## {section.title}{mark}", ""]
        lines += [f"- {_line(item)}" for item in section.items]
    return "\n".join(lines) + "\n"


def html_of(report: Report) -> str:
    """The page as one file of HTML: no script, no request to anywhere."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(report=report) + "\n"


def _line(item: Item) -> str:
    return "".join(_span(part.text) if isinstance(part, Quote) else part for part in item)


def _span(text: str) -> str:
    if not text.strip():
        return "(empty)"
    fence = "`" * (_longest_run(text) + 1)
    # One space at each end belongs to the span (CommonMark 6.1) and keeps backticks apart.
    space = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{space}{text}{space}{fence}"


def _fenced(text: str) -> list[str]:
    fence = "`" * max(3, _longest_run(text) + 1)
    return [f"{fence}text", *text.split("\n"), fence]


def _longest_run(text: str) -> int:
    return max((len(run) for run in _RUNS.findall(text)), default=0)
