
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_ROWS_H_INCLUDED_
#define _NGX_ASANA_ROWS_H_INCLUDED_


#include "ngx_asana_backend.h"
#include "ngx_asana_seal.h"
#include "ngx_asana_sql.h"


/*
 * The table asana_hook.secrets, which has a row for each secret, and the
 * secrets of some of its keys.  All of it may be called in any thread.
 */

/* s->serial says what is to be done for a secret; the policy sets NEW */

#define NGX_ASANA_ROW_NEW      0    /* to be sealed and written */
#define NGX_ASANA_ROW_TOUCHED  1    /* only its times are to be written */
#define NGX_ASANA_ROW_CLEAN    2


typedef struct {
    ngx_str_t                  key;
    ngx_asana_secrets_t        secrets;
    ngx_int_t                  rc;       /* NGX_ERROR: one is not readable */
    ngx_uint_t                 rows;     /* that were read */
    ngx_uint_t                 changed;  /* to be written */
} ngx_asana_row_set_t;


typedef struct {
    ngx_asana_backend_conf_t  *conf;
    ngx_log_t                 *log;
    ngx_pool_t                *pool;
    ngx_array_t                sets;     /* ngx_asana_row_set_t */
    ngx_uint_t                 complained;
} ngx_asana_rows_t;


/* Starts without a key; NGX_ERROR if there is no memory. */
ngx_int_t ngx_asana_rows_init(ngx_asana_rows_t *rows,
    ngx_asana_backend_conf_t *conf, ngx_pool_t *pool, ngx_log_t *log);

/* Overwrites all secrets; the keys are void then. */
void ngx_asana_rows_wipe(ngx_asana_rows_t *rows);

/* Adds the key, if it is not there yet; NULL if there is no memory. */
ngx_asana_row_set_t *ngx_asana_rows_add(ngx_asana_rows_t *rows,
    ngx_str_t *key);

/* The key, or NULL. */
ngx_asana_row_set_t *ngx_asana_rows_find(ngx_asana_rows_t *rows,
    ngx_str_t *key);

/*
 * Appends a statement that reads all keys that were added, and those that have
 * a secret with the id, or the gid, of one of these n changes.
 */
void ngx_asana_rows_select(ngx_asana_rows_t *rows, ngx_asana_sql_t *sql,
    ngx_asana_change_t **changes, ngx_uint_t n);

/* The same for the next keys behind one, at most so many. */
void ngx_asana_rows_select_page(ngx_asana_rows_t *rows, ngx_asana_sql_t *sql,
    ngx_str_t *after, ngx_uint_t limit);

/* Adds what it has read; NGX_ERROR if there is no memory. */
ngx_int_t ngx_asana_rows_load(ngx_asana_rows_t *rows, PGresult *res);

/*
 * Appends statements that write the keys that are changed; NGX_ERROR if
 * OpenSSL fails.
 */
ngx_int_t ngx_asana_rows_store(ngx_asana_rows_t *rows, ngx_asana_sql_t *sql);


#endif /* _NGX_ASANA_ROWS_H_INCLUDED_ */
