/* SPDX-License-Identifier: Apache-2.0
 *
 * tend.h - what a thread that sleeps for a process's event loops (helper.h) does as every sleeper
 * does: it asks which members are dead, and recovers them. For that it becomes a member.
 *
 * Who may call what: the thread, without a lock. It is counted on each pool while it accesses it
 * (opening.h).
 *
 * Progress: no call waits for another process. The system calls of an inquiry take milliseconds at
 * most.
 */
#ifndef SHMPOOL_TEND_H
#define SHMPOOL_TEND_H

#include "place.h"

#define TEND_TOPICS 32u /* of which a thread asks soon; of others, once a slice */

/* The pools, and the topics in which publishers wait, that a thread sleeps for. */
struct tend {
	uint32_t pools, pool[OPENING_POOLS_MAX];
	uint32_t topics;
	struct {
		uint32_t pool, number;
	} topic[TEND_TOPICS];
};

/* Adds what a place with armed wants needs. */
void tend_add(struct tend *t, struct qmempool *p, const struct place *place);

/* Recovers dead subscribers that hold publishers up. */
void tend_topics(const struct tend *t);

/* Recovers dead members if it is time to. True if the pool's name stands for another file now. */
bool tend_pool(uint32_t number);

#endif
