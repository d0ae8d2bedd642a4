/* SPDX-License-Identifier: Apache-2.0
 *
 * alf_pace.h - positions of a ring; pauses and prefetches that keep two cores off one cache line.
 *
 * Correctness does not depend on anything in this file but the width of a position. Without the
 * pauses every result is the same, but slower: docs/tuning.md has the figures.
 */
#ifndef SHMPOOL_ALF_PACE_H
#define SHMPOOL_ALF_PACE_H

#include "atomic.h"

/* Bits of a position, and of the lap in a slot. Tests set 8 or 16, so that every counter wraps
 * thousands of times. A ring uses at most a quarter of all positions: limit may be one ring ahead
 * of prod or one behind it, and each lap must differ from the next. */
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

/* Measures how long cpu_relax() takes here, once in a process: 10 to 65 ns by x86-64 processor,
 * less elsewhere. Takes 30 us. Any thread may call it. Before, a pause counts as 32 ns. */
void alf_calibrate(void);
/* Sets that pauses of cpu_relax() take ns together; bounded, whatever they are. */
void alf_set_rate(uint32_t pauses, int64_t ns);
/* Returns how many pauses take ns nanoseconds: at least one. */
uint32_t alf_pauses(uint32_t ns);
/* Pauses for about ns nanoseconds. */
__attribute__((cold)) void alf_pause(uint32_t ns);

/* Pauses after a lost compare-and-swap of a position, so that the winner can work in its own cache.
 * Without it two cores that both get and put steal the line from each other at every step. at is
 * the position that was found, n how far an operation moves it. Returns turns + 1.
 *
 * How long it pauses depends on whether the last pause on this side of this ring helped: half as
 * long again if the others made an operation at least every ALF_BUSY_NS, so that none of them
 * waited for the line, and a quarter less if they did not. An operation that succeeds at once pays
 * nothing for it. The thread remembers it in memory of its own. */
#define ALF_BACK_OFF_FIRST_NS 400u /* some operations of the winner */
#define ALF_BACK_OFF_MIN_NS 200u   /* the line is here and back */
#define ALF_BACK_OFF_MAX_NS 8000u  /* what a sleeper's wake-up takes */
#define ALF_BUSY_NS 100u           /* of an operation in one cache at most: 10 to 40 ns, */
#define ALF_BUSY_ELEMENT_NS 4u     /* and 0.5 to 2 ns for each element */
__attribute__((cold)) uint32_t alf_back_off(const alf_shared_position *position, alf_position at,
					    uint32_t n, uint32_t turns);
/* Returns how long the next one will pause. */
uint32_t alf_back_off_ns(const alf_shared_position *position);

/* True if an operation has started over so often that it should return "full" or "empty". A member
 * that loses a thousand compare-and-swaps in a row, each after a pause, has lost for milliseconds:
 * another process overwrites the position all the time (a corrupted segment). */
#define ALF_TURNS_MAX 1024u
static inline bool alf_tired(uint32_t turns)
{
	return unlikely(turns > ALF_TURNS_MAX);
}

/* Called where a consumer has caught up with the producers, or a producer with the consumers. After
 * a stream of more than ALF_STREAM elements it pauses, so that the other side gets some cache lines
 * ahead; otherwise each poll would steal the line that the other side is working in. After a few
 * elements, as in request and reply, it does not pause. This is the temporal slipping of
 * J. Giacomoni et al., "FastForward for Efficient Pipeline Parallelism" (PPoPP 2008). */
#define ALF_STREAM 8u    /* elements since the last call: one cache line of slots */
#define ALF_SLIP_NS 800u /* time for the other side to pass some lines or bulks */
static inline void alf_slip(alf_shared_position *edge, alf_position at)
{
	alf_position last = load_relaxed(edge);
	if (last == at)
		return;
	store_relaxed(edge, at);
	if ((alf_position)(at - last) > ALF_STREAM)
		alf_pause(ALF_SLIP_NS);
}

/* A producer prefetches the slots that it will reach some bulks later. A consumer touched them
 * last, so the producer's stores would wait for their lines, and its next compare-and-swap for
 * those stores. The distance, in slots, covers the latency of a line from a far core. It is taken
 * modulo the ring, so it is 128 in a ring of 256 or 512. */
#define ALF_AHEAD 640u
/* The hardware prefetcher covers smaller bulks, which span one or two lines. */
#define ALF_AHEAD_BULK 16u
#define ALF_LINE (CACHE_LINE / sizeof(uint64_t)) /* slots */

#endif
