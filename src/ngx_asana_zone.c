
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The zone has the cache, the counters and the store of a worker.  A look-up
 * asks the cache, then the store; a change goes to the store, and the cache
 * forgets what was changed.
 */


#include "ngx_asana_zone.h"
#include "ngx_asana_cache.h"
#include "ngx_asana_walk.h"


/* seconds after which a stored time of a delivery is too old */
#define NGX_ASANA_ZONE_WRITE_BACK  3600

/* later than all positions that an entry may have been read at */
#define NGX_ASANA_ZONE_ANY         ((uint64_t) -1)


/* in shared memory */

typedef struct {
    ngx_asana_cache_t         *cache;
    ngx_asana_events_t        *events;
    ngx_asana_counters_t       counters;
    ngx_atomic_t               shared[NGX_ASANA_SHARED];
} ngx_asana_zone_shctx_t;


struct ngx_asana_zone_s {
    ngx_asana_backend_t       *backend;
    ngx_asana_backend_conf_t  *conf;
    ngx_asana_store_t         *store;      /* of this worker */
    ngx_asana_zone_shctx_t    *sh;
    ngx_slab_pool_t           *shpool;
};


static ngx_int_t ngx_asana_zone_found(ngx_asana_zone_t *zone,
    ngx_asana_lookup_t *lookup);
static void ngx_asana_zone_found_handler(ngx_asana_lookup_t *lookup);
static ngx_int_t ngx_asana_zone_visit(ngx_asana_listing_t *listing,
    ngx_str_t *key, ngx_asana_secrets_t *secrets);
static void ngx_asana_zone_listed(ngx_asana_listing_t *listing);
static time_t ngx_asana_zone_interval(ngx_asana_zone_t *zone);
static void ngx_asana_zone_write_back(ngx_asana_zone_t *zone, ngx_str_t *key,
    ngx_asana_secret_t *secret);
static void ngx_asana_zone_merge(void *data, ngx_str_t *key,
    ngx_asana_secrets_t *secrets);
static void ngx_asana_zone_done(ngx_asana_task_t *task,
    ngx_asana_outcome_e outcome);
static void ngx_asana_zone_forget(void *data, ngx_str_t *key,
    uint64_t position);
static void ngx_asana_zone_committed(void *data, uint64_t version);


ngx_asana_zone_t *
ngx_asana_zone_create(ngx_pool_t *pool, ngx_asana_backend_t *backend,
    ngx_asana_backend_conf_t *conf)
{
    ngx_asana_zone_t  *zone;

    zone = ngx_pcalloc(pool, sizeof(ngx_asana_zone_t));
    if (zone == NULL) {
        return NULL;
    }

    zone->backend = backend;
    zone->conf = conf;

    conf->forget = ngx_asana_zone_forget;
    conf->done = ngx_asana_zone_done;
    conf->moved = ngx_asana_zone_committed;
    conf->data = zone;

    return zone;
}


