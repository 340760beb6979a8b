
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * An entry holds all secrets of one key in one piece of slab memory:
 *
 *     entry header | key | secret | secret | ...
 *
 * It is of use as long as the store has not moved on from the version that
 * filled it.  Only counts and times of deliveries are the cache's own.
 */


#include "ngx_asana_cache.h"
#include "ngx_asana_health.h"


/* what one new entry may push out */
#define NGX_ASANA_CACHE_EVICTIONS  64


typedef struct {
    ngx_str_node_t         sn;         /* must be first */
    ngx_queue_t            queue;
    uint64_t               version;
    uint64_t               position;
    ngx_asana_secrets_t    secrets;    /* behind the key */
    u_char                 data[1];    /* the key */
} ngx_asana_cache_entry_t;


struct ngx_asana_cache_s {
    ngx_slab_pool_t       *shpool;
    ngx_rbtree_t           rbtree;
    ngx_rbtree_node_t      sentinel;
    ngx_queue_t            queue;      /* least recently used last */
    uint64_t               since;      /* all changes from here */
    uint64_t               known;      /* to here are */
    ngx_uint_t             entries;    /* both are */
    ngx_atomic_t           forgets;    /* read without the mutex */
};


static ngx_uint_t ngx_asana_cache_good(ngx_asana_cache_t *cache,
    ngx_asana_cache_entry_t *entry, uint64_t version);
static ngx_asana_cache_entry_t *ngx_asana_cache_alloc(
    ngx_asana_cache_t *cache, ngx_str_t *key, uint32_t hash, size_t size);
static ngx_asana_cache_entry_t *ngx_asana_cache_lookup(
    ngx_asana_cache_t *cache, ngx_str_t *key, uint32_t hash);
static void ngx_asana_cache_drop(ngx_asana_cache_t *cache,
    ngx_asana_cache_entry_t *entry);
static ngx_asana_secret_t *ngx_asana_cache_secret(ngx_asana_cache_t *cache,
    ngx_str_t *key, uint32_t hash, u_char *id);
static void ngx_asana_cache_correct(ngx_asana_cache_entry_t *entry);
static void ngx_asana_cache_read(ngx_asana_secrets_t *secrets);
static void ngx_asana_cache_add(ngx_asana_secrets_t *known,
    ngx_asana_secrets_t *secrets);


ngx_asana_cache_t *
ngx_asana_cache_create(ngx_slab_pool_t *shpool)
{
    ngx_asana_cache_t  *cache;

    cache = ngx_slab_calloc(shpool, sizeof(ngx_asana_cache_t));
    if (cache == NULL) {
        return NULL;
    }

    cache->shpool = shpool;

    ngx_rbtree_init(&cache->rbtree, &cache->sentinel,
                    ngx_str_rbtree_insert_value);
    ngx_queue_init(&cache->queue);

    return cache;
}


