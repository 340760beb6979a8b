
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A batch is one transaction, of two round trips:
 *
 *     BEGIN, lock the zone's row, read its position in the journal, the time,
 *     and the secrets of all keys of the batch
 *
 *     decide, here
 *
 *     write the secrets, move the position on, add the keys to the journal,
 *     COMMIT
 *
 * Whoever changes something holds the lock until the commit, so positions are
 * in the order of commits.  Each statement sees what was committed before it
 * began, so the one that reads the secrets must come after the one that waits
 * for the lock.
 *
 * Also what changed nothing is committed, if a client is told that a secret is
 * held: it may have come with a commit that was not replicated yet, and is
 * durable as soon as a later one is.
 */


#include "ngx_asana_postgres_change.h"
#include "ngx_asana_postgres_record.h"
#include "ngx_asana_postgres_reseal.h"


typedef struct {
    ngx_asana_pq_t            *pq;
    ngx_asana_backend_conf_t  *conf;
    ngx_queue_t               *batch;
    ngx_log_t                 *log;
    ngx_pool_t                *pool;
    ngx_asana_rows_t           rows;
    ngx_asana_postgres_reseal_t  reseal;
    uint64_t                   position;   /* of the last commit */
    time_t                     now;        /* of the server */
    ngx_uint_t                 creating;   /* on any host */
    ngx_uint_t                 durable;    /* it must be committed */
    ngx_uint_t                 moved;      /* others are to know of it */
} ngx_asana_postgres_change_t;


static ngx_int_t ngx_asana_postgres_change_try(ngx_asana_postgres_change_t *ch);
static ngx_int_t ngx_asana_postgres_change_begin(
    ngx_asana_postgres_change_t *ch);
static ngx_int_t ngx_asana_postgres_change_keys(ngx_asana_postgres_change_t *ch,
    ngx_asana_sql_t *sql);
static ngx_int_t ngx_asana_postgres_change_create_zone(
    ngx_asana_postgres_change_t *ch);
static void ngx_asana_postgres_change_decide(ngx_asana_postgres_change_t *ch,
    ngx_asana_task_t *task);
static ngx_uint_t ngx_asana_postgres_change_concerns(
    ngx_asana_change_t *change, ngx_asana_row_set_t *set);
static ngx_asana_outcome_e ngx_asana_postgres_change_decide_set(
    ngx_asana_postgres_change_t *ch, ngx_asana_change_t *asked,
    ngx_asana_row_set_t *set, ngx_asana_reason_e *reason);
static void ngx_asana_postgres_change_mark(ngx_asana_row_set_t *set,
    ngx_asana_change_t *change, uint64_t serial);
static ngx_int_t ngx_asana_postgres_change_commit(
    ngx_asana_postgres_change_t *ch);