ngx_int_t
ngx_asana_zone_init(ngx_asana_zone_t *zone, ngx_shm_zone_t *shm_zone,
    ngx_asana_zone_t *old, ngx_uint_t resized)
{
    size_t                   len;
    ngx_asana_zone_shctx_t  *sh;

    zone->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if ((old && !resized) || shm_zone->shm.exists) {
        zone->sh = zone->shpool->data;
        zone->conf->shared = zone->sh->shared;
        zone->conf->counters = &zone->sh->counters;
        return NGX_OK;
    }

    sh = ngx_slab_calloc(zone->shpool, sizeof(ngx_asana_zone_shctx_t));
    if (sh == NULL) {
        return NGX_ERROR;
    }

    sh->cache = ngx_asana_cache_create(zone->shpool);
    if (sh->cache == NULL) {
        return NGX_ERROR;
    }

    sh->events = ngx_asana_events_create(zone->shpool);
    if (sh->events == NULL) {
        return NGX_ERROR;
    }

    len = sizeof(" in asana_hook_zone \"\"") + shm_zone->shm.name.len;

    zone->shpool->log_ctx = ngx_slab_alloc(zone->shpool, len);
    if (zone->shpool->log_ctx == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(zone->shpool->log_ctx, " in asana_hook_zone \"%V\"%Z",
                &shm_zone->shm.name);

    /* a full zone is no error: the store has what does not fit */
    zone->shpool->log_nomem = 0;

    if (old && old->sh) {

        /* secrets are read again, but create calls of before are in flight */

        sh->counters = old->sh->counters;
        ngx_asana_events_copy(sh->events, old->sh->events);
    }

    zone->shpool->data = sh;
    zone->sh = sh;
    zone->conf->shared = sh->shared;
    zone->conf->counters = &sh->counters;

    return NGX_OK;
}


ngx_int_t
ngx_asana_zone_open(ngx_asana_zone_t *zone, ngx_cycle_t *cycle)
{
    zone->store = ngx_asana_store_create(zone->backend, zone->conf,
                                         cycle->log);
    if (zone->store == NULL) {
        return NGX_ERROR;
    }

    ngx_asana_store_open(zone->store);

    return NGX_OK;
}


void
ngx_asana_zone_close(ngx_asana_zone_t *zone)
{
    if (zone->store) {
        ngx_asana_store_close(zone->store);
        zone->store = NULL;
    }
}


ngx_int_t
ngx_asana_zone_find(ngx_asana_zone_t *zone, ngx_asana_lookup_t *lookup)
{
    uint64_t   version;
    ngx_int_t  rc;

    lookup->forgets = ngx_asana_cache_forgets(zone->sh->cache);

    if (!lookup->fresh || ngx_asana_zone_exact(zone)) {

        /* while the store cannot be read, what the cache knows must do */

        version = ngx_asana_store_version(zone->store);

        rc = ngx_asana_cache_get(zone->sh->cache, lookup, version);

        if (rc == NGX_OK) {

            if (version == 0) {

                /* or nobody would hear of what others revoke meanwhile */

                ngx_asana_store_prepare(zone->store);
            }

            if (ngx_asana_secrets_settle(lookup->secrets, ngx_time(),
                                         zone->conf->limits.pending))
            {
                ngx_asana_cache_settle(zone->sh->cache, lookup);
                ngx_asana_zone_write_back(zone, &lookup->key, NULL);
            }

            return lookup->secrets->n ? NGX_OK : NGX_DECLINED;
        }

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }
    }

    (void) ngx_atomic_fetch_add(&zone->sh->counters.lookups, 1);

    /* what the store says now need not be asked for once more */

    lookup->fresh = 1;

    lookup->complete = ngx_asana_zone_found_handler;
    lookup->owner = zone;
    lookup->position = 0;
    lookup->ahead = NULL;

    lookup->rc = ngx_asana_store_find(zone->store, lookup);

    return (lookup->rc == NGX_OK) ? ngx_asana_zone_found(zone, lookup)
                                  : lookup->rc;
}


void
ngx_asana_zone_cancel(ngx_asana_zone_t *zone, ngx_queue_t *q)
{
    ngx_asana_store_cancel(zone->store, q);
}


static void
ngx_asana_zone_found_handler(ngx_asana_lookup_t *lookup)
{
    ngx_asana_zone_t  *zone;

    zone = lookup->owner;

    if (lookup->rc == NGX_OK) {
        lookup->rc = ngx_asana_zone_found(zone, lookup);

    } else {
        ngx_asana_store_prepare(zone->store);
    }

    lookup->handler(lookup);
}


static ngx_int_t
ngx_asana_zone_found(ngx_asana_zone_t *zone, ngx_asana_lookup_t *lookup)
{
    ngx_uint_t  ahead, moved;

    ahead = ngx_asana_secrets_settle(lookup->secrets, ngx_time(),
                                     zone->conf->limits.pending);

    if (lookup->ahead) {

        /* keys are forgotten after this has moved */

        lookup->filled = ngx_asana_cache_forgets(zone->sh->cache);
        ngx_memory_barrier();
        moved = *lookup->ahead > lookup->position;

    } else {

        /* a commit under way has moved on, and its sync may take long */

        lookup->filled = lookup->forgets;
        moved = ngx_asana_zone_moved(zone, lookup);
    }

    ngx_asana_cache_put(zone->sh->cache, lookup, moved);

    if (ahead) {

        /* times of a clock that was ahead are to be corrected */

        ngx_asana_zone_write_back(zone, &lookup->key, NULL);
    }

    return lookup->secrets->n ? NGX_OK : NGX_DECLINED;
}


