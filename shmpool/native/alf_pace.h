/* SPDX-License-Identifier: Apache-2.0
 *
 * alf_pace.h - the positions of a ring, and how those who move them keep out of each other's way.
 *
 * Nothing here decides anything: without the pauses every result is the same, only later, because
 * two cores take the same cache lines from each other at every step.
 */
#ifndef SHMPOOL_ALF_PACE_H
#define SHMPOOL_ALF_PACE_H

#include "atomic.h"

/* How wide a position is, and with it the lap in a slot. Tests take 8 or 16, to see every counter
 * wrap thousands of times. A ring takes at most a quarter of the positions: limit may be a ring
 * ahead of prod, or behind it, and one lap must differ from the next. */
#ifndef SHMPOOL_POSITION_BITS
#define SHMPOOL_POSITION_BITS 64
#endif
#if SHMPOOL_POSITION_BITS == 64
typedef uint64_t alf_position;
typedef int64_t alf_distance;
typedef shared64 alf_shared_position;
#elif SHMPOOL_POSITION_BITS == 16
typedef uint16_t alf_position;
typedef int16_t alf_distance;
typedef shared16 alf_shared_position __attribute__((aligned(8)));
#elif SHMPOOL_POSITION_BITS == 8
typedef uint8_t alf_position;
typedef int8_t alf_distance;
typedef shared8 alf_shared_position __attribute__((aligned(8)));
#endif
#define ALF_CAPACITY_FITS (1ull << (SHMPOOL_POSITION_BITS - 2))

/* After a lost compare-and-swap: lets the winner work in its own cache for a while, twice as long
 * each time. Without it two cores that both get and put take the lines from each other at every
 * step. Returns the next argument, which grows with every loss. */
#define ALF_PAUSES_FIRST 32 /* of 10 to 50 ns each, by processor */
#define ALF_PAUSES_MAX 256
static inline uint32_t alf_back_off(uint32_t pauses)
{
	for (uint32_t i = 0; i < pauses && i < ALF_PAUSES_MAX; i++)
		cpu_relax();
	return pauses < ALF_PAUSES_MAX ? 2 * pauses : pauses + 1;
}

/* Whether an operation has come back to its beginning so often that it gives up, as if it had found
 * the edge. Who loses to others a thousand times in a row, each time after a pause, has lost for
 * milliseconds; it meets a position that somebody overwrites all the time. */
#define ALF_TURNS_MAX 1024u
static inline bool alf_tired(uint32_t pauses)
{
	return unlikely(pauses > ALF_PAUSES_MAX + ALF_TURNS_MAX);
}

/* At the edge, where a consumer has caught up with the producers or the other way round. If a
 * stream brought it there, it lets them get ahead by some cache lines before it looks again:
 * otherwise it takes each line from them while they are still at work in it, for every slot anew.
 * Whoever finds the edge after a few elements, as in an exchange of questions and answers, is not
 * held up. After the temporal slipping of J. Giacomoni et al., "FastForward for Efficient Pipeline
 * Parallelism" (PPoPP 2008). */
#define ALF_STREAM 8u       /* elements since the last edge: a line of slots */
#define ALF_SLIP_PAUSES 64u /* in which the other side passes some lines, or bulks */
static inline void alf_slip(alf_shared_position *edge, alf_position at)
{
	alf_position last = load_relaxed(edge);
	if (last == at)
		return;
	store_relaxed(edge, at);
	if ((alf_position)(at - last) > ALF_STREAM)
		for (uint32_t i = 0; i < ALF_SLIP_PAUSES; i++)
			cpu_relax();
}

/* A producer has the slots fetched that it comes to some bulks later. The last who touched them was
 * a consumer, and so its stores would wait for their lines, and its next compare-and-swap for those
 * stores. As many elements ahead as leave time for a line from a far core; in a ring of 256 or 512
 * it is 128. */
#define ALF_AHEAD 640u
#define ALF_AHEAD_BULK                                                                             \
	16u /* fewer are in a line or two, which the processor has fetched by itself */
#define ALF_LINE (CACHE_LINE / sizeof(uint64_t)) /* slots */

#endif
