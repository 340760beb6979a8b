
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A batch is one transaction.  If it does not fit into the map, it is tried
 * again:
 *
 *     no room for what is added   after secrets that may go were dropped
 *     MDB_MAP_FULL                after readers that have died were told off
 *     MDB_MAP_FULL once more      without what adds, which is refused; then
 *                                 the map grows
 */


#include "ngx_asana_lmdb_write.h"
#include "ngx_asana_lmdb_crypt.h"
#include "ngx_asana_lmdb_room.h"
#include "ngx_asana_lmdb_v1.h"


typedef struct {
    ngx_asana_lmdb_env_t      *e;
    ngx_asana_lmdb_records_t   recs;
    ngx_queue_t               *batch;
    ngx_uint_t                 roomed;    /* all was dropped that can be */
    ngx_uint_t                 refused;   /* for there is no room */
    ngx_log_t                 *log;
} ngx_asana_lmdb_write_t;


static void ngx_asana_lmdb_write_fail(ngx_queue_t *batch);
static int ngx_asana_lmdb_write_batch(ngx_asana_lmdb_write_t *w,
    size_t *need);
static int ngx_asana_lmdb_write_begin(ngx_asana_lmdb_write_t *w);
static int ngx_asana_lmdb_write_convert(ngx_asana_lmdb_records_t *recs);
static int ngx_asana_lmdb_write_commit(ngx_asana_lmdb_write_t *w);
static int ngx_asana_lmdb_write_room(ngx_asana_lmdb_write_t *w, size_t need);
static int ngx_asana_lmdb_write_task(ngx_asana_lmdb_write_t *w,
    ngx_asana_task_t *task);
static int ngx_asana_lmdb_write_keys(ngx_asana_lmdb_write_t *w,
    ngx_asana_task_t *task);
static int ngx_asana_lmdb_write_key(ngx_asana_lmdb_write_t *w, MDB_val *key,
    ngx_asana_change_t *change, ngx_asana_outcome_e *outcome,
    ngx_asana_reason_e *reason);
static ngx_uint_t ngx_asana_lmdb_write_adds(ngx_asana_task_t *task);


int
ngx_asana_lmdb_write(ngx_asana_lmdb_env_t *e, ngx_queue_t *batch,
    ngx_log_t *log)
{
    int                     dead, err;
    size_t                  need;
    MDB_txn                *txn;
    MDB_envinfo             info;
    ngx_asana_lmdb_write_t  w;

    ngx_memzero(&w, sizeof(ngx_asana_lmdb_write_t));

    w.e = e;
    w.batch = batch;
    w.log = log;

    if (e->checked != ngx_time()
        && mdb_env_info(e->env, &info) == 0
        && info.me_last_pgno >= e->max_pages)
    {
        /* readers that died hold on to pages */

        e->checked = ngx_time();
        (void) mdb_reader_check(e->env, &dead);
    }

    err = ngx_asana_lmdb_write_batch(&w, &need);

    if (err == NGX_BUSY) {
        w.roomed = 1;
        err = ngx_asana_lmdb_write_room(&w, need);

        if (err == 0) {
            err = ngx_asana_lmdb_write_batch(&w, &need);
        }
    }

    if (err == MDB_MAP_FULL
        && mdb_reader_check(e->env, &dead) == 0
        && dead)
    {
        err = ngx_asana_lmdb_write_batch(&w, &need);
    }

    if (err == MDB_MAP_FULL && !e->closed) {

        /* readers hold on to what was freed: only what adds nothing goes on */

        e->closed = 1;
        err = ngx_asana_lmdb_write_batch(&w, &need);
    }

    if (err) {
        ngx_asana_lmdb_write_fail(batch);

    } else {
        e->closed = 0;
    }

    if (w.refused) {
        (void) ngx_asana_lmdb_error(&e->errors, log, "takes no more",
                                    MDB_MAP_FULL);
    }

    if (err == 0 || err == MDB_MAP_FULL || err == MDB_MAP_RESIZED) {
        return err;
    }

    (void) ngx_asana_lmdb_error(&e->errors, log, "cannot be written", err);

    /* LMDB refuses all use of an environment after some failures */

    txn = NULL;
    err = mdb_txn_begin(e->env, NULL, MDB_RDONLY, &txn);

    if (err == 0) {
        mdb_txn_abort(txn);
    }

    return (err == MDB_PANIC) ? MDB_PANIC : 0;
}


