# SPDX-License-Identifier: Apache-2.0
"""The benchmark of shmpool against other libraries: shmpool bench, or python -m shmpool.bench.

Needs the extra shmpool[bench]. The benchmark uses the public names of shmpool only, and nothing
else in the package uses the benchmark.

cores           which cores are used, and by which process
transport       what a contestant implements
message         the messages that are sent, and the check of the messages that arrived
scoreboard      shared memory in which processes count what they sent and received
workers         the processes of one run
producing, consuming, pingpong    the loops of these processes, the same for every contestant
contestants/    one adapter for each library
throughput, latency, robustness    one run of each kind
harness_cost    the throughput of the harness without any library
line_latency, background_load    the state of the two cores: cache-line latency, other programs
plan, measure   what is measured, and the loop that measures it
result          the record of a benchmark, stored as JSON
summary, conclusions    medians, ratios and goals; what they show, in sentences
tables, terminal, plots, document, compare    presentation
command         the command line
"""
