
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_counters.h"


/* seconds for which a create call is believed to be in flight */
#define NGX_ASANA_CREATING  60


ngx_uint_t  ngx_asana_counters_bounds[NGX_ASANA_BUCKETS] = {
    100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000,
    500000, 1000000, 2500000
};


const char  *ngx_asana_counters_answers[NGX_ASANA_ANSWERS] = {
    "success", "2xx", "3xx", "4xx", "5xx", "aborted"
};


uint64_t
ngx_asana_counters_now(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}


void
ngx_asana_counters_time(ngx_asana_times_t *times, uint64_t start)
{
    uint64_t    usec;
    ngx_uint_t  i;

    usec = ngx_asana_counters_now() - start;

    for (i = 0; i < NGX_ASANA_BUCKETS; i++) {
        if (usec <= ngx_asana_counters_bounds[i]) {
            break;
        }
    }

    (void) ngx_atomic_fetch_add(&times->usec, usec);
    (void) ngx_atomic_fetch_add(&times->n[i], 1);
}


uint64_t
ngx_asana_counters_total(ngx_asana_times_t *times)
{
    uint64_t    n;
    ngx_uint_t  i;

    n = 0;

    for (i = 0; i <= NGX_ASANA_BUCKETS; i++) {
        n += times->n[i];
    }

    return n;
}


void
ngx_asana_counters_create_begin(ngx_asana_counters_t *counters,
    ngx_asana_create_t *create)
{
    ngx_uint_t         i;
    ngx_atomic_t      *slot;
    ngx_atomic_uint_t  now, until;

    now = ngx_time();

    for (i = 0; i < NGX_ASANA_CREATES; i++) {

        slot = &counters->creates[i];
        until = *slot;

        if ((until <= now || until > now + NGX_ASANA_CREATING)
            && ngx_atomic_cmp_set(slot, until, now + NGX_ASANA_CREATING))
        {
            create->slot = i;
            create->until = now + NGX_ASANA_CREATING;
            return;
        }
    }
}


void
ngx_asana_counters_create_end(ngx_asana_counters_t *counters,
    ngx_asana_create_t *create)
{
    if (create->until) {
        (void) ngx_atomic_cmp_set(&counters->creates[create->slot],
                                  create->until, 0);
        create->until = 0;
    }
}


ngx_uint_t
ngx_asana_counters_creating(ngx_asana_counters_t *counters)
{
    ngx_uint_t         i;
    ngx_atomic_uint_t  now, until;

    now = ngx_time();

    for (i = 0; i < NGX_ASANA_CREATES; i++) {

        until = counters->creates[i];

        /* a clock that was ahead opens no door for long */

        if (until > now && until <= now + NGX_ASANA_CREATING) {
            return 1;
        }
    }

    return 0;
}
