"""The compiled hot path: request bytes in, Redis commands out, Redis reply in, response bytes out.

One module a stage, in the order in which the data passes through them:

    request   request bytes to spans                  (no value is decoded)
    plan      what to read, prepared once             (immutable)
    batch     spans to Redis keys and commands
    link      commands out, reply in, over a socket
    reply     reply bytes to spans
    packed    spans of packed rows to spans of values, and what to ask for once more
    tile_rows spans of tiles to spans of what windows hold (`tiles`, laid out by `tile_layout`)
    splice    spans to response bytes                 (no value is decoded)

And for writes:

    push        a push's bytes to columns
    columns     protobuf or Arrow columns to serialized values
    rules       what a field's values must be
    writes      rows to commands that compare event times (`write_rows.lua`), replies to outcomes
    events      events to commands that count them in tiles (`count_events.lua`)
    latest      rows that another row of the run supersedes
    write_link  commands out while replies come in

`answer` reads an answer's bytes back into columns, for whoever looks at what was served, and
`answer_arrow` shows them to Arrow. `sent_values` serializes what a client asks for.

`scripts` loads what Redis runs; `repack_rows.lua` puts stored rows into another layout,
`fill_tiles.lua` tiles of the batch source into the place of others. `kernel`
runs on-demand views that could be compiled, on the way into `splice`. `values` judges the wire
bytes of a Feast `Value`; `cache` keeps rows that have been read, so that nobody need ask for them,
and forgets those that are written; `wire` holds the cursor that all of them share, `arrow` the
structs of Arrow's C data interface. `hpack` reads and writes the header blocks of HTTP/2, `http2`
is one connection of it, and `reactor` the loop that clients and Redis share.

No stage imports a later one. Nothing here knows grpcio, Feast or redis-py.
"""
