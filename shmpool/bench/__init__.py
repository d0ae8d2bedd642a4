# SPDX-License-Identifier: Apache-2.0
"""The benchmark of shmpool beside other libraries: shmpool bench, or python -m shmpool.bench.

Needs the extra shmpool[bench]. Of shmpool it uses only what everybody can import; nothing else in
the package uses it.

way             what a contestant is
message         what is sent, and the check of what arrived
board           the accounts that processes leave, killed or not
crew            the processes of a run
producing, consuming, pingpong    what the processes do, the same for all
contestants/    an adapter for each library
throughput, latency, robustness    one run of each kind
floor           what throughput would be without any library
hop, others     how far apart the two cores are just now; what other programs took of them
plan, measure   what is measured, and the run of it all
result          what is kept, as JSON
summary, findings    medians, ratios, goals; what they show, in sentences
tables, terminal, plots, document, compare    how it is shown
command         the command line
"""
