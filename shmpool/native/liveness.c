/* SPDX-License-Identifier: Apache-2.0
 *
 * liveness.c - see liveness.h.
 */
#include "liveness.h"

enum token_state liveness_ask(struct liveness *q, uint64_t identity)
{
	uint64_t token = member_token(identity);
	if (member_dead(identity))
		return TOKEN_FREE;
	if (token != q->token || !token) {
		q->token = token;
		q->state = token_state(q->s, token, q->own);
	}
	return q->state;
}

enum token_state liveness_ask_member(struct liveness *q, const struct member *m, uint64_t identity)
{
	const enum token_state state = liveness_ask(q, identity);
	return state == TOKEN_FREE && !device_gone(m) ? TOKEN_UNKNOWN : state;
}

enum process_fate liveness_fate(const struct segment *s, const struct member *m, uint64_t identity,
				uint64_t own)
{
	struct liveness q = { .s = s, .own = own };
	struct process process = { load_relaxed(&m->pid), load_relaxed(&m->start),
				   load_relaxed(&m->pid_namespace) };
	switch (liveness_ask_member(&q, m, identity)) {
	case TOKEN_FREE:
		return PROCESS_DEAD;
	case TOKEN_UNKNOWN:
		return PROCESS_UNKNOWN;
	case TOKEN_HELD:
		break;
	}
	return process_suspended(process) ? PROCESS_SUSPENDED : PROCESS_ALIVE;
}

bool liveness_tag_dead(const struct segment *s, uint32_t tag, uint64_t own)
{
	struct liveness q = { .s = s, .own = own };
	const uint32_t number = tag_number(tag);
	if (!tag || number >= s->members)
		return false;
	const struct member *m = segment_member(s, number);
	const uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
	return identity && load_relaxed(&m->tag) == tag && liveness_ask(&q, identity) == TOKEN_FREE;
}

uint32_t liveness_dead(const struct segment *s, uint64_t own)
{
	struct liveness q = { .s = s, .own = own };
	uint32_t dead = 0;
	for (uint32_t i = 0; i < s->members; i++) {
		const struct member *m = segment_member(s, i);
		const uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
		dead += identity && liveness_ask_member(&q, m, identity) == TOKEN_FREE;
	}
	return dead;
}
