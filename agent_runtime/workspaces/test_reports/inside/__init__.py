"""What runs inside the sandbox, in the test runner's process: copied there, never imported here."""
