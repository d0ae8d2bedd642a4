# SPDX-License-Identifier: Apache-2.0
"""The benchmark of shmpool from Python, beside other libraries: python -m clients.bench -h.

messages     what is sent, and the check of what arrived
way          what every contestant can do
ours, peers  the contestants: shmpool's ways, and other libraries
cells        what is measured, with the goals
workers      one round of one contestant: processes, cores, cleaning up
hop, others  how far apart the two cores are just now; what other programs took of them
report       medians, ratios, the table and the JSON
"""
