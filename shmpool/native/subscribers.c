/* SPDX-License-Identifier: Apache-2.0
 *
 * subscribers.c - see recovery.h: subscribers of topics whose processes are dead.
 *
 * A subscriber belongs to a process and not to a member: it lives as long as the token. A dead one
 * stays DEAD, and nobody else can be this subscriber, until a recoverer has swept all buffers: then
 * no holders word has its bit.
 */
#include "liveness.h"
#include "recovery.h"
#include "topic.h"

/* Returns the ring of a queue slot if it is a topic, else NULL. */
static const struct alf_ring *topic_ring(struct recovery *r, uint32_t queue)
{
	const struct alf_ring *ring = recovery_ring(r, queue);
	return ring && topic_is(ring) ? ring : NULL;
}

/* Marks the dead subscribers of a topic. */
static struct topic_gone mark_topic(struct recovery *r, struct liveness *q,
				    const struct alf_ring *ring)
{
	struct topic_gone gone = { 0 };
	for (uint32_t i = 0; i < SUBSCRIBERS_MAX; i++) {
		uint64_t *word = &topic_of(ring)->subscriber[i].state;
		uint64_t state = load_acquire(word); /* [TOPIC] */
		const uint64_t token = state & ~TOPIC_STATE_MASK;
		if (!state)
			continue;
		if ((state & TOPIC_STATE_MASK) != TOPIC_DEAD) {
			const enum token_state life = liveness_ask(q, MEMBER_ATTACHED | token);
			r->out->unknown += life == TOKEN_UNKNOWN;
			r->unasked = r->unasked || life == TOKEN_UNKNOWN;
			if (life != TOKEN_FREE ||
			    (!cas_seq_cst(word, &state, TOPIC_DEAD | token) && /* [TOPIC] */
			     state != (TOPIC_DEAD | token)))
				continue;
		}
		gone.state[i] = TOPIC_DEAD | token;
		gone.bits |= 1u << i;
	}
	return gone;
}

void subscribers_mark(struct recovery *r)
{
	struct liveness q = { .s = &r->p->segment, .own = r->token };
	r->subscribers = false;
	for (uint32_t i = 1; i <= r->p->segment.geometry.queues; i++) {
		const struct alf_ring *ring = topic_ring(r, i);
		r->gone[i].bits = 0;
		if (ring)
			r->gone[i] = mark_topic(r, &q, ring);
		r->subscribers |= r->gone[i].bits != 0;
	}
}

void subscribers_evict(struct recovery *r)
{
	for (uint32_t i = 1; i <= r->p->segment.geometry.queues; i++)
		if (r->gone[i].bits &&
		    load_relaxed(&topic_of(recovery_ring(r, i))->keepers) & r->gone[i].bits)
			topic_evict_due(r->p, recovery_ring(r, i));
}

void subscribers_vacate(struct recovery *r)
{
	for (uint32_t i = 1; i <= r->p->segment.geometry.queues; i++)
		if (r->gone[i].bits && !r->no_memory)
			r->out->subscribers += topic_vacate(recovery_ring(r, i), &r->gone[i]);
}
