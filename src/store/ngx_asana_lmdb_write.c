
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A batch is one transaction.  If it does not fit into the map, each task gets
 * one of its own, so that none pays for another:
 *
 *     batch     all in one        -> no room for what is added: drop, again
 *                                 -> MDB_MAP_FULL:
 *     alone     one by one        -> MDB_MAP_FULL: what adds is refused, for
 *                                    what does not the map grows, and those
 *                                    without an outcome are tried again
 */


#include "ngx_asana_lmdb_write.h"
#include "ngx_asana_lmdb_room.h"
#include "ngx_asana_lmdb_v1.h"


/* how many of the latest secrets are looked through for one */
#define NGX_ASANA_LMDB_RECENT  1024


typedef struct {
    ngx_asana_lmdb_env_t      *e;
    ngx_asana_lmdb_records_t   recs;
    ngx_queue_t               *batch;
    ngx_queue_t               *only;      /* one task of it; NULL: all */
    ngx_uint_t                 roomed;    /* all was dropped that can be */
    ngx_uint_t                 refused;   /* for there is no room */
    ngx_log_t                 *log;
} ngx_asana_lmdb_write_t;


static int ngx_asana_lmdb_write_alone(ngx_asana_lmdb_write_t *w);
static int ngx_asana_lmdb_write_tasks(ngx_asana_lmdb_write_t *w);
static int ngx_asana_lmdb_write_txn(ngx_asana_lmdb_write_t *w,
    size_t *need);
static int ngx_asana_lmdb_write_begin(ngx_asana_lmdb_write_t *w);
static int ngx_asana_lmdb_write_commit(ngx_asana_lmdb_write_t *w);
static int ngx_asana_lmdb_write_room(ngx_asana_lmdb_write_t *w, size_t need);
static int ngx_asana_lmdb_write_task(ngx_asana_lmdb_write_t *w,
    ngx_asana_task_t *task);
static int ngx_asana_lmdb_write_confirm(ngx_asana_lmdb_write_t *w,
    ngx_asana_task_t *task);
static int ngx_asana_lmdb_write_recent(ngx_asana_lmdb_write_t *w,
    ngx_asana_task_t *task);
static ngx_uint_t ngx_asana_lmdb_write_young(ngx_asana_lmdb_write_t *w,
    MDB_val *key, u_char *id);
static int ngx_asana_lmdb_write_key(ngx_asana_lmdb_write_t *w, MDB_val *key,
    ngx_asana_task_t *task);
static ngx_uint_t ngx_asana_lmdb_write_adds(ngx_queue_t *q);


int
ngx_asana_lmdb_write(ngx_asana_lmdb_env_t *e, ngx_queue_t *batch,
    ngx_log_t *log)
{
    int                     dead, err;
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

    err = e->alone ? MDB_MAP_FULL : ngx_asana_lmdb_write_tasks(&w);

    if (err == MDB_MAP_FULL) {
        (void) mdb_reader_check(e->env, &dead);
        err = ngx_asana_lmdb_write_alone(&w);
    }

    if (w.refused) {
        (void) ngx_asana_lmdb_env_error(e, log, "takes no more", MDB_MAP_FULL);
    }

    if (err == 0 || err == MDB_MAP_FULL || err == MDB_MAP_RESIZED) {
        return err;
    }

    (void) ngx_asana_lmdb_env_error(e, log, "cannot be written", err);

    /* LMDB refuses all use of an environment after some failures */

    txn = NULL;
    err = mdb_txn_begin(e->env, NULL, MDB_RDONLY, &txn);

    if (err == 0) {
        mdb_txn_abort(txn);
    }

    return (err == MDB_PANIC) ? MDB_PANIC : 0;
}


