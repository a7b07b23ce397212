"""Benchmarks: every figure is a ratio of things that were measured side by side, in one run.

data         what is stored and asked for: the shape of Feast's own published benchmark
measure      the clock: interleaved rounds, percentiles, facts about the machine
peers        what is measured: the gateway, Feast's gRPC server, and the floor below both
servers      the servers among them, as processes of their own
raw          the plain socket among them
end_to_end   latency against rows, with a table and a picture
quick        the budgets, each with a verdict
read_modes   what HMGET and HGETALL cost Redis
cache        requests for popular entities, with and without a cache
reload       what a change of definitions costs the requests under way
slow_transforms  plain requests beside Python transforms of 5 ms
http2, load  requests at a fixed rate, from a client that takes next to no time itself
stages       the stages of the hot path on their own (`test_stages.py`), per row and per value
write_data   what is written: one view of 10 features
write_rates  materialization beside Feast and Redis alone, and its memory
write_latency, write_mixed  pushes, alone and beside reads
writes       all of these, with verdicts
transforms   what the demo's on-demand views add, beside Feast's SDK (`transform_views`)

Run as `python -m bench stages | end-to-end | quick | read-modes | cache | reload | slow-transforms |
transforms | writes` from the root of the checkout.
"""

from pathlib import Path

OUT = Path(__file__).resolve().parent / "out"
"""Where results go."""