ngx_int_t
ngx_asana_cache_get(ngx_asana_cache_t *cache, ngx_asana_lookup_t *lookup,
    uint64_t version)
{
    size_t                    size;
    ngx_asana_secrets_t      *secrets;
    ngx_asana_cache_entry_t  *entry;

    secrets = lookup->secrets;

    for ( ;; ) {
        ngx_shmtx_lock(&cache->shpool->mutex);

        entry = ngx_asana_cache_lookup(cache, &lookup->key, lookup->hash);

        if (entry == NULL
            || entry->secrets.n == 0
            || entry->version == 0
            || (version && !ngx_asana_cache_good(cache, entry, version)))
        {
            ngx_shmtx_unlock(&cache->shpool->mutex);
            return NGX_DECLINED;
        }

        size = entry->secrets.size;

        if (size <= secrets->capacity) {
            break;
        }

        ngx_shmtx_unlock(&cache->shpool->mutex);

        if (ngx_asana_secrets_reserve(secrets, size) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    ngx_memcpy(secrets->start, entry->secrets.start, size);
    secrets->size = size;
    secrets->n = entry->secrets.n;
    lookup->version = version ? version : entry->version;

    ngx_queue_remove(&entry->queue);
    ngx_queue_insert_head(&cache->queue, &entry->queue);

    ngx_shmtx_unlock(&cache->shpool->mutex);

    return NGX_OK;
}


static ngx_uint_t
ngx_asana_cache_good(ngx_asana_cache_t *cache, ngx_asana_cache_entry_t *entry,
    uint64_t version)
{
    return entry->version == version
           || (version == cache->known && entry->version >= cache->since);
}


void
ngx_asana_cache_put(ngx_asana_cache_t *cache, ngx_asana_lookup_t *lookup,
    ngx_uint_t moved)
{
    u_char                   *p;
    ngx_asana_secrets_t      *known, *secrets;
    ngx_asana_cache_entry_t  *entry;

    secrets = lookup->secrets;

    ngx_asana_cache_read(secrets);

    ngx_shmtx_lock(&cache->shpool->mutex);

    entry = ngx_asana_cache_lookup(cache, &lookup->key, lookup->hash);

    if (entry) {
        ngx_asana_cache_correct(entry);
        ngx_asana_cache_add(&entry->secrets, secrets);
    }

    if (moved || cache->forgets != lookup->filled) {
        goto done;
    }

    if (entry && (secrets->n == 0 || secrets->size > entry->secrets.capacity))
    {
        ngx_asana_cache_drop(cache, entry);
        entry = NULL;
    }

    if (secrets->n == 0) {
        goto done;
    }

    if (entry == NULL) {
        entry = ngx_asana_cache_alloc(cache, &lookup->key, lookup->hash,
                                      secrets->size);
        if (entry == NULL) {
            goto done;
        }
    }

    known = &entry->secrets;

    /* a worker that is killed in here leaves none of them behind */
    known->n = 0;

    p = ngx_cpymem(known->start, secrets->start, secrets->size);
    ngx_explicit_memzero(p, known->capacity - secrets->size);

    known->size = secrets->size;
    entry->version = lookup->version;
    entry->position = lookup->position;
    known->n = secrets->n;

done:

    ngx_shmtx_unlock(&cache->shpool->mutex);
}


static ngx_asana_cache_entry_t *
ngx_asana_cache_alloc(ngx_asana_cache_t *cache, ngx_str_t *key, uint32_t hash,
    size_t size)
{
    size_t                    len;
    ngx_uint_t                i;
    ngx_queue_t              *q;
    ngx_asana_cache_entry_t  *entry;

    len = ngx_align(offsetof(ngx_asana_cache_entry_t, data) + key->len, 8);

    for (i = 0; /* void */ ; i++) {
        entry = ngx_slab_alloc_locked(cache->shpool, len + size);

        if (entry) {
            break;
        }

        if (ngx_queue_empty(&cache->queue) || i == NGX_ASANA_CACHE_EVICTIONS) {
            return NULL;
        }

        q = ngx_queue_last(&cache->queue);
        ngx_asana_cache_drop(cache, ngx_queue_data(q, ngx_asana_cache_entry_t,
                                                   queue));
    }

    entry->sn.str.len = key->len;
    entry->sn.str.data = entry->data;
    ngx_memcpy(entry->data, key->data, key->len);

    ngx_asana_secrets_init(&entry->secrets, (u_char *) entry + len, size);

    entry->sn.node.key = hash;
    ngx_rbtree_insert(&cache->rbtree, &entry->sn.node);
    ngx_queue_insert_head(&cache->queue, &entry->queue);

    cache->entries++;

    return entry;
}


static ngx_asana_cache_entry_t *
ngx_asana_cache_lookup(ngx_asana_cache_t *cache, ngx_str_t *key,
    uint32_t hash)
{
    return (ngx_asana_cache_entry_t *)
               ngx_str_rbtree_lookup(&cache->rbtree, key, hash);
}


static void
ngx_asana_cache_drop(ngx_asana_cache_t *cache, ngx_asana_cache_entry_t *entry)
{
    ngx_queue_remove(&entry->queue);
    ngx_rbtree_delete(&cache->rbtree, &entry->sn.node);
    cache->entries--;

    ngx_explicit_memzero(entry->secrets.start, entry->secrets.capacity);
    ngx_slab_free_locked(cache->shpool, entry);
}


/* the secret in the cache itself, under the mutex, or NULL */

static ngx_asana_secret_t *
ngx_asana_cache_secret(ngx_asana_cache_t *cache, ngx_str_t *key, uint32_t hash,
    u_char *id)
{
    ngx_asana_cache_entry_t  *entry;

    entry = ngx_asana_cache_lookup(cache, key, hash);

    return entry ? ngx_asana_secrets_by_id(&entry->secrets, id) : NULL;
}


void
ngx_asana_cache_merge(ngx_asana_cache_t *cache, ngx_str_t *key,
    ngx_asana_secrets_t *secrets)
{
    ngx_asana_cache_entry_t  *entry;

    ngx_shmtx_lock(&cache->shpool->mutex);

    entry = ngx_asana_cache_lookup(cache, key,
                                   ngx_murmur_hash2(key->data, key->len));
    if (entry) {
        ngx_asana_cache_add(&entry->secrets, secrets);
    }

    ngx_shmtx_unlock(&cache->shpool->mutex);
}


void
ngx_asana_cache_settle(ngx_asana_cache_t *cache, ngx_asana_lookup_t *lookup)
{
    ngx_asana_cache_entry_t  *entry;

    ngx_shmtx_lock(&cache->shpool->mutex);

    entry = ngx_asana_cache_lookup(cache, &lookup->key, lookup->hash);

    if (entry) {
        ngx_asana_cache_correct(entry);
    }

    ngx_shmtx_unlock(&cache->shpool->mutex);
}


static void
ngx_asana_cache_correct(ngx_asana_cache_entry_t *entry)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    s = ngx_asana_secrets_first(&entry->secrets);

    for (i = 0; i < entry->secrets.n; i++) {
        (void) ngx_asana_secrets_settle_one(s, ngx_time());
        s = ngx_asana_secret_next(s);
    }
}


/* what comes from the store is what it has */

static void
ngx_asana_cache_read(ngx_asana_secrets_t *secrets)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {
        s->told = ngx_asana_health_state(s);
        s = ngx_asana_secret_next(s);
    }
}


