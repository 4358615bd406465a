"""What the runtime tells others by itself, and what others may set off: notices and hooks.

Reading order: `records` (webhooks, hooks, deliveries), `ports` (where they are kept), `messages`
(what of an event is told), `signing`, `retries`, `targets` (the setting `notify`). Then what acts:
`feeder` (events become deliveries), `couriers` (deliveries are made, and made again), `posting`
(where to) and `connections` (HTTP), `mailing`, `commands`, `sending` (each kind), `desk` (making
and changing webhooks), `service` (all of it beside a daemon). Hooks, the other way round: `filling`
(the process that fills a hook's task), `hooks` (a request becomes a task).

Nothing is imported here.
"""
