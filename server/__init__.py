"""The gateway: from a Feast registry to a running gRPC server.

feast_api        the one door to Feast
repository       a repository, opened
registry_source  where Feast keeps a registry, read anew and read only
repo_files       functions from the repository's own files, and not from the registry
registry         Feast's registry to immutable definitions
plan             definitions to what one request reads, and in what form
redis_io         connections, one pipelined round trip a request, and writes
native           the gRPC server: one loop, and grpcio behind it
doctor           what a Redis is set to and holds (`doctor_report`: as tables)
layouts          how rows are stored, and the schemas of packed rows
invalidation     word from Redis of what is written, for the cache of rows
staleness        how old an answer from the cache may be, by view
read_modes       HMGET or HGETALL, by what is stored
transforms       on-demand feature views: inputs from the response, outputs into it
functions        their functions, run as Feast runs them
request_threads  threads for requests, which slow transforms do not keep from others
write_plan       definitions to how rows of a view are written
rules            what a field's tags expect of its values
rows             columns to rows, each of them judged
push_plan        where a push goes
push_rows        rows of a push to Redis and to batch sources
push             the Push service, single batches and streams
feast_push       the same for Feast's clients
offline          rows to batch sources, through Feast
expressions, tracing, lowering  a transform's function to typed programs
stored_rows      a sample of what is stored, to prove them on
proof, kernels   those programs against the function, and which views have them
transform_runs   how on-demand views are computed: counted, and in part verified
offline_rows     where the rows of a materialization come from
bookkeeping      what Feast's registry is told of a materialization
view_writer      batches of one view into Redis, for engines and for materialize
materialize, materialize_report  runs over views, and how they are shown
entity_keys      stored entity keys, told from all others (`key_samples`: some of them)
terminal         what commands that run for long have in common
repack, repack_report  stored rows into another layout, and how that is shown
servicer         the order of the stages, and errors to statuses
catalog          what is served, for people and tools
watch            the plans in step with the registry
metrics          figures for Prometheus
gateway          all of them behind one port: health, reflection, reload, drain
settings         how a gateway runs
listening        addresses to listen on
turn_away        no more connections for grpcio's listening socket
workers          gateway processes on one port, and new ones in their place
apart            a function in a process of its own
logs             what is logged, and how
monitoring       what features are like as they pass, and whether that changes (a package)
cli              the command line
cli_plan         what a service reads and computes, as tables
cli_profile      what a service's values were like in training
"""
