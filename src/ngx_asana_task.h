
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_TASK_H_INCLUDED_
#define _NGX_ASANA_TASK_H_INCLUDED_


#include "ngx_asana_policy.h"
#include "ngx_asana_secrets.h"


/* what a store is asked for: to change something, or to look a key up */

typedef struct ngx_asana_task_s     ngx_asana_task_t;
typedef struct ngx_asana_lookup_s   ngx_asana_lookup_t;
typedef struct ngx_asana_listing_s  ngx_asana_listing_t;

/* called once, in the main thread; the task is read only */
typedef void (*ngx_asana_task_pt)(ngx_asana_task_t *task,
    ngx_asana_outcome_e outcome);

typedef void (*ngx_asana_lookup_pt)(ngx_asana_lookup_t *lookup);
typedef void (*ngx_asana_listing_pt)(ngx_asana_listing_t *listing);

/* NGX_OK: go on, NGX_DONE: enough */
typedef ngx_int_t (*ngx_asana_visit_pt)(ngx_asana_listing_t *listing,
    ngx_str_t *key, ngx_asana_secrets_t *secrets);


/* secrets that one RESEAL encrypts anew at most */
#define NGX_ASANA_RESEAL_MAX  1000


/* a change on its way; memory of its own, for it outlives requests */

struct ngx_asana_task_s {
    ngx_queue_t             queue;
    ngx_asana_change_t      change;
    ngx_asana_outcome_e     outcome;
    ngx_asana_reason_e      reason;
    ngx_asana_task_pt       handler;    /* NULL: nobody waits any more */
    void                   *data;
    void                   *owner;      /* conf->data of the store */
    ngx_msec_t              deadline;
    ngx_uint_t              resealed;   /* RESEAL: secrets */
    uint64_t                left;       /* those of other keys */
    ngx_str_t               key;        /* empty for CONFIRM, RESEAL */
    u_char                  buf[NGX_ASANA_MAX_KEY];
};


/* a look-up; it lies in the caller's memory until it is done or cancelled */

struct ngx_asana_lookup_s {
    ngx_queue_t             queue;
    ngx_str_t               key;
    uint32_t                hash;
    uint64_t                version;    /* of the store, when it was read */
    uint64_t                position;   /* as forget() has it, or 0 */
    ngx_uint_t              forgets;    /* of the cache, when it began */
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


/*
 * Returns a task of this type, with a copy of the key (at most MAX_KEY bytes),
 * or NULL if there is no memory.  It belongs to the caller until it is posted.
 */
ngx_asana_task_t *ngx_asana_task_create(ngx_asana_change_e type,
    ngx_str_t *key, ngx_log_t *log);

/* Gives a change its secret, of at most MAX_SECRET bytes, but not its id. */
void ngx_asana_task_set_secret(ngx_asana_task_t *task, ngx_str_t *secret);

/* Overwrites it and frees it. */
void ngx_asana_task_free(ngx_asana_task_t *task);

/*
 * In the main thread: nobody waits for the task any more; it is carried out
 * all the same.
 */
void ngx_asana_task_detach(ngx_asana_task_t *task);


#endif /* _NGX_ASANA_TASK_H_INCLUDED_ */
