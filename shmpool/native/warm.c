/* SPDX-License-Identifier: Apache-2.0
 *
 * warm.c - see warm.h.
 */
#include "warm.h"

#include "transfer.h"

uint32_t warm_put(const struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	const uint32_t room = alf_avail_space(&p->warm), some = n < room ? n : room;
	if (!some || transfer_in(p, m, &p->warm, handle + n - some, some, ALF_MULTI))
		return 0;
	return some;
}

int warm_take(const struct qmempool *p, struct member *m, uint64_t *handle, uint32_t n)
{
	const uint32_t most = alf_capacity(&p->warm);
	return transfer_any(p, m, &p->warm, handle, n < most ? n : most, ALF_MULTI, false);
}
