/* SPDX-License-Identifier: Apache-2.0
 *
 * side.c - see side.h.
 */
#include "side.h"

#include "transfer.h"

/* member.side is | misses 16 | ring, by SIDE_TRIES, plus misses one after the other 16 |. */
#define MISS (1u << 16 | 1)

uint32_t side_own(const struct qmempool *p, const struct member *m)
{
	const uint32_t number = tag_number(m->tag), at = number % p->sides + number / p->sides;
	return at < p->sides ? at : at % p->sides;
}

static uint32_t remembered(const struct qmempool *p, const struct member *m)
{
	return (load_relaxed(&m->side) & UINT16_MAX) / SIDE_TRIES % p->sides;
}

static void remember(struct member *m, uint32_t number)
{
	store_relaxed(&m->side, (load_relaxed(&m->side) >> 16 << 16) + number * SIDE_TRIES);
}

/* Only misses one after the other move the hint on. */
static void settle(struct member *m)
{
	const uint32_t at = load_relaxed(&m->side);
	if (at % SIDE_TRIES)
		store_relaxed(&m->side, at - at % SIDE_TRIES);
}

/* Takes from another ring, each time the next one, if that is more than half full: then nobody
 * takes from there as fast as others free into it, and m does so from now on. */
static int take_elsewhere(const struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n,
			  uint32_t *tries)
{
	const uint32_t at = (load_relaxed(&m->side) >> 16) % p->sides;
	const struct alf_ring *r = &p->side[at];
	if (at == side_own(p, m) || alf_count(r) <= alf_capacity(r) / 2)
		return 0;
	const int got = side_take_from(p, m, at, handle, n, tries);
	if (got > 0)
		remember(m, at);
	return got;
}

uint32_t side_put(const struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	const struct alf_ring *r = &p->side[side_own(p, m)];
	uint32_t some = n;
	if (!alf_fits(r, n)) {
		const uint32_t room = alf_avail_space(r);
		some = n < room ? n : room;
	}
	if (!some || transfer_in(p, m, r, handle + n - some, some, ALF_MULTI))
		return 0;
	return some;
}

int side_take_from(const struct qmempool *p, struct member *m, uint32_t number, uint64_t *handle,
		   uint32_t n, uint32_t *tries)
{
	const struct alf_ring *r = &p->side[number];
	const uint32_t most = alf_capacity(r);
	return transfer_any(p, m, r, handle, n < most ? n : most, ALF_MULTI, false, tries);
}

int side_take(const struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n)
{
	const uint32_t mine = side_own(p, m), hint = remembered(p, m);
	uint32_t tries = BYPASS_TRIES;
	int got = 0;
	if (alf_ready(&p->side[mine], 0))
		got = side_take_from(p, m, mine, handle, n, &tries);
	if (!got && hint != mine && alf_ready(&p->side[hint], 0))
		got = side_take_from(p, m, hint, handle, n, &tries);
	if (got) {
		settle(m);
		return got;
	}
	store_relaxed(&m->side, load_relaxed(&m->side) + MISS);
	got = take_elsewhere(p, m, handle, n, &tries);
	if (!got)
		got = transfer_free(p, m, handle, n, &tries);
	/* By both positions: alf_ready() is false too while others move cons past many. */
	for (uint32_t i = 0, at = hint; !got && i < p->sides;
	     i++, at = at + 1 < p->sides ? at + 1 : 0) {
		if (alf_empty(&p->side[at]))
			continue;
		got = side_take_from(p, m, at, handle, n, &tries);
		if (got > 0)
			remember(m, at);
	}
	return got;
}

bool side_ready(const struct qmempool *p, const struct member *m, uint32_t n)
{
	return alf_ready(&p->side[side_own(p, m)], n - 1) ||
	       alf_ready(&p->side[remembered(p, m)], n - 1);
}
