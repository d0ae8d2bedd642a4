/* SPDX-License-Identifier: Apache-2.0
 *
 * liveness.h - which members are dead: their tokens, asked about one by one.
 *
 * Who may call what at the same time: any thread anything, one inquiry by one thread.
 */
#ifndef SHMPOOL_LIVENESS_H
#define SHMPOOL_LIVENESS_H

#include "member.h"

struct liveness {
	const struct segment *s;
	uint64_t own;   /* a token of this process, or 0: as in token_state() */
	uint64_t token; /* asked about last: the members of one process are asked about once */
	enum token_state state;
};

/* Whether the process of an identity, which is not 0, is alive. */
enum token_state liveness_ask(struct liveness *q, uint64_t identity);

/* How many members are dead and not recovered. */
uint32_t liveness_dead(const struct segment *s, uint64_t own);

enum process_fate {
	PROCESS_ALIVE,
	PROCESS_SUSPENDED, /* by a signal or a tracer: alive */
	PROCESS_DEAD,
	PROCESS_UNKNOWN /* the question could not be asked now */
};

/* What became of a member's process. Whether it is suspended is known in its own PID namespace
 * only. */
enum process_fate liveness_fate(const struct segment *s, const struct member *m, uint64_t identity,
				uint64_t own);

#endif
