/* SPDX-License-Identifier: Apache-2.0
 *
 * tend.c - see tend.h.
 */
#include "tend.h"

#include <sys/stat.h>

#include "recover.h"
#include "topic.h"

void tend_add(struct tend *t, struct qmempool *p, const struct place *place)
{
	uint32_t i = 0;
	while (i < t->pools && t->pool[i] != place->number)
		i++;
	if (i == t->pools && i < OPENING_POOLS_MAX)
		t->pool[t->pools++] = place->number;
	if (t->topics < TEND_TOPICS && place_publishes(p, place)) {
		t->topic[t->topics].pool = place->number;
		t->topic[t->topics++].number = place->index;
	}
}

void tend_topics(const struct tend *t)
{
	for (uint32_t i = 0; i < t->topics; i++) {
		uint32_t *at = opening_begin(t->topic[i].pool);
		struct shmpool_recovery out;
		struct lookup c;
		if (!lookup_pool(t->topic[i].pool, &c)) {
			c.ring = queue_ring(c.p, t->topic[i].number);
			if (c.ring && topic_blocked_by_dead(c.p, c.m, c.ring))
				recover_passes(c.p, c.m, &out, 1);
		}
		opening_end(at);
	}
}

static bool replaced(const struct segment *s)
{
	struct stat file;
	return s->path[0] && !stat(s->path, &file) &&
	       (file.st_dev != s->device || file.st_ino != s->inode);
}

bool tend_pool(uint32_t number)
{
	uint32_t *at = opening_begin(number);
	struct lookup c;
	bool other = false;
	if (!lookup_pool(number, &c)) {
		recover_if_due(c.p, c.m);
		other = replaced(&c.p->segment);
	}
	opening_end(at);
	return other;
}
