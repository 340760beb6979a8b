
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * An event has a number, which grows by one, and lies in the record of this
 * number modulo "n".  The number is written when the record is whole: where a
 * process was killed before, there is one that is too old.
 *
 *     last = 6, n = 4:    4 | 5 | 2 | 3        of 6 nothing is seen
 */


#include "ngx_asana_events.h"


/* bytes of the pool for each record, which has 504 of them */
#define NGX_ASANA_EVENTS_SHARE  8192

#define NGX_ASANA_EVENTS_MIN    4
#define NGX_ASANA_EVENTS_MAX    1024


typedef struct {
    uint64_t               number;
    time_t                 time;
    u_short                len[NGX_ASANA_EVENT_TEXTS];
    u_char                 word;
    u_char                 dry_run;
    u_char                 cut;
    u_char                 text[NGX_ASANA_EVENTS_TEXT];
} ngx_asana_events_record_t;


struct ngx_asana_events_s {
    ngx_slab_pool_t             *shpool;
    uint64_t                     last;
    ngx_uint_t                   n;
    ngx_asana_events_record_t    records[1];
};


ngx_asana_events_t *
ngx_asana_events_create(ngx_slab_pool_t *shpool)
{
    ngx_uint_t           n;
    ngx_asana_events_t  *events;

    n = (shpool->end - (u_char *) shpool) / NGX_ASANA_EVENTS_SHARE;
    n = ngx_max(n, NGX_ASANA_EVENTS_MIN);
    n = ngx_min(n, NGX_ASANA_EVENTS_MAX);

    events = ngx_slab_calloc(shpool, offsetof(ngx_asana_events_t, records)
                                     + n * sizeof(ngx_asana_events_record_t));
    if (events == NULL) {
        return NULL;
    }

    events->shpool = shpool;
    events->n = n;

    return events;
}


void
ngx_asana_events_copy(ngx_asana_events_t *events, ngx_asana_events_t *before)
{
    uint64_t           number, next;
    ngx_asana_event_t  event;

    number = 0;

    while (ngx_asana_events_next(before, &number, &event) == NGX_OK) {
        /* void */
    }

    /* from the oldest one on; of those that come meanwhile some are missed */

    for (next = number; next && next <= before->last; next++) {

        number = next + 1;

        if (ngx_asana_events_next(before, &number, &event) == NGX_OK
            && number == next)
        {
            ngx_asana_events_add(events, &event);
        }
    }
}


void
ngx_asana_events_add(ngx_asana_events_t *events, ngx_asana_event_t *event)
{
    size_t                      len, size;
    ngx_uint_t                  i;
    ngx_asana_events_record_t  *record, new;

    new.time = event->time;
    new.word = (u_char) event->word;
    new.dry_run = (u_char) event->dry_run;
    size = 0;

    for (i = 0; i < NGX_ASANA_EVENT_TEXTS; i++) {

        len = ngx_min(event->text[i].len, NGX_ASANA_EVENTS_TEXT - size);

        if (len) {
            ngx_memcpy(new.text + size, event->text[i].data, len);
        }

        new.len[i] = (u_short) len;

        size += len;
    }

    new.cut = (new.len[NGX_ASANA_EVENT_KEY]
               < event->text[NGX_ASANA_EVENT_KEY].len);

    size += offsetof(ngx_asana_events_record_t, text)
            - offsetof(ngx_asana_events_record_t, time);

    ngx_shmtx_lock(&events->shpool->mutex);

    new.number = ++events->last;
    record = &events->records[new.number % events->n];

    ngx_memory_barrier();

    ngx_memcpy(&record->time, &new.time, size);

    ngx_memory_barrier();
    record->number = new.number;

    ngx_shmtx_unlock(&events->shpool->mutex);
}


ngx_int_t
ngx_asana_events_next(ngx_asana_events_t *events, uint64_t *number,
    ngx_asana_event_t *event)
{
    u_char                     *p;
    uint64_t                    i, first;
    ngx_uint_t                  n;
    ngx_asana_events_record_t   found, *record;

    ngx_shmtx_lock(&events->shpool->mutex);

    first = (events->last > events->n) ? events->last - events->n + 1 : 1;

    for (i = *number ? *number - 1 : events->last; i >= first; i--) {

        record = &events->records[i % events->n];

        if (record->number == i) {
            found = *record;
            break;
        }
    }

    ngx_shmtx_unlock(&events->shpool->mutex);

    if (i < first) {
        return NGX_DONE;
    }

    *number = i;

    event->time = found.time;
    event->word = found.word;
    event->dry_run = found.dry_run;
    event->cut = found.cut;

    ngx_memcpy(event->buf, found.text, NGX_ASANA_EVENTS_TEXT);
    p = event->buf;

    for (n = 0; n < NGX_ASANA_EVENT_TEXTS; n++) {
        event->text[n].len = found.len[n];
        event->text[n].data = p;
        p += found.len[n];
    }

    return NGX_OK;
}
