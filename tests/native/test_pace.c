/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pace.c - pauses and back-off (alf_pace.h): pauses last the time that is asked for, whatever
 * one takes on this processor, and back-off adapts within its bounds.
 */
#define _GNU_SOURCE
#include "alf_pace.h"
#include "check.h"

#include <time.h>

/* The positions of a ring, each on a line of its own. */
static struct {
	_Alignas(CACHE_LINE) alf_shared_position prod;
	_Alignas(CACHE_LINE) alf_shared_position cons;
} ring;

/* n pauses take all these durations as exactly as whole pauses can, and a quarter per cent. */
static void test_durations(void)
{
	const uint32_t wanted[] = { ALF_BACK_OFF_MIN_NS, ALF_BACK_OFF_FIRST_NS, ALF_SLIP_NS,
				    ALF_BACK_OFF_MAX_NS };
	const double pause[] = { 0.3, 1, 10, 13.7, 47, 65, 400 }; /* ns */
	for (size_t i = 0; i < sizeof(pause) / sizeof(*pause); i++) {
		alf_set_rate(100000, (int64_t)(pause[i] * 100000));
		for (size_t k = 0; k < sizeof(wanted) / sizeof(*wanted); k++) {
			const double lasts = alf_pauses(wanted[k]) * pause[i];
			CHECK(lasts >= wanted[k] * 0.99 - pause[i]);
			CHECK(lasts <= wanted[k] * 1.01 + pause[i]);
		}
	}
}

/* A clock that does not move, goes back or jumps gives neither no pause nor an endless one. */
static void test_unbelievable_clocks(void)
{
	const int64_t took[] = { 0, -1, INT64_MIN, 1, INT64_MAX };
	for (size_t i = 0; i < sizeof(took) / sizeof(*took); i++) {
		alf_set_rate(1000, took[i]);
		CHECK(alf_pauses(0) >= 1);
		CHECK(alf_pauses(ALF_BACK_OFF_MAX_NS) >= ALF_BACK_OFF_MAX_NS / 1000);
		CHECK(alf_pauses(ALF_BACK_OFF_MAX_NS) <= 8 * ALF_BACK_OFF_MAX_NS + 1);
	}
}

/* Backs off for as long as others are busy or idle; returns the last duration. */
static uint32_t back_off(alf_shared_position *side, bool busy)
{
	uint32_t ns = 0;
	for (uint32_t turn = 0; turn < 40; turn++) {
		const alf_position at = load_relaxed(side);
		/* Busy: the position has moved by more than even the longest pause asks for. */
		EQUAL(turn + 1, alf_back_off(side, (alf_position)(busy ? at - 100 : at), 1, turn));
		const uint32_t next = alf_back_off_ns(side);
		CHECK(next >= ALF_BACK_OFF_MIN_NS && next <= ALF_BACK_OFF_MAX_NS);
		CHECK(turn == 0 || (busy ? next >= ns : next <= ns));
		ns = next;
	}
	return ns;
}

/* It grows while the winner works without a break, shrinks if nothing happens in that time, and one
 * side does not change the other. */
static void test_adapts(void)
{
	alf_shared_position *const prod = &ring.prod, *const cons = &ring.cons;
	alf_set_rate(1, 1000); /* so that the test takes few pauses */
	EQUAL(ALF_BACK_OFF_FIRST_NS, alf_back_off_ns(prod));
	EQUAL(ALF_BACK_OFF_MAX_NS, back_off(prod, true));
	EQUAL(ALF_BACK_OFF_FIRST_NS, alf_back_off_ns(cons));
	EQUAL(ALF_BACK_OFF_MIN_NS, back_off(cons, false));
	EQUAL(ALF_BACK_OFF_MAX_NS, alf_back_off_ns(prod));
	EQUAL(ALF_BACK_OFF_MIN_NS, back_off(prod, false));
	CHECK(!alf_tired(ALF_TURNS_MAX) && alf_tired(ALF_TURNS_MAX + 1));
}

/* A pause lasts at least a quarter of what is asked for: the processor's clock rate may change
 * after the measurement. How much longer it lasts depends on who else runs. */
static void test_calibration(void)
{
	int64_t longest = 0;
	alf_calibrate();
	const uint32_t pauses = alf_pauses(1u << 20);
	for (int i = 0; i < 5; i++) {
		struct timespec from, to;
		clock_gettime(CLOCK_MONOTONIC, &from);
		alf_pause(1u << 20);
		clock_gettime(CLOCK_MONOTONIC, &to);
		int64_t took = (to.tv_sec - from.tv_sec) * 1000000000ll + to.tv_nsec - from.tv_nsec;
		longest = took > longest ? took : longest;
	}
	CHECK(longest >= (1 << 18));
	alf_calibrate();
	EQUAL(pauses, alf_pauses(1u << 20)); /* once in a process */
}

int main(void)
{
	test_calibration();
	test_durations();
	test_unbelievable_clocks();
	test_adapts();
	return 0;
}
