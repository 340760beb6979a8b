
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LOOKUP_H_INCLUDED_
#define _NGX_ASANA_LOOKUP_H_INCLUDED_


#include "ngx_asana_secrets.h"


/* what a store is asked for that changes nothing */

typedef struct ngx_asana_lookup_s   ngx_asana_lookup_t;
typedef struct ngx_asana_listing_s  ngx_asana_listing_t;

typedef void (*ngx_asana_lookup_pt)(ngx_asana_lookup_t *lookup);
typedef void (*ngx_asana_listing_pt)(ngx_asana_listing_t *listing);

/* NGX_OK: go on, NGX_DONE: enough */
typedef ngx_int_t (*ngx_asana_visit_pt)(ngx_asana_listing_t *listing,
    ngx_str_t *key, ngx_asana_secrets_t *secrets);


/* a look-up; it lies in the caller's memory until it is done or cancelled */

struct ngx_asana_lookup_s {
    ngx_queue_t             queue;
    ngx_str_t               key;
    uint32_t                hash;
    uint64_t                version;    /* of the store, when it was read */
    uint64_t                position;   /* as forget() has it, or 0 */
    ngx_atomic_t           *ahead;      /* up to which all is forgotten */
    ngx_uint_t              forgets;    /* of the cache, when it began */
    ngx_uint_t              filled;     /* the same, when it may be filled */
    ngx_uint_t              fresh;      /* 1: what the store says now */
    ngx_asana_secrets_t    *secrets;
    ngx_int_t               rc;         /* NGX_OK, NGX_ERROR */
    ngx_asana_lookup_pt     complete;   /* after NGX_AGAIN, for the zone */
    void                   *owner;      /* the zone */
    ngx_asana_lookup_pt     handler;    /* for who asked */
    void                   *data;
};


/* a walk through keys in their order; it lies in the caller's memory, too */

struct ngx_asana_listing_s {
    ngx_queue_t             queue;
    ngx_str_t               after;      /* the last key that is known */
    ngx_uint_t              limit;      /* keys that are wanted at most */
    ngx_int_t               rc;         /* what visit did last, NGX_ERROR */
    ngx_asana_visit_pt      visit;      /* of the zone */
    ngx_asana_listing_pt    complete;   /* after NGX_AGAIN, for the zone */
    void                   *owner;      /* the zone */
    ngx_asana_visit_pt      shown;      /* for who asked */
    ngx_asana_listing_pt    handler;
    void                   *data;
};


#endif /* _NGX_ASANA_LOOKUP_H_INCLUDED_ */
