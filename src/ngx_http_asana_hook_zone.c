
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The zone is a cache of the store.  An entry holds all secrets of one key
 * in one piece of slab memory:
 *
 *     entry header | key | secret record | secret record | ...
 *
 * and is trusted as long as the store has not moved on from the transaction
 * that filled it.  Only counts and times of deliveries are the zone's own.
 */


#include "ngx_http_asana_hook.h"


#define NGX_HTTP_ASANA_HOOK_EVICTIONS   64

/* what pending secrets may take of the store: one for so many bytes of it */
#define NGX_HTTP_ASANA_HOOK_PER_PENDING  16384
#define NGX_HTTP_ASANA_HOOK_MIN_PENDING  16


static ngx_int_t ngx_http_asana_hook_zone_unique(
    ngx_http_asana_hook_zone_t *zone, ngx_log_t *log);
static ngx_http_asana_hook_zone_t *ngx_http_asana_hook_zone_before(
    ngx_shm_zone_t *shm_zone);
static ngx_int_t ngx_http_asana_hook_zone_start(
    ngx_http_asana_hook_zone_t *zone, ngx_http_asana_hook_shctx_t *sh,
    ngx_http_asana_hook_zone_t *ozone);
static void ngx_http_asana_hook_zone_fill(ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *key, uint32_t hash, ngx_http_asana_hook_set_t *set);
static ngx_http_asana_hook_entry_t *ngx_http_asana_hook_zone_alloc(
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *key, size_t size);
static void ngx_http_asana_hook_zone_merge(ngx_http_asana_hook_entry_t *entry,
    ngx_http_asana_hook_set_t *set);
static void ngx_http_asana_hook_zone_drop(ngx_http_asana_hook_zone_t *zone,
    ngx_http_asana_hook_entry_t *entry);


ngx_int_t
ngx_http_asana_hook_zone_init(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_asana_hook_zone_t *ozone = data;

    size_t                        len;
    ngx_http_asana_hook_zone_t   *zone;
    ngx_http_asana_hook_shctx_t  *sh;

    zone = shm_zone->data;

    if (ngx_http_asana_hook_zone_unique(zone, shm_zone->shm.log) != NGX_OK) {
        return NGX_ERROR;
    }

    /* one of another size starts empty, but not with another store */

    if (ozone == NULL) {
        ozone = ngx_http_asana_hook_zone_before(shm_zone);
    }

    if (ozone) {
        if (zone->key.value.len != ozone->key.value.len
            || ngx_strncmp(zone->key.value.data, ozone->key.value.data,
                           zone->key.value.len)
               != 0
            || zone->state->name.len != ozone->state->name.len
            || ngx_strncmp(zone->state->name.data, ozone->state->name.data,
                           zone->state->name.len)
               != 0)
        {
            ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                          "asana_hook_zone \"%V\" uses the key \"%V\" and "
                          "the state \"%V\" while it lives with the key "
                          "\"%V\" and the state \"%V\"; give the changed "
                          "zone another name, or restart nginx",
                          &shm_zone->shm.name, &zone->key.value,
                          &zone->state->name, &ozone->key.value,
                          &ozone->state->name);
            return NGX_ERROR;
        }

        if (data) {
            zone->shpool = ozone->shpool;
            return ngx_http_asana_hook_zone_start(zone, ozone->sh, NULL);
        }
    }

    zone->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (shm_zone->shm.exists) {
        return ngx_http_asana_hook_zone_start(zone, zone->shpool->data,
                                              NULL);
    }

    sh = ngx_slab_calloc(zone->shpool, sizeof(ngx_http_asana_hook_shctx_t));
    if (sh == NULL) {
        return NGX_ERROR;
    }

    zone->shpool->data = sh;

    ngx_rbtree_init(&sh->rbtree, &sh->sentinel, ngx_str_rbtree_insert_value);
    ngx_queue_init(&sh->queue);

    if (ngx_http_asana_hook_zone_start(zone, sh, ozone) != NGX_OK) {
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

    return NGX_OK;
}


/* the zone of that name in the configuration that is to be replaced */

static ngx_http_asana_hook_zone_t *
ngx_http_asana_hook_zone_before(ngx_shm_zone_t *shm_zone)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_shm_zone_t   *old;

    for (part = (ngx_list_part_t *) &ngx_cycle->shared_memory.part;
         part;
         part = part->next)
    {
        old = part->elts;

        for (i = 0; i < part->nelts; i++) {
            if (&old[i] != shm_zone
                && old[i].tag == shm_zone->tag
                && old[i].shm.name.len == shm_zone->shm.name.len
                && ngx_strncmp(old[i].shm.name.data, shm_zone->shm.name.data,
                               shm_zone->shm.name.len)
                   == 0)
            {
                return old[i].data;
            }
        }
    }

    return NULL;
}


