/* SPDX-License-Identifier: Apache-2.0
 *
 * shmpool.c - see shmpool.h and binding.h: keys taken apart, answers put together.
 */
#include "shmpool.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "audit.h"
#include "geometry.h"
#include "guard.h"
#include "liveness.h"
#include "lookup.h"
#include "member.h"
#include "recover.h"
#include "slab.h"
#include "token.h"

#include "trim.h"
#include "unfinished.h"

/* Between two recoveries of dead members by a process that never waits. */
#define TEND_NS 100000000

struct shmpool_range shmpool_range(int option)
{
	return geometry_range((enum shmpool_option)option);
}

int shmpool_plan(struct shmpool_geometry *g, struct shmpool_refusal *why)
{
	struct segment s;
	return segment_plan(&s, g, why);
}

int shmpool_create_wait(void *base, int fd, struct shmpool_geometry *g)
{
	struct segment s;
	struct shmpool_refusal why;
	int error = segment_plan(&s, g, &why);
	guard_watch(base, error ? 0 : s.size);
	if (!error)
		error = segment_init(&s, base, fd);
	for (uint32_t i = 0; i < s.geometry.classes && !error; i++) {
		const struct segment view = segment_view(&s, i);
		error = slab_create(&view);
	}
	if (!error)
		segment_ready(&s);
	return guard_watched(error);
}

int shmpool_check(void *base, uint64_t size, int fd, int whole, struct shmpool_refusal *why)
{
	struct segment s;
	guard_watch(base, size);
	int error = segment_check(&s, base, size, fd, why);
	if (!error && whole)
		error = segment_check_rings(&s, why);
	return guard_watched(error);
}

int shmpool_open(void *base, uint64_t size, int fd, const char *path, int made)
{
	struct segment s;
	struct shmpool_refusal why;
	if (path && strlen(path) >= sizeof(s.path))
		return -ENAMETOOLONG;
	madvise(base, size, MADV_DONTDUMP); /* or a core file would contain all payloads */
	guard_watch(base, size);
	int error = segment_check(&s, base, size, fd, &why);
	if (!error)
		error = segment_check_rings(&s, &why);
	if (path)
		strcpy(s.path, path);
	s.writes = path != NULL;
	if (error == -EAGAIN)
		error = -EBADMSG; /* its creator has not finished, and so has died */
	return guard_watched(error ? error : opening_open(&s, made));
}

int shmpool_room(void)
{
	return opening_room() ? 0 : -EXFULL;
}

int shmpool_geometry(int pool, struct shmpool_geometry *g)
{
	const struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return -EBADF;
	*g = p->segment.geometry;
	return 0;
}

int shmpool_close_wait(int pool)
{
	return opening_close((uint32_t)pool);
}

void shmpool_leave(int pool)
{
	opening_leave((uint32_t)pool);
}

void shmpool_leave_file(int fd)
{
	const off_t at = SHARED_OFFSET + offsetof(struct pool_shared, left);
	const uint32_t left = 1;
	uint64_t magic;
	if (pread(fd, &magic, sizeof(magic), 0) == sizeof(magic) && magic == LAYOUT_MAGIC)
		(void)!pwrite(fd, &left, sizeof(left), at);
}

int shmpool_left(const void *header)
{
	return ((const struct pool_shared *)((const char *)header + SHARED_OFFSET))->left != 0;
}

int shmpool_hold(int fd, const char *path, void **page)
{
	return opening_hold(fd, path, page);
}

void shmpool_let_go(void *page)
{
	token_let_go(page);
}

int64_t shmpool_field(uint64_t key, int field)
{
	struct lookup c;
	struct buffer *b;
	uint64_t handle;
	int error = lookup_key(key, &c);
	if (!error)
		error = lookup_buffer(key, &c, &b, &handle);
	if (error)
		return error;
	switch (field) {
	case SHMPOOL_MARK:
		return load_relaxed(&b->mark);
	case SHMPOOL_FLOW_HASH:
		return load_relaxed(&b->flow_hash);
	case SHMPOOL_TIMESTAMP:
		return (int64_t)(load_relaxed(&b->timestamp) & INT64_MAX);
	case SHMPOOL_QUEUE:
		return load_relaxed(&b->queue);
	case SHMPOOL_REDELIVERED:
		return (int64_t)(load_relaxed(&b->redelivered) & INT64_MAX);
	case SHMPOOL_GENERATION:
		return buffer_generation(b);
	case SHMPOOL_ORIGIN:
		return load_relaxed(&b->origin);
	}
	return -EINVAL;
}

