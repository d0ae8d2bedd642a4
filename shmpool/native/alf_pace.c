/* SPDX-License-Identifier: Apache-2.0
 *
 * alf_pace.c - see alf_pace.h: how long a pause takes on this processor, and back-off.
 */
#include "alf_pace.h"

#include <time.h>

/* A measurement is much longer than the clock's resolution and much shorter than a time slice. */
#define BLOCK_NS 2000
#define BLOCK_MAX 16384u
#define BLOCKS 7

/* Pauses in a nanosecond, times 2^RATE_SHIFT: before they are measured, and what is believed. */
#define RATE_SHIFT 16
#define RATE_DEFAULT ((1u << RATE_SHIFT) / 32)
#define RATE_MAX (8u << RATE_SHIFT)
#define RATE_MIN ((1u << RATE_SHIFT) / 1000 + 1)

/* Of this process. Both are written before its first pool is open, and by its threads to nearly the
 * same value if several open their first pools at once. */
static uint32_t rate = RATE_DEFAULT;
static uint32_t calibrated;

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int64_t time_of(uint32_t pauses)
{
	const int64_t began = now();
	for (uint32_t i = 0; i < pauses; i++)
		cpu_relax();
	return now() - began;
}

void alf_calibrate(void)
{
	if (load_relaxed(&calibrated))
		return;
	uint32_t pauses = 16;
	int64_t least = time_of(pauses);
	while (least < BLOCK_NS && pauses < BLOCK_MAX) {
		pauses *= 2;
		least = time_of(pauses);
	}
	/* A block that was interrupted took longer. */
	for (int i = 1; i < BLOCKS; i++) {
		const int64_t took = time_of(pauses);
		least = took < least ? took : least;
	}
	alf_set_rate(pauses, least);
	store_relaxed(&calibrated, 1);
}

void alf_set_rate(uint32_t pauses, int64_t ns)
{
	uint64_t found = ns > 0 ? ((uint64_t)pauses << RATE_SHIFT) / (uint64_t)ns : RATE_DEFAULT;
	found = found < RATE_MAX ? found : RATE_MAX;
	store_relaxed(&rate, found > RATE_MIN ? (uint32_t)found : RATE_MIN);
}

uint32_t alf_pauses(uint32_t ns)
{
	return (uint32_t)((uint64_t)ns * load_relaxed(&rate) >> RATE_SHIFT) + 1;
}

void alf_pause(uint32_t ns)
{
	for (uint32_t i = alf_pauses(ns); i; i--)
		cpu_relax();
}

/* What a thread remembers of a side of a ring where it has lost a compare-and-swap. */
struct side {
	const void *position; /* of which ring and side; only compared */
	uint32_t ns;          /* how long to pause after the next loss */
};
#define SIDES 8u /* a power of two; by the cache line of the position */
static _Thread_local struct side sides[SIDES] __attribute__((tls_model("initial-exec")));

static struct side *side_of(const alf_shared_position *position)
{
	struct side *s = &sides[(uintptr_t)position / CACHE_LINE % SIDES];
	if (s->position != position) {
		s->position = position;
		s->ns = ALF_BACK_OFF_FIRST_NS;
	}
	return s;
}

uint32_t alf_back_off_ns(const alf_shared_position *position)
{
	return side_of(position)->ns;
}

uint32_t alf_back_off(const alf_shared_position *position, alf_position at, uint32_t n,
		      uint32_t turns)
{
	struct side *s = side_of(position);
	alf_pause(s->ns);
	/* Any value is safe: the segment may be corrupted. */
	const uint64_t moved = (uint32_t)(alf_position)(load_relaxed(position) - at);
	if (moved * (ALF_BUSY_NS + n * ALF_BUSY_ELEMENT_NS) >= (uint64_t)s->ns * n)
		s->ns += s->ns / 2;
	else
		s->ns -= s->ns / 4;
	if (s->ns < ALF_BACK_OFF_MIN_NS)
		s->ns = ALF_BACK_OFF_MIN_NS;
	if (s->ns > ALF_BACK_OFF_MAX_NS)
		s->ns = ALF_BACK_OFF_MAX_NS;
	return turns + 1;
}
