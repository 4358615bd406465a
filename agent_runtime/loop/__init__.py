"""The phase machine. Read in this order:

`phases` (which phase may follow which), `events` (what is stored), `state` (what their fold knows),
`evolve` (how one event changes it), `actions` (what is to do next), `outcomes` (what comes back),
`decide` (what follows from it) with `intend`, `settle`, `evaluate`, `turns` and `judge`, `recovery`
and `budget` (its tables), `codec` (events to rows and back). Those are pure. `perform` does one
action with the `hands` a task has, `journal` commits what follows, `driver` is the loop around
them, `supervisor` runs many drivers.
"""
