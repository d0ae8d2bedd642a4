/* SPDX-License-Identifier: Apache-2.0
 *
 * chain.c - see chain.h.
 */
#include "chain.h"

void chain_make(struct qmempool *p, struct member *m, const uint64_t *handle, uint32_t n)
{
	struct buffer *head = pool_buffer(p, handle_index(handle[0]));
	const uint64_t owner = owner_chained(handle_index(handle[0]), handle_generation(handle[0]));
	store_relaxed(&head->handle, handle[0] | HANDLE_CHAIN); /* visible before the first word */
	for (uint32_t i = n; --i;) {
		struct buffer *b = pool_buffer(p, handle_index(handle[i]));
		store_relaxed(&b->link,
			      i + 1 < n ? handle_index(handle[i]) ^ handle_index(handle[i + 1]) :
					  0);
		store_release(&b->owner, owner); /* [OWNER] [CHAIN] */
		count_up(&m->counters[COUNT_CHAINED], 1);
	}
	store_relaxed(&head->link, handle_index(handle[0]) ^ handle_index(handle[1]));
}

uint32_t chain_count(const struct qmempool *p, uint64_t head)
{
	uint32_t at = handle_index(head), n = 1, mark = at;
	for (uint32_t next; (next = chain_walk(p, head, at, n, &mark)) != at; at = next)
		n++;
	return n;
}
