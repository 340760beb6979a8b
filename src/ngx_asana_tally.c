
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_tally.h"
#include "ngx_asana_walk.h"

#include <ngx_event.h>


/* seconds after which a worker that has not gone on is taken for dead */
#define NGX_ASANA_TALLY_CLAIM  15

/* microseconds that a step takes besides what its thread can measure */
#define NGX_ASANA_TALLY_STEP   300


struct ngx_asana_tally_s {
    ngx_asana_zone_t   *zone;
    ngx_event_t         timer;
    ngx_uint_t          walking;
    ngx_uint_t          count[NGX_ASANA_HEALTHS];   /* so far */
    time_t              failing;
    ngx_str_t           after;
    u_char              buf[NGX_ASANA_MAX_KEY];
};


static ngx_uint_t ngx_asana_tally_claim(ngx_asana_counters_t *counters);
static void ngx_asana_tally_timer(ngx_event_t *ev);
static void ngx_asana_tally_step(ngx_asana_tally_t *tally);
static void ngx_asana_tally_handler(ngx_asana_task_t *task,
    ngx_asana_outcome_e outcome);
static void ngx_asana_tally_end(ngx_asana_tally_t *tally);


ngx_asana_tally_t *
ngx_asana_tally_create(ngx_pool_t *pool, ngx_asana_zone_t *zone)
{
    ngx_asana_tally_t  *tally;

    tally = ngx_pcalloc(pool, sizeof(ngx_asana_tally_t));
    if (tally == NULL) {
        return NULL;
    }

    tally->zone = zone;
    tally->after.data = tally->buf;

    tally->timer.data = tally;
    tally->timer.handler = ngx_asana_tally_timer;
    tally->timer.cancelable = 1;

    return tally;
}


ngx_int_t
ngx_asana_tally(ngx_asana_tally_t *tally, ngx_uint_t *count, time_t *failing,
    time_t *age)
{
    time_t                 now, at, since;
    ngx_uint_t             i;
    ngx_asana_counters_t  *counters;

    counters = ngx_asana_zone_counters(tally->zone);

    now = ngx_time();
    at = counters->tallied;

    if (at != now && !tally->walking && ngx_asana_tally_claim(counters)) {
        tally->walking = 1;
        tally->after.len = 0;
        tally->timer.log = ngx_cycle->log;
        tally->failing = now;
        ngx_memzero(tally->count, sizeof(tally->count));

        ngx_asana_tally_step(tally);
    }

    if (at == 0) {
        return NGX_DECLINED;
    }

    for (i = 0; i < NGX_ASANA_HEALTHS; i++) {
        count[i] = counters->hooks[i];
    }

    since = counters->failing;

    *failing = since ? ngx_max(now - since, 0) : 0;
    *age = ngx_max(now - at, 0);

    return NGX_OK;
}


static ngx_uint_t
ngx_asana_tally_claim(ngx_asana_counters_t *counters)
{
    ngx_atomic_uint_t  now, until;

    now = ngx_time();
    until = counters->tallying;

    return (until <= now || until > now + NGX_ASANA_TALLY_CLAIM)
           && ngx_atomic_cmp_set(&counters->tallying, until,
                                 now + NGX_ASANA_TALLY_CLAIM);
}


static void
ngx_asana_tally_timer(ngx_event_t *ev)
{
    ngx_asana_tally_step(ev->data);
}


static void
ngx_asana_tally_step(ngx_asana_tally_t *tally)
{
    ngx_asana_task_t  *task;

    task = ngx_asana_walk_create(&tally->after, NULL, ngx_cycle->log);

    if (task) {
        task->handler = ngx_asana_tally_handler;
        task->data = tally;

        if (ngx_asana_zone_post(tally->zone, task) == NGX_AGAIN) {
            return;
        }
    }

    ngx_asana_tally_end(tally);
}


static void
ngx_asana_tally_handler(ngx_asana_task_t *task, ngx_asana_outcome_e outcome)
{
    ngx_uint_t              i;
    ngx_str_t              *last;
    ngx_asana_walk_t       *walk;
    ngx_asana_tally_t      *tally;
    ngx_asana_counters_t   *counters;

    tally = task->data;

    if (outcome != NGX_ASANA_HELD) {
        ngx_asana_tally_end(tally);
        return;
    }

    walk = task->walk;
    counters = ngx_asana_zone_counters(tally->zone);

    for (i = 0; i < NGX_ASANA_HEALTHS; i++) {
        tally->count[i] += walk->count[i];
    }

    tally->failing = ngx_min(tally->failing, walk->failing);

    if (!walk->end) {
        last = &walk->listing.after;

        tally->after.len = last->len;
        ngx_memcpy(tally->buf, last->data, last->len);

        counters->tallying = ngx_time() + NGX_ASANA_TALLY_CLAIM;

        /* a hundredth: a tenth of a millisecond for each microsecond */

        ngx_add_timer(&tally->timer,
                      (ngx_msec_t) (walk->usec + NGX_ASANA_TALLY_STEP) / 10);
        return;
    }

    for (i = 0; i < NGX_ASANA_HEALTHS; i++) {
        counters->hooks[i] = tally->count[i];
    }

    counters->failing = tally->count[NGX_ASANA_HEALTH_FAILING] ? tally->failing
                                                               : 0;
    counters->tallied = ngx_time();

    ngx_asana_tally_end(tally);
}


/* whether all of it was counted or not: again in the next second, if ever */

static void
ngx_asana_tally_end(ngx_asana_tally_t *tally)
{
    tally->walking = 0;
    ngx_asana_zone_counters(tally->zone)->tallying = ngx_time() + 1;
}
