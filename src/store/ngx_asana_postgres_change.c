
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
 * A position is a number that grows by one, with random bits below it:
 *
 *     63      20 19       0
 *     | number  | random |
 *
 * A journal that was restored or lost commits at a failover goes through the
 * same numbers again, but not through the same positions.
 *
 * Also what changed nothing is committed, if a client is told that a secret is
 * held: it may have come with a commit that was not replicated yet, and is
 * durable as soon as a later one is.
 */


#include "ngx_asana_postgres_change.h"
#include "ngx_asana_postgres_reseal.h"
#include "ngx_asana_rows.h"

#include <openssl/rand.h>


/* bits of a position that are random */
#define NGX_ASANA_POSTGRES_RANDOM   20

/* commits that are kept in the journal */
#define NGX_ASANA_POSTGRES_JOURNAL  10000

/* seconds that a create call may be in flight */
#define NGX_ASANA_POSTGRES_CREATE   60

/* expired secrets that one commit removes */
#define NGX_ASANA_POSTGRES_EXPIRED  512


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
static void ngx_asana_postgres_change_decide_set(
    ngx_asana_postgres_change_t *ch, ngx_asana_task_t *task,
    ngx_asana_row_set_t *set);
static void ngx_asana_postgres_change_mark(ngx_asana_row_set_t *set,
    ngx_asana_change_t *change, uint64_t serial);
static ngx_int_t ngx_asana_postgres_change_commit(
    ngx_asana_postgres_change_t *ch);
static void ngx_asana_postgres_change_journal(ngx_asana_postgres_change_t *ch,
    ngx_asana_sql_t *sql);
static void ngx_asana_postgres_change_calls(ngx_asana_postgres_change_t *ch,
    ngx_asana_sql_t *sql);
