
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_CACHE_H_INCLUDED_
#define _NGX_ASANA_CACHE_H_INCLUDED_


#include "ngx_asana_lookup.h"


/*
 * The secrets of keys in shared memory.  Where the mutex of the slab pool is
 * taken, it is for a few pointer writes.  A hash is that of ngx_murmur_hash2()
 * over the key.
 */

typedef struct ngx_asana_cache_s  ngx_asana_cache_t;


/* In the master: returns an empty one in the pool, or NULL. */
ngx_asana_cache_t *ngx_asana_cache_create(ngx_slab_pool_t *shpool);

/*
 * Copies the secrets of lookup->key to lookup->secrets, and sets the version
 * that filled the entry.  NGX_DECLINED if there is no entry of that version
 * (0: of any); NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_asana_cache_get(ngx_asana_cache_t *cache,
    ngx_asana_lookup_t *lookup, uint64_t version);

/*
 * Keeps what came from the store, unless "moved": there is a later version, or
 * anything was forgotten since lookup->forgets was taken.  Counts and times
 * that the cache alone knows are added to lookup->secrets.
 */
void ngx_asana_cache_put(ngx_asana_cache_t *cache, ngx_asana_lookup_t *lookup,
    ngx_uint_t moved);

/* Corrects times of the key that a clock which was ahead has left. */
void ngx_asana_cache_settle(ngx_asana_cache_t *cache,
    ngx_asana_lookup_t *lookup);

/* Only adds what the cache alone knows. */
void ngx_asana_cache_merge(ngx_asana_cache_t *cache, ngx_str_t *key,
    ngx_asana_secrets_t *secrets);

/*
 * Notes that a delivery which the secret verified at secret->verified is
 * answered now with secret->code, and returns bits.  DUE: the store is to know,
 * for it has another state or a time that is older than so many seconds; nobody
 * else is told so then, and the times of "secret", a copy without its text, are
 * what it is to have.  TURNED besides: it has begun to fail, or has ceased to,
 * as secret->failing tells.
 */
#define NGX_ASANA_CACHE_DUE     1
#define NGX_ASANA_CACHE_TURNED  2

ngx_uint_t ngx_asana_cache_note(ngx_asana_cache_t *cache, ngx_str_t *key,
    uint32_t hash, ngx_asana_secret_t *secret, ngx_uint_t success,
    time_t interval);

/* The store did not take that time: it is to know in 1/60 of the interval. */
void ngx_asana_cache_forgive(ngx_asana_cache_t *cache, ngx_str_t *key,
    u_char *id, time_t verified, time_t interval);

/*
 * The store took what was noted of the secret "noted".  An entry that was read
 * between both does not have it; nor would one that is being read.
 */
void ngx_asana_cache_noted(ngx_asana_cache_t *cache, ngx_str_t *key,
    ngx_asana_secret_t *noted);

/*
 * The keys that the commit of this version changed were forgotten.  Entries
 * stay good over commits of which all are told so, one after the other; after
 * one that somebody else made they are to be read anew.
 */
void ngx_asana_cache_moved(ngx_asana_cache_t *cache, uint64_t version);

/*
 * Forgets the key, unless its entry was read at this position or later; NULL:
 * all such entries are of no use until they are read anew, but keep their
 * counts.
 */
void ngx_asana_cache_forget(ngx_asana_cache_t *cache, ngx_str_t *key,
    uint64_t position);

/* Without the mutex: a number that each forget() changes, that of the keys. */
ngx_uint_t ngx_asana_cache_forgets(ngx_asana_cache_t *cache);
ngx_uint_t ngx_asana_cache_entries(ngx_asana_cache_t *cache);


#endif /* _NGX_ASANA_CACHE_H_INCLUDED_ */
