"""Benchmarks: every figure is a ratio of things that were measured side by side, in one run.

What is measured, and with what:

data         what is stored and asked for: the shape of Feast's own published benchmark
stores       Redis servers with that in them
servers      the peers that are servers: Feast over gRPC and HTTP, echoes in three builds
processes    the gateway and these, as processes of their own
raw          one plain socket to Redis
peers        all of them as contenders, checked to answer the same
measure      the clock: interleaved rounds, percentiles, facts about the machine
http2, load  requests at a fixed rate, from a client that takes next to no time itself
h2load       load from a client in C
verdict      budgets, and how they were kept
picture      the pictures
demonstration  the demo's rows and a registry for more definitions

The benchmarks:

full         all of the next six, with tables, pictures and verdicts
sweep        latency in a closed loop, by rows, features, keys and misses
growth       how it grows with rows and with features
open_loop    latency at fixed rates, by workers
throughput   answers a second, from the client in C
memory       what Redis needs, by layout and by its limits of lists
stages       the stages of the hot path on their own (`test_stages.py`), per row and per value
quick        the most important budgets, in less than three minutes
counts       instructions of the stages (`count_stages`), beside those in `counts.json`
writes       all of the next three, with verdicts
write_rates  materialization beside Feast and Redis alone, and its memory
write_latency, write_mixed  pushes, alone and beside reads (`write_data`: what is written)
transforms   what the demo's on-demand views add, beside Feast's SDK (`transform_views`)
slow_transforms  plain requests beside Python transforms of 5 ms
monitoring   what watching the features costs a request
faults       alerts that fire for faults in the demonstration's data, and for none
fault_pictures  what the report shows of these faults, in Chromium (`chromium`)
aliases      what aliases cost a request, and changes of shares under load (`alias_views`)
client       the Python client, beside protobuf with Feast's SDK and the bare gRPC call
score        any number of rows over one stream, beside unary calls and Feast's SDK
cache        requests for popular entities, with and without a cache
reload       what a change of definitions costs the requests under way
read_modes   what HMGET and HGETALL cost Redis

Run as `python -m bench full | quick | counts | stages | writes | transforms | slow-transforms |
reload | read-modes | cache | client | score | monitoring | faults | fault-pictures | aliases` from
the root of the checkout.
"""

from pathlib import Path

OUT = Path(__file__).resolve().parent / "out"
"""Where results go."""
