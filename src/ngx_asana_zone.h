
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_ZONE_H_INCLUDED_
#define _NGX_ASANA_ZONE_H_INCLUDED_


#include "ngx_asana_counters.h"
#include "ngx_asana_events.h"
#include "ngx_asana_secrets.h"
#include "ngx_asana_store.h"


typedef struct {
    ngx_uint_t            entries;
    size_t                size;       /* bytes */
    size_t                used;
} ngx_asana_zone_usage_t;


/*
 * All functions but create() and init() are called in a worker's main thread.
 * Where the zone's mutex is taken, it is for a few pointer writes.
 */

/*
 * Returns a zone that is nothing but its configuration, or NULL; conf lives
 * as long as the pool, its last members are the zone's.
 */
ngx_asana_zone_t *ngx_asana_zone_create(ngx_pool_t *pool,
    ngx_asana_backend_t *backend, ngx_asana_backend_conf_t *conf);

/*
 * In the master: attaches the zone to its shared memory, which is new or, if
 * there is an old zone that was not resized, that one's.  NGX_ERROR: it is
 * too small.
 */
ngx_int_t ngx_asana_zone_init(ngx_asana_zone_t *zone, ngx_shm_zone_t *shm_zone,
    ngx_asana_zone_t *old, ngx_uint_t resized);

/* Opens the store for this worker; NGX_ERROR means no memory. */
ngx_int_t ngx_asana_zone_open(ngx_asana_zone_t *zone, ngx_cycle_t *cycle);
void ngx_asana_zone_close(ngx_asana_zone_t *zone);

/*
 * Looks the secrets of lookup->key up, in the cache if it is as new as the
 * store, else in the store.  NGX_OK with at least one, NGX_DECLINED if the key
 * has none, NGX_ERROR if that cannot be known; NGX_AGAIN: the handler is
 * called with one of these in lookup->rc, unless cancel() comes first.
 */
ngx_int_t ngx_asana_zone_find(ngx_asana_zone_t *zone,
    ngx_asana_lookup_t *lookup);
void ngx_asana_zone_cancel(ngx_asana_zone_t *zone, ngx_queue_t *q);

/* Whether a look-up always tells what the store says now; else see "fresh". */
ngx_uint_t ngx_asana_zone_exact(ngx_asana_zone_t *zone);

/* Whether anything has changed since the look-up: another one may differ. */
ngx_uint_t ngx_asana_zone_moved(ngx_asana_zone_t *zone,
    ngx_asana_lookup_t *lookup);

/* As ngx_asana_store_post(); what was changed is forgotten before the answer */
ngx_int_t ngx_asana_zone_post(ngx_asana_zone_t *zone, ngx_asana_task_t *task);

/* As the store's, without expired secrets, with what the zone has counted. */
ngx_int_t ngx_asana_zone_list(ngx_asana_zone_t *zone,
    ngx_asana_listing_t *listing);
ngx_int_t ngx_asana_zone_stat(ngx_asana_zone_t *zone, ngx_asana_stat_t *stat);

/*
 * Notes that a delivery which the secret verified at secret->verified is
 * answered now, with secret->code: in the zone and, if what the store has is
 * too old, there as well.  The secret is a copy without its text, and is
 * changed.  Returns 1 if it has begun to fail or has ceased to, as
 * secret->failing tells.
 */
ngx_uint_t ngx_asana_zone_note(ngx_asana_zone_t *zone, ngx_str_t *key,
    uint32_t hash, ngx_asana_secret_t *secret, ngx_asana_answer_e answer);

/* The counters of all workers, in the zone. */
ngx_asana_counters_t *ngx_asana_zone_counters(ngx_asana_zone_t *zone);

/* The latest decisions that were no success, of all workers, in the zone. */
ngx_asana_events_t *ngx_asana_zone_events(ngx_asana_zone_t *zone);

void ngx_asana_zone_usage(ngx_asana_zone_t *zone,
    ngx_asana_zone_usage_t *usage);

/* The kind of its store, a word. */
const char *ngx_asana_zone_backend(ngx_asana_zone_t *zone);


#endif /* _NGX_ASANA_ZONE_H_INCLUDED_ */
