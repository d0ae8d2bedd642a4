/* SPDX-License-Identifier: Apache-2.0
 *
 * test_scan.c - damaged capture files: whatever the bytes are, a scan ends, and reads only its
 * window. ../test_scan.py builds it with the sanitizers. The window is memory of exactly the bytes
 * that it has, so an access behind them is found.
 *
 *     program FILE ROUNDS
 *
 * Prints how many packets, errors and requests for more bytes it has seen.
 */
#include "scan.h"

static uint64_t state = 88172645463325252ull;

static uint64_t random_word(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t packets, errors, more, summed;

static void use(struct scan *s, const struct scan_packet *found)
{
	const uint8_t *at = found->options, *value;
	uint32_t left = found->size, size;
	for (uint32_t i = 0; i < found->packet.length; i++)
		summed += (uint8_t)found->packet.data[i];
	while (scan_option(s, &at, &left, &value, &size) > 0)
		for (uint32_t i = 0; i < size; i++)
			summed += value[i];
	summed += (uint64_t)scan_time(s, found);
	packets++;
}

/* Scans n bytes, which end in the middle of a record or not. */
static void scan(const uint8_t *from, size_t n)
{
	uint8_t *window = malloc(n ? n : 1);
	struct scan s = { .at = window, .end = window + n };
	struct scan_packet found = { 0 };
	enum scan_found is = SCAN_OTHER;
	memcpy(window, from, n);
	const bool begun = n >= 4 && scan_begin(&s);
	while (begun && s.at < s.end && is != SCAN_MORE && is != SCAN_WRONG) {
		const uint8_t *before = s.at;
		is = scan_step(&s, &found);
		if (is == SCAN_PACKET)
			use(&s, &found);
		if (is == SCAN_WRONG)
			errors += strlen(s.why) > 0;
		if (is == SCAN_MORE)
			more += s.needed > (uint64_t)(s.end - s.at);
		if (s.at == before && is != SCAN_MORE && is != SCAN_WRONG)
			exit(3); /* it would never end */
	}
	free(s.interface);
	free(window);
}

int main(int argc, char **argv)
{
	static uint8_t whole[1 << 20], damaged[1 << 20];
	static const uint32_t words[] = { 0,          1,          0xffffffff, 0x7fffffff,
					  0x80000000, 0x07ffffff, 12,         0x0a0d0d0a };
	FILE *file = argc == 3 ? fopen(argv[1], "rb") : NULL;
	if (!file)
		return 2;
	const size_t size = fread(whole, 1, sizeof(whole), file);
	fclose(file);
	for (long rounds = atol(argv[2]); rounds; rounds--) {
		const size_t n = random_word() % 8 ? size : random_word() % (size + 1);
		memcpy(damaged, whole, n);
		for (uint64_t times = random_word() % 6; n >= 8 && times; times--) {
			const size_t at = random_word() % (n - 4);
			if (random_word() % 2)
				damaged[at] = (uint8_t)random_word();
			else
				memcpy(damaged + (at & ~3ul), &words[random_word() % 8], 4);
		}
		scan(damaged, n);
	}
	printf("%llu packets %llu errors %llu more\n", (unsigned long long)packets,
	       (unsigned long long)errors, (unsigned long long)more);
	return 0;
}