static int
ngx_asana_lmdb_write_alone(ngx_asana_lmdb_write_t *w)
{
    int                err;
    ngx_uint_t         grow;
    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    grow = 0;
    w->e->alone = 1;

    for (q = ngx_queue_head(w->batch);
         q != ngx_queue_sentinel(w->batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        if (task->outcome != NGX_ASANA_FAILED) {

            /* done before the map grew */

            continue;
        }

        w->only = q;
        w->roomed = 0;

        err = ngx_asana_lmdb_write_tasks(w);

        if (err == MDB_MAP_FULL) {

            if (ngx_asana_lmdb_write_adds(q)
                && w->e->dbs.format != 1)
            {
                task->outcome = NGX_ASANA_FULL;
                w->refused = 1;

            } else {
                grow = 1;
            }

        } else if (err) {
            w->e->alone = (err == MDB_MAP_RESIZED);
            return err;
        }
    }

    w->e->alone = grow;

    return grow ? MDB_MAP_FULL : 0;
}


static int
ngx_asana_lmdb_write_tasks(ngx_asana_lmdb_write_t *w)
{
    int                err;
    size_t             need;
    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    err = ngx_asana_lmdb_write_txn(w, &need);

    if (err == NGX_BUSY) {
        w->roomed = 1;
        err = ngx_asana_lmdb_write_room(w, need);

        if (err == 0) {
            err = ngx_asana_lmdb_write_txn(w, &need);
        }
    }

    if (err == 0) {
        return 0;
    }

    for (q = w->only ? w->only : ngx_queue_head(w->batch);
         q != ngx_queue_sentinel(w->batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);
        task->outcome = NGX_ASANA_FAILED;

        if (w->only) {
            break;
        }
    }

    return err;
}


/* NGX_BUSY: room for "need" pages is to be made before */

static int
ngx_asana_lmdb_write_txn(ngx_asana_lmdb_write_t *w, size_t *need)
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

    for (q = w->only ? w->only : ngx_queue_head(w->batch);
         q != ngx_queue_sentinel(w->batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);
        adds += ngx_asana_lmdb_write_adds(q);

        /* from here on the others count for the room that is needed */

        if (err == 0) {
            err = ngx_asana_lmdb_write_task(w, task);
        }

        if (w->only || (err && err != NGX_BUSY)) {
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

    ngx_memzero(recs, sizeof(ngx_asana_lmdb_records_t));

    recs->dbs = w->e->dbs;
    recs->now = ngx_time();

    err = mdb_txn_begin(w->e->env, NULL, 0, &recs->txn);
    if (err) {
        return err;
    }

    /* a lock file that is new to LMDB, but not to the data */

    err = mdb_env_info(w->e->env, &info);

    if (err == 0 && info.me_last_txnid + 1 != mdb_txn_id(recs->txn)) {
        err = MDB_BAD_TXN;
    }

    if (err == 0) {
        err = ngx_asana_lmdb_records_format(recs, &format);
    }

    if (err == NGX_AGAIN || (err == 0 && format == 0)) {
        err = ngx_asana_lmdb_records_open(recs, MDB_CREATE);
    }

    if (err == 0 && recs->dbs.format < NGX_ASANA_LMDB_FORMAT) {
        err = ngx_asana_lmdb_v1_convert(recs);
    }

    if (err) {
        mdb_txn_abort(recs->txn);
    }

    return err;
}


static int
ngx_asana_lmdb_write_commit(ngx_asana_lmdb_write_t *w)
{
    int                    err;
    uint64_t               usec;
    struct timespec        start, end;
    ngx_asana_lmdb_env_t  *e;

    e = w->e;

    (void) clock_gettime(CLOCK_MONOTONIC, &start);

    err = mdb_txn_commit(w->recs.txn);

    if (err) {
        return err;
    }

    if (e->dbs.format < w->recs.dbs.format) {
        e->dbs = w->recs.dbs;
        (void) ngx_atomic_fetch_add(&e->made, e->dbs.format - e->made);
    }

    if (w->recs.dirty) {
        (void) clock_gettime(CLOCK_MONOTONIC, &end);

        usec = (uint64_t) (end.tv_sec - start.tv_sec) * 1000000
               + end.tv_nsec / 1000 - start.tv_nsec / 1000;

        e->conf->committed(e->conf->data, usec);
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

    if (task->change.type == NGX_ASANA_CONFIRM) {
        return ngx_asana_lmdb_write_confirm(w, task);
    }

    if (task->change.type == NGX_ASANA_HANDSHAKE) {
        err = ngx_asana_lmdb_room_expire(w->e, &w->recs);
        if (err) {
            return err;
        }
    }

    key.mv_size = task->key.len;
    key.mv_data = task->key.data;

    err = ngx_asana_lmdb_write_key(w, &key, task);

    if (err == 0 && task->outcome == NGX_ASANA_ADDED) {
        err = ngx_asana_lmdb_room_bound(w->e, &w->recs);
    }

    return err;
}


/*
 * Only Asana and the receiver of the handshake know the secret: it is
 * confirmed under whatever key it came.
 */

static int
ngx_asana_lmdb_write_confirm(ngx_asana_lmdb_write_t *w,
    ngx_asana_task_t *task)
{
    int                  err;
    u_char               buf[NGX_ASANA_MAX_KEY];
    MDB_val              key;
    ngx_asana_reason_e   reason;
    ngx_asana_outcome_e  best;

    best = NGX_ASANA_ABSENT;
    reason = NGX_ASANA_REASON_NONE;

    key.mv_size = 0;
    key.mv_data = buf;

    for ( ;; ) {

        err = ngx_asana_lmdb_records_next_pending(&w->recs, task->change.id,
                                                  &key);
        if (err == 0) {
            err = ngx_asana_lmdb_write_key(w, &key, task);
        }

        if (err) {
            break;
        }

        if (best == NGX_ASANA_ABSENT || task->outcome > best) {
            if (task->outcome != NGX_ASANA_ABSENT) {
                best = task->outcome;
                reason = task->reason;

                /* for the message of a refusal */
                task->key.len = key.mv_size;
                ngx_memcpy(task->buf, key.mv_data, key.mv_size);
            }
        }
    }

    if (err != MDB_NOTFOUND) {
        return err;
    }

    if (best == NGX_ASANA_ABSENT) {

        /* perhaps it was accepted at once, by another policy */

        return ngx_asana_lmdb_write_recent(w, task);
    }

    task->outcome = best;
    task->reason = reason;

    return 0;
}


static int
ngx_asana_lmdb_write_recent(ngx_asana_lmdb_write_t *w, ngx_asana_task_t *task)
{
    int          err;
    u_char       buf[NGX_ASANA_MAX_KEY], *id;
    MDB_val      k, val, key;
    ngx_int_t    rc;
    ngx_uint_t   n;
    MDB_cursor  *cursor;

    task->outcome = NGX_ASANA_ABSENT;

    err = mdb_cursor_open(w->recs.txn,
                          w->recs.dbs.by_age[NGX_ASANA_LMDB_UNPROVEN],
                          &cursor);
    if (err) {
        return err;
    }

    rc = NGX_DECLINED;
    err = mdb_cursor_get(cursor, &k, &val, MDB_LAST);

    for (n = 0; err == 0 && n < NGX_ASANA_LMDB_RECENT; n++) {

        rc = ngx_asana_lmdb_records_entry(&val, &id, &key);

        if (rc == NGX_OK
            && ngx_memcmp(id, task->change.id, NGX_ASANA_ID_LEN) == 0)
        {
            ngx_memcpy(buf, key.mv_data, key.mv_size);
            key.mv_data = buf;
            break;
        }

        rc = NGX_DECLINED;
        err = mdb_cursor_get(cursor, &k, &val, MDB_PREV);
    }

    mdb_cursor_close(cursor);

    if (rc == NGX_OK) {
        return ngx_asana_lmdb_write_young(w, &key, task->change.id)
               ? ngx_asana_lmdb_write_key(w, &key, task) : 0;
    }

    return (err == MDB_NOTFOUND) ? 0 : err;
}


static ngx_uint_t
ngx_asana_lmdb_write_young(ngx_asana_lmdb_write_t *w, MDB_val *key,
    u_char *id)
{
    uint64_t              buf[512];
    ngx_uint_t            young;
    ngx_asana_secret_t   *s;
    ngx_asana_secrets_t   secrets;

    ngx_asana_secrets_init(&secrets, (u_char *) buf, sizeof(buf));

    s = NULL;

    if (ngx_asana_lmdb_records_get(&w->recs, key, &secrets) == 0) {
        s = ngx_asana_secrets_by_id(&secrets, id);
    }

    young = s && w->recs.now - s->created < w->e->conf->limits.pending;

    ngx_asana_secrets_wipe(&secrets);

    return young;
}


/* get, decode, decide, encode, put */

static int
ngx_asana_lmdb_write_key(ngx_asana_lmdb_write_t *w, MDB_val *key,
    ngx_asana_task_t *task)
{
    int                        err;
    uint64_t                   buf[2][512];
    ngx_asana_secrets_t        old, secrets;
    ngx_asana_lmdb_records_t  *recs;

    recs = &w->recs;

    ngx_asana_secrets_init(&old, (u_char *) buf[0], sizeof(buf[0]));
    ngx_asana_secrets_init(&secrets, (u_char *) buf[1], sizeof(buf[1]));

    task->outcome = NGX_ASANA_FAILED;

    err = ngx_asana_lmdb_records_get(recs, key, &old);

    if (err == 0) {
        err = ngx_asana_lmdb_records_get(recs, key, &secrets);
    }

    if (err == 0 || err == MDB_NOTFOUND) {
        task->outcome = ngx_asana_policy_decide(&secrets, &task->change,
                                                recs->now,
                                                &w->e->conf->limits,
                                                &task->reason);
        err = 0;

        if (task->outcome == NGX_ASANA_ADDED) {
            err = ngx_asana_lmdb_room_full(w->e, recs, 0);

            if (err == MDB_MAP_FULL) {
                err = w->roomed ? 0 : NGX_BUSY;

                task->outcome = NGX_ASANA_FULL;
                w->refused |= w->roomed;
            }
        }

        if (err == 0 && task->outcome >= NGX_ASANA_CHANGED) {
            err = ngx_asana_lmdb_records_put(recs, key, &old, &secrets);
        }

    } else if (err == NGX_DECLINED) {
        ngx_asana_lmdb_env_damaged(w->e, w->log, key);
        err = 0;
    }

    ngx_asana_secrets_wipe(&old);
    ngx_asana_secrets_wipe(&secrets);

    return err;
}


static ngx_uint_t
ngx_asana_lmdb_write_adds(ngx_queue_t *q)
{
    ngx_asana_task_t  *task;

    task = ngx_queue_data(q, ngx_asana_task_t, queue);

    return task->change.type == NGX_ASANA_HANDSHAKE
           || task->change.type == NGX_ASANA_PUT;
}
