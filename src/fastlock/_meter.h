/* A client's counters and histograms, for the compiled core: any thread adds, with or without the
 * GIL, and no count is lost. Law: no allocation, nothing of Python. Times are seconds, sums
 * nanoseconds. Counters and bounds are those of _metrics.py. */
#ifndef FASTLOCK_METER_H
#define FASTLOCK_METER_H

enum { FL_ACQUIRED = 0, FL_REFUSED = 2, FL_RELEASED = 5, FL_COUNTERS = 13 };
enum { FL_WAIT, FL_HOLD, FL_TRIP, FL_TIMES };
enum { FL_BOUNDS = 26 };

typedef unsigned long long fl_count_t;
typedef struct {
    fl_count_t counters[FL_COUNTERS];
    fl_count_t buckets[FL_TIMES][FL_BOUNDS + 1];
    fl_count_t sums[FL_TIMES];
} fl_meter;

static const double fl_bounds[FL_BOUNDS] = {
    0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2,
    0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0,
};

static inline fl_count_t fl_add(fl_count_t *where, fl_count_t many) {
    return __atomic_fetch_add(where, many, __ATOMIC_RELAXED);
}
static inline fl_count_t fl_read(const fl_count_t *where) {
    return __atomic_load_n(where, __ATOMIC_RELAXED);
}
/* Nothing is done about what is no time at all: not a number, or for ever. */
static inline void fl_time(fl_meter *meter, int which, double seconds, fl_count_t many) {
    int place = 0, step;
    if (!(seconds < 1e9 && seconds > -1e9)) return;
    if (seconds < 0) seconds = 0;
    for (step = 16; step; step >>= 1)  /* as many as there are bounds below */
        if (place + step <= FL_BOUNDS && seconds > fl_bounds[place + step - 1]) place += step;
    fl_add(&meter->buckets[which][place], many);
    fl_add(&meter->sums[which], (fl_count_t)(seconds * 1e9) * many);
}

#endif