static ngx_int_t
ngx_http_asana_hook_zone_start(ngx_http_asana_hook_zone_t *zone,
    ngx_http_asana_hook_shctx_t *sh, ngx_http_asana_hook_zone_t *ozone)
{
    size_t  size;

    zone->sh = sh;
    zone->counters = &sh->counters;

    if (zone->gateway && sh->creates == NULL) {

        /* in the place of what can be read again, if need be */

        size = NGX_HTTP_ASANA_HOOK_CREATES
               * sizeof(ngx_http_asana_hook_creates_t);

        ngx_shmtx_lock(&zone->shpool->mutex);

        for ( ;; ) {
            sh->creates = ngx_slab_calloc_locked(zone->shpool, size);

            if (sh->creates || ngx_queue_empty(&sh->queue)) {
                break;
            }

            ngx_http_asana_hook_zone_drop(zone,
                             ngx_queue_data(ngx_queue_last(&sh->queue),
                                            ngx_http_asana_hook_entry_t,
                                            queue));
        }

        ngx_shmtx_unlock(&zone->shpool->mutex);

        if (sh->creates == NULL) {
            return NGX_ERROR;
        }

        if (ozone && ozone->sh && ozone->sh->creates) {

            /* one of another size: what is in flight is taken over */

            ngx_memcpy(sh->creates, ozone->sh->creates, size);
        }
    }

    return NGX_OK;
}


/*
 * LMDB's locks break if one process opens the same files twice: a symbolic
 * link must not make two zones of one store.
 */

static ngx_int_t
ngx_http_asana_hook_zone_unique(ngx_http_asana_hook_zone_t *zone,
    ngx_log_t *log)
{
    ngx_str_t                    *name;
    ngx_uint_t                    i;
    ngx_file_info_t               fi, other;
    ngx_http_asana_hook_zone_t  **zones;

    name = &zone->state->name;

    if (ngx_file_info(name->data, &fi) == NGX_FILE_ERROR) {
        goto failed;
    }

    zones = zone->zones->elts;

    for (i = 0; zones[i] != zone; i++) {
        name = &zones[i]->state->name;

        if (ngx_file_info(name->data, &other) == NGX_FILE_ERROR) {
            goto failed;
        }

        if (ngx_file_uniq(&fi) != ngx_file_uniq(&other)
            || fi.st_dev != other.st_dev)
        {
            continue;
        }

        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "\"asana_hook_zone\" parameter \"state=%V\" is the same "
                      "directory as \"state=%V\" of the zone \"%V\"",
                      &zone->state->name, name, &zones[i]->name);
        return NGX_ERROR;
    }

    return NGX_OK;

failed:

    ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                  ngx_file_info_n " \"%V\" failed", name);

    return NGX_ERROR;
}


