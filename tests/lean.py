"""A pytest of our own packages that starts in a quarter of the time."""

PLUG_INS = ("schemathesis", "llmock", "hypothesispytest", "anyio")
"""What our packages plug into every pytest: a second to import, and no use to a task's tests."""
LEAN_PYTEST = {"PYTEST_ADDOPTS": " ".join(f"-p no:{name}" for name in PLUG_INS)}
"""Variables for a command that runs pytest."""
