
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * libpq's blocking calls have no limit of time, so none of them is used but
 * the one that resolves names, within PQconnectStartParams().  Several
 * statements go out as one text of the simple protocol: they need one round
 * trip, and nothing that stays in the session, so that poolers may stand
 * between.
 */


#include "ngx_asana_pq.h"
#include "ngx_asana_uri.h"

#include <poll.h>


/* milliseconds */
#define NGX_ASANA_PQ_DELAY      1000
#define NGX_ASANA_PQ_MAX_DELAY  8000

/* a connection that was not used for so long may be dead without a word */
#define NGX_ASANA_PQ_IDLE       60000

/* of share/asana_hook.sql */
#define NGX_ASANA_PQ_SCHEMA     1

#define NGX_ASANA_PQ_ERROR      256


struct ngx_asana_pq_s {
    ngx_asana_backend_conf_t  *conf;
    PGconn                    *conn;
    ngx_uint_t                 used;      /* 1: it has answered already */
    ngx_msec_t                 last;      /* when it answered */
    ngx_msec_t                 deadline;
    ngx_msec_t                 delay;
    ngx_uint_t                 attempts;  /* that failed, for all time */
    ngx_uint_t                 warned;
    char                       state[6];  /* SQLSTATE of the last error */
    char                       error[NGX_ASANA_PQ_ERROR];

    /* also read in the main thread */
    ngx_atomic_t               failed;
    ngx_atomic_t               retry;
    ngx_atomic_t               since;     /* it failed last */
};


static ngx_int_t ngx_asana_pq_connect(ngx_asana_pq_t *pq, ngx_log_t *log);
static ngx_int_t ngx_asana_pq_schema(ngx_asana_pq_t *pq, ngx_log_t *log);
static ngx_int_t ngx_asana_pq_wait(ngx_asana_pq_t *pq, short events);
static ngx_int_t ngx_asana_pq_ready(ngx_asana_pq_t *pq);
static ngx_int_t ngx_asana_pq_collect(ngx_asana_pq_t *pq, PGresult **results,
    ngx_uint_t n);
static void ngx_asana_pq_notice(void *data, const PGresult *res);
static void ngx_asana_pq_error(ngx_asana_pq_t *pq, const char *text);


ngx_asana_pq_t *
ngx_asana_pq_create(ngx_asana_backend_conf_t *conf, ngx_log_t *log)
{
    ngx_asana_pq_t  *pq;

    pq = ngx_calloc(sizeof(ngx_asana_pq_t), log);

    if (pq) {
        pq->conf = conf;
    }

    return pq;
}


void
ngx_asana_pq_destroy(ngx_asana_pq_t *pq)
{
    if (pq) {
        ngx_asana_pq_close(pq);
        ngx_free(pq);
    }
}


void
ngx_asana_pq_close(ngx_asana_pq_t *pq)
{
    /* it is non-blocking: what does not go out at once does not */

    PQfinish(pq->conn);
    pq->conn = NULL;
}


void
ngx_asana_pq_idle(ngx_asana_pq_t *pq)
{
    if (pq->conn && ngx_asana_pq_now() - pq->last > NGX_ASANA_PQ_IDLE) {
        ngx_asana_pq_close(pq);
    }
}


ngx_msec_t
ngx_asana_pq_now(void)
{
    return (ngx_msec_t) (ngx_asana_counters_now() / 1000);
}


ngx_int_t
ngx_asana_pq_begin(ngx_asana_pq_t *pq, ngx_log_t *log)
{
    if (ngx_asana_pq_down(pq)) {
        return NGX_ERROR;
    }

    pq->deadline = ngx_asana_pq_now() + pq->conf->timeout;

    ngx_asana_pq_idle(pq);

    return ngx_asana_pq_again(pq, log);
}


ngx_int_t
ngx_asana_pq_again(ngx_asana_pq_t *pq, ngx_log_t *log)
{
    if (pq->conn || ngx_asana_pq_connect(pq, log) == NGX_OK) {
        return NGX_OK;
    }

    return ngx_asana_pq_fail(pq, NULL, log);
}


ngx_uint_t
ngx_asana_pq_down(ngx_asana_pq_t *pq)
{
    return pq->failed
           && (ngx_msec_int_t) (pq->retry - ngx_asana_pq_now()) > 0;
}


ngx_uint_t
ngx_asana_pq_failed(ngx_asana_pq_t *pq)
{
    return pq->failed;
}


ngx_uint_t
ngx_asana_pq_heard(ngx_asana_pq_t *pq, ngx_msec_t when)
{
    if (!pq->failed || (ngx_msec_int_t) (when - pq->since) <= 0) {
        return 0;
    }

    pq->retry = ngx_asana_pq_now();

    return 1;
}


