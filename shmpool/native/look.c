/* SPDX-License-Identifier: Apache-2.0
 *
 * look.c - see shmpool.h: the figures of a pool, for who only looks at it.
 */
#include <errno.h>

#include "alf_repair.h"
#include "audit.h"
#include "guard.h"
#include "inquiry.h"
#include "member.h"
#include "recover.h"

int shmpool_guard(void)
{
	return guard_install();
}

int shmpool_intact(int pool)
{
	if (!local_pool((uint32_t)pool))
		return -EBADF;
	return guard_intact((uint32_t)pool) ? 0 : -EBADMSG;
}

int shmpool_stats(int pool, struct shmpool_stats *out)
{
	struct qmempool *p = local_pool((uint32_t)pool);
	if (!p)
		return -EBADF;
	audit_stats(p, out);
	return 0;
}

int shmpool_members(int pool, struct shmpool_member_info *out, size_t n)
{
	struct qmempool *p = local_pool((uint32_t)pool);
	size_t got = 0;
	if (!p)
		return -EBADF;
	for (uint32_t i = 0; i < p->segment.members && got < n; i++) {
		const struct member *m = segment_member(&p->segment, i);
		uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
		if (!identity)
			continue;
		struct shmpool_member_info *info = &out[got++];
		*info = (struct shmpool_member_info) {
			.attached_ns = load_relaxed(&m->attached_ns),
			.token = member_token(identity),
			.number = i,
			.pid = load_relaxed(&m->pid),
			.tid = load_relaxed(&m->tid),
			.start = load_relaxed(&m->start),
			.pid_namespace = load_relaxed(&m->pid_namespace),
			.cached = member_cached(&p->segment, m),
			.held = member_held(m),
			.operation = alf_op_kind(load_acquire(&m->op)), /* [OP] */
			.dead = !member_attached(identity),
		};
		for (int k = 0; k < COUNTERS; k++)
			info->counters[k] = member_counted(m, k);
	}
	return (int)got;
}

int shmpool_dead(int pool)
{
	struct qmempool *p = local_pool((uint32_t)pool);
	if (!p)
		return -EBADF;
	return (int)(inquiry_dead(&p->segment, local_token((uint32_t)pool)) +
		     recover_abandoned(&p->segment));
}