static uint64_t ngx_asana_postgres_change_next(uint64_t position);


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
        return ch.durable ? ch.position : 0;
    }

    /* what was decided stands on what was not stored */

    for (q = ngx_queue_head(batch);
         q != ngx_queue_sentinel(batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        task->outcome = NGX_ASANA_FAILED;
        task->reason = NGX_ASANA_REASON_NONE;
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
    ch->now = ngx_asana_sql_number(res[2], 0, 0);
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


/* CONFIRM names a secret, whatever its keys */

static ngx_int_t
ngx_asana_postgres_change_keys(ngx_asana_postgres_change_t *ch,
    ngx_asana_sql_t *sql)
{
    u_char            *id;
    ngx_uint_t         n;
    ngx_array_t        ids;
    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    if (ngx_array_init(&ids, ch->pool, 4, NGX_ASANA_ID_LEN) != NGX_OK) {
        return NGX_ERROR;
    }

    n = 0;

    for (q = ngx_queue_head(ch->batch);
         q != ngx_queue_sentinel(ch->batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        if (task->change.type >= NGX_ASANA_RESEAL) {
            continue;
        }

        if (task->change.type != NGX_ASANA_CONFIRM) {

            if (ngx_asana_rows_add(&ch->rows, &task->key) == NULL) {
                return NGX_ERROR;
            }

            continue;
        }

        id = ngx_array_push(&ids);
        if (id == NULL) {
            return NGX_ERROR;
        }

        ngx_memcpy(id, task->change.id, NGX_ASANA_ID_LEN);
        n++;
    }

    ngx_asana_rows_select(&ch->rows, sql, ids.elts, n);

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
                      ngx_asana_postgres_change_next(0));
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

    if (task->change.type != NGX_ASANA_CONFIRM) {
        task->outcome = NGX_ASANA_FAILED;
        ngx_asana_postgres_change_decide_set(ch, task,
                                      ngx_asana_rows_find(&ch->rows,
                                                          &task->key));
        return;
    }

    task->outcome = NGX_ASANA_ABSENT;
    set = ch->rows.sets.elts;

    for (i = 0; i < ch->rows.sets.nelts; i++) {
        if (ngx_asana_secrets_by_id(&set[i].secrets, task->change.id)) {
            ngx_asana_postgres_change_decide_set(ch, task, &set[i]);
        }
    }
}


/*
 * One task may concern several keys.  The application hears of one that
 * failed, or else of one that refuses the secret.
 */

static void
ngx_asana_postgres_change_decide_set(ngx_asana_postgres_change_t *ch,
    ngx_asana_task_t *task, ngx_asana_row_set_t *set)
{
    uint64_t              serial;
    ngx_asana_change_t    change;
    ngx_asana_reason_e    reason;
    ngx_asana_secret_t   *s;
    ngx_asana_outcome_e   outcome;

    if (set->rc != NGX_OK && task->change.type != NGX_ASANA_REVOKE) {
        task->outcome = NGX_ASANA_FAILED;
        return;
    }

    s = ngx_asana_secrets_by_id(&set->secrets, task->change.id);
    serial = s ? s->serial : NGX_ASANA_ROW_CLEAN;

    change = task->change;
    change.creating |= ch->creating;

    outcome = ngx_asana_policy_decide(&set->secrets, &change, ch->now,
                                      &ch->conf->limits, &reason);

    ngx_explicit_memzero(&change, sizeof(ngx_asana_change_t));

    if (outcome >= NGX_ASANA_CHANGED) {
        ngx_asana_postgres_change_mark(set, &task->change, serial);
        ch->durable = 1;

    } else if (outcome == NGX_ASANA_HELD
               && task->change.type != NGX_ASANA_NOTE)
    {
        ch->durable = 1;
    }

    if (task->change.type == NGX_ASANA_CONFIRM) {

        if (task->outcome <= ngx_min(outcome, NGX_ASANA_REFUSED)
            || (outcome > NGX_ASANA_REFUSED && outcome <= task->outcome))
        {
            return;
        }

        if (outcome == NGX_ASANA_REFUSED) {
            task->key.len = set->key.len;
            ngx_memcpy(task->buf, set->key.data, set->key.len);
        }
    }

    task->outcome = outcome;
    task->reason = reason;
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

    ngx_asana_postgres_change_calls(ch, &sql);

    ch->position = ngx_asana_postgres_change_next(ch->position);

    ngx_asana_postgres_change_journal(ch, &sql);

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


/* those that are too old were never ended: their host has died */

static void
ngx_asana_postgres_change_calls(ngx_asana_postgres_change_t *ch,
    ngx_asana_sql_t *sql)
{
    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    for (q = ngx_queue_head(ch->batch);
         q != ngx_queue_sentinel(ch->batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        if (task->change.type == NGX_ASANA_CALL) {
            ngx_asana_sql_add(sql, "INSERT INTO asana_hook.creates"
                                   " (zone,call,started) VALUES(");
            ngx_asana_sql_add_name(sql, &ch->conf->zone);
            ngx_asana_sql_add(sql, ",");
            ngx_asana_sql_add_bytes(sql, task->change.id, NGX_ASANA_ID_LEN);
            ngx_asana_sql_add(sql, ",%T) ON CONFLICT DO NOTHING;", ch->now);

        } else if (task->change.type == NGX_ASANA_CALL_END) {
            ngx_asana_sql_add(sql, "DELETE FROM asana_hook.creates WHERE"
                                   " (started<=%T OR call=",
                              ch->now - NGX_ASANA_POSTGRES_CREATE);
            ngx_asana_sql_add_bytes(sql, task->change.id, NGX_ASANA_ID_LEN);
            ngx_asana_sql_add(sql, ") AND zone=");
            ngx_asana_sql_add_name(sql, &ch->conf->zone);
            ngx_asana_sql_add(sql, ";");
        }
    }
}


static void
ngx_asana_postgres_change_journal(ngx_asana_postgres_change_t *ch,
    ngx_asana_sql_t *sql)
{
    int64_t               oldest;
    ngx_uint_t            i, n;
    ngx_asana_row_set_t  *set;

    ngx_asana_sql_add(sql, "DELETE FROM asana_hook.secrets WHERE zone=");
    ngx_asana_sql_add_name(sql, &ch->conf->zone);
    ngx_asana_sql_add(sql, " AND (key,id) IN (SELECT key,id FROM"
                           " asana_hook.secrets WHERE pending AND created<=%T"
                           " AND zone=", ch->now - ch->conf->limits.pending);
    ngx_asana_sql_add_name(sql, &ch->conf->zone);
    ngx_asana_sql_add(sql, " LIMIT %d);", NGX_ASANA_POSTGRES_EXPIRED);

    ngx_asana_sql_add(sql, "UPDATE asana_hook.zones SET position=%uL"
                           " WHERE zone=", ch->position);
    ngx_asana_sql_add_name(sql, &ch->conf->zone);

    ngx_asana_sql_add(sql, ";INSERT INTO asana_hook.journal"
                           " (zone,position,keys) VALUES(");
    ngx_asana_sql_add_name(sql, &ch->conf->zone);
    ngx_asana_sql_add(sql, ",%uL,ARRAY[", ch->position);

    n = 0;
    set = ch->rows.sets.elts;

    for (i = 0; i < ch->rows.sets.nelts; i++) {
        if (set[i].changed == 2) {
            ngx_asana_sql_add(sql, n++ ? "," : "");
            ngx_asana_sql_add_bytes(sql, set[i].key.data, set[i].key.len);
        }
    }

    oldest = (int64_t) ch->position
             - ((int64_t) NGX_ASANA_POSTGRES_JOURNAL
                << NGX_ASANA_POSTGRES_RANDOM);

    ngx_asana_sql_add(sql, "]::bytea[]);DELETE FROM asana_hook.journal"
                           " WHERE position<%L AND zone=", oldest);
    ngx_asana_sql_add_name(sql, &ch->conf->zone);
    ngx_asana_sql_add(sql, ";COMMIT;");
}


static uint64_t
ngx_asana_postgres_change_next(uint64_t position)
{
    uint64_t  random;

    /* without luck it is a position all the same */

    random = 0;
    (void) RAND_bytes((u_char *) &random, sizeof(random));

    return ((position >> NGX_ASANA_POSTGRES_RANDOM) + 1)
           << NGX_ASANA_POSTGRES_RANDOM
           | (random & ((1 << NGX_ASANA_POSTGRES_RANDOM) - 1));
}
