
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_POSTGRES_RECORD_H_INCLUDED_
#define _NGX_ASANA_POSTGRES_RECORD_H_INCLUDED_


#include "ngx_asana_rows.h"


/* What a transaction writes beside secrets.  "now" is the server's time. */

/* seconds that a create call may be in flight */
#define NGX_ASANA_POSTGRES_CREATE   60


/* Appends statements for the tasks CALL and CALL_END of the batch. */
void ngx_asana_postgres_record_calls(ngx_asana_sql_t *sql,
    ngx_asana_backend_conf_t *conf, ngx_queue_t *batch, time_t now);

/*
 * Appends statements that remove what has expired, move the zone on to the
 * position, add the keys of sets that were changed to the journal, and cut it.
 */
void ngx_asana_postgres_record(ngx_asana_sql_t *sql, ngx_asana_rows_t *rows,
    uint64_t position, time_t now);

/* The position behind this one. */
uint64_t ngx_asana_postgres_record_next(uint64_t position);


#endif /* _NGX_ASANA_POSTGRES_RECORD_H_INCLUDED_ */
