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

void chain_free(struct qmempool *p, struct member *m, uint64_t head)
{
	struct buffer *b = pool_buffer(p, handle_index(head));
	uint32_t at = handle_index(head), next = chain_next(p, head, at), k = 0;
	uint64_t some[BULK_MAX];
	/* No generation of this allocation: the chain is used up and goes back to no queue. */
	store_release(&b->got, handle_generation(head) - 1); /* [CHAIN] before the first segment */
	for (uint32_t n = 0; next != at && n < p->total; n++) {
		struct buffer *segment = pool_buffer(p, next);
		if (k == BULK_MAX) {
			qmempool_free_bulk(p, m, some, k);
			k = 0;
		}
		at = next;
		next = chain_next(p, head, at);
		some[k++] = handle_of(at, buffer_generation(segment));
		/* If the segment is corrupted and heads a chain too, free no further ones for it: a
		 * chain of chains has no end. */
		store_relaxed(&segment->handle, some[k - 1]);
		store_release(&segment->owner, m->tag); /* [OWNER] [CHAIN] */
		count_up(&m->counters[COUNT_CHAINED], -1ull);
	}
	qmempool_free_bulk(p, m, some, k);
	store_relaxed(&b->link, 0);
	store_release(&b->handle, head); /* [CHAIN] after the last segment */
}

uint32_t chain_count(const struct qmempool *p, uint64_t head)
{
	uint32_t at = handle_index(head), n = 1;
	for (uint32_t next; n < p->total && (next = chain_next(p, head, at)) != at; at = next)
		n++;
	return n;
}