static void
ngx_asana_lmdb_write_fail(ngx_queue_t *batch)
{
    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    for (q = ngx_queue_head(batch);
         q != ngx_queue_sentinel(batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        ngx_asana_task_fail(task);
    }
}


/* NGX_BUSY: room for "need" pages is to be made before */

static int
ngx_asana_lmdb_write_batch(ngx_asana_lmdb_write_t *w, size_t *need)
{
    int                err;
    ngx_uint_t         adds;
    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    adds = 0;

    err = ngx_asana_lmdb_write_begin(w);
    if (err) {
        return err;
    }

    for (q = ngx_queue_head(w->batch);
         q != ngx_queue_sentinel(w->batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        if (ngx_asana_lmdb_write_adds(task)) {

            if (w->e->closed && !w->recs.converted) {
                task->outcome = NGX_ASANA_FULL;
                w->refused = 1;
                continue;
            }

            adds++;
        }

        /* after NGX_BUSY they only count for the room that is needed */

        if (err == 0) {
            err = ngx_asana_lmdb_write_task(w, task);
        }

        if (err && err != NGX_BUSY) {
            break;
        }
    }

    if (err) {
        mdb_txn_abort(w->recs.txn);

        /* secrets of a usual length: a page takes a good twenty of them */

        *need = 2 + adds / 16;

        return err;
    }

    return ngx_asana_lmdb_write_commit(w);
}


/* also opens the databases, makes or converts them */

static int
ngx_asana_lmdb_write_begin(ngx_asana_lmdb_write_t *w)
{
    int                        err;
    uint32_t                   format;
    MDB_envinfo                info;
    ngx_asana_lmdb_records_t  *recs;

    recs = &w->recs;

    ngx_asana_lmdb_format_init(recs, w->e->conf->seal, &w->e->conf->zone);

    recs->dbs = w->e->dbs;
    recs->now = ngx_time();

    err = mdb_txn_begin(w->e->env, NULL, 0, &recs->txn);
    if (err) {
        return err;
    }

    format = 0;

    /* a lock file that is new to LMDB, but not to the data */

    err = mdb_env_info(w->e->env, &info);

    if (err == 0 && info.me_last_txnid + 1 != mdb_txn_id(recs->txn)) {
        err = MDB_BAD_TXN;
    }

    if (err == 0) {
        err = ngx_asana_lmdb_format(recs, &format);
    }

    if (err == NGX_AGAIN || (err == 0 && format == 0)) {
        err = ngx_asana_lmdb_format_open(recs, MDB_CREATE);
    }

    if (err == 0 && recs->dbs.format > 1 && recs->dbs.by_gid == 0) {
        err = ngx_asana_lmdb_gid_open(recs->txn, MDB_CREATE,
                                      &recs->dbs.by_gid);
    }

    if (err == 0) {
        err = ngx_asana_lmdb_write_convert(recs);
    }

    if (err) {
        mdb_txn_abort(recs->txn);
    }

    return err;
}


static int
ngx_asana_lmdb_write_convert(ngx_asana_lmdb_records_t *recs)
{
    if (recs->dbs.format == 1) {
        recs->converted = 1;
        return ngx_asana_lmdb_v1_convert(recs);
    }

    if (recs->seal && recs->value.seal == NULL) {
        recs->converted = 1;
        return ngx_asana_lmdb_crypt_convert(recs);
    }

    return recs->seal ? ngx_asana_lmdb_crypt_count(recs) : 0;
}


static int
ngx_asana_lmdb_write_commit(ngx_asana_lmdb_write_t *w)
{
    int                    err;
    uint64_t               start, version;
    ngx_asana_lmdb_env_t  *e;

    e = w->e;

    start = ngx_asana_counters_now();
    version = e->salt + mdb_txn_id(w->recs.txn);

    err = mdb_txn_commit(w->recs.txn);

    if (err) {
        return err;
    }

    e->dbs = w->recs.dbs;

    /* a commit of nothing has no number */

    e->version = (w->recs.dirty && !w->recs.others && !w->recs.converted)
                 ? version : 0;

    if (w->recs.converted && w->recs.seal) {
        ngx_log_error(NGX_LOG_WARN, w->log, 0,
                      "asana_hook: store \"%V\" was in clear and is encrypted "
                      "now; free pages of its file may still hold secrets in "
                      "clear, until it is made anew", &e->conf->state);
    }

    if (w->recs.dirty) {
        ngx_asana_counters_time(&e->conf->counters->commits, start);
    }

    return 0;
}


static int
ngx_asana_lmdb_write_room(ngx_asana_lmdb_write_t *w, size_t need)
{
    int         err;
    ngx_uint_t  dropped;

    err = ngx_asana_lmdb_write_begin(w);
    if (err) {
        return err;
    }

    err = ngx_asana_lmdb_room_make(w->e, &w->recs, need, &dropped);

    if (err) {
        mdb_txn_abort(w->recs.txn);
        return err;
    }

    err = ngx_asana_lmdb_write_commit(w);

    if (err == 0 && dropped) {
        ngx_log_error(NGX_LOG_WARN, w->log, 0,
                      "asana_hook: store \"%V\" is full, %ui secrets that "
                      "verify no deliveries were dropped; raise \"max_size\" "
                      "of the zone", &w->e->conf->state, dropped);
    }

    return err;
}


static int
ngx_asana_lmdb_write_task(ngx_asana_lmdb_write_t *w, ngx_asana_task_t *task)
{
    int      err;
    MDB_val  key;

    if (task->change.type == NGX_ASANA_RESEAL) {
        return ngx_asana_lmdb_crypt_reseal(w->e, &w->recs, task);
    }

    if (ngx_asana_task_keyless(task->change.type)) {
        return ngx_asana_lmdb_write_keys(w, task);
    }

    if (task->change.type == NGX_ASANA_HANDSHAKE) {
        err = ngx_asana_lmdb_room_expire(w->e, &w->recs);
        if (err) {
            return err;
        }
    }

    key.mv_size = task->key.len;
    key.mv_data = task->key.data;

    err = ngx_asana_lmdb_write_key(w, &key, &task->change, &task->outcome,
                                   &task->reason);

    if (err == 0 && task->outcome == NGX_ASANA_ADDED) {
        err = ngx_asana_lmdb_room_bound(w->e, &w->recs);
    }

    return err;
}


/*
 * Only Asana and the receiver of the handshake know the secret: it is
 * confirmed under whatever key it came, and forgotten with its webhook.
 */

static int
ngx_asana_lmdb_write_keys(ngx_asana_lmdb_write_t *w, ngx_asana_task_t *task)
{
    int                  err;
    u_char               buf[NGX_ASANA_ID_LEN + NGX_ASANA_MAX_KEY];
    MDB_val              entry, key;
    ngx_str_t            name;
    ngx_asana_reason_e   reason;
    ngx_asana_outcome_e  outcome;

    ngx_asana_task_begin(task);

    entry.mv_size = 0;
    entry.mv_data = buf;

    for ( ;; ) {

        err = (task->change.type == NGX_ASANA_CONFIRM)
              ? ngx_asana_lmdb_records_next(&w->recs, task->change.id, &entry)
              : ngx_asana_lmdb_gid_next(w->recs.txn, w->recs.dbs.by_gid,
                                        task->change.gid,
                                        task->change.gid_len, &entry);
        if (err) {
            break;
        }

        key.mv_size = entry.mv_size - NGX_ASANA_ID_LEN;
        key.mv_data = buf + NGX_ASANA_ID_LEN;

        err = ngx_asana_lmdb_write_key(w, &key, &task->change, &outcome,
                                       &reason);
        if (err) {
            break;
        }

        name.len = key.mv_size;
        name.data = key.mv_data;

        ngx_asana_task_add(task, &name, outcome, reason);
    }

    return (err == MDB_NOTFOUND) ? 0 : err;
}


/* get, decode, decide, encode, put */

static int
ngx_asana_lmdb_write_key(ngx_asana_lmdb_write_t *w, MDB_val *key,
    ngx_asana_change_t *change, ngx_asana_outcome_e *outcome,
    ngx_asana_reason_e *reason)
{
    int                        err;
    uint64_t                   buf[2][512];
    ngx_asana_secrets_t        old, secrets;
    ngx_asana_lmdb_records_t  *recs;

    recs = &w->recs;

    ngx_asana_secrets_init(&old, (u_char *) buf[0], sizeof(buf[0]));
    ngx_asana_secrets_init(&secrets, (u_char *) buf[1], sizeof(buf[1]));

    *outcome = NGX_ASANA_FAILED;
    *reason = NGX_ASANA_REASON_NONE;

    err = ngx_asana_lmdb_records_get(recs, key, &old);

    if (err == NGX_ABORT
        && (change->type == NGX_ASANA_REVOKE
            || change->type == NGX_ASANA_FORGET))
    {
        /* what cannot be opened may go */

        err = 0;
    }

    if (err == 0 && ngx_asana_secrets_append(&secrets, &old) != NGX_OK) {
        err = NGX_ENOMEM;
    }

    if (err == 0 || err == MDB_NOTFOUND) {
        *outcome = ngx_asana_policy_decide(&secrets, change, recs->now,
                                           &w->e->conf->limits, reason);
        err = 0;

        if (*outcome == NGX_ASANA_ADDED) {
            err = ngx_asana_lmdb_room_full(w->e, recs, 0);

            if (err == MDB_MAP_FULL) {
                err = w->roomed ? 0 : NGX_BUSY;

                *outcome = NGX_ASANA_FULL;
                w->refused |= w->roomed;
            }
        }

        if (err == 0 && *outcome >= NGX_ASANA_CHANGED) {
            err = ngx_asana_lmdb_records_put(recs, key, &old, &secrets);
        }

    } else if (err == NGX_DECLINED || err == NGX_ABORT) {
        ngx_asana_lmdb_env_damaged(w->e, recs, key, err, w->log);
        err = 0;
    }

    ngx_asana_secrets_wipe(&old);
    ngx_asana_secrets_wipe(&secrets);

    return err;
}


static ngx_uint_t
ngx_asana_lmdb_write_adds(ngx_asana_task_t *task)
{
    return task->change.type == NGX_ASANA_HANDSHAKE
           || task->change.type == NGX_ASANA_PUT;
}