ngx_uint_t
ngx_asana_zone_exact(ngx_asana_zone_t *zone)
{
    /* what cannot be read now is old */

    return zone->backend->exact && ngx_asana_store_version(zone->store) != 0;
}


ngx_uint_t
ngx_asana_zone_moved(ngx_asana_zone_t *zone, ngx_asana_lookup_t *lookup)
{
    uint64_t  now;

    if (lookup->forgets != ngx_asana_cache_forgets(zone->sh->cache)) {
        return 1;
    }

    now = ngx_asana_store_version(zone->store);

    return now && now != lookup->version;
}


ngx_int_t
ngx_asana_zone_list(ngx_asana_zone_t *zone, ngx_asana_listing_t *listing)
{
    listing->visit = ngx_asana_zone_visit;
    listing->complete = ngx_asana_zone_listed;
    listing->owner = zone;

    return ngx_asana_store_list(zone->store, listing);
}


static ngx_int_t
ngx_asana_zone_visit(ngx_asana_listing_t *listing, ngx_str_t *key,
    ngx_asana_secrets_t *secrets)
{
    ngx_asana_zone_t  *zone;

    zone = listing->owner;

    ngx_asana_secrets_settle(secrets, ngx_time(), zone->conf->limits.pending);

    if (secrets->n == 0) {
        return NGX_OK;
    }

    ngx_asana_cache_merge(zone->sh->cache, key, secrets);

    return listing->shown(listing, key, secrets);
}


static void
ngx_asana_zone_listed(ngx_asana_listing_t *listing)
{
    listing->handler(listing);
}


ngx_int_t
ngx_asana_zone_stat(ngx_asana_zone_t *zone, ngx_asana_stat_t *stat)
{
    return ngx_asana_store_stat(zone->store, stat);
}


/*
 * It is written back at the first delivery, for it proves the secret, when
 * answers become others, and then often enough that a restart does not take an
 * active secret for an inactive one.
 */

ngx_uint_t
ngx_asana_zone_note(ngx_asana_zone_t *zone, ngx_str_t *key, uint32_t hash,
    ngx_asana_secret_t *secret, ngx_asana_answer_e answer)
{
    ngx_uint_t  bits;

    (void) ngx_atomic_fetch_add(&zone->sh->counters.answers[answer], 1);

    bits = ngx_asana_cache_note(zone->sh->cache, key, hash, secret,
                                answer == NGX_ASANA_ANSWER_SUCCESS,
                                ngx_asana_zone_interval(zone));

    if (bits & NGX_ASANA_CACHE_DUE) {
        ngx_asana_zone_write_back(zone, key, secret);
    }

    return (bits & NGX_ASANA_CACHE_TURNED) ? 1 : 0;
}


static time_t
ngx_asana_zone_interval(ngx_asana_zone_t *zone)
{
    return ngx_min(NGX_ASANA_ZONE_WRITE_BACK, zone->conf->limits.inactive / 2);
}


static void
ngx_asana_zone_write_back(ngx_asana_zone_t *zone, ngx_str_t *key,
    ngx_asana_secret_t *secret)
{
    ngx_asana_task_t    *task;
    ngx_asana_change_t  *change;

    task = ngx_asana_task_create(NGX_ASANA_NOTE, key, ngx_cycle->log);
    if (task == NULL) {
        return;
    }

    change = &task->change;

    if (secret) {
        change->verified = secret->verified;
        change->answered = secret->answered;
        change->failing = secret->failing;
        change->code = secret->code;

        ngx_memcpy(change->id, secret->id, NGX_ASANA_ID_LEN);
    }

    (void) ngx_asana_zone_post(zone, task);
}


