
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_POSTGRES_RESEAL_H_INCLUDED_
#define _NGX_ASANA_POSTGRES_RESEAL_H_INCLUDED_


#include "ngx_asana_backend.h"
#include "ngx_asana_sql.h"


/*
 * The tasks RESEAL of a batch, within its transaction.  They change no secret,
 * so no other host has to forget one.
 */

/* results of what select() appends at most */
#define NGX_ASANA_POSTGRES_RESEAL  2


typedef struct {
    ngx_asana_backend_conf_t  *conf;
    ngx_log_t                 *log;
    ngx_uint_t                 wanted;     /* there is such a task */
    ngx_uint_t                 resealed;
    uint64_t                   left;
    ngx_asana_sql_t            sql;        /* writes what was sealed anew */
} ngx_asana_postgres_reseal_t;


/* Looks for such a task in the batch. */
void ngx_asana_postgres_reseal_init(ngx_asana_postgres_reseal_t *reseal,
    ngx_asana_backend_conf_t *conf, ngx_queue_t *batch, ngx_pool_t *pool,
    ngx_log_t *log);

/* Appends statements that read what there is to be done: so many results. */
ngx_uint_t ngx_asana_postgres_reseal_select(ngx_asana_postgres_reseal_t *reseal,
    ngx_asana_sql_t *sql);

/* Seals what was read; NGX_ERROR if OpenSSL fails. */
ngx_int_t ngx_asana_postgres_reseal_load(ngx_asana_postgres_reseal_t *reseal,
    PGresult **res);

/* Sets the outcome of a task. */
void ngx_asana_postgres_reseal_decide(ngx_asana_postgres_reseal_t *reseal,
    ngx_asana_task_t *task);


#endif /* _NGX_ASANA_POSTGRES_RESEAL_H_INCLUDED_ */
