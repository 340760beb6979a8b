
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_EVENTS_H_INCLUDED_
#define _NGX_ASANA_EVENTS_H_INCLUDED_


#include "ngx_asana.h"


/*
 * The latest events of a zone, in its shared memory: a ring of records, of
 * which the oldest one makes room for the newest.
 */

/* bytes of all texts of a record */
#define NGX_ASANA_EVENTS_TEXT  477


/* what an event tells; the key is the last, for it is cut if it has no room */

typedef enum {
    NGX_ASANA_EVENT_ID = 0,
    NGX_ASANA_EVENT_ADDRESS,
    NGX_ASANA_EVENT_REASON,
    NGX_ASANA_EVENT_KEY,
    NGX_ASANA_EVENT_TEXTS
} ngx_asana_event_text_e;


typedef struct {
    time_t                time;
    ngx_uint_t            word;      /* below 256 */
    ngx_uint_t            dry_run;   /* 0 or 1, as the next one */
    ngx_uint_t            cut;       /* 1: there is less than the whole key */
    ngx_str_t             text[NGX_ASANA_EVENT_TEXTS];
    u_char                buf[NGX_ASANA_EVENTS_TEXT];   /* of next() */
} ngx_asana_event_t;


typedef struct ngx_asana_events_s  ngx_asana_events_t;


/*
 * Allocates the ring, whose size depends on that of the pool: 128 records for
 * 1m, 4 to 1024, a sixteenth of it.  NULL: the pool is too small.
 */
ngx_asana_events_t *ngx_asana_events_create(ngx_slab_pool_t *shpool);

/* In the master: takes over what the ring of before has, as far as it fits. */
void ngx_asana_events_copy(ngx_asana_events_t *events,
    ngx_asana_events_t *before);

/*
 * Adds an event, by a copy of its texts; "cut" is not read.  The pool's mutex
 * is taken to copy one record.
 */
void ngx_asana_events_add(ngx_asana_events_t *events,
    ngx_asana_event_t *event);

/*
 * Reads the newest event that is older than *number, or the newest of all for
 * 0, and sets *number to its own; NGX_DONE if there is none.  What a process
 * had not written to its end when it died is passed over.  The texts are in
 * event->buf.  Takes the mutex, too.
 */
ngx_int_t ngx_asana_events_next(ngx_asana_events_t *events, uint64_t *number,
    ngx_asana_event_t *event);


#endif /* _NGX_ASANA_EVENTS_H_INCLUDED_ */
