/* SPDX-License-Identifier: Apache-2.0
 *
 * pace.h - limits how far threads can get ahead of each other, for narrow positions
 * (SHMPOOL_POSITION_BITS).
 *
 * A thread that is suspended inside an operation while others use up half of all positions takes
 * new positions for old ones. With 64 bits that takes thousands of years, with 8 bits 128 elements.
 * So no operation here lasts longer than PACE_STEPS other operations. Operations still run at the
 * same time.
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
static uint32_t pace_gates;  /* threads that wait for pace_inside to be 0, and let none enter */
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

/* Returns the value of one call, paced. */
#define PACED(call)                                                                                \
	({                                                                                         \
		pace_begin();                                                                      \
		__typeof__(call) paced_ = (call);                                                  \
		pace_end();                                                                        \
		paced_;                                                                            \
	})

/* Returns how often positions have wrapped after so many elements. */
static inline unsigned long long pace_wraps(uint64_t elements)
{
	return SHMPOOL_POSITION_BITS < 64 ? elements >> (SHMPOOL_POSITION_BITS & 63) : 0;
}

#endif
