"""Versions side by side: names that stand for several feature services, and what ends.

aliases      what an alias says, from YAML and back
changes      the record of all changes, one JSON object a line
store        the file of aliases, which all workers read and any of them may rewrite
routes       aliases and plans put together: which request goes where
notes        what is said of a call beside its answer: metadata, and figures
deprecation  what tags say of features that end, for each plan
watch        the aliases of the moment, in step with their file and the registry
shadow       reads of another version beside the answer, off the request path
comparison   what these reads found, of all workers
personal     columns whose values are not shown
distributions  how the features that versions share are distributed, by what monitoring has seen;
             `distributions_table` prints it
figures      counts for Prometheus
service      the methods that list and change aliases
opening      all of these for one gateway process
"""
