
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_PQ_H_INCLUDED_
#define _NGX_ASANA_PQ_H_INCLUDED_


#include "ngx_asana_backend.h"
#include "ngx_asana_sql.h"


/*
 * A connection to PostgreSQL, used by one thread at a time, in straight lines:
 * each call ends at the latest at the deadline.
 */

typedef struct ngx_asana_pq_s  ngx_asana_pq_t;


/* Returns what is not connected yet, in memory of its own, or NULL. */
ngx_asana_pq_t *ngx_asana_pq_create(ngx_asana_backend_conf_t *conf,
    ngx_log_t *log);

/* Closes and frees it; NULL is none. */
void ngx_asana_pq_destroy(ngx_asana_pq_t *pq);

/* Ends the connection, if there is one; does not wait. */
void ngx_asana_pq_close(ngx_asana_pq_t *pq);

/* The same, if it was not used for a minute. */
void ngx_asana_pq_idle(ngx_asana_pq_t *pq);

/* Milliseconds of the clock that ngx_current_msec is read from. */
ngx_msec_t ngx_asana_pq_now(void);

/*
 * Begins a piece of work that is to be done within conf->timeout, and connects
 * if need be.  NGX_ERROR: there is no connection; it is logged.  After a
 * failure the next attempt is made 1, 2, 4, 8, 8, ... seconds later.
 */
ngx_int_t ngx_asana_pq_begin(ngx_asana_pq_t *pq, ngx_log_t *log);

/* The same within the same time, after a query was NGX_AGAIN. */
ngx_int_t ngx_asana_pq_again(ngx_asana_pq_t *pq, ngx_log_t *log);

/*
 * Whether there was a failure, and the next attempt is not due yet; whether
 * there was one after the last success.  Both in any thread.
 */
ngx_uint_t ngx_asana_pq_down(ngx_asana_pq_t *pq);
ngx_uint_t ngx_asana_pq_failed(ngx_asana_pq_t *pq);

/*
 * The database has answered somebody at that time: if this is after the last
 * failure here, the next attempt is due at once.  Returns whether it is.
 */
ngx_uint_t ngx_asana_pq_heard(ngx_asana_pq_t *pq, ngx_msec_t when);

/*
 * Sends the statements and waits for their answers: n of them have rows, which
 * are ngx_asana_pq_clear()'s.  NGX_OK: each statement succeeded.  NGX_ERROR:
 * one failed, or there was a warning that it may not be durable, or it is too
 * late, and it is logged; NGX_AGAIN: the connection had been lost before, or
 * is one to a server that is read only.  After both it is not known what
 * became of it, and there is no connection.
 */
ngx_int_t ngx_asana_pq_query(ngx_asana_pq_t *pq, ngx_asana_sql_t *sql,
    PGresult **results, ngx_uint_t n, ngx_log_t *log);
void ngx_asana_pq_clear(PGresult **results, ngx_uint_t n);

/*
 * What it answered will not do, or is not known if the reason is NULL: logs
 * that, ends the connection, and returns NGX_ERROR.
 */
ngx_int_t ngx_asana_pq_fail(ngx_asana_pq_t *pq, const char *reason,
    ngx_log_t *log);


#endif /* _NGX_ASANA_PQ_H_INCLUDED_ */
