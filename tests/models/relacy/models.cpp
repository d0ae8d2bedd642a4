// SPDX-License-Identifier: Apache-2.0
//
// models.cpp - runs a scenario under Relacy's random scheduler.
//
// Usage: models list | models SCENARIO INTERLEAVINGS [--weaken ACCESS PLACE ORDER [FUNCTION]]
// Prints how often each event of the scenario occurred. Exit status: 0 nothing found; 1 found, and
// a history follows; 2 usage.

#include "death.h"
#include "flow.h"
#include "topic.h"

struct scenario {
	const char *name;
	rl::simulate_f run;
};

static const scenario scenarios[] = {
	{ "multi-multi", rl::simulate<pass<4, 2, 3, 1>> },
	{ "multi-multi-bulk", rl::simulate<pass<4, 2, 4, 2>> },
	{ "single-single", rl::simulate<pass<4, 1, 3, 2, ALF_SINGLE, ALF_SINGLE, 1>> },
	{ "single-multi", rl::simulate<pass<4, 1, 6, 2, ALF_SINGLE>> },
	{ "multi-single", rl::simulate<pass<4, 3, 2, 2, ALF_MULTI, ALF_SINGLE>> },
	{ "laps-of-2", rl::simulate<pass<2, 2, 3, 1>> },
	{ "laps-of-2-single",
	  rl::simulate<pass<2, 1, 6, 2, ALF_SINGLE_WAKES, ALF_SINGLE_WAKES, 1>> },
	{ "laps-of-4", rl::simulate<pass<4, 2, 6, 3>> },
	{ "cycle", rl::simulate<cycle<2, 1, 2>> },
	{ "cycle-bulk", rl::simulate<cycle<4, 2, 2>> },
	{ "sleep-empty", rl::simulate<sleep_empty<2, ALF_MULTI>> },
	{ "sleep-empty-single", rl::simulate<sleep_empty<1, ALF_SINGLE_WAKES>> },
	{ "sleep-full", rl::simulate<sleep_full<ALF_MULTI>> },
	{ "sleep-full-single", rl::simulate<sleep_full<ALF_SINGLE_WAKES>> },
	{ "dead-producer", rl::simulate<dead_producer<1, ALF_MULTI>> },
	{ "dead-producer-bulk", rl::simulate<dead_producer<2, ALF_MULTI>> },
	{ "dead-producer-single", rl::simulate<dead_producer<2, ALF_SINGLE>> },
	{ "dead-consumer", rl::simulate<dead_consumer<1, ALF_MULTI>> },
	{ "dead-consumer-bulk", rl::simulate<dead_consumer<2, ALF_MULTI>> },
	{ "dead-consumer-single", rl::simulate<dead_consumer<2, ALF_SINGLE>> },
	{ "topic", rl::simulate<topic_flow<2>> },
	{ "topic-readers", rl::simulate<topic_flow<1>> },
	{ "topic-dead-reader", rl::simulate<topic_death> },
};

static int usage()
{
	std::cerr << "usage: models list | models SCENARIO INTERLEAVINGS"
		     " [--weaken ACCESS PLACE ORDER [FUNCTION]]\n";
	return 2;
}

template <typename T> static bool find(const char *word, const char *const *names, int n, T *found)
{
	for (int i = 0; i < n; i++)
		if (!strcmp(word, names[i])) {
			*found = (T)i;
			return true;
		}
	return false;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "list")) {
		for (const scenario &s : scenarios)
			std::cout << s.name << "\n";
		return 0;
	}
	if (argc != 3 && argc != 7 && argc != 8)
		return usage();
	if (argc > 3) {
		weakened.any = true;
		if (strcmp(argv[3], "--weaken") ||
		    !find(argv[4], access_name, ACCESSES, &weakened.access) ||
		    !find(argv[5], place_name, PLACES, &weakened.place) ||
		    !find(argv[6], order_name, 5, &weakened.order))
			return usage();
		if (argc == 8)
			weakened.function = argv[7];
	}
	for (const scenario &s : scenarios) {
		if (strcmp(argv[1], s.name))
			continue;
		rl::test_params params;
		std::ostringstream progress;
		params.progress_stream = &progress;
		params.iteration_count = strtoull(argv[2], nullptr, 10);
		bool clean = rl::simulate_f(s.run)(params);
		for (int i = 0; i < EVENTS; i++)
			std::cout << event_name[i] << " " << events[i] << "\n";
		return clean ? 0 : 1;
	}
	return usage();
}
