
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_WALK_H_INCLUDED_
#define _NGX_ASANA_WALK_H_INCLUDED_


#include "ngx_asana_health.h"
#include "ngx_asana_lookup.h"
#include "ngx_asana_task.h"


/* keys of one step */
#define NGX_ASANA_WALK_KEYS  1024


/* in the thread: adds what the zone alone knows */
typedef void (*ngx_asana_walk_merge_pt)(void *data, ngx_str_t *key,
    ngx_asana_secrets_t *secrets);


typedef struct {
    ngx_queue_t               queue;
    ngx_str_t                 key;
    ngx_asana_secrets_t       secrets;    /* without their texts */
} ngx_asana_walk_found_t;


/*
 * A step of a walk through all keys, in the store's thread.  What it has found
 * lies in memory of its own, as a task does.
 */

struct ngx_asana_walk_s {
    ngx_asana_listing_t       listing;    /* must be first */

    /* what is asked for; the zone sets the last four */

    ngx_uint_t                limit;      /* keys to be found; 0: to count */
    ngx_uint_t                health;     /* a bit for each that is sought */
    ngx_str_t                 text;       /* a part of the key */
    time_t                    now;
    time_t                    pending;
    ngx_asana_walk_merge_pt   merge;
    void                     *data;

    /* what is answered; listing.after is the last key that was visited */

    ngx_uint_t                count[NGX_ASANA_HEALTHS];
    time_t                    failing;    /* the first one, or now */
    ngx_queue_t               found;      /* ngx_asana_walk_found_t */
    ngx_uint_t                end;        /* 1: there are no more keys */
    uint64_t                  usec;       /* of CPU time */
    u_char                    buf[NGX_ASANA_MAX_KEY];
};


/*
 * Returns a task of the type WALK that starts behind the key, with task->walk,
 * or NULL if there is no memory.  The text has at most MAX_KEY bytes, or is
 * NULL.
 */
ngx_asana_task_t *ngx_asana_walk_create(ngx_str_t *after, ngx_str_t *text,
    ngx_log_t *log);


#endif /* _NGX_ASANA_WALK_H_INCLUDED_ */
