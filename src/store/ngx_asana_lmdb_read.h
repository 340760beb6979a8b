
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_READ_H_INCLUDED_
#define _NGX_ASANA_LMDB_READ_H_INCLUDED_


#include "ngx_asana_lmdb_env.h"


/*
 * Reading, in the main thread.  Each read renews a parked transaction;
 * an environment that is not taken is left alone, and nothing is known.
 */

/* Takes an environment that was opened; ends the parked read and lets go. */
void ngx_asana_lmdb_read_take(ngx_asana_lmdb_env_t *e);
void ngx_asana_lmdb_read_let_go(ngx_asana_lmdb_env_t *e);

/* As the functions of a backend. */
uint64_t ngx_asana_lmdb_read_version(void *backend);
ngx_int_t ngx_asana_lmdb_read_find(void *backend,
    ngx_asana_lookup_t *lookup, ngx_log_t *log);
ngx_int_t ngx_asana_lmdb_read_list(void *backend,
    ngx_asana_listing_t *listing, ngx_log_t *log);
ngx_int_t ngx_asana_lmdb_read_stat(void *backend,
    ngx_asana_stat_t *stat, ngx_log_t *log);

/*
 * In the thread, under the mutex: lists in a transaction of its own, and sets
 * rc; or returns an error of LMDB, NGX_AGAIN if others have converted it.
 */
int ngx_asana_lmdb_read_walk(ngx_asana_lmdb_env_t *e,
    ngx_asana_listing_t *listing, ngx_int_t *rc, ngx_log_t *log);


#endif /* _NGX_ASANA_LMDB_READ_H_INCLUDED_ */