static ngx_int_t
ngx_asana_pq_connect(ngx_asana_pq_t *pq, ngx_log_t *log)
{
    PostgresPollingStatusType  status;

    pq->used = 0;
    pq->state[0] = '\0';
    pq->conn = ngx_asana_uri_start(pq->conf, pq->attempts);

    if (pq->conn == NULL) {
        ngx_asana_pq_error(pq, "no memory, or its URI is not valid");
        return NGX_ERROR;
    }

    (void) PQsetNoticeReceiver(pq->conn, ngx_asana_pq_notice, pq);

    status = (PQstatus(pq->conn) == CONNECTION_BAD) ? PGRES_POLLING_FAILED
                                                    : PGRES_POLLING_WRITING;

    while (status == PGRES_POLLING_READING || status == PGRES_POLLING_WRITING)
    {
        if (ngx_asana_pq_wait(pq, (status == PGRES_POLLING_READING)
                                  ? POLLIN : POLLOUT)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        status = PQconnectPoll(pq->conn);
    }

    if (status != PGRES_POLLING_OK || PQsetnonblocking(pq->conn, 1) != 0) {
        ngx_asana_pq_error(pq, PQerrorMessage(pq->conn));
        return NGX_ERROR;
    }

    return ngx_asana_pq_schema(pq, log);
}


static ngx_int_t
ngx_asana_pq_schema(ngx_asana_pq_t *pq, ngx_log_t *log)
{
    int64_t              version;
    ngx_int_t            rc;
    PGresult            *res;

    res = NULL;
    rc = NGX_ERROR;

    if (PQsendQuery(pq->conn, "SELECT version FROM asana_hook.schema")) {
        rc = ngx_asana_pq_collect(pq, &res, 1);
    }

    if (ngx_strcmp(pq->state, "3F000") == 0
        || ngx_strcmp(pq->state, "42P01") == 0)
    {
        ngx_asana_pq_error(pq, "it has no tables for the module; run "
                           "\"asana_hook.sql\"");

    } else if (rc == NGX_OK) {
        version = PQntuples(res) ? ngx_asana_sql_number(res, 0, 0) : 0;

        if (version != NGX_ASANA_PQ_SCHEMA) {
            ngx_asana_pq_error(pq, "its tables are of another version; "
                               "upgrade the module, or run \"asana_hook.sql\"");
            rc = NGX_ERROR;
        }
    }

    ngx_asana_pq_clear(&res, 1);

    return rc;
}


/* until the socket is ready, and no longer than to the deadline */

static ngx_int_t
ngx_asana_pq_wait(ngx_asana_pq_t *pq, short events)
{
    int             n;
    struct pollfd   pfd;
    ngx_msec_int_t  left;

    pfd.fd = PQsocket(pq->conn);
    pfd.events = events;

    do {
        left = pq->deadline - ngx_asana_pq_now();

        n = (left > 0) ? poll(&pfd, 1, (int) left) : 0;

    } while (n == -1 && ngx_errno == NGX_EINTR);

    if (n == 1) {
        return NGX_OK;
    }

    ngx_asana_pq_error(pq, "it did not answer within \"timeout\"");

    return NGX_ERROR;
}


/* until the next result is there, without which PQgetResult() blocks */

static ngx_int_t
ngx_asana_pq_ready(ngx_asana_pq_t *pq)
{
    int  rc;

    for ( ;; ) {
        rc = PQflush(pq->conn);

        if (rc == -1 || (rc == 0 && !PQisBusy(pq->conn))) {

            /* what went wrong is in the result */

            return NGX_OK;
        }

        if (ngx_asana_pq_wait(pq, rc ? POLLIN|POLLOUT : POLLIN) != NGX_OK) {
            return NGX_ERROR;
        }

        if (PQconsumeInput(pq->conn) == 0) {
            return NGX_OK;
        }
    }
}


static ngx_int_t
ngx_asana_pq_collect(ngx_asana_pq_t *pq, PGresult **results, ngx_uint_t n)
{
    PGresult    *res;
    ngx_int_t    rc;
    ngx_uint_t   i;
    const char  *text;

    i = 0;
    rc = NGX_OK;
    pq->state[0] = '\0';

    for ( ;; ) {
        if (ngx_asana_pq_ready(pq) != NGX_OK) {
            return NGX_ERROR;
        }

        res = PQgetResult(pq->conn);

        if (res == NULL) {
            break;
        }

        text = "";

        switch (PQresultStatus(res)) {

        case PGRES_TUPLES_OK:

            if (i < n && PQnfields(res)) {
                results[i++] = res;
                continue;
            }

            break;

        case PGRES_COMMAND_OK:
            break;

        default:
            rc = NGX_ERROR;

            text = PQresultErrorField(res, PG_DIAG_SQLSTATE);

            (void) ngx_cpystrn((u_char *) pq->state,
                               (u_char *) (text ? text : ""),
                               sizeof(pq->state));

            text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
            ngx_asana_pq_error(pq, text ? text : PQerrorMessage(pq->conn));
        }

        PQclear(res);

        /* it is gone, or has begun a copy, which has no last result */

        if (text == NULL) {
            return NGX_ERROR;
        }
    }

    if (rc == NGX_OK && i < n) {
        ngx_asana_pq_error(pq, "its answer was cut short");
        rc = NGX_ERROR;
    }

    return rc;
}


ngx_int_t
ngx_asana_pq_query(ngx_asana_pq_t *pq, ngx_asana_sql_t *sql,
    PGresult **results, ngx_uint_t n, ngx_log_t *log)
{
    ngx_int_t    rc;
    ngx_uint_t   used;

    ngx_memzero(results, n * sizeof(PGresult *));

    ngx_asana_sql_add(sql, "%Z");

    if (sql->end == NULL) {
        ngx_asana_pq_error(pq, "no memory");
        return ngx_asana_pq_fail(pq, NULL, log);
    }

    used = pq->used;
    pq->warned = 0;

    rc = NGX_ERROR;

    if (PQsendQuery(pq->conn, (char *) sql->start)) {
        rc = ngx_asana_pq_collect(pq, results, n);

    } else {
        ngx_asana_pq_error(pq, PQerrorMessage(pq->conn));
    }

    if (rc == NGX_OK && !pq->warned) {

        if (pq->failed) {
            ngx_log_error(NGX_LOG_NOTICE, log, 0,
                          "asana_hook: zone \"%V\": PostgreSQL answers again",
                          &pq->conf->zone);
        }

        pq->used = 1;
        pq->last = ngx_asana_pq_now();
        pq->failed = 0;
        pq->delay = 0;

        return NGX_OK;
    }

    ngx_asana_pq_clear(results, n);

    if (ngx_strcmp(pq->state, "25006") == 0
        || (used && PQstatus(pq->conn) == CONNECTION_BAD))
    {
        ngx_asana_pq_close(pq);
        return NGX_AGAIN;
    }

    return ngx_asana_pq_fail(pq, NULL, log);
}


void
ngx_asana_pq_clear(PGresult **results, ngx_uint_t n)
{
    while (n--) {
        PQclear(results[n]);
        results[n] = NULL;
    }
}


/*
 * SQLSTATE 01000 comes with a commit that succeeded on this server, but was
 * not replicated as it should have been.
 */

static void
ngx_asana_pq_notice(void *data, const PGresult *res)
{
    ngx_asana_pq_t *pq = data;

    char  *state;

    state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

    if (state && ngx_strcmp(state, "01000") == 0) {
        pq->warned = 1;
        ngx_asana_pq_error(pq, PQresultErrorField(res,
                                                  PG_DIAG_MESSAGE_PRIMARY));
    }
}


/* on one line, whatever the server says */

static void
ngx_asana_pq_error(ngx_asana_pq_t *pq, const char *text)
{
    char  *p;

    (void) ngx_cpystrn((u_char *) pq->error,
                       (u_char *) (text && *text ? text : "no connection"),
                       NGX_ASANA_PQ_ERROR);

    for (p = pq->error + ngx_strlen(pq->error);
         p > pq->error && (u_char) p[-1] <= ' ';
         p--)
    {
        p[-1] = '\0';
    }

    for (p = pq->error; *p; p++) {
        if ((u_char) *p < ' ' || *p == 0x7f) {
            *p = ' ';
        }
    }
}


ngx_int_t
ngx_asana_pq_fail(ngx_asana_pq_t *pq, const char *reason, ngx_log_t *log)
{
    ngx_atomic_t  *count;

    if (reason) {
        ngx_asana_pq_error(pq, reason);
    }

    count = &pq->conf->counters->failures;

    if (ngx_strcmp(pq->state, "55P03") == 0
        || ngx_strncmp(pq->state, "40", 2) == 0)
    {
        /* somebody else had the lock for too long, or was let go on */

        count = &pq->conf->counters->conflicts;
    }

    (void) ngx_atomic_fetch_add(count, 1);

    ngx_asana_pq_close(pq);

    pq->attempts++;
    pq->delay = pq->delay ? ngx_min(2 * pq->delay, NGX_ASANA_PQ_MAX_DELAY)
                          : NGX_ASANA_PQ_DELAY;
    pq->since = ngx_asana_pq_now();
    pq->retry = pq->since + pq->delay;
    pq->failed = 1;

    ngx_log_error(NGX_LOG_CRIT, log, 0,
                  "asana_hook: zone \"%V\": PostgreSQL failed: \"%s\"; the "
                  "next attempt is in %M seconds", &pq->conf->zone, pq->error,
                  pq->delay / 1000);

    return NGX_ERROR;
}
