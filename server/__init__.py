"""The gateway: from a Feast registry to a running gRPC server.

feast_api        the one door to Feast
registry_source  where Feast keeps a registry, read anew and read only
registry         Feast's registry to immutable definitions
plan             definitions to what one request reads, and in what form
redis_io         connections, one pipelined round trip a request
transforms       on-demand feature views: inputs from the response, outputs into it
functions        their functions, run as Feast runs them
request_threads  threads for requests, which slow transforms do not keep from others
servicer         the order of the stages, and errors to statuses
catalog          what is served, for people and tools
watch            the plans in step with the registry
metrics          figures for Prometheus
gateway          all of them behind one port: health, reflection, reload, drain
workers          several gateway processes on one port
cli              the command line
"""