int64_t shmpool_set_field(uint64_t key, int field, uint64_t value)
{
	struct lookup c;
	struct buffer *b;
	uint64_t handle;
	int error = lookup_key(key, &c);
	if (!error)
		error = lookup_buffer(key, &c, &b, &handle);
	if (error)
		return error;
	switch (field) {
	case SHMPOOL_MARK:
		store_relaxed(&b->mark, (uint32_t)value);
		return 0;
	case SHMPOOL_FLOW_HASH:
		store_relaxed(&b->flow_hash, (uint32_t)value);
		return 0;
	case SHMPOOL_TIMESTAMP:
		store_relaxed(&b->timestamp, value);
		return 0;
	}
	return -EINVAL;
}

int shmpool_recover_wait(int pool, struct shmpool_recovery *out)
{
	struct lookup c;
	int error = lookup_pool((uint32_t)pool, &c);
	if (error ==
	    -EUSERS) { /* opening_attach() has recovered all that could be; no slot is free */
		*out = (struct shmpool_recovery) {
			.postponed = liveness_dead(&c.p->segment, opening_token((uint32_t)pool))
		};
		return (int)opening_read((uint32_t)pool, 0);
	}
	if (error)
		return error;
	error = recover(c.p, c.m, out);
	return (int)opening_read((uint32_t)pool, error);
}

int shmpool_tend_wait(uint64_t key)
{
	struct lookup c;
	int error = lookup_key(key, &c);
	if (error)
		return error;
	recover_if_due(c.p, c.m);
	store_relaxed(&c.p->tend_ns, (uint64_t)wait_now() + TEND_NS);
	store_relaxed(&c.p->tend_due, 0);
	return 0;
}

int64_t shmpool_trim_wait(int pool, uint64_t keep)
{
	struct lookup c;
	int error = lookup_pool((uint32_t)pool, &c);
	if (error)
		return error;
	int64_t bytes = trim(c.p, c.m, keep);
	return opening_read((uint32_t)pool, bytes);
}

int shmpool_pin_wait(int pool, const struct shmpool_driver *driver)
{
	return opening_pool((uint32_t)pool) ? opening_pin((uint32_t)pool, driver) :
					      opening_missing((uint32_t)pool);
}

int shmpool_pin_more_wait(int pool)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	return p ? pin_more(opening_pinned((uint32_t)pool), p) : opening_missing((uint32_t)pool);
}

int shmpool_unpin_wait(int pool)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	pin_end(opening_pinned((uint32_t)pool), p);
	return 0;
}

int shmpool_pinned(int pool, struct shmpool_pinned *out)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	pin_read(opening_pinned((uint32_t)pool), p, out);
	return (int)opening_read((uint32_t)pool, 0);
}

int shmpool_fate(int pool, uint32_t member)
{
	struct qmempool *p = opening_pool((uint32_t)pool);
	if (!p)
		return opening_missing((uint32_t)pool);
	if (member >= p->segment.members)
		return -ENOENT;
	const struct member *m = segment_member(&p->segment, member);
	uint64_t identity = load_acquire(&m->identity); /* [MEMBER] */
	return identity ?
		       (int)liveness_fate(&p->segment, m, identity, opening_token((uint32_t)pool)) :
		       -ENOENT;
}

int shmpool_audit_wait(int pool, struct shmpool_audit *out, struct shmpool_held *held,
		       size_t held_n, uint64_t *queued, size_t queued_n, uint64_t *met,
		       size_t met_n, int64_t budget_ns)
{
	struct lookup c = { .p = opening_pool((uint32_t)pool) };
	if (!c.p)
		return opening_missing((uint32_t)pool);
	if (load_relaxed(&c.p->closing))
		return -ESHUTDOWN;
	if (met_n < audit_words(c.p->total))
		return -EINVAL;
	int more = audit_step(c.p, out, held, held_n, queued, queued_n, met, budget_ns);
	return (int)opening_read((uint32_t)pool, more);
}
