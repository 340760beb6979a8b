
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_BACKEND_H_INCLUDED_
#define _NGX_ASANA_BACKEND_H_INCLUDED_


#include "ngx_asana_counters.h"
#include "ngx_asana_lookup.h"
#include "ngx_asana_seal.h"
#include "ngx_asana_task.h"


/*
 * Between the store and what it is kept in, a kind of those in src/store/.  In
 * the main thread it is told that the key was changed at a position (NULL: any
 * may be), and that done() has told of all changes of a version.
 */
typedef void (*ngx_asana_forget_pt)(void *data, ngx_str_t *key,
    uint64_t position);
typedef void (*ngx_asana_moved_pt)(void *data, uint64_t version);


typedef struct {
    ngx_str_t               zone;       /* its name, for messages */
    ngx_str_t               state;      /* a path, or a URI; ends with \0 */
    size_t                  max_size;   /* bytes */
    ngx_asana_limits_t      limits;
    ngx_asana_seal_t       *seal;       /* NULL: nothing is encrypted */
    ngx_msec_t              poll;       /* of a store that hosts share */
    ngx_msec_t              timeout;
    time_t                  stale;      /* seconds */
    ngx_asana_counters_t   *counters;
    ngx_asana_forget_pt     forget;
    void                   *data;       /* of it */
    ngx_atomic_t           *shared;     /* [NGX_ASANA_SHARED], or NULL */

    ngx_asana_task_pt       done;       /* for each task, before its handler */
    ngx_asana_moved_pt      moved;
} ngx_asana_backend_conf_t;


typedef struct {
    uint64_t                keys;
    uint64_t                secrets;    /* pending ones as well */
    uint64_t                pending;
    uint64_t                used;       /* bytes */
    uint64_t                contact;    /* milliseconds since the last */
    ngx_uint_t              readable;
    ngx_uint_t              writable;
    ngx_asana_seal_usage_t  usage;      /* of encryption keys, if there are */
} ngx_asana_stat_t;


/*
 * "change" and "walk" run in the store's thread, all else in the worker's main
 * thread, and nothing there may wait for a disk or a network.
 */

typedef struct {
    const char             *name;
    /* 1: version() tells of each commit of anybody, find() is never late */
    ngx_uint_t              exact;

    /* at configuration time: what is wrong with conf->state, or NULL */
    const char           *(*check)(ngx_asana_backend_conf_t *conf);
    /* opens nothing; NULL: no memory */
    void                 *(*create)(ngx_asana_backend_conf_t *conf,
                                    ngx_log_t *log);

    /* before the event loop starts, what fails is logged; after the thread */
    ngx_int_t             (*open)(void *backend, ngx_log_t *log);
    void                  (*close)(void *backend);

    /* a number that each commit changes, or conf->forget() tells; 0: unknown */
    uint64_t              (*version)(void *backend);

    /*
     * Appends the secrets of the key, if any, and sets the version.  NGX_OK;
     * NGX_ERROR: not known; NGX_AGAIN: within seconds by lookup->complete(),
     * with one of these in lookup->rc; a timer holds a worker that exits
     */
    ngx_int_t             (*find)(void *backend, ngx_asana_lookup_t *lookup,
                                  ngx_log_t *log);

    /* takes back a look-up or a listing that was NGX_AGAIN, by its queue */
    void                  (*cancel)(void *backend, ngx_queue_t *q);

    /*
     * Decides on each task of the batch by the policy, makes it durable and
     * sets its outcome, which is FAILED before.  An empty batch only prepares
     * the backend: to open it anew after a failure.
     */
    void                  (*change)(void *backend, ngx_queue_t *batch,
                                    ngx_log_t *log);

    /*
     * After "change", before handlers are called: takes over what the thread
     * has prepared.  NGX_AGAIN: the batch is to be changed once more.  Sets
     * the version of its commit, or 0 if other keys were changed as well.
     */
    ngx_int_t             (*adopt)(void *backend, uint64_t *version,
                                   ngx_log_t *log);

    /* visits the keys behind "after"; as find(), NGX_DONE as visit says */
    ngx_int_t             (*list)(void *backend, ngx_asana_listing_t *listing,
                                  ngx_log_t *log);
    ngx_int_t             (*stat)(void *backend, ngx_asana_stat_t *stat,
                                  ngx_log_t *log);

    /* as list(), after "change"; listing->after has room, and moves on */
    ngx_int_t             (*walk)(void *backend, ngx_asana_listing_t *listing,
                                  ngx_log_t *log);
} ngx_asana_backend_t;


#endif /* _NGX_ASANA_BACKEND_H_INCLUDED_ */
