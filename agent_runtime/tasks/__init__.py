"""What can be asked of tasks: each file is one part of `runtime.Runtime`, which is all of them.

Reading order: `reads` (what is there), `conditions` (what must hold before a fact is added),
`facts` (what people say), `sessions` (what a connected client does), `fitness` (what could not
run), `runs` (another run, another task), `results` (what comes out), `proofs` (whether it still
holds), `hindsight` (looking back), `keeping` (what comes and goes whole). New tasks are taken in by
`runtime` itself.
"""
