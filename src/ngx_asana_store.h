
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_STORE_H_INCLUDED_
#define _NGX_ASANA_STORE_H_INCLUDED_


#include "ngx_asana_backend.h"


/*
 * All of them are called in the main thread of a worker, after fork.
 */

/*
 * Returns a store that is not open yet, or NULL if there is no memory.  The
 * conf outlives it.
 */
ngx_asana_store_t *ngx_asana_store_create(ngx_asana_backend_t *backend,
    ngx_asana_backend_conf_t *conf, ngx_log_t *log);

/* Opens it; a failure is logged by the backend, and tried again later. */
void ngx_asana_store_open(ngx_asana_store_t *store);

/*
 * Ends the thread when its batch is done, and closes the store; a thread that
 * is stuck is left behind with all it uses after ten seconds.
 */
void ngx_asana_store_close(ngx_asana_store_t *store);

/* As the backend's functions; a store that is not open is opened, later. */
uint64_t ngx_asana_store_version(ngx_asana_store_t *store);
ngx_int_t ngx_asana_store_find(ngx_asana_store_t *store,
    ngx_asana_lookup_t *lookup);
void ngx_asana_store_cancel(ngx_asana_store_t *store, ngx_queue_t *q);
ngx_int_t ngx_asana_store_list(ngx_asana_store_t *store,
    ngx_asana_listing_t *listing);
ngx_int_t ngx_asana_store_stat(ngx_asana_store_t *store,
    ngx_asana_stat_t *stat);

/*
 * After a look-up that failed late: opens a store that is not open, once a
 * second at most.
 */
void ngx_asana_store_prepare(ngx_asana_store_t *store);

/*
 * Hands the task to the thread.  NGX_AGAIN: its handler is called once, never
 * before this returns, with the outcome or, after ten seconds, with FAILED;
 * the store frees it then.  NGX_ERROR: too many wait, or there is no thread;
 * the task was freed.
 */
ngx_int_t ngx_asana_store_post(ngx_asana_store_t *store,
    ngx_asana_task_t *task);


#endif /* _NGX_ASANA_STORE_H_INCLUDED_ */
