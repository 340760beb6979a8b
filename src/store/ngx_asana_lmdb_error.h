
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_ERROR_H_INCLUDED_
#define _NGX_ASANA_LMDB_ERROR_H_INCLUDED_


#include "ngx_asana_backend.h"

#include <lmdb.h>


/* beside those of LMDB: the store is encrypted, and there are no keys */
#define NGX_ASANA_LMDB_NO_KEY  (-30599)


/* what was logged last, in either thread; zeroed at the start */

typedef struct {
    ngx_asana_backend_conf_t  *conf;
    ngx_atomic_t               said[16];
} ngx_asana_lmdb_errors_t;


/* Logs an error of LMDB or the system, with a way out; returns NGX_ERROR. */
ngx_int_t ngx_asana_lmdb_error(ngx_asana_lmdb_errors_t *errors,
    ngx_log_t *log, const char *what, int err);

/* Logs that a key, or what is kept for it, is damaged. */
void ngx_asana_lmdb_error_damaged(ngx_asana_lmdb_errors_t *errors,
    ngx_log_t *log, MDB_val *key);

/* Whether the cause, 0 to 63, was logged within this second already. */
ngx_uint_t ngx_asana_lmdb_error_quiet(ngx_asana_lmdb_errors_t *errors,
    ngx_uint_t cause);


#endif /* _NGX_ASANA_LMDB_ERROR_H_INCLUDED_ */
