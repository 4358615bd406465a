"""Modules: what contributes tools and has a life of its own.

Reading order: `registry` (starting, sharing, stopping them), then the built-in ones: `planning`.
"""
