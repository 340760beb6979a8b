
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The zone is a cache of the store.  An entry holds all secrets of one key
 * in one piece of slab memory:
 *
 *     entry header | key | secret | secret | ...
 *
 * and is trusted as long as the store has not moved on from the version that
 * filled it.  Only counts and times of deliveries are the zone's own.
 */


#include "ngx_asana_zone.h"


/* what one new entry may push out */
#define NGX_ASANA_ZONE_EVICTIONS   64

/* seconds after which a stored time of a delivery is too old */
#define NGX_ASANA_ZONE_WRITE_BACK  3600


typedef struct {
    ngx_str_node_t            sn;         /* must be first */
    ngx_queue_t               queue;
    uint64_t                  version;
    uint32_t                  capacity;   /* of secrets, bytes */
    uint32_t                  size;       /* of secrets, bytes */
    uint32_t                  n;
    u_char                    data[1];
} ngx_asana_zone_entry_t;


typedef struct {
    ngx_rbtree_t              rbtree;
    ngx_rbtree_node_t         sentinel;
    ngx_queue_t               queue;      /* least recently used last */
    ngx_uint_t                entries;
    ngx_asana_counters_t      counters;
    ngx_atomic_t              shared[NGX_ASANA_SHARED];
} ngx_asana_zone_shctx_t;


struct ngx_asana_zone_s {
    ngx_asana_backend_t      *backend;
    ngx_asana_backend_conf_t   *conf;
    ngx_asana_store_t        *store;      /* of this worker */
    ngx_asana_zone_shctx_t   *sh;
    ngx_slab_pool_t          *shpool;
};


/* the secrets lie behind the key */

#define ngx_asana_zone_entry_size(key_len)                                    \
    ngx_align(offsetof(ngx_asana_zone_entry_t, data) + (key_len), 8)

#define ngx_asana_zone_entry_secrets(entry)                                   \
    ((u_char *) (entry) + ngx_asana_zone_entry_size((entry)->sn.str.len))


static ngx_int_t ngx_asana_zone_found(ngx_asana_zone_t *zone,
    ngx_asana_lookup_t *lookup);
static void ngx_asana_zone_found_handler(ngx_asana_lookup_t *lookup);
static void ngx_asana_zone_fill(ngx_asana_zone_t *zone,
    ngx_asana_lookup_t *lookup);
static ngx_asana_zone_entry_t *ngx_asana_zone_alloc(ngx_asana_zone_t *zone,
    ngx_str_t *key, size_t size);
static ngx_asana_zone_entry_t *ngx_asana_zone_lookup(ngx_asana_zone_t *zone,
    ngx_str_t *key, uint32_t hash);
static void ngx_asana_zone_drop(ngx_asana_zone_t *zone,
    ngx_asana_zone_entry_t *entry);
static ngx_asana_secret_t *ngx_asana_zone_secret(ngx_asana_zone_t *zone,
    ngx_str_t *key, uint32_t hash, u_char *id);
static void ngx_asana_zone_merge(ngx_asana_zone_entry_t *entry,
    ngx_asana_secrets_t *secrets);
static ngx_int_t ngx_asana_zone_visit(void *data, ngx_str_t *key,
    ngx_asana_secrets_t *secrets);
static void ngx_asana_zone_done(ngx_asana_task_t *task,
    ngx_asana_outcome_e outcome);
static void ngx_asana_zone_committed(void *data, uint64_t usec);
static void ngx_asana_zone_forget(void *data, ngx_str_t *key);


typedef struct {
    ngx_asana_zone_t         *zone;
    ngx_asana_visit_pt        visit;
    void                     *data;
} ngx_asana_zone_visit_t;


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

    conf->committed = ngx_asana_zone_committed;
    conf->forget = ngx_asana_zone_forget;
    conf->done = ngx_asana_zone_done;
    conf->data = zone;

    return zone;
}