static void
ngx_asana_cache_add(ngx_asana_secrets_t *known, ngx_asana_secrets_t *secrets)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s, *old, was;

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {

        old = ngx_asana_secrets_by_id(known, s->id);

        if (old) {
            /* a listing corrects nothing, in the entry or in the store */

            ngx_memcpy(&was, old, offsetof(ngx_asana_secret_t, data));
            (void) ngx_asana_secrets_settle_one(&was, ngx_time());

            s->deliveries = was.deliveries;
            (void) ngx_asana_health_merge(s, &was);

            /* of the same second is what the store has not committed yet */

            if (old->stored >= s->stored) {
                s->stored = old->stored;
                s->told = old->told;
            }
        }

        s = ngx_asana_secret_next(s);
    }
}


ngx_uint_t
ngx_asana_cache_note(ngx_asana_cache_t *cache, ngx_str_t *key, uint32_t hash,
    ngx_asana_secret_t *secret, ngx_uint_t success, time_t interval)
{
    time_t               now;
    u_char               state;
    ngx_uint_t           bits;
    ngx_asana_secret_t  *s;

    bits = 0;
    now = ngx_time();

    ngx_shmtx_lock(&cache->shpool->mutex);

    s = ngx_asana_cache_secret(cache, key, hash, secret->id);

    if (s == NULL) {
        s = secret;
    }

    /* a success of a clock that was ahead would hide failures until then */

    (void) ngx_asana_secrets_settle_one(s, now);

    ngx_asana_health_note(s, secret->code, success, now);

    s->verified = ngx_max(s->verified, secret->verified);
    s->deliveries++;

    /* one that fails now and then: its first failure of a second, its end */

    state = ngx_asana_health_state(s);

    if (now - s->stored >= interval
        || s->stored > now
        || (state != s->told && (success || s->stored != now)))
    {
        bits = NGX_ASANA_CACHE_DUE;

        if ((s->told ^ state) & NGX_ASANA_HEALTH_FAILS) {
            bits |= NGX_ASANA_CACHE_TURNED;
        }

        /* claimed: no other worker writes it as well */

        s->stored = now;
        s->told = state;

        secret->verified = s->verified;
        secret->answered = s->answered;
        secret->failing = s->failing;
    }

    ngx_shmtx_unlock(&cache->shpool->mutex);

    return bits;
}


