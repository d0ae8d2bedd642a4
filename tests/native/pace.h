/* SPDX-License-Identifier: Apache-2.0
 *
 * pace.h - what a test with narrow positions (SHMPOOL_POSITION_BITS) needs when it has threads.
 *
 * A thread that stops inside an operation for as long as others take for half of all positions sees
 * them come round: with 64 bits after thousands of years, with 8 after 128 elements, that is at
 * once. So here no operation outlives PACE_STEPS others. They run at the same time all the same.
 */
#ifndef PACE_H
#define PACE_H

#include <sched.h>

#include "alf_queue.h"
#include "check.h"

#ifndef PACE_STEPS
#define PACE_STEPS (SHMPOOL_POSITION_BITS == 8 ? 8u : 64u)
#endif

static uint32_t pace_inside; /* threads in an operation */
static uint32_t pace_gates;  /* threads that wait for those to come out, and let nobody in */
static uint32_t pace_steps;

static inline void pace_begin(void)
{
	if (SHMPOOL_POSITION_BITS == 64)
		return;
	add_seq_cst(&pace_inside, 1);
	while (load_seq_cst(&pace_gates)) {
		add_seq_cst(&pace_inside, -1u);
		sched_yield();
		add_seq_cst(&pace_inside, 1);
	}
}

static inline void pace_end(void)
{
	if (SHMPOOL_POSITION_BITS == 64)
		return;
	add_seq_cst(&pace_inside, -1u);
	if (add_seq_cst(&pace_steps, 1) % PACE_STEPS)
		return;
	add_seq_cst(&pace_gates, 1);
	while (load_seq_cst(&pace_inside))
		sched_yield();
	add_seq_cst(&pace_gates, -1u);
}

/* The value of one call, paced. */
#define PACED(call)                                                                                \
	({                                                                                         \
		pace_begin();                                                                      \
		__typeof__(call) paced_ = (call);                                                  \
		pace_end();                                                                        \
		paced_;                                                                            \
	})

/* How often elements passed so far took a position round. */
static inline unsigned long long pace_wraps(uint64_t elements)
{
	return SHMPOOL_POSITION_BITS < 64 ? elements >> (SHMPOOL_POSITION_BITS & 63) : 0;
}

#endif