ngx_int_t
ngx_asana_zone_post(ngx_asana_zone_t *zone, ngx_asana_task_t *task)
{
    if (zone->store == NULL) {

        /* the worker has ended */

        ngx_asana_task_free(task);
        return NGX_ERROR;
    }

    if (task->walk) {
        task->walk->now = ngx_time();
        task->walk->failing = task->walk->now;
        task->walk->pending = zone->conf->limits.pending;
        task->walk->merge = ngx_asana_zone_merge;
        task->walk->data = zone;
    }

    return ngx_asana_store_post(zone->store, task);
}


/* in the store's thread */

static void
ngx_asana_zone_merge(void *data, ngx_str_t *key, ngx_asana_secrets_t *secrets)
{
    ngx_asana_zone_t *zone = data;

    ngx_asana_cache_merge(zone->sh->cache, key, secrets);
}


/*
 * What was changed is forgotten before anybody hears of it: while the store
 * cannot be read, a revoked secret must not live on in the cache.  A time that
 * the store did not take is claimed again soon, or a secret that has verified
 * a delivery would pass for one that never did.
 */

static void
ngx_asana_zone_done(ngx_asana_task_t *task, ngx_asana_outcome_e outcome)
{
    ngx_asana_zone_t    *zone;
    ngx_asana_secret_t   noted;

    zone = task->owner;

    if (task->change.type != NGX_ASANA_NOTE) {

        if (task->changes > 1
            || (task->changes && outcome < NGX_ASANA_CHANGED))
        {
            /* of several keys only one is known here */

            ngx_asana_cache_forget(zone->sh->cache, NULL, NGX_ASANA_ZONE_ANY);

        } else if (outcome >= NGX_ASANA_CHANGED) {
            ngx_asana_cache_forget(zone->sh->cache, &task->key,
                                   NGX_ASANA_ZONE_ANY);
        }

    } else if (outcome <= NGX_ASANA_FULL) {
        ngx_asana_cache_forgive(zone->sh->cache, &task->key, task->change.id,
                                task->change.verified,
                                ngx_asana_zone_interval(zone));

    } else if (outcome >= NGX_ASANA_HELD) {
        ngx_memcpy(noted.id, task->change.id, NGX_ASANA_ID_LEN);
        noted.created = 0;
        noted.verified = task->change.verified;
        noted.answered = task->change.answered;
        noted.failing = task->change.failing;
        noted.code = task->change.code;

        (void) ngx_asana_secrets_settle_one(&noted, ngx_time());

        ngx_asana_cache_noted(zone->sh->cache, &task->key, &noted);
    }
}


static void
ngx_asana_zone_forget(void *data, ngx_str_t *key, uint64_t position)
{
    ngx_asana_zone_t *zone = data;

    ngx_asana_cache_forget(zone->sh->cache, key, position);
}


static void
ngx_asana_zone_committed(void *data, uint64_t version)
{
    ngx_asana_zone_t *zone = data;

    ngx_asana_cache_moved(zone->sh->cache, version);
}


ngx_asana_counters_t *
ngx_asana_zone_counters(ngx_asana_zone_t *zone)
{
    return &zone->sh->counters;
}


ngx_asana_events_t *
ngx_asana_zone_events(ngx_asana_zone_t *zone)
{
    return zone->sh->events;
}


const char *
ngx_asana_zone_backend(ngx_asana_zone_t *zone)
{
    return zone->backend->name;
}


void
ngx_asana_zone_usage(ngx_asana_zone_t *zone, ngx_asana_zone_usage_t *usage)
{
    usage->entries = ngx_asana_cache_entries(zone->sh->cache);
    usage->size = zone->shpool->end - (u_char *) zone->shpool;

    ngx_shmtx_lock(&zone->shpool->mutex);

    usage->used = usage->size - zone->shpool->pfree * ngx_pagesize;

    ngx_shmtx_unlock(&zone->shpool->mutex);
}