void
ngx_asana_cache_forgive(ngx_asana_cache_t *cache, ngx_str_t *key, u_char *id,
    time_t verified, time_t interval)
{
    uint32_t             hash;
    ngx_asana_secret_t  *s;

    hash = ngx_murmur_hash2(key->data, key->len);

    ngx_shmtx_lock(&cache->shpool->mutex);

    s = ngx_asana_cache_secret(cache, key, hash, id);

    if (s && s->stored >= verified) {
        s->stored = verified - interval + interval / 60;
    }

    ngx_shmtx_unlock(&cache->shpool->mutex);
}


void
ngx_asana_cache_noted(ngx_asana_cache_t *cache, ngx_str_t *key,
    ngx_asana_secret_t *noted)
{
    uint32_t             hash;
    ngx_asana_secret_t  *s;

    hash = ngx_murmur_hash2(key->data, key->len);

    ngx_shmtx_lock(&cache->shpool->mutex);

    cache->forgets++;

    s = ngx_asana_cache_secret(cache, key, hash, noted->id);

    if (s && ngx_asana_health_merge(s, noted)) {
        s->stored = noted->verified;
        s->told = ngx_asana_health_state(noted);
    }

    ngx_shmtx_unlock(&cache->shpool->mutex);
}


void
ngx_asana_cache_moved(ngx_asana_cache_t *cache, uint64_t version)
{
    ngx_shmtx_lock(&cache->shpool->mutex);

    if (version != cache->known + 1) {
        cache->since = version;

        /* a worker that is killed in here leaves no gap behind */

        ngx_memory_barrier();
    }

    cache->known = version;

    ngx_shmtx_unlock(&cache->shpool->mutex);
}


void
ngx_asana_cache_forget(ngx_asana_cache_t *cache, ngx_str_t *key,
    uint64_t position)
{
    ngx_queue_t              *q;
    ngx_asana_cache_entry_t  *entry;

    ngx_shmtx_lock(&cache->shpool->mutex);

    cache->forgets++;

    if (key) {
        entry = ngx_asana_cache_lookup(cache, key,
                                       ngx_murmur_hash2(key->data, key->len));
        if (entry && entry->position < position) {
            ngx_asana_cache_drop(cache, entry);
        }

    } else {

        for (q = ngx_queue_head(&cache->queue);
             q != ngx_queue_sentinel(&cache->queue);
             q = ngx_queue_next(q))
        {
            entry = ngx_queue_data(q, ngx_asana_cache_entry_t, queue);

            if (entry->position < position) {
                entry->version = 0;
            }
        }
    }

    ngx_shmtx_unlock(&cache->shpool->mutex);
}


ngx_uint_t
ngx_asana_cache_forgets(ngx_asana_cache_t *cache)
{
    return cache->forgets;
}


ngx_uint_t
ngx_asana_cache_entries(ngx_asana_cache_t *cache)
{
    return cache->entries;
}
