"""The compiled hot path: request bytes in, Redis commands out, Redis reply in, response bytes out.

One module a stage, in the order in which the data passes through them:

    request   request bytes to spans                  (no value is decoded)
    plan      what to read, prepared once             (immutable)
    batch     spans to Redis keys and commands
    link      commands out, reply in, over a socket
    reply     reply bytes to spans
    splice    spans to response bytes                 (no value is decoded)

`values` judges the wire bytes of a Feast `Value`; `wire` holds the cursor that all of them share.
No stage imports a later one. Nothing here knows gRPC, Feast or redis-py.
"""