ngx_int_t
ngx_http_asana_hook_zone_open(ngx_http_asana_hook_zone_t *zone,
    ngx_cycle_t *cycle)
{
    if (ngx_http_asana_hook_zone_touches(zone, cycle) != NGX_OK) {
        return NGX_ERROR;
    }

    zone->store = ngx_http_asana_hook_store_create(cycle->pool,
                                                   &zone->state->name,
                                                   zone->max_size,
                                                   zone->thread_pool,
                                                   &zone->counters->commits);
    if (zone->store == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_http_asana_hook_store_open(zone->store, cycle->log);

    ngx_http_asana_hook_zone_creates(zone);

    return NGX_OK;
}


void
ngx_http_asana_hook_zone_close(ngx_http_asana_hook_zone_t *zone,
    ngx_log_t *log)
{
    if (zone->store == NULL) {
        return;
    }

    /* the threads have ended */
    zone->closing = (zone->thread_pool != NULL);

    ngx_http_asana_hook_zone_flush(zone, log);

    ngx_http_asana_hook_store_close(zone->store);

    if (zone->creates) {
        zone->creates->count = 0;
        zone->creates->pid = 0;
    }
}


ngx_int_t
ngx_http_asana_hook_zone_find(ngx_http_asana_hook_zone_t *zone, ngx_str_t *key,
    uint32_t hash, ngx_http_asana_hook_set_t *set, ngx_log_t *log)
{
    size_t                        size;
    uint64_t                      txnid;
    ngx_http_asana_hook_entry_t  *entry;

    for ( ;; ) {

        txnid = ngx_http_asana_hook_store_txnid(zone->store);

        ngx_shmtx_lock(&zone->shpool->mutex);

        entry = ngx_http_asana_hook_zone_lookup(zone, key, hash);

        /* while the store cannot be read, what the zone knows must do */

        if (entry == NULL || (txnid && entry->txnid != txnid)) {
            ngx_shmtx_unlock(&zone->shpool->mutex);
            break;
        }

        size = entry->size;

        if (size <= (size_t) (set->end - set->start)) {

            ngx_memcpy(set->start, ngx_http_asana_hook_entry_records(entry),
                       size);
            set->size = size;
            set->n = entry->n;
            set->txnid = entry->txnid;

            ngx_queue_remove(&entry->queue);
            ngx_queue_insert_head(&zone->sh->queue, &entry->queue);

            ngx_shmtx_unlock(&zone->shpool->mutex);

            goto found;
        }

        ngx_shmtx_unlock(&zone->shpool->mutex);

        if (ngx_http_asana_hook_set_reserve(set, size) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (ngx_http_asana_hook_store_find(zone->store, key, set, log) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_asana_hook_zone_moved(zone, set)) {

        /* a commit is under way, whose sync may take a while */

        ngx_http_asana_hook_zone_update(zone, key, hash, set);

    } else if (set->n || entry) {
        ngx_http_asana_hook_zone_fill(zone, key, hash, set);
    }

found:

    if (ngx_http_asana_hook_set_correct(set)) {
        ngx_http_asana_hook_zone_correct(zone, key, set, log);
        ngx_http_asana_hook_zone_forget(zone, key, hash);
    }

    ngx_http_asana_hook_set_expire(set, zone->pending);

    return set->n ? NGX_OK : NGX_DECLINED;
}


ngx_uint_t
ngx_http_asana_hook_zone_moved(ngx_http_asana_hook_zone_t *zone,
    ngx_http_asana_hook_set_t *set)
{
    uint64_t  txnid;

    txnid = ngx_http_asana_hook_store_txnid(zone->store);

    return txnid && txnid != set->txnid;
}


ngx_http_asana_hook_op_t *
ngx_http_asana_hook_zone_op(ngx_http_asana_hook_zone_t *zone,
    ngx_http_asana_hook_op_e type, ngx_str_t *key,
    ngx_http_asana_hook_set_t *set, ngx_log_t *log)
{
    ngx_uint_t                     i, n;
    ngx_http_asana_hook_op_t      *op;
    ngx_http_asana_hook_secret_t  *s;

    n = set ? set->n : 0;

    op = ngx_http_asana_hook_op_create(key, n, log);
    if (op == NULL) {
        return NULL;
    }

    op->type = type;
    op->now = ngx_time();
    op->inactive = zone->inactive;
    op->pending = zone->pending;
    op->max_secrets = zone->max_secrets;
    op->max_pending = ngx_max(zone->max_size / NGX_HTTP_ASANA_HOOK_PER_PENDING,
                              NGX_HTTP_ASANA_HOOK_MIN_PENDING);

    s = n ? (ngx_http_asana_hook_secret_t *) set->start : NULL;

    for (i = 0; i < n; i++) {
        ngx_memcpy(op->seen[i].id, s->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
        op->seen[i].verified = s->verified;
        s = ngx_http_asana_hook_secret_next(s);
    }

    op->nseen = n;

    return op;
}


void
ngx_http_asana_hook_zone_forget(ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *key, uint32_t hash)
{
    ngx_http_asana_hook_entry_t  *entry;

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_asana_hook_zone_lookup(zone, key, hash);

    if (entry) {
        ngx_http_asana_hook_zone_drop(zone, entry);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_http_asana_hook_zone_update(ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *key, uint32_t hash, ngx_http_asana_hook_set_t *set)
{
    ngx_http_asana_hook_entry_t  *entry;

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_asana_hook_zone_lookup(zone, key, hash);

    if (entry) {
        ngx_http_asana_hook_zone_merge(entry, set);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_http_asana_hook_zone_usage(ngx_http_asana_hook_zone_t *zone,
    ngx_uint_t *entries, ngx_uint_t *free)
{
    ngx_shmtx_lock(&zone->shpool->mutex);

    *entries = zone->sh->entries;
    *free = zone->shpool->pfree;

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


ngx_http_asana_hook_entry_t *
ngx_http_asana_hook_zone_lookup(ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *key, uint32_t hash)
{
    return (ngx_http_asana_hook_entry_t *)
               ngx_str_rbtree_lookup(&zone->sh->rbtree, key, hash);
}


static void
ngx_http_asana_hook_zone_fill(ngx_http_asana_hook_zone_t *zone, ngx_str_t *key,
    uint32_t hash, ngx_http_asana_hook_set_t *set)
{
    ngx_http_asana_hook_entry_t  *entry, *old;

    ngx_shmtx_lock(&zone->shpool->mutex);

    old = ngx_http_asana_hook_zone_lookup(zone, key, hash);

    if (old) {
        ngx_http_asana_hook_zone_merge(old, set);

        if (set->n && set->size <= old->capacity) {
            entry = old;
            goto fill;
        }

        ngx_http_asana_hook_zone_drop(zone, old);
    }

    if (set->n == 0) {
        ngx_shmtx_unlock(&zone->shpool->mutex);
        return;
    }

    entry = ngx_http_asana_hook_zone_alloc(zone, key, set->size);

    if (entry == NULL) {
        ngx_shmtx_unlock(&zone->shpool->mutex);
        return;
    }

    entry->sn.node.key = hash;

    ngx_rbtree_insert(&zone->sh->rbtree, &entry->sn.node);
    zone->sh->entries++;
    ngx_queue_insert_head(&zone->sh->queue, &entry->queue);

fill:

    /* until it is whole again, no transaction is equal to zero */
    entry->txnid = 0;

    ngx_memcpy(ngx_http_asana_hook_entry_records(entry), set->start, set->size);
    entry->size = (uint32_t) set->size;
    entry->n = (uint32_t) set->n;
    entry->txnid = set->txnid;

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


static ngx_http_asana_hook_entry_t *
ngx_http_asana_hook_zone_alloc(ngx_http_asana_hook_zone_t *zone,
    ngx_str_t *key, size_t size)
{
    size_t                        len;
    ngx_uint_t                    i;
    ngx_queue_t                  *q;
    ngx_http_asana_hook_entry_t  *entry;

    len = ngx_http_asana_hook_entry_size(key->len);

    for (i = 0; /* void */ ; i++) {

        entry = ngx_slab_alloc_locked(zone->shpool, len + size);

        if (entry) {
            break;
        }

        /* what one entry costs the others is bounded */

        if (ngx_queue_empty(&zone->sh->queue)
            || i == NGX_HTTP_ASANA_HOOK_EVICTIONS)
        {
            return NULL;
        }

        q = ngx_queue_last(&zone->sh->queue);

        ngx_http_asana_hook_zone_drop(zone,
                     ngx_queue_data(q, ngx_http_asana_hook_entry_t, queue));
    }

    entry->sn.str.len = key->len;
    entry->sn.str.data = entry->data;
    ngx_memcpy(entry->data, key->data, key->len);

    entry->capacity = (uint32_t) size;

    return entry;
}


/* a set that comes from the store takes over what the zone has counted */

static void
ngx_http_asana_hook_zone_merge(ngx_http_asana_hook_entry_t *entry,
    ngx_http_asana_hook_set_t *set)
{
    ngx_uint_t                     i;
    ngx_http_asana_hook_secret_t  *s, *old;

    s = (ngx_http_asana_hook_secret_t *) set->start;

    for (i = 0; i < set->n; i++) {

        old = ngx_http_asana_hook_zone_secret(
                                ngx_http_asana_hook_entry_records(entry),
                                entry->n, s->id);
        if (old) {
            s->deliveries = old->deliveries;
            s->verified = ngx_max(s->verified, old->verified);
            s->stored = ngx_max(s->stored, old->stored);
        }

        s = ngx_http_asana_hook_secret_next(s);
    }
}


static void
ngx_http_asana_hook_zone_drop(ngx_http_asana_hook_zone_t *zone,
    ngx_http_asana_hook_entry_t *entry)
{
    ngx_queue_remove(&entry->queue);
    ngx_rbtree_delete(&zone->sh->rbtree, &entry->sn.node);
    zone->sh->entries--;

    ngx_explicit_memzero(ngx_http_asana_hook_entry_records(entry),
                         entry->capacity);

    ngx_slab_free_locked(zone->shpool, entry);
}


ngx_http_asana_hook_secret_t *
ngx_http_asana_hook_zone_secret(u_char *records, ngx_uint_t n, u_char *id)
{
    ngx_uint_t                     i;
    ngx_http_asana_hook_secret_t  *s;

    s = (ngx_http_asana_hook_secret_t *) records;

    for (i = 0; i < n; i++) {

        if (ngx_memcmp(s->id, id, NGX_HTTP_ASANA_HOOK_ID_LEN) == 0) {
            return s;
        }

        s = ngx_http_asana_hook_secret_next(s);
    }

    return NULL;
}