ngx_int_t
ngx_asana_zone_init(ngx_asana_zone_t *zone, ngx_shm_zone_t *shm_zone,
    ngx_asana_zone_t *old)
{
    size_t                   len;
    ngx_asana_zone_shctx_t  *sh;

    zone->shpool = old ? old->shpool
                       : (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (old || shm_zone->shm.exists) {
        zone->sh = zone->shpool->data;
        zone->conf->shared = zone->sh->shared;
        return NGX_OK;
    }

    sh = ngx_slab_calloc(zone->shpool, sizeof(ngx_asana_zone_shctx_t));
    if (sh == NULL) {
        return NGX_ERROR;
    }

    ngx_rbtree_init(&sh->rbtree, &sh->sentinel, ngx_str_rbtree_insert_value);
    ngx_queue_init(&sh->queue);

    len = sizeof(" in asana_hook_zone \"\"") + shm_zone->shm.name.len;

    zone->shpool->log_ctx = ngx_slab_alloc(zone->shpool, len);
    if (zone->shpool->log_ctx == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(zone->shpool->log_ctx, " in asana_hook_zone \"%V\"%Z",
                &shm_zone->shm.name);

    /* a full zone is no error: the store has what does not fit */
    zone->shpool->log_nomem = 0;

    zone->shpool->data = sh;
    zone->sh = sh;
    zone->conf->shared = sh->shared;

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
    size_t                   size;
    uint64_t                 version;
    ngx_asana_secrets_t     *secrets;
    ngx_asana_zone_entry_t  *entry;

    secrets = lookup->secrets;

    while (zone->backend->exact || !lookup->fresh) {

        version = ngx_asana_store_version(zone->store);

        ngx_shmtx_lock(&zone->shpool->mutex);

        entry = ngx_asana_zone_lookup(zone, &lookup->key, lookup->hash);

        /* while the store cannot be read, what the zone knows must do */

        if (entry == NULL || (version && entry->version != version)) {
            ngx_shmtx_unlock(&zone->shpool->mutex);
            break;
        }

        size = entry->size;

        if (size <= secrets->capacity) {
            ngx_memcpy(secrets->start, ngx_asana_zone_entry_secrets(entry),
                       size);
            secrets->size = size;
            secrets->n = entry->n;
            lookup->version = entry->version;

            ngx_queue_remove(&entry->queue);
            ngx_queue_insert_head(&zone->sh->queue, &entry->queue);

            ngx_shmtx_unlock(&zone->shpool->mutex);

            ngx_asana_secrets_settle(secrets, ngx_time(),
                                     zone->conf->limits.pending);

            return secrets->n ? NGX_OK : NGX_DECLINED;
        }

        ngx_shmtx_unlock(&zone->shpool->mutex);

        if (ngx_asana_secrets_reserve(secrets, size) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    lookup->complete = ngx_asana_zone_found_handler;
    lookup->owner = zone;

    lookup->rc = ngx_asana_store_find(zone->store, lookup);

    return (lookup->rc == NGX_OK) ? ngx_asana_zone_found(zone, lookup)
                                  : lookup->rc;
}


void
ngx_asana_zone_cancel(ngx_asana_zone_t *zone, ngx_asana_lookup_t *lookup)
{
    ngx_asana_store_cancel(zone->store, lookup);
}


static void
ngx_asana_zone_found_handler(ngx_asana_lookup_t *lookup)
{
    if (lookup->rc == NGX_OK) {
        lookup->rc = ngx_asana_zone_found(lookup->owner, lookup);
    }

    lookup->handler(lookup);
}


static ngx_int_t
ngx_asana_zone_found(ngx_asana_zone_t *zone, ngx_asana_lookup_t *lookup)
{
    ngx_asana_zone_fill(zone, lookup);

    ngx_asana_secrets_settle(lookup->secrets, ngx_time(),
                             zone->conf->limits.pending);

    return lookup->secrets->n ? NGX_OK : NGX_DECLINED;
}


ngx_uint_t
ngx_asana_zone_exact(ngx_asana_zone_t *zone)
{
    return zone->backend->exact;
}


ngx_uint_t
ngx_asana_zone_moved(ngx_asana_zone_t *zone, uint64_t version)
{
    uint64_t  now;

    now = ngx_asana_store_version(zone->store);

    return now && now != version;
}


/* keeps what came from the store, with what the zone alone knows of it */

static void
ngx_asana_zone_fill(ngx_asana_zone_t *zone, ngx_asana_lookup_t *lookup)
{
    ngx_uint_t               moved;
    ngx_asana_secrets_t     *secrets;
    ngx_asana_zone_entry_t  *entry;

    secrets = lookup->secrets;

    /* a commit is under way, whose sync may take a while */
    moved = ngx_asana_zone_moved(zone, lookup->version);

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_asana_zone_lookup(zone, &lookup->key, lookup->hash);

    if (entry) {
        ngx_asana_zone_merge(entry, secrets);
    }

    if (moved) {
        goto done;
    }

    if (entry && (secrets->n == 0 || secrets->size > entry->capacity)) {
        ngx_asana_zone_drop(zone, entry);
        entry = NULL;
    }

    if (secrets->n == 0) {
        goto done;
    }

    if (entry == NULL) {
        entry = ngx_asana_zone_alloc(zone, &lookup->key, secrets->size);
        if (entry == NULL) {
            goto done;
        }

        entry->sn.node.key = lookup->hash;
        ngx_rbtree_insert(&zone->sh->rbtree, &entry->sn.node);
        zone->sh->entries++;

        ngx_queue_insert_head(&zone->sh->queue, &entry->queue);
    }

    /* until it is whole again, no version is equal to zero */
    entry->version = 0;

    ngx_memcpy(ngx_asana_zone_entry_secrets(entry), secrets->start,
               secrets->size);
    entry->size = (uint32_t) secrets->size;
    entry->n = (uint32_t) secrets->n;
    entry->version = lookup->version;

done:

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


static ngx_asana_zone_entry_t *
ngx_asana_zone_alloc(ngx_asana_zone_t *zone, ngx_str_t *key, size_t size)
{
    size_t                   len;
    ngx_uint_t               i;
    ngx_queue_t             *q;
    ngx_asana_zone_entry_t  *entry;

    len = ngx_asana_zone_entry_size(key->len);

    for (i = 0; /* void */ ; i++) {
        entry = ngx_slab_alloc_locked(zone->shpool, len + size);

        if (entry) {
            break;
        }

        if (ngx_queue_empty(&zone->sh->queue)
            || i == NGX_ASANA_ZONE_EVICTIONS)
        {
            return NULL;
        }

        q = ngx_queue_last(&zone->sh->queue);
        ngx_asana_zone_drop(zone,
                          ngx_queue_data(q, ngx_asana_zone_entry_t, queue));
    }

    entry->sn.str.len = key->len;
    entry->sn.str.data = entry->data;
    ngx_memcpy(entry->data, key->data, key->len);

    entry->capacity = (uint32_t) size;

    return entry;
}


static ngx_asana_zone_entry_t *
ngx_asana_zone_lookup(ngx_asana_zone_t *zone, ngx_str_t *key, uint32_t hash)
{
    return (ngx_asana_zone_entry_t *)
               ngx_str_rbtree_lookup(&zone->sh->rbtree, key, hash);
}


static void
ngx_asana_zone_drop(ngx_asana_zone_t *zone, ngx_asana_zone_entry_t *entry)
{
    ngx_queue_remove(&entry->queue);
    ngx_rbtree_delete(&zone->sh->rbtree, &entry->sn.node);
    zone->sh->entries--;

    ngx_explicit_memzero(ngx_asana_zone_entry_secrets(entry),
                         entry->capacity);
    ngx_slab_free_locked(zone->shpool, entry);
}


/* the secret in the zone itself, under the mutex, or NULL */

static ngx_asana_secret_t *
ngx_asana_zone_secret(ngx_asana_zone_t *zone, ngx_str_t *key, uint32_t hash,
    u_char *id)
{
    ngx_asana_secrets_t      secrets;
    ngx_asana_zone_entry_t  *entry;

    entry = ngx_asana_zone_lookup(zone, key, hash);
    if (entry == NULL) {
        return NULL;
    }

    secrets.start = ngx_asana_zone_entry_secrets(entry);
    secrets.n = entry->n;

    return ngx_asana_secrets_by_id(&secrets, id);
}


static void
ngx_asana_zone_merge(ngx_asana_zone_entry_t *entry,
    ngx_asana_secrets_t *secrets)
{
    ngx_uint_t            i;
    ngx_asana_secret_t   *s, *old;
    ngx_asana_secrets_t   known;

    known.start = ngx_asana_zone_entry_secrets(entry);
    known.n = entry->n;

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {

        old = ngx_asana_secrets_by_id(&known, s->id);

        if (old) {
            s->deliveries = old->deliveries;
            s->verified = ngx_max(s->verified, old->verified);
            s->stored = ngx_max(s->stored, old->stored);
        }

        s = ngx_asana_secret_next(s);
    }
}


ngx_int_t
ngx_asana_zone_post(ngx_asana_zone_t *zone, ngx_asana_task_t *task)
{
    return ngx_asana_store_post(zone->store, task);
}


/*
 * What was changed is forgotten before anybody hears of it: while the store
 * cannot be read, a revoked secret must not live on in the zone.  A time that
 * the store did not take is claimed again soon, or a secret that has verified
 * a delivery would pass for one that never did.
 */

static void
ngx_asana_zone_done(ngx_asana_task_t *task, ngx_asana_outcome_e outcome)
{
    time_t                   interval;
    uint32_t                 hash;
    ngx_asana_zone_t        *zone;
    ngx_asana_secret_t      *s;
    ngx_asana_zone_entry_t  *entry;

    zone = task->owner;
    hash = ngx_hash_key(task->key.data, task->key.len);

    ngx_shmtx_lock(&zone->shpool->mutex);

    if (task->change.type != NGX_ASANA_NOTE) {

        entry = ngx_asana_zone_lookup(zone, &task->key, hash);

        if (entry && outcome >= NGX_ASANA_CHANGED) {
            ngx_asana_zone_drop(zone, entry);
        }

    } else if (outcome <= NGX_ASANA_FULL) {

        s = ngx_asana_zone_secret(zone, &task->key, hash, task->change.id);

        if (s && s->stored >= task->change.verified) {
            interval = ngx_min(NGX_ASANA_ZONE_WRITE_BACK,
                               zone->conf->limits.inactive / 2);
            s->stored = task->change.verified - interval + interval / 60;
        }
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


ngx_int_t
ngx_asana_zone_list(ngx_asana_zone_t *zone, ngx_str_t *after,
    ngx_asana_visit_pt visit, void *data)
{
    ngx_asana_zone_visit_t  v;

    v.zone = zone;
    v.visit = visit;
    v.data = data;

    return ngx_asana_store_list(zone->store, after, ngx_asana_zone_visit, &v);
}


static ngx_int_t
ngx_asana_zone_visit(void *data, ngx_str_t *key, ngx_asana_secrets_t *secrets)
{
    ngx_asana_zone_visit_t *v = data;

    ngx_asana_zone_t        *zone;
    ngx_asana_zone_entry_t  *entry;

    zone = v->zone;

    ngx_asana_secrets_settle(secrets, ngx_time(), zone->conf->limits.pending);

    if (secrets->n == 0) {
        return NGX_OK;
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_asana_zone_lookup(zone, key,
                                  ngx_hash_key(key->data, key->len));
    if (entry) {
        ngx_asana_zone_merge(entry, secrets);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return v->visit(v->data, key, secrets);
}


ngx_int_t
ngx_asana_zone_stat(ngx_asana_zone_t *zone, ngx_asana_stat_t *stat)
{
    return ngx_asana_store_stat(zone->store, stat);
}


/*
 * The time is written back at the first delivery, for it proves the secret,
 * and then often enough that a restart does not take an active secret for an
 * inactive one.
 */

void
ngx_asana_zone_note(ngx_asana_zone_t *zone, ngx_str_t *key, uint32_t hash,
    ngx_asana_secret_t *secret)
{
    time_t               now, interval, stored;
    ngx_uint_t           due;
    ngx_asana_task_t    *task;
    ngx_asana_secret_t  *s;

    now = ngx_time();
    interval = ngx_min(NGX_ASANA_ZONE_WRITE_BACK,
                       zone->conf->limits.inactive / 2);

    ngx_shmtx_lock(&zone->shpool->mutex);

    s = ngx_asana_zone_secret(zone, key, hash, secret->id);

    stored = s ? s->stored : secret->stored;
    due = (stored == 0 || now - stored >= interval);

    if (s) {
        s->deliveries++;
        s->verified = ngx_max(s->verified, now);

        if (due) {

            /* claimed: no other worker writes it as well */
            s->stored = now;
        }
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    if (!due) {
        return;
    }

    task = ngx_asana_store_task_create(NGX_ASANA_NOTE, key, ngx_cycle->log);
    if (task == NULL) {
        return;
    }

    task->change.verified = now;
    ngx_memcpy(task->change.id, secret->id, NGX_ASANA_ID_LEN);

    (void) ngx_asana_store_post(zone->store, task);
}


static void
ngx_asana_zone_forget(void *data, ngx_str_t *key)
{
    ngx_asana_zone_t *zone = data;

    ngx_queue_t             *q;
    ngx_asana_zone_entry_t  *entry;

    ngx_shmtx_lock(&zone->shpool->mutex);

    if (key) {
        entry = ngx_asana_zone_lookup(zone, key,
                                      ngx_hash_key(key->data, key->len));
        if (entry) {
            ngx_asana_zone_drop(zone, entry);
        }

    } else {

        /* counts and times stay, and none of them is equal to a version */

        for (q = ngx_queue_head(&zone->sh->queue);
             q != ngx_queue_sentinel(&zone->sh->queue);
             q = ngx_queue_next(q))
        {
            entry = ngx_queue_data(q, ngx_asana_zone_entry_t, queue);
            entry->version = 0;
        }
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


static void
ngx_asana_zone_committed(void *data, uint64_t usec)
{
    ngx_asana_zone_t *zone = data;

    ngx_asana_counters_commit(&zone->sh->counters, usec);
}


ngx_asana_counters_t *
ngx_asana_zone_counters(ngx_asana_zone_t *zone)
{
    return &zone->sh->counters;
}


const char *
ngx_asana_zone_backend(ngx_asana_zone_t *zone)
{
    return zone->backend->name;
}


void
ngx_asana_zone_usage(ngx_asana_zone_t *zone, ngx_asana_zone_usage_t *usage)
{
    usage->size = zone->shpool->end - (u_char *) zone->shpool;

    ngx_shmtx_lock(&zone->shpool->mutex);

    usage->entries = zone->sh->entries;
    usage->used = usage->size - zone->shpool->pfree * ngx_pagesize;

    ngx_shmtx_unlock(&zone->shpool->mutex);
}
