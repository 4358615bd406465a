"""`make evals`: real tasks through the whole runtime, by a scripted oracle or by a model.

Read `cases` (what a task is), then `human_eval` and `pairs` (the two suites), `oracle` (a model's
server whose answers are known), `run` (one runtime, many tasks) and `report`.
"""
