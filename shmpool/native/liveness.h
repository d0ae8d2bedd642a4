/* SPDX-License-Identifier: Apache-2.0
 *
 * liveness.h - finds dead members by asking the kernel whether their processes' tokens are held.
 *
 * Who may call what at the same time: any thread anything; one struct liveness belongs to one
 * thread.
 */
#ifndef SHMPOOL_LIVENESS_H
#define SHMPOOL_LIVENESS_H

#include "device.h"

struct liveness {
	const struct segment *s;
	uint64_t own;   /* a token of this process, or 0: as in token_state() */
	uint64_t token; /* asked about last: the members of one process are asked about once */
	enum token_state state;
};

/* Returns whether the process of a member is alive. identity is not 0. */
enum token_state liveness_ask(struct liveness *q, uint64_t identity);

/* The same of a member that may have a device: while its socket is not known to be gone, the dead
 * member is TOKEN_UNKNOWN. */
enum token_state liveness_ask_member(struct liveness *q, const struct member *m, uint64_t identity);

/* True if the member that has the tag is dead. It holds a role, so it is no socket's. */
bool liveness_tag_dead(const struct segment *s, uint32_t tag, uint64_t own);

/* Returns the number of members that are dead, not recovered, and not kept by a socket. */
uint32_t liveness_dead(const struct segment *s, uint64_t own);

enum process_fate {
	PROCESS_ALIVE,
	PROCESS_SUSPENDED, /* by a signal or a tracer: alive */
	PROCESS_DEAD,
	PROCESS_UNKNOWN /* the question could not be asked now, or a socket keeps the dead member */
};

/* Returns the state of a member's process. PROCESS_SUSPENDED is reported only within the caller's
 * own PID namespace. */
enum process_fate liveness_fate(const struct segment *s, const struct member *m, uint64_t identity,
				uint64_t own);

#endif