uint64_t
ngx_asana_postgres_change(ngx_asana_pq_t *pq, ngx_asana_backend_conf_t *conf,
    ngx_queue_t *batch, ngx_log_t *log)
{
    ngx_int_t                     rc;
    ngx_uint_t                    tries;
    ngx_queue_t                  *q;
    ngx_asana_task_t             *task;
    ngx_asana_postgres_change_t   ch;

    ngx_memzero(&ch, sizeof(ngx_asana_postgres_change_t));

    ch.pq = pq;
    ch.conf = conf;
    ch.batch = batch;
    ch.log = log;

    rc = ngx_asana_pq_begin(pq, log);

    for (tries = 0; rc == NGX_OK; tries++) {

        ch.durable = 0;
        ch.moved = 0;
        ch.position = 0;

        ch.pool = ngx_create_pool(4096, log);
        if (ch.pool == NULL) {
            rc = NGX_ERROR;
            break;
        }

        rc = ngx_asana_postgres_change_try(&ch);
        ngx_asana_rows_wipe(&ch.rows);
        ngx_destroy_pool(ch.pool);

        if (rc != NGX_AGAIN) {
            break;
        }

        /* nothing was decided yet */

        rc = (tries < 2) ? ngx_asana_pq_again(pq, log)
                         : ngx_asana_pq_fail(pq, NULL, log);
    }

    if (rc == NGX_OK) {
        return ch.moved ? ch.position : 0;
    }

    /* what was decided stands on what was not stored */

    for (q = ngx_queue_head(batch);
         q != ngx_queue_sentinel(batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        ngx_asana_task_fail(task);
    }

    return 0;
}


static ngx_int_t
ngx_asana_postgres_change_try(ngx_asana_postgres_change_t *ch)
{
    ngx_int_t          rc;
    PGresult          *none;
    ngx_queue_t       *q;
    ngx_asana_sql_t    sql;
    ngx_asana_task_t  *task;

    if (ngx_asana_rows_init(&ch->rows, ch->conf, ch->pool, ch->log) != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_asana_postgres_reseal_init(&ch->reseal, ch->conf, ch->batch, ch->pool,
                                   ch->log);

    rc = ngx_asana_postgres_change_begin(ch);

    if (rc != NGX_OK) {
        return rc;
    }

    for (q = ngx_queue_head(ch->batch);
         q != ngx_queue_sentinel(ch->batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);
        ngx_asana_postgres_change_decide(ch, task);
    }

    if (ch->durable) {
        return ngx_asana_postgres_change_commit(ch);
    }

    /* the decisions hold, whatever becomes of the connection */

    ngx_asana_sql_init(&sql, ch->pool);
    ngx_asana_sql_add(&sql, "ROLLBACK;");

    (void) ngx_asana_pq_query(ch->pq, &sql, &none, 0, ch->log);

    return NGX_OK;
}


static ngx_int_t
ngx_asana_postgres_change_begin(ngx_asana_postgres_change_t *ch)
{
    ngx_int_t         rc;
    PGresult         *res[4 + NGX_ASANA_POSTGRES_RESEAL];
    ngx_uint_t        n;
    ngx_asana_sql_t   sql;

    ngx_asana_sql_init(&sql, ch->pool);

    /*
     * Of the transaction, not of the session, which a pooler may share.  Who
     * waits for the lock is to hear of it before the deadline.
     */

    ngx_asana_sql_add(&sql,
                      "BEGIN ISOLATION LEVEL READ COMMITTED;"
                      "SET LOCAL statement_timeout=%M;"
                      "SET LOCAL lock_timeout=%M;"
                      "SET LOCAL idle_in_transaction_session_timeout=%M;",
                      ch->conf->timeout,
                      ch->conf->timeout - ch->conf->timeout / 4,
                      ch->conf->timeout);
    ngx_asana_sql_add(&sql,
                      "SELECT set_config('synchronous_commit','on',true)"
                      " WHERE current_setting('synchronous_commit')"
                      " NOT IN ('on','remote_apply');"
                      "SELECT position FROM asana_hook.zones WHERE zone=");
    ngx_asana_sql_add_name(&sql, &ch->conf->zone);
    ngx_asana_sql_add(&sql, " FOR UPDATE;");

    ngx_asana_sql_add(&sql,
                      "SELECT floor(extract(epoch FROM clock_timestamp()))"
                      "::bigint,(current_setting('fsync')<>'off')::int,"
                      "EXISTS(SELECT FROM asana_hook.creates WHERE started>"
                      "extract(epoch FROM clock_timestamp())-%d AND zone=",
                      NGX_ASANA_POSTGRES_CREATE);
    ngx_asana_sql_add_name(&sql, &ch->conf->zone);
    ngx_asana_sql_add(&sql, ")::int;");

    if (ngx_asana_postgres_change_keys(ch, &sql) != NGX_OK) {
        return NGX_ERROR;
    }

    n = 4 + ngx_asana_postgres_reseal_select(&ch->reseal, &sql);

    rc = ngx_asana_pq_query(ch->pq, &sql, res, n, ch->log);

    if (rc != NGX_OK) {
        return rc;
    }

    if (PQntuples(res[1]) == 0) {
        rc = ngx_asana_postgres_change_create_zone(ch);
        goto done;
    }

    ch->position = ngx_asana_sql_number(res[1], 0, 0);
    ch->now = ngx_asana_sql_time(res[2], 0, 0);
    ch->creating = ngx_asana_sql_number(res[2], 0, 2);

    if (!ngx_asana_sql_number(res[2], 0, 1)) {
        rc = ngx_asana_pq_fail(ch->pq, "its \"fsync\" is \"off\", which loses "
                               "what was committed; set it to \"on\"",
                               ch->log);
        goto done;
    }

    if (ngx_asana_rows_load(&ch->rows, res[3]) != NGX_OK
        || ngx_asana_postgres_reseal_load(&ch->reseal, &res[4]) != NGX_OK)
    {
        /* the transaction goes with the connection */

        rc = NGX_ERROR;
        ngx_asana_pq_close(ch->pq);
    }

done:

    ngx_asana_pq_clear(res, n);

    return rc;
}


/* CONFIRM and FORGET name a secret, whatever its keys */

static ngx_int_t
ngx_asana_postgres_change_keys(ngx_asana_postgres_change_t *ch,
    ngx_asana_sql_t *sql)
{
    ngx_array_t           changes;
    ngx_queue_t          *q;
    ngx_asana_task_t     *task;
    ngx_asana_change_t  **change;

    if (ngx_array_init(&changes, ch->pool, 4, sizeof(ngx_asana_change_t *))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (q = ngx_queue_head(ch->batch);
         q != ngx_queue_sentinel(ch->batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        if (task->change.type >= NGX_ASANA_RESEAL) {
            continue;
        }

        if (!ngx_asana_task_keyless(task->change.type)) {

            if (ngx_asana_rows_add(&ch->rows, &task->key) == NULL) {
                return NGX_ERROR;
            }

            continue;
        }

        change = ngx_array_push(&changes);
        if (change == NULL) {
            return NGX_ERROR;
        }

        *change = &task->change;
    }

    ngx_asana_rows_select(&ch->rows, sql, changes.elts, changes.nelts);

    return NGX_OK;
}


static ngx_int_t
ngx_asana_postgres_change_create_zone(ngx_asana_postgres_change_t *ch)
{
    ngx_int_t         rc;
    PGresult         *none;
    ngx_asana_sql_t   sql;

    ngx_asana_sql_init(&sql, ch->pool);

    ngx_asana_sql_add(&sql, "ROLLBACK;INSERT INTO asana_hook.zones"
                            " (zone,position) VALUES(");
    ngx_asana_sql_add_name(&sql, &ch->conf->zone);
    ngx_asana_sql_add(&sql, ",%uL) ON CONFLICT DO NOTHING;",
                      ngx_asana_postgres_record_next(0));
    ngx_asana_sql_add(&sql, "INSERT INTO asana_hook.journal"
                            " (zone,position,keys) SELECT zone,position,'{}'"
                            " FROM asana_hook.zones WHERE zone=");
    ngx_asana_sql_add_name(&sql, &ch->conf->zone);
    ngx_asana_sql_add(&sql, " ON CONFLICT DO NOTHING;");

    rc = ngx_asana_pq_query(ch->pq, &sql, &none, 0, ch->log);

    if (rc == NGX_OK) {
        ngx_log_error(NGX_LOG_WARN, ch->log, 0,
                      "asana_hook: zone \"%V\" is new in PostgreSQL; if it had "
                      "secrets before, they are lost there",
                      &ch->conf->zone);
        return NGX_AGAIN;
    }

    return rc;
}


static void
ngx_asana_postgres_change_decide(ngx_asana_postgres_change_t *ch,
    ngx_asana_task_t *task)
{
    ngx_uint_t            i;
    ngx_asana_reason_e    reason;
    ngx_asana_outcome_e   outcome;
    ngx_asana_row_set_t  *set;

    if (task->change.type == NGX_ASANA_RESEAL) {
        ngx_asana_postgres_reseal_decide(&ch->reseal, task);
        ch->durable |= (task->outcome == NGX_ASANA_CHANGED);
        return;
    }

    if (task->change.type >= NGX_ASANA_CALL) {

        /* see commit() */

        task->outcome = NGX_ASANA_CHANGED;
        ch->durable = 1;
        return;
    }

    if (!ngx_asana_task_keyless(task->change.type)) {
        set = ngx_asana_rows_find(&ch->rows, &task->key);
        task->outcome = ngx_asana_postgres_change_decide_set(ch, &task->change,
                                                             set,
                                                             &task->reason);
        return;
    }

    ngx_asana_task_begin(task);

    set = ch->rows.sets.elts;

    for (i = 0; i < ch->rows.sets.nelts; i++) {

        if (ngx_asana_postgres_change_concerns(&task->change, &set[i])) {
            outcome = ngx_asana_postgres_change_decide_set(ch, &task->change,
                                                           &set[i], &reason);
            ngx_asana_task_add(task, &set[i].key, outcome, reason);
        }
    }
}


static ngx_uint_t
ngx_asana_postgres_change_concerns(ngx_asana_change_t *change,
    ngx_asana_row_set_t *set)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    if (change->type == NGX_ASANA_CONFIRM) {
        return ngx_asana_secrets_by_id(&set->secrets, change->id) != NULL;
    }

    s = ngx_asana_secrets_first(&set->secrets);

    for (i = 0; i < set->secrets.n; i++) {

        if (ngx_asana_same(s->gid, s->gid_len, change->gid, change->gid_len)) {
            return 1;
        }

        s = ngx_asana_secret_next(s);
    }

    return 0;
}


static ngx_asana_outcome_e
ngx_asana_postgres_change_decide_set(ngx_asana_postgres_change_t *ch,
    ngx_asana_change_t *asked, ngx_asana_row_set_t *set,
    ngx_asana_reason_e *reason)
{
    uint64_t              serial;
    ngx_asana_change_t    change;
    ngx_asana_secret_t   *s;
    ngx_asana_outcome_e   outcome;

    *reason = NGX_ASANA_REASON_NONE;

    /* what is not readable may go, but nothing is decided beside it */

    if (set->rc != NGX_OK
        && asked->type != NGX_ASANA_REVOKE
        && asked->type != NGX_ASANA_FORGET)
    {
        return NGX_ASANA_FAILED;
    }

    s = ngx_asana_secrets_by_id(&set->secrets, asked->id);
    serial = s ? s->serial : NGX_ASANA_ROW_CLEAN;

    change = *asked;
    change.creating |= ch->creating;

    outcome = ngx_asana_policy_decide(&set->secrets, &change, ch->now,
                                      &ch->conf->limits, reason);

    ngx_explicit_memzero(&change, sizeof(ngx_asana_change_t));

    if (outcome >= NGX_ASANA_CHANGED) {
        ngx_asana_postgres_change_mark(set, asked, serial);
        ch->durable = 1;
    }

    if (outcome >= NGX_ASANA_HELD && asked->type != NGX_ASANA_NOTE) {
        ch->durable = 1;
        ch->moved = 1;
    }

    return outcome;
}


static void
ngx_asana_postgres_change_mark(ngx_asana_row_set_t *set,
    ngx_asana_change_t *change, uint64_t serial)
{
    ngx_asana_secret_t  *s;

    if (change->type == NGX_ASANA_NOTE) {

        /* one that is new in this batch stays new */

        s = ngx_asana_secrets_by_id(&set->secrets, change->id);

        if (s) {
            s->serial = ngx_min(serial, NGX_ASANA_ROW_TOUCHED);
        }

        set->changed = ngx_max(set->changed, 1);
        return;
    }

    if (change->type == NGX_ASANA_CONFIRM) {

        /* only its gid may be new */

        s = ngx_asana_secrets_by_id(&set->secrets, change->id);

        if (s) {
            s->serial = NGX_ASANA_ROW_NEW;
        }
    }

    set->changed = 2;
}


static ngx_int_t
ngx_asana_postgres_change_commit(ngx_asana_postgres_change_t *ch)
{
    ngx_int_t         rc;
    uint64_t          start;
    PGresult         *none;
    ngx_asana_sql_t   sql;

    ngx_asana_sql_init(&sql, ch->pool);

    /* before the others, which may seal some of these in another state */

    if (ch->reseal.wanted) {
        ngx_asana_sql_append(&sql, &ch->reseal.sql);
    }

    if (ngx_asana_rows_store(&ch->rows, &sql) != NGX_OK) {
        return ngx_asana_pq_fail(ch->pq, "OpenSSL, or memory, failed here",
                                 ch->log);
    }

    ngx_asana_postgres_record_calls(&sql, ch->conf, ch->batch, ch->now);

    if (ch->moved) {
        ch->position = ngx_asana_postgres_record_next(ch->position);

        ngx_asana_postgres_record(&sql, &ch->rows, ch->position, ch->now);
    }

    ngx_asana_sql_add(&sql, "COMMIT;");

    start = ngx_asana_counters_now();

    rc = ngx_asana_pq_query(ch->pq, &sql, &none, 0, ch->log);

    if (rc == NGX_OK) {
        ngx_asana_counters_time(&ch->conf->counters->commits, start);
        return NGX_OK;
    }

    /* it may be there or not; the next read tells */

    return (rc == NGX_AGAIN) ? ngx_asana_pq_fail(ch->pq, NULL, ch->log)
                             : NGX_ERROR;
}
