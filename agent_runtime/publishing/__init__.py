"""Bringing a proven branch to a git remote and its forge, with credentials that only this holds.

Reading order: `addresses` (which URLs may be named), `hosts` (the installation's credentials, and
what a git process gets of them), `github_app`, `branches` (the commit and its push), `forges` (pull
and merge requests), `publisher` (the port). The decisions are in `loop.publishing`.
"""
